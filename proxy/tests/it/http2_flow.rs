//! How much moves on HTTP/2 and how much waits: readers that do not read, many streams at once, several connections.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::Response;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::pair::{PATIENCE, Pair, app};
use crate::wire::{self, Asked};

/// How fast a request is answered that has nothing to wait for.
const FRESH: Duration = Duration::from_millis(100);

/// What two sidecars and two sockets hold of one stream at most, and as much again.
const HELD: usize = 4 << 20;

/// An app with large windows that answers `/endless` without end, `/unread` when the caller leaves, all else at once;
/// counts what it could send.
fn serve(listener: TcpListener) -> Arc<AtomicUsize> {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&sent);
    wire::serve(listener, move |(request, mut respond): Asked| {
        let count = Arc::clone(&count);
        async move {
            match request.uri().path() {
                "/endless" => {
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    loop {
                        stream.reserve_capacity(16 * 1024);
                        let Some(Ok(room)) = poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
                        if stream.send_data(Bytes::from(vec![b'x'; room]), false).is_err() {
                            return;
                        }
                        count.fetch_add(room, Ordering::Relaxed);
                    }
                }
                "/unread" => drop(poll_fn(|cx| respond.poll_reset(cx)).await),
                _ => {
                    let (bytes, _) = wire::read(&mut request.into_body()).await.unwrap();
                    let mut stream = respond.send_response(Response::new(()), false).unwrap();
                    stream.send_data(bytes, true).unwrap();
                }
            }
        }
    });
    sent
}

/// Asks one after the other; each must be answered at once.
async fn check_fresh(sender: &mut SendRequest<Bytes>) {
    // The first may have to open a connection.
    wire::ask(sender, wire::request("POST", "/"), b"first").await;
    for _ in 0..10 {
        let begun = Instant::now();
        let (head, bytes, _) = wire::ask(sender, wire::request("POST", "/"), b"fresh").await;
        assert_eq!((head.status().as_u16(), &bytes[..]), (200, &b"fresh"[..]));
        assert!(begun.elapsed() < FRESH, "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_the_writer() {
    let (listener, address) = app().await;
    let sent = serve(listener);
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        let before = sent.load(Ordering::Relaxed);
        let (response, _) = sender.send_request(wire::request("GET", "/endless"), true).unwrap();
        let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
        // The app stops long before it has sent what would not be held.
        let mut last = before;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = sent.load(Ordering::Relaxed);
            assert!(now - before < HELD, "{} bytes", now - before);
            if now == last && now > before {
                break;
            }
            last = now;
        }
        // And goes on when something is read.
        for _ in 0..64 {
            let piece = timeout(PATIENCE, body.data()).await.unwrap().unwrap().unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
        }
        let goes_on = async {
            while sent.load(Ordering::Relaxed) == last {
                let piece = body.data().await.unwrap().unwrap();
                body.flow_control().release_capacity(piece.len()).unwrap();
            }
        };
        timeout(PATIENCE, goes_on).await.unwrap();
    }
}

#[tokio::test]
async fn an_app_that_does_not_read_stops_the_client() {
    let (listener, address) = app().await;
    serve(listener);
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        let (_response, mut stream) = sender.send_request(wire::request("POST", "/unread"), false).unwrap();
        let filled = timeout(PATIENCE, wire::fill(&mut stream)).await.expect("the writer is stopped");
        assert!(filled > 0 && filled < HELD, "{filled}");
    }
}

#[tokio::test]
async fn fresh_requests_are_fast_while_fifty_responses_are_not_read() {
    let (listener, address) = app().await;
    serve(listener);
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        let mut unread = Vec::new();
        for _ in 0..50 {
            let (response, _) = sender.send_request(wire::request("GET", "/endless"), true).unwrap();
            unread.push(timeout(PATIENCE, response).await.unwrap().unwrap().into_body());
        }
        // Each has filled its window when its first piece has come and no more does.
        for body in &mut unread {
            timeout(PATIENCE, body.data()).await.unwrap().unwrap().unwrap();
        }
        check_fresh(&mut sender).await;
        // Nor does a connection of its own have to wait, which goes over the same one between the sidecars.
        check_fresh(&mut wire::client(pair.connect().await).await).await;
        drop(unread);
    }
}

#[tokio::test]
async fn fresh_requests_are_fast_while_fifty_requests_are_not_read() {
    let (listener, address) = app().await;
    // The app's connection window is 64 KiB, which one unread request fills.
    serve(listener);
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        let mut unread = Vec::new();
        for _ in 0..50 {
            let (response, mut stream) =
                sender.send_request(wire::request("POST", "/unread"), false).unwrap();
            stream.send_data(Bytes::from(vec![b'u'; 128 * 1024]), false).unwrap();
            unread.push((response, stream));
        }
        let (response, mut stream) = unread.pop().unwrap();
        timeout(PATIENCE, wire::fill(&mut stream)).await.expect("all windows are full");
        unread.push((response, stream));
        check_fresh(&mut sender).await;
        check_fresh(&mut wire::client(pair.connect().await).await).await;
    }
}

#[tokio::test]
async fn a_thousand_streams_run_at_once_on_one_connection() {
    const STREAMS: usize = 1000;
    let (listener, address) = app().await;
    let waiting = Arc::new(tokio::sync::Barrier::new(STREAMS));
    let mut settings = h2::server::Builder::new();
    settings.initial_connection_window_size(1 << 24);
    wire::serve_with(listener, settings, move |(request, mut respond): Asked| {
        let waiting = Arc::clone(&waiting);
        async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            // All are under way before the first ends.
            waiting.wait().await;
            let (bytes, _) = wire::read(&mut request.into_body()).await.unwrap();
            stream.send_data(bytes, true).unwrap();
        }
    });
    for pair in Pair::both(address) {
        let sender = wire::client(pair.connect().await).await;
        let calls = (0..STREAMS).map(|number| {
            let mut sender = sender.clone();
            async move {
                let body = format!("message {number}");
                let asked = wire::ask(&mut sender, wire::request("POST", "/"), body.as_bytes());
                let (head, bytes, _) = asked.await;
                assert_eq!((head.status().as_u16(), &bytes[..]), (200, body.as_bytes()));
            }
        });
        timeout(PATIENCE, futures_util::future::join_all(calls)).await.unwrap();
    }
}

#[tokio::test]
async fn bodies_of_any_size_pass_whole() {
    let (listener, address) = app().await;
    serve(listener);
    for pair in Pair::both(address) {
        let mut sender = wire::client(pair.connect().await).await;
        let sent: Bytes =
            (0..8_000_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect::<Vec<_>>().into();
        let (response, mut stream) = sender.send_request(wire::request("POST", "/"), false).unwrap();
        let writing = async {
            let mut rest = sent.clone();
            while !rest.is_empty() {
                stream.reserve_capacity(rest.len());
                let room = poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
                let piece = rest.split_to(room.min(rest.len()));
                stream.send_data(piece, rest.is_empty()).unwrap();
            }
        };
        let reading = async {
            let mut body = response.await.unwrap().into_body();
            wire::read(&mut body).await.unwrap().0
        };
        let both = async { tokio::join!(writing, reading) };
        let ((), received) = timeout(PATIENCE, both).await.unwrap();
        assert!(received == sent);
    }
}
