//! Bytes through both sidecars.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use weft_core::model::Protocol;
use weft_runtime::metrics::Format;
use weft_runtime::task::spawn;

use crate::pair::{PATIENCE, Pair, app, endpoint};

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_at_once() {
    let (listener, address) = app().await;
    let pair = Pair::new(address);
    let serving = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"220 ready\r\n").await.unwrap();
            let mut word = [0; 6];
            stream.read_exact(&mut word).await.unwrap();
            stream.write_all(b"250 ok\r\n").await.unwrap();
        }
    };
    let asking = async {
        for _ in 0..3 {
            let begun = Instant::now();
            let mut client = pair.connect().await;
            let mut greeting = [0; 11];
            client.read_exact(&mut greeting).await.unwrap();
            assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
            client.write_all(b"HELO\r\n").await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!((&greeting, answer.as_str()), (b"220 ready\r\n", "250 ok\r\n"));
        }
    };
    tokio::select! {
        () = serving => unreachable!(),
        done = timeout(PATIENCE, asking) => done.unwrap(),
    }
}

#[tokio::test]
async fn a_client_that_speaks_first_is_carried_with_half_close() {
    for protocol in [Protocol::Detect, Protocol::Tcp] {
        let (listener, address) = app().await;
        let pair = Pair::of_protocol(address, protocol);
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = String::new();
            stream.read_to_string(&mut question).await.unwrap();
            stream.write_all(question.to_uppercase().as_bytes()).await.unwrap();
        };
        let asking = async {
            let mut client = pair.connect().await;
            client.write_all(b"*1\r\n$4\r\nping\r\n").await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let ((), answer) = timeout(PATIENCE, async { tokio::join!(serving, asking) }).await.unwrap();
        assert_eq!(answer, "*1\r\n$4\r\nPING\r\n");
    }
}

#[tokio::test]
async fn a_client_that_speaks_http_late_is_still_served_http() {
    let (listener, address) = app().await;
    let pair = Pair::new(address);
    let serving = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let count = stream.read(&mut request).await.unwrap();
            if count > 0 {
                assert!(String::from_utf8_lossy(&request[..count]).contains("traceparent"));
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
            }
        }
    };
    let asking = async {
        let mut client = pair.connect().await;
        // Longer than the sidecar waits before it listens to the server as well.
        assert!(timeout(Duration::from_millis(100), client.read_u8()).await.is_err());
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        assert!(response.ends_with("\r\n\r\nhi"), "{response}");
    };
    tokio::select! {
        () = serving => unreachable!(),
        done = timeout(PATIENCE, asking) => done.unwrap(),
    }
}

#[tokio::test]
async fn a_reset_travels_the_whole_way() {
    let (listener, address) = app().await;
    let pair = Pair::of_protocol(address, Protocol::Tcp);
    let mut client = pair.connect().await;
    client.write_all(b"x").await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    stream.read_u8().await.unwrap();
    weft_proxy::stream::reset(&client);
    drop(client);
    let error = timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// Echoes every connection, to its end.
async fn echo(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        spawn("app", async move {
            let (mut reader, mut writer) = stream.split();
            // A client that goes away is no failure of the test.
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        });
    }
}

#[tokio::test]
async fn bytes_are_counted_as_they_pass() {
    let (listener, address) = app().await;
    let pair = Pair::of_protocol(address, Protocol::Tcp);
    let asking = async {
        let mut client = pair.connect().await;
        let mut answer = [0; 1000];
        for round in 1..=3 {
            client.write_all(&[b'x'; 1000]).await.unwrap();
            client.read_exact(&mut answer).await.unwrap();
            for (sidecar, source) in [(&pair.caller, "outbound"), (&pair.callee, "inbound")] {
                for way in ["in", "out"] {
                    let counted = |text: String| {
                        let of =
                            |line: &&str| line.contains(source) && line.contains(&format!("way=\"{way}\""));
                        let lines =
                            text.lines().filter(|line| line.starts_with("weft_bytes_total{")).filter(of);
                        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
                    };
                    // The connection stays open; what has passed is counted by the time that more can.
                    while counted(sidecar.metrics.render(Format::Prometheus)) < round * 1000 {
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    };
    tokio::select! {
        () = echo(listener) => unreachable!(),
        done = timeout(PATIENCE, asking) => done.unwrap(),
    }
}

#[tokio::test]
async fn a_server_that_half_closes_first_still_hears_its_client() {
    let (listener, address) = app().await;
    let pair = Pair::of_protocol(address, Protocol::Tcp);
    let mut client = pair.connect().await;
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"all I have").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, client.read_to_string(&mut answer)).await.unwrap().unwrap();
    client.write_all(b"and I have more").await.unwrap();
    client.shutdown().await.unwrap();
    let mut rest = String::new();
    timeout(PATIENCE, server.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert_eq!((answer.as_str(), rest.as_str()), ("all I have", "and I have more"));
}

#[tokio::test]
async fn a_client_that_half_closes_at_once_still_hears_the_server() {
    for protocol in [Protocol::Detect, Protocol::Tcp] {
        let (listener, address) = app().await;
        let pair = Pair::of_protocol(address, protocol);
        let mut client = pair.connect().await;
        client.shutdown().await.unwrap();
        let (mut server, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
        server.write_all(b"time is up").await.unwrap();
        drop(server);
        let mut heard = String::new();
        timeout(PATIENCE, client.read_to_string(&mut heard)).await.unwrap().unwrap();
        assert_eq!(heard, "time is up");
    }
}

#[tokio::test]
async fn a_servers_reset_travels_the_whole_way_and_is_no_end() {
    let (listener, address) = app().await;
    let pair = Pair::of_protocol(address, Protocol::Tcp);
    let mut client = pair.connect().await;
    client.write_all(b"x").await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    server.read_u8().await.unwrap();
    weft_proxy::stream::reset(&server);
    drop(server);
    let error = timeout(PATIENCE, client.read_u8()).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_connection_between_the_sidecars_that_is_cut_never_looks_complete() {
    let (listener, address) = app().await;
    let mut pair = Pair::of_protocol(address, Protocol::Tcp);
    // Someone in between, who ends TCP in order on both sides, but cannot say so in TLS.
    let (between, through) = app().await;
    pair.offer(vec![endpoint(through, address.port())], Protocol::Tcp);
    let inbound = pair.callee.workers.inbound();
    let (cut, mut cutting) = tokio::sync::mpsc::channel::<()>(1);
    spawn("app", async move {
        let (mut caller, _) = between.accept().await.unwrap();
        let mut callee = TcpStream::connect(inbound).await.unwrap();
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut caller, &mut callee) => {}
            _ = cutting.recv() => {}
        }
    });
    let mut client = pair.connect().await;
    client.write_all(b"half of it").await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    server.read_exact(&mut [0; 10]).await.unwrap();
    server.write_all(b"half an answer").await.unwrap();
    client.read_exact(&mut [0; 14]).await.unwrap();
    cut.send(()).await.unwrap();
    for stream in [&mut client, &mut server] {
        let error = timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn single_bytes_go_to_and_fro_without_being_held_back() {
    const ROUNDS: u32 = 200;
    async fn round_trip(mut client: TcpStream) -> Duration {
        client.set_nodelay(true).unwrap();
        client.write_all(&[0]).await.unwrap();
        client.read_u8().await.unwrap();
        let begun = Instant::now();
        for _ in 0..ROUNDS {
            client.write_all(&[1]).await.unwrap();
            client.read_u8().await.unwrap();
        }
        begun.elapsed() / ROUNDS
    }
    let (listener, address) = app().await;
    let pair = Pair::of_protocol(address, Protocol::Detect);
    let measuring = async {
        let direct = round_trip(TcpStream::connect(address).await.unwrap()).await;
        let meshed = round_trip(pair.connect().await).await;
        // A byte that waits for an acknowledgement waits 40 ms.
        assert!(meshed < direct + Duration::from_millis(10), "direct {direct:?}, meshed {meshed:?}");
    };
    tokio::select! {
        () = echo(listener) => unreachable!(),
        done = timeout(PATIENCE, measuring) => done.unwrap(),
    }
}

#[tokio::test]
async fn text_that_is_no_http_reaches_the_server_promptly() {
    for text in ["HELLO THIS IS NOT HTTP", "PING"] {
        let (listener, address) = app().await;
        let pair = Pair::new(address);
        let begun = Instant::now();
        let mut client = pair.connect().await;
        client.write_all(text.as_bytes()).await.unwrap();
        let (mut server, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        let mut heard = vec![0; text.len()];
        timeout(PATIENCE, server.read_exact(&mut heard)).await.unwrap().unwrap();
        assert_eq!(heard, text.as_bytes());
        assert!(begun.elapsed() < Duration::from_secs(1), "{text:?} took {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_client_that_speaks_first_may_be_followed_by_a_server_that_does() {
    let (listener, address) = app().await;
    let pair = Pair::new(address);
    for speaks_first in [false, true, false, true] {
        let mut client = pair.connect().await;
        if !speaks_first {
            client.write_all(b"QUIT\r\n").await.unwrap();
        }
        let (mut server, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
        if speaks_first {
            server.write_all(b"220 ok").await.unwrap();
            client.read_exact(&mut [0; 6]).await.unwrap();
            client.write_all(b"QUIT\r\n").await.unwrap();
        }
        let mut word = [0; 6];
        timeout(PATIENCE, server.read_exact(&mut word)).await.unwrap().unwrap();
        assert_eq!(&word, b"QUIT\r\n");
    }
}

#[tokio::test]
async fn fresh_connections_stay_fast_while_fifty_others_are_not_being_read() {
    let (listener, address) = app().await;
    let pair = Pair::of_protocol(address, Protocol::Tcp);
    let serving = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            spawn("app", async move {
                let mut wish = [0];
                stream.read_exact(&mut wish).await.unwrap();
                if wish == *b"e" {
                    stream.write_all(b"e").await.unwrap();
                } else {
                    // As much as fits into everything on the way, for a client that reads none of it.
                    let _ = stream.write_all(&vec![0; 64 << 20]).await;
                }
            });
        }
    };
    let asking = async {
        let mut unread = Vec::new();
        for _ in 0..50 {
            let mut client = pair.connect().await;
            client.write_all(b"f").await.unwrap();
            client.readable().await.unwrap();
            unread.push(client);
        }
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let begun = Instant::now();
            let mut client = pair.connect().await;
            client.write_all(b"e").await.unwrap();
            client.read_u8().await.unwrap();
            slowest = slowest.max(begun.elapsed());
        }
        assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    };
    tokio::select! {
        () = serving => unreachable!(),
        done = timeout(PATIENCE, asking) => done.unwrap(),
    }
}

#[tokio::test]
async fn an_app_that_does_not_listen_is_a_reset_to_the_client() {
    for protocol in [Protocol::Detect, Protocol::Tcp] {
        let nobody = app().await.1;
        let pair = Pair::of_protocol(nobody, protocol);
        let mut client = pair.connect().await;
        client.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
        let error = timeout(PATIENCE, client.read_u8()).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_slow_reader_holds_its_writer_back_and_gets_everything() {
    const ALL: usize = 96 << 20;
    let (listener, address) = app().await;
    let pair = Pair::of_protocol(address, Protocol::Tcp);
    let mut client = pair.connect().await;
    client.write_all(b"x").await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let piece = vec![7; 64 * 1024];
    let mut written = 0;
    // Longer than anything takes that is not held back.
    while let Ok(count) = timeout(Duration::from_millis(500), client.write(&piece)).await {
        written += count.unwrap();
        assert!(written < ALL / 2, "nobody holds it back");
    }
    let writing = async {
        while written < ALL {
            written += client.write(&piece[..piece.len().min(ALL - written)]).await.unwrap();
        }
        client.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let reading = timeout(4 * PATIENCE, server.read_to_end(&mut received));
    let (read, ()) = tokio::join!(reading, writing);
    read.unwrap().unwrap();
    assert_eq!(received.len(), ALL + 1);
}
