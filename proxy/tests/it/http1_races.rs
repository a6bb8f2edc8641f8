//! Connections that an app closes in the moment that a request comes: no request is lost, and none is done twice.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http1_fidelity::{both, read_to_end, read_until};
use crate::pair::{PATIENCE, read_head};

/// Serves a connection for a random number of requests, then closes it at a random moment of its idleness.
async fn serve_for_a_while(mut stream: TcpStream, seed: u64) -> Vec<String> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut seen = Vec::new();
    for request in 0..rng.u32(1..6) {
        // A new connection is no idle one: its first request is waited for.
        let patience =
            Duration::from_micros(rng.u64(1..1500)) + if request == 0 { PATIENCE } else { Duration::ZERO };
        // Peeking, a request that has come is never thrown away unread by a timer that fires in its middle.
        match tokio::time::timeout(patience, stream.peek(&mut [0])).await {
            Ok(Ok(1)) => {}
            Ok(_) | Err(_) => return seen,
        }
        let head = read_head(&mut stream).await;
        seen.push(head.split(' ').nth(1).unwrap().to_owned());
        let response = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        if stream.write_all(response.as_bytes()).await.is_err() {
            return seen;
        }
    }
    seen
}

#[tokio::test]
async fn no_request_is_lost_or_done_twice_when_idle_connections_are_closed_at_random() {
    const REQUESTS: usize = 3000;
    both(async |pair, listener| {
        let mut done: HashMap<String, usize> = HashMap::new();
        let serving = async {
            let mut serving = FuturesUnordered::new();
            let mut connections = 0;
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        connections += 1;
                        serving.push(serve_for_a_while(accepted.unwrap().0, connections));
                    }
                    Some(seen) = serving.next(), if !serving.is_empty() => {
                        for path in seen {
                            *done.entry(path).or_default() += 1;
                        }
                    }
                }
            }
        };
        let asking = async {
            let clients = (0..4).map(|client| async move {
                let mut rng = fastrand::Rng::with_seed(client);
                let mut stream = pair.connect().await;
                for number in 0..REQUESTS / 4 {
                    let method = if number % 2 == 0 { "GET" } else { "POST" };
                    let length = if number % 2 == 0 { "" } else { "Content-Length: 0\r\n" };
                    let request =
                        format!("{method} /{client}/{number} HTTP/1.1\r\nHost: orders\r\n{length}\r\n");
                    stream.write_all(request.as_bytes()).await.unwrap();
                    let answer = read_head(&mut stream).await;
                    assert!(answer.starts_with("HTTP/1.1 200 "), "{request}{answer}");
                    stream.read_exact(&mut [0; 2]).await.unwrap();
                    tokio::time::sleep(Duration::from_micros(rng.u64(0..1500))).await;
                }
            });
            futures_util::future::join_all(clients).await;
        };
        tokio::select! {
            () = serving => {}
            _ = asking => {}
        }
        let twice: Vec<_> = done.iter().filter(|(_, count)| **count > 1).collect();
        assert!(twice.is_empty(), "{twice:?}");
    })
    .await;
}

#[tokio::test]
async fn what_an_app_has_seen_is_repeated_only_where_that_is_harmless() {
    for (method, repeated) in [("GET", true), ("PUT", true), ("POST", false), ("PATCH", false)] {
        // An app of its own for each: of one that was seen to close a connection nobody knows how long it leaves others open.
        both(async |pair, listener| {
            let mut client = pair.connect().await;
            let request = format!(
                "{method} / HTTP/1.1\r\nHost: orders\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
            );
            let warm_up = format!("{method} /warm HTTP/1.1\r\nHost: orders\r\nContent-Length: 2\r\n\r\nhi");
            client.write_all(warm_up.as_bytes()).await.unwrap();
            let (mut server, _) = listener.accept().await.unwrap();
            let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            read_until(&mut server, "hi").await;
            // So that the next request comes on this connection, however busy the machine is.
            server
                .write_all(ok.replace("OK\r\n", "OK\r\nKeep-Alive: timeout=60\r\n").as_bytes())
                .await
                .unwrap();
            read_until(&mut client, "ok").await;

            client.write_all(request.as_bytes()).await.unwrap();
            read_until(&mut server, "hi").await;
            drop(server);
            if repeated {
                let (mut server, _) = listener.accept().await.unwrap();
                read_until(&mut server, "hi").await;
                server
                    .write_all(ok.replace("OK\r\n", "OK\r\nConnection: close\r\n").as_bytes())
                    .await
                    .unwrap();
            }
            let (answer, _) = read_to_end(&mut client).await;
            let expected = if repeated { "HTTP/1.1 200 " } else { "HTTP/1.1 502 " };
            assert!(answer.starts_with(expected), "{method}: {answer}");
            assert!(repeated || answer.contains("weft-error: upstream-reset\r\n"), "{method}: {answer}");
        })
        .await;
    }
}

/// Serves one request on a connection, and answers it with `fields`.
async fn answer_one(server: &mut TcpStream, fields: &str) -> String {
    let head = read_head(server).await;
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{fields}\r\nok");
    server.write_all(answer.as_bytes()).await.unwrap();
    head.split(' ').next().unwrap().to_owned()
}

async fn send(client: &mut TcpStream, method: &str) {
    let request = format!("{method} / HTTP/1.1\r\nHost: orders\r\nContent-Length: 0\r\n\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_repeated_goes_on_no_connection_that_the_app_says_it_closes_soon() {
    both(async |pair, listener| {
        let mut client = pair.connect().await;
        send(&mut client, "GET").await;
        let (mut first, _) = listener.accept().await.unwrap();
        answer_one(&mut first, "Keep-Alive: max=100, timeout=0\r\n").await;
        read_until(&mut client, "ok").await;

        send(&mut client, "POST").await;
        let (mut second, _) = listener.accept().await.unwrap();
        assert_eq!(answer_one(&mut second, "").await, "POST");
        read_until(&mut client, "ok").await;

        // What can be repeated takes the risk: it costs no more than a new connection would.
        send(&mut client, "GET").await;
        assert_eq!(answer_one(&mut second, "").await, "GET");
        read_until(&mut client, "ok").await;
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_repeated_goes_on_no_connection_that_the_app_was_seen_to_close_by_then() {
    both(async |pair, listener| {
        let mut client = pair.connect().await;
        send(&mut client, "GET").await;
        let (mut first, _) = listener.accept().await.unwrap();
        let parked = Instant::now();
        answer_one(&mut first, "").await;
        read_until(&mut client, "ok").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(first);
        let patience = parked.elapsed();

        send(&mut client, "GET").await;
        let (mut second, _) = listener.accept().await.unwrap();
        answer_one(&mut second, "").await;
        read_until(&mut client, "ok").await;
        // It is known after how long the app lets go, also where the other connection is not asked for a longer time.
        tokio::time::sleep(2 * patience).await;
        send(&mut client, "POST").await;
        let (mut third, _) = listener.accept().await.unwrap();
        assert_eq!(answer_one(&mut third, "").await, "POST");
        read_until(&mut client, "ok").await;
    })
    .await;
}
