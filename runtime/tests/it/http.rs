//! The small server's answers, limits and end.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use weft_runtime::drain::{self, Drain};
use weft_runtime::http::{Limits, Peer, serve, text};
use weft_runtime::task;

const LONG: Duration = Duration::from_secs(3600);

/// No limit that a test could meet by being slow.
fn patient() -> Limits {
    Limits { read: LONG, connection: LONG, grace: LONG, ..Limits::default() }
}

async fn echo(request: Request<Bytes>) -> Response<Full<Bytes>> {
    let peer = request.extensions().get::<Peer>().unwrap().0;
    assert!(peer.ip().is_loopback());
    match (request.method(), request.uri().path()) {
        (&Method::POST, "/echo") => text(StatusCode::OK, request.into_body()),
        _ => text(StatusCode::NOT_FOUND, "no such page\n"),
    }
}

async fn start(limits: Limits) -> (SocketAddr, Drain, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (drain, watch) = drain::channel();
    (address, drain, task::spawn("test-server", serve(listener, limits, watch, echo)))
}

/// Writes, then reads until the server closes.
async fn talk(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A server that closes with our bytes unread resets the connection; what it said before counts.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn a_request_is_answered_with_its_body() {
    let (address, _drain, _) = start(patient()).await;
    let answer = talk(
        address,
        b"POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("\r\ncontent-type: text/plain; charset=utf-8\r\n")
            && answer.ends_with("\r\n\r\nhello")
    );
    let answer = talk(address, b"GET / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 404 "), "{answer}");
}

#[tokio::test]
async fn requests_beyond_the_limits_are_refused() {
    let (address, _drain, _) = start(Limits { body: 4, head: 8 << 10, ..patient() }).await;
    let answer = talk(
        address,
        b"POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 5\r\n\r\nhello",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.ends_with("a body may have 4 bytes\n"), "{answer}");
    let chunked = b"POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    assert!(talk(address, chunked).await.starts_with("HTTP/1.1 413 "));
    let long = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "a".repeat(20 << 10));
    assert!(talk(address, long.as_bytes()).await.starts_with("HTTP/1.1 431 "));
}

#[tokio::test]
async fn garbage_closes_its_connection_alone() {
    let (address, _drain, _) = start(patient()).await;
    let answer = talk(address, b"\x16\x03\x01 no HTTP at all\r\n\r\n").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let cut = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: ,\r\n\r\nhi";
    assert!(talk(address, cut).await.starts_with("HTTP/1.1 400 "));
    assert!(talk(address, b"GET / HTTP/1.0\r\n\r\n").await.starts_with("HTTP/1.0 404 "));
}

#[tokio::test(start_paused = true)]
async fn slow_clients_are_cut_off() {
    let limits = Limits { read: Duration::from_secs(5), ..patient() };
    let (address, _drain, _) = start(limits).await;
    let begun = tokio::time::Instant::now();
    talk(address, b"GET / HTT").await;
    assert_eq!(begun.elapsed().as_secs(), 5);
    let answer = talk(address, b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhell").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_ends_when_its_time_is_up() {
    let (address, _drain, _) = start(Limits { connection: Duration::from_secs(60), ..patient() }).await;
    let begun = tokio::time::Instant::now();
    let answer = talk(address, b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi").await;
    assert!(answer.ends_with("hi"), "{answer}");
    assert_eq!(begun.elapsed().as_secs(), 60);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once() {
    let (address, _drain, _) = start(Limits { connections: 1, ..patient() }).await;
    let mut first = TcpStream::connect(address).await.unwrap();
    let request = b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nhi";
    first.write_all(request).await.unwrap();
    let mut answer = vec![0; 2];
    while !answer.ends_with(b"hi") {
        first.read_buf(&mut answer).await.unwrap();
    }
    assert_eq!(talk(address, request).await, "");
    drop(first);
    while talk(address, b"GET / HTTP/1.0\r\n\r\n").await.is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_drain_waits_for_the_request_that_has_begun() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (drain, watch) = drain::channel();
    let (begun, mut begins) = mpsc::channel::<oneshot::Sender<()>>(1);
    let handler = move |_request| {
        let begun = begun.clone();
        async move {
            let (release, released) = oneshot::channel();
            begun.send(release).await.unwrap();
            released.await.unwrap();
            text(StatusCode::OK, "done")
        }
    };
    let server = task::spawn("test-server", serve(listener, patient(), watch, handler));
    let idle = TcpStream::connect(address).await.unwrap();
    let client =
        task::spawn("test-client", async move { talk(address, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await });
    let release = begins.recv().await.unwrap();
    drain.start();
    server.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");
    release.send(()).unwrap();
    let answer = client.await.unwrap();
    assert!(answer.ends_with("done") && answer.contains("connection: close"), "{answer}");
    drain.finish(LONG).await.unwrap();
    drop(idle);
}

#[tokio::test]
async fn a_panic_in_a_handler_costs_its_connection_only() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_drain, watch) = drain::channel();
    let handler = |request: Request<Bytes>| async move {
        assert!(request.uri().path() != "/panic", "on purpose");
        text(StatusCode::OK, "fine")
    };
    task::spawn("test-server", serve(listener, patient(), watch, handler));
    assert_eq!(talk(address, b"GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").await, "");
    assert!(talk(address, b"GET / HTTP/1.0\r\n\r\n").await.ends_with("fine"));
    let counts = task::counts();
    assert!(counts.iter().any(|count| count.name == "http-connection" && count.panics == 1), "{counts:?}");
}
