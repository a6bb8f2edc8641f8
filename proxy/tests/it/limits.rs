//! How much a worker takes on: connections at once, requests of one of them, a request's target.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use weft_core::model::Protocol;
use weft_proxy::worker::Conduct;
use weft_runtime::task;

use crate::http1_fidelity::read_until;
use crate::pair::{PATIENCE, Pair, app, read_head};
use crate::wire::{self, ACK, GO_AWAY, HEADERS, PING, Wire, frame, get};

/// Answers every request on every connection.
fn serve(listener: TcpListener) {
    task::spawn("test-app", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            task::spawn("test-app-connection", async move {
                while !read_head(&mut stream).await.is_empty() {
                    let answered = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                    if answered.is_err() {
                        return;
                    }
                }
            });
        }
    });
}

async fn send(client: &mut TcpStream) {
    client.write_all(b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await.unwrap();
}

async fn ask(client: &mut TcpStream) -> String {
    send(client).await;
    timeout(PATIENCE, read_until(client, "ok")).await.expect("an answer")
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_there_are_fewer() {
    let (listener, address) = app().await;
    serve(listener);
    let conduct = Conduct { connections: 3, ..Conduct::default() };
    let pair = Pair::that(conduct, address, Protocol::Http);
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut client = pair.connect().await;
        ask(&mut client).await;
        open.push(client);
    }
    let mut waiting = pair.connect().await;
    send(&mut waiting).await;
    for client in &mut open {
        ask(client).await;
    }
    assert_eq!(waiting.try_read(&mut [0; 64]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(open.pop());
    timeout(PATIENCE, read_until(&mut waiting, "ok")).await.expect("its turn has come");
}

#[tokio::test]
async fn a_connection_of_http_1_ends_in_order_after_so_many_requests() {
    let (listener, address) = app().await;
    serve(listener);
    let conduct = Conduct { requests: 3, ..Conduct::default() };
    let pair = Pair::that(conduct, address, Protocol::Http);
    for _ in 0..5 {
        let mut client = pair.connect().await;
        for last in [false, false, true] {
            let answer = ask(&mut client).await;
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert_eq!(answer.contains("connection: close\r\n"), last, "{answer}");
        }
        assert_eq!(timeout(PATIENCE, client.read(&mut [0])).await.expect("the end").unwrap(), 0);
    }
}

#[tokio::test]
async fn a_connection_of_http_2_is_said_farewell_to_after_so_many_requests() {
    let (listener, address) = app().await;
    wire::serve(listener, |(_, mut respond)| async move {
        drop(respond.send_response(http::Response::new(()), true));
    });
    let conduct = Conduct { requests: 3, ..Conduct::default() };
    let pair = Pair::that(conduct, address, Protocol::Detect);
    for _ in 0..5 {
        let mut client = Wire::client(pair.connect().await).await;
        for stream in [1, 3, 5] {
            client.send(&get(stream)).await;
            if stream < 5 {
                client.expect(HEADERS, stream).await;
            }
        }
        let (mut parting, mut answered) = (None, false);
        while let Some(received) = client.next().await {
            match received.kind {
                GO_AWAY => parting = Some(received.code()),
                HEADERS => answered |= received.stream == 5,
                PING if received.flags & ACK == 0 => {
                    client.send(&frame(PING, ACK, 0, &received.payload)).await;
                }
                _ => {}
            }
        }
        assert_eq!((parting, answered), (Some(0), true), "no error, and the last request is answered");
    }
}

#[tokio::test]
async fn a_target_may_be_as_long_in_either_version() {
    let (listener, address) = app().await;
    serve(listener);
    let pair = Pair::of_protocol(address, Protocol::Http);
    for (length, expected) in [(32 * 1024 - 1, "HTTP/1.1 200 "), (32 * 1024 + 1, "HTTP/1.1 431 ")] {
        let target = "a".repeat(length - 1);
        let answer =
            pair.ask(&format!("GET /{target} HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with(expected), "{answer}");
    }
    let (listener, address) = app().await;
    wire::serve(listener, |(_, mut respond)| async move {
        drop(respond.send_response(http::Response::new(()), true));
    });
    let pair = Pair::new(address);
    let mut sender = wire::client(pair.connect().await).await;
    for (length, expected) in [(32 * 1024 - 1, 200), (32 * 1024 + 1, 431)] {
        let path = format!("/{}", "a".repeat(length - 1));
        let (head, ..) = wire::ask(&mut sender, wire::request("GET", &path), b"").await;
        assert_eq!(head.status(), expected);
    }
}
