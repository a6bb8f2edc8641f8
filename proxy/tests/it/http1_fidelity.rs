//! What an app must not be able to tell: HTTP/1 arrives as it was sent, through both sidecars and past a plaintext peer.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use weft_core::model::{Endpoint, Protocol};

use crate::pair::{LOCALHOST, PATIENCE, Pair, app, endpoint, read_head};

/// A calling app and a called one, once with both sidecars between them and once with the caller's alone.
pub(crate) async fn both(check: impl AsyncFn(&Pair, &TcpListener)) {
    for meshed in [true, false] {
        let (listener, address) = app().await;
        let mut pair = Pair::of_protocol(address, Protocol::Http);
        if !meshed {
            pair.offer(vec![plain(address)], Protocol::Http);
        }
        timeout(PATIENCE, check(&pair, &listener))
            .await
            .unwrap_or_else(|_| panic!("hangs, meshed: {meshed}"));
    }
}

/// The endpoint of `orders` without a sidecar.
fn plain(app: SocketAddr) -> Endpoint {
    Endpoint { identity: None, inbound_port: None, ..endpoint(SocketAddr::new(LOCALHOST, 1), app.port()) }
}

pub(crate) async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        let mut byte = [0];
        let count = stream.read(&mut byte).await.unwrap();
        assert!(count > 0, "the end came after {:?}", String::from_utf8_lossy(&read));
        read.push(byte[0]);
    }
    read.iter().map(|byte| char::from(*byte)).collect()
}

async fn send(stream: &mut TcpStream, text: &str) {
    let bytes: Vec<u8> = text.chars().map(|char| u8::try_from(u32::from(char)).unwrap()).collect();
    stream.write_all(&bytes).await.unwrap();
}

/// Reads to the end, which may be a reset: what came, and whether it was none.
pub(crate) async fn read_to_end(stream: &mut TcpStream) -> (String, bool) {
    let mut read = Vec::new();
    let ended = stream.read_to_end(&mut read).await;
    (String::from_utf8_lossy(&read).into_owned(), ended.is_ok())
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn names_keep_their_case_fields_their_order_and_values_every_byte() {
    both(async |pair, listener| {
        let fields =
            "B-Two: 2\r\na-ONE:  spaced \r\nHost: orders\r\nX-Odd: \u{e9}\u{ff}\r\nB-two: 3\r\nA-One: 4\r\n";
        let mut client = pair.connect().await;
        send(&mut client, &format!("GET /a?b HTTP/1.1\r\n{fields}\r\n")).await;
        let (mut server, _) = listener.accept().await.unwrap();
        let seen = read_until(&mut server, "\r\n\r\n").await;
        assert!(seen.starts_with(&format!("GET /a?b HTTP/1.1\r\n{fields}")), "{seen}");
        let head = format!("HTTP/1.1 299 Odd \u{e9}\r\n{fields}Content-Length: 0\r\n\r\n");
        send(&mut server, &head).await;
        assert_eq!(read_until(&mut client, "\r\n\r\n").await, head);
    })
    .await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    both(async |pair, listener| {
        let mut client = pair.connect().await;
        let post = "POST /1 HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let requests = format!("{}{post}{}", request("/0", ""), request("/2", "Connection: close\r\n"));
        client.write_all(requests.as_bytes()).await.unwrap();
        let serving = async {
            let (mut server, _) = listener.accept().await.unwrap();
            for number in 0..3 {
                let head = read_head(&mut server).await;
                assert!(head.contains(&format!(" /{number} ")), "{head}");
                if number == 1 {
                    assert_eq!(read_until(&mut server, "0\r\n\r\n").await, "3\r\nabc\r\n0\r\n\r\n");
                }
                let response = format!("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=60\r\nContent-Length: 1\r\n\r\n{number}");
                server.write_all(response.as_bytes()).await.unwrap();
            }
            read_head(&mut server).await
        };
        tokio::select! {
            more = serving => panic!("the pooled connection got {more:?}"),
            (answers, clean) = read_to_end(&mut client) => {
                let bodies: Vec<_> = answers.split("HTTP/1.1 200 OK\r\n").filter_map(|a| a.chars().last()).collect();
                assert_eq!((bodies, clean), (vec!['0', '1', '2'], true), "{answers}");
            }
        }
    })
    .await;
}

fn request(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: orders\r\n{fields}\r\n")
}

#[tokio::test]
async fn trailers_pass_both_ways_but_for_what_may_not_come_late() {
    both(async |pair, listener| {
        let body =
            "3;ext=1\r\nabc\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nweft-client-id: liar\r\nY: 2\r\n\r\n";
        let passed = "3\r\nabc\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n";
        let mut client = pair.connect().await;
        send(
            &mut client,
            &format!("POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n{body}"),
        )
        .await;
        let (mut server, _) = listener.accept().await.unwrap();
        read_head(&mut server).await;
        assert_eq!(read_until(&mut server, "Y: 2\r\n\r\n").await, passed);
        send(&mut server, &format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}")).await;
        read_head(&mut client).await;
        assert_eq!(read_until(&mut client, "Y: 2\r\n\r\n").await, passed);
    })
    .await;
}

#[tokio::test]
async fn every_interim_response_is_the_origins_own() {
    both(async |pair, listener| {
        let mut client = pair.connect().await;
        let head = "PUT / HTTP/1.1\r\nHost: orders\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        send(&mut client, head).await;
        let (mut server, _) = listener.accept().await.unwrap();
        assert!(read_head(&mut server).await.contains("Expect: 100-continue\r\n"));
        for interim in
            ["HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", "HTTP/1.1 100 Go on\r\nX-Own: yes\r\n\r\n"]
        {
            send(&mut server, interim).await;
            assert_eq!(read_head(&mut client).await, interim);
        }
        send(&mut client, "hello").await;
        assert_eq!(read_until(&mut server, "hello").await, "hello");
        send(&mut server, OK).await;
        assert_eq!(read_until(&mut client, "ok").await, OK);
    })
    .await;
}

#[tokio::test]
async fn a_refused_expectation_is_the_origins_own_and_ends_the_connection() {
    both(async |pair, listener| {
        let mut client = pair.connect().await;
        let head = "PUT / HTTP/1.1\r\nHost: orders\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        send(&mut client, head).await;
        let (mut server, _) = listener.accept().await.unwrap();
        read_head(&mut server).await;
        send(&mut server, "HTTP/1.1 417 No\r\nContent-Length: 2\r\n\r\nno").await;
        let (answer, clean) = read_to_end(&mut client).await;
        assert!(
            answer.starts_with("HTTP/1.1 417 No\r\n") && answer.ends_with("\r\n\r\nno") && clean,
            "{answer}"
        );
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        // What was refused is never sent, so the request has not ended for the app either.
        assert_ne!(server.read(&mut [0; 8]).await.ok(), Some(5));
    })
    .await;
}

#[tokio::test]
async fn an_early_response_reaches_a_client_that_is_still_sending() {
    both(async |pair, listener| {
        let client = pair.connect().await;
        let (mut reading, mut writing) = client.into_split();
        let uploading = async {
            let head = "PUT / HTTP/1.1\r\nHost: orders\r\nContent-Length: 1000000000\r\n\r\n";
            writing.write_all(head.as_bytes()).await.unwrap();
            while writing.write_all(&vec![7; 65536]).await.is_ok() {}
        };
        let serving = async {
            let (mut server, _) = listener.accept().await.unwrap();
            read_head(&mut server).await;
            server.read_exact(&mut vec![0; 1 << 20]).await.unwrap();
            let response = "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig";
            server.write_all(response.as_bytes()).await.unwrap();
            server
        };
        let answer = async {
            let mut answer = Vec::new();
            while !answer.ends_with(b"big") {
                assert!(reading.read_buf(&mut answer).await.unwrap() > 0);
            }
            String::from_utf8(answer).unwrap()
        };
        let ((), _server, answer) = tokio::join!(uploading, serving, answer);
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn a_connection_on_which_an_answer_came_before_the_body_had_ended_is_used_again() {
    both(async |pair, listener| {
        let mut client = pair.connect().await;
        send(&mut client, "POST /early HTTP/1.1\r\nHost: orders\r\nContent-Length: 4\r\n\r\n").await;
        let (mut server, _) = listener.accept().await.unwrap();
        read_head(&mut server).await;
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        send(&mut server, ok).await;
        assert_eq!(read_until(&mut client, "ok").await.lines().next(), Some("HTTP/1.1 200 OK"));
        send(&mut client, "paid").await;
        server.read_exact(&mut [0; 4]).await.unwrap();
        send(&mut client, &request("/next", "")).await;
        assert!(read_head(&mut server).await.starts_with("GET /next "));
        send(&mut server, ok).await;
        assert_eq!(read_until(&mut client, "ok").await.lines().next(), Some("HTTP/1.1 200 OK"));
    })
    .await;
}

#[tokio::test]
async fn a_connection_of_which_an_app_took_only_half_a_request_goes_on_if_it_was_said_to() {
    const LENGTH: usize = 1 << 20;
    both(async |pair, listener| {
        let mut client = pair.connect().await;
        send(
            &mut client,
            &format!("POST /early HTTP/1.1\r\nHost: orders\r\nContent-Length: {LENGTH}\r\n\r\n"),
        )
        .await;
        let (mut server, _) = listener.accept().await.unwrap();
        read_head(&mut server).await;
        send(&mut server, OK).await;
        let answer = read_until(&mut client, "ok").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.contains("onnection"), "{answer}");
        drop(server);
        client.write_all(&vec![b'x'; LENGTH]).await.unwrap();
        send(&mut client, &request("/next", "")).await;
        let (mut server, _) = listener.accept().await.unwrap();
        assert!(read_head(&mut server).await.starts_with("GET /next "));
        send(&mut server, OK).await;
        assert_eq!(read_until(&mut client, "ok").await.lines().next(), Some("HTTP/1.1 200 OK"));
    })
    .await;
}

#[tokio::test]
async fn a_client_that_has_said_all_still_gets_its_response() {
    both(async |pair, listener| {
        let mut client = pair.connect().await;
        send(&mut client, &request("/", "")).await;
        client.shutdown().await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        read_head(&mut server).await;
        send(&mut server, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n").await;
        assert!(read_until(&mut client, "ok\r\n").await.starts_with("HTTP/1.1 200 OK\r\n"));
        send(&mut server, "0\r\n\r\n").await;
        assert_eq!(read_to_end(&mut client).await, ("0\r\n\r\n".to_owned(), true));
    })
    .await;
}

#[tokio::test]
async fn a_response_that_ends_with_its_connection_ends_with_a_chunk() {
    both(async |pair, listener| {
        let mut client = pair.connect().await;
        send(&mut client, &request("/", "")).await;
        let (mut server, _) = listener.accept().await.unwrap();
        read_head(&mut server).await;
        send(&mut server, "HTTP/1.0 200 OK\r\nX: y\r\n\r\nhello").await;
        server.shutdown().await.unwrap();
        let expected = "HTTP/1.1 200 OK\r\nX: y\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        assert_eq!(read_until(&mut client, "0\r\n\r\n").await, expected);
    })
    .await;
}

#[tokio::test]
async fn clients_of_http_1_0_are_kept_where_they_ask_for_it() {
    both(async |pair, listener| {
        let mut client = pair.connect().await;
        let serving = async {
            let (mut server, _) = listener.accept().await.unwrap();
            loop {
                let head = read_head(&mut server).await;
                assert!(head.starts_with("GET / HTTP/1.1\r\n") && !head.contains("onnection"), "{head}");
                send(&mut server, "HTTP/1.1 103 Early Hints\r\n\r\n").await;
                send(&mut server, OK).await;
            }
        };
        let asking = async {
            for _ in 0..2 {
                send(&mut client, "GET / HTTP/1.0\r\nHost: orders\r\nConnection: keep-alive\r\n\r\n").await;
                let answer = read_until(&mut client, "ok").await;
                let kept = "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nconnection: keep-alive\r\n\r\nok";
                assert_eq!(answer, kept);
            }
            send(&mut client, "GET / HTTP/1.0\r\nHost: orders\r\n\r\n").await;
            assert!(read_to_end(&mut client).await.0.ends_with("connection: close\r\n\r\nok"));
        };
        tokio::select! {
            () = serving => unreachable!(),
            () = asking => {}
        }
    })
    .await;
}

#[tokio::test]
async fn bytes_after_an_upgrade_request_are_held_until_it_is_granted() {
    both(async |pair, listener| {
        let mut client = pair.connect().await;
        send(&mut client, &request("/", "Connection: upgrade\r\nUpgrade: own/1\r\n")).await;
        send(&mut client, "early").await;
        let (mut server, _) = listener.accept().await.unwrap();
        let head = read_head(&mut server).await;
        assert!(head.contains("\r\nUpgrade: own/1\r\n") && head.contains("onnection: upgrade\r\n"), "{head}");
        let mut byte = [0];
        assert!(timeout(std::time::Duration::from_millis(50), server.read(&mut byte)).await.is_err());
        send(&mut server, "HTTP/1.1 101 Own\r\nConnection: upgrade\r\nUpgrade: own/1\r\n\r\nhi").await;
        assert!(read_until(&mut client, "\r\n\r\nhi").await.contains("Upgrade: own/1\r\n"));
        assert_eq!(read_until(&mut server, "early").await, "early");
        server.shutdown().await.unwrap();
        assert_eq!(client.read(&mut byte).await.unwrap(), 0);
        send(&mut client, "still").await;
        assert_eq!(read_until(&mut server, "still").await, "still");
    })
    .await;
}

#[tokio::test]
async fn bytes_held_for_an_upgrade_that_is_refused_go_to_no_one() {
    both(async |pair, listener| {
        let mut client = pair.connect().await;
        let smuggled = request("/smuggled", "");
        send(&mut client, &(request("/", "Connection: upgrade\r\nUpgrade: own/1\r\n") + &smuggled)).await;
        let (mut server, _) = listener.accept().await.unwrap();
        read_head(&mut server).await;
        send(&mut server, OK).await;
        let (answer, _) = read_to_end(&mut client).await;
        assert!(answer.contains("connection: close\r\n") && answer.ends_with("ok"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
        drop(client);
        let mut next = pair.connect().await;
        send(&mut next, &request("/next", "")).await;
        assert!(read_head(&mut server).await.starts_with("GET /next "));
    })
    .await;
}

#[tokio::test]
async fn connect_makes_a_tunnel_or_is_refused_and_closed() {
    both(async |pair, listener| {
        for (status, granted) in [("200 Yes", true), ("403 No", false)] {
            let mut client = pair.connect().await;
            send(&mut client, "CONNECT db:5432 HTTP/1.1\r\nHost: db:5432\r\n\r\nhello").await;
            let (mut server, _) = listener.accept().await.unwrap();
            assert!(read_head(&mut server).await.starts_with("CONNECT db:5432 HTTP/1.1\r\n"));
            if granted {
                send(&mut server, &format!("HTTP/1.1 {status}\r\n\r\nhi")).await;
                assert!(read_until(&mut client, "\r\n\r\nhi").await.starts_with("HTTP/1.1 200 Yes\r\n"));
                assert_eq!(read_until(&mut server, "hello").await, "hello");
            } else {
                send(&mut server, &format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")).await;
                let (answer, _) = read_to_end(&mut client).await;
                assert!(
                    answer.starts_with("HTTP/1.1 403 No\r\n") && answer.ends_with("\r\n\r\n"),
                    "{answer}"
                );
                assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_cut_response_is_cut_by_a_reset() {
    both(async |pair, listener| {
        for part in [
            "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n0\r\n",
        ] {
            for reset in [false, true] {
                let mut client = pair.connect().await;
                send(&mut client, &request("/", "Connection: close\r\n")).await;
                let (mut server, _) = listener.accept().await.unwrap();
                read_head(&mut server).await;
                send(&mut server, part).await;
                read_until(&mut client, "half").await;
                if reset {
                    server.set_zero_linger().unwrap();
                }
                drop(server);
                assert!(!read_to_end(&mut client).await.1, "looks complete, reset: {reset}, {part}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_response_cut_by_a_reset_before_its_length_is_known_is_no_response() {
    both(async |pair, listener| {
        let mut client = pair.connect().await;
        send(&mut client, &request("/", "Connection: close\r\n")).await;
        let (mut server, _) = listener.accept().await.unwrap();
        read_head(&mut server).await;
        send(&mut server, "HTTP/1.1 200 OK\r\n\r\nhalf").await;
        read_until(&mut client, "half\r\n").await;
        server.set_zero_linger().unwrap();
        drop(server);
        assert!(!read_to_end(&mut client).await.1);
    })
    .await;
}

#[tokio::test]
async fn a_client_that_breaks_off_is_broken_off_towards_the_app() {
    both(async |pair, listener| {
        for body in ["Content-Length: 9\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
            for reset in [false, true] {
                let mut client = pair.connect().await;
                send(&mut client, &format!("PUT / HTTP/1.1\r\nHost: orders\r\n{body}")).await;
                let (mut server, _) = listener.accept().await.unwrap();
                read_until(&mut server, "half").await;
                if reset {
                    client.set_zero_linger().unwrap();
                }
                drop(client);
                assert!(!read_to_end(&mut server).await.1, "looks complete, reset: {reset}, {body}");
            }
        }
        // Nor is an app kept busy for a client that is gone.
        let mut client = pair.connect().await;
        send(&mut client, &request("/", "")).await;
        let (mut server, _) = listener.accept().await.unwrap();
        read_head(&mut server).await;
        client.set_zero_linger().unwrap();
        drop(client);
        assert!(!read_to_end(&mut server).await.1);
    })
    .await;
}

#[tokio::test]
async fn what_an_app_says_that_is_no_http_is_answered_for() {
    both(async |pair, listener| {
        for nonsense in
            ["220 smtp.example\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"]
        {
            let mut client = pair.connect().await;
            send(&mut client, &request("/", "Connection: close\r\n")).await;
            let (mut server, _) = listener.accept().await.unwrap();
            read_head(&mut server).await;
            send(&mut server, nonsense).await;
            let (answer, clean) = read_to_end(&mut client).await;
            assert!(answer.starts_with("HTTP/1.1 502 ") && clean, "{answer}");
            assert!(answer.contains("weft-error: protocol-error\r\n"), "{answer}");
        }
    })
    .await;
}
