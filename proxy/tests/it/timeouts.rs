//! How long a request may take, where a policy says so.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use weft_core::model::{Timeouts, Traffic};

use crate::pair::{PATIENCE, Pair, app, read_head};
use crate::wire::{self, Asked};

const LIMIT: Duration = Duration::from_millis(200);

const CLOSE: &str = "GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";

fn request_within(limit: Duration) -> Traffic {
    Traffic { timeouts: Timeouts { request: Some(limit), ..Timeouts::default() }, ..Traffic::default() }
}

fn idle_for(limit: Duration) -> Traffic {
    Traffic { timeouts: Timeouts { idle: Some(limit), ..Timeouts::default() }, ..Traffic::default() }
}

/// Every policy under which a request that is not answered is given up after [`LIMIT`].
fn policies() -> [Traffic; 2] {
    [request_within(LIMIT), idle_for(LIMIT)]
}

#[tokio::test]
async fn a_request_that_is_not_answered_in_time_is_answered_by_the_mesh() {
    for traffic in policies() {
        let (listener, address) = app().await;
        let mut pair = Pair::new(address);
        pair.treat(address, traffic);
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            stream.read(&mut [0]).await
        };
        let begun = Instant::now();
        let (ended, response) = tokio::join!(serving, pair.ask(CLOSE));
        assert!(begun.elapsed() >= LIMIT, "{:?}", begun.elapsed());
        assert!(!matches!(ended, Ok(1..)), "the app is told that nobody waits");
        assert!(response.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"), "{response}");
        assert!(response.contains("weft-error: timeout\r\n"), "{response}");
        let record = pair.caller.record().await;
        assert_eq!((record.status, record.error.map(|code| code.as_str())), (Some(504), Some("timeout")));
    }
}

#[tokio::test]
async fn an_answer_that_has_begun_and_takes_too_long_does_not_look_whole() {
    for traffic in policies() {
        let (listener, address) = app().await;
        let mut pair = Pair::new(address);
        pair.treat(address, traffic);
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
            stream.read(&mut [0]).await
        };
        let asking = async {
            let mut stream = pair.connect().await;
            stream.write_all(CLOSE.as_bytes()).await.unwrap();
            let mut read = Vec::new();
            let error = timeout(PATIENCE, stream.read_to_end(&mut read)).await.unwrap().unwrap_err();
            (error.kind(), String::from_utf8(read).unwrap())
        };
        let (_, (error, read)) = tokio::join!(serving, asking);
        assert_eq!(error, std::io::ErrorKind::ConnectionReset);
        assert!(read.starts_with("HTTP/1.1 200 OK\r\n") && read.ends_with("half"), "{read}");
        let record = pair.caller.record().await;
        assert_eq!((record.status, record.error.map(|code| code.as_str())), (Some(200), Some("timeout")));
    }
}

#[tokio::test]
async fn a_head_that_comes_slowly_is_part_of_the_request() {
    let (listener, address) = app().await;
    let mut pair = Pair::new(address);
    pair.treat(address, request_within(LIMIT));
    let asking = async {
        let mut stream = pair.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        // Longer than it may take: what is left when its head is whole is nothing.
        tokio::time::sleep(LIMIT + LIMIT / 2).await;
        stream.write_all(b"Host: orders\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    };
    let serving = async {
        // Whoever gets it never answers.
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
        }
    };
    let response = tokio::select! {
        response = timeout(PATIENCE, asking) => response.unwrap(),
        () = serving => unreachable!(),
    };
    assert!(response.contains("weft-error: timeout\r\n"), "{response}");
}

#[tokio::test]
async fn what_moves_is_not_idle() {
    let (listener, address) = app().await;
    let mut pair = Pair::new(address);
    pair.treat(address, idle_for(LIMIT));
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n").await.unwrap();
        for _ in 0..10 {
            tokio::time::sleep(LIMIT / 4).await;
            stream.write_all(b"x").await.unwrap();
        }
    };
    let ((), response) = tokio::join!(serving, pair.ask(CLOSE));
    assert!(response.ends_with("\r\n\r\nxxxxxxxxxx"), "{response}");
}

#[tokio::test]
async fn what_is_open_already_follows_from_its_next_bytes_on() {
    for traffic in policies() {
        follows_from_its_next_bytes_on(traffic).await;
    }
}

async fn follows_from_its_next_bytes_on(traffic: Traffic) {
    let (listener, address) = app().await;
    let mut pair = Pair::new(address);
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").await.unwrap();
        let (mut other, _) = listener.accept().await.unwrap();
        read_head(&mut other).await;
        other.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        stream.write_all(b"x").await.unwrap();
        stream.read(&mut [0]).await
    };
    let asking = async {
        let mut stream = pair.connect().await;
        stream.write_all(CLOSE.as_bytes()).await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"half") {
            stream.read_buf(&mut read).await.unwrap();
        }
        // It has begun where nothing limits it.
        pair.treat(address, traffic);
        // Where another request is answered, what was said is known.
        assert!(pair.ask(CLOSE).await.starts_with("HTTP/1.1 200 OK"));
        let error = timeout(PATIENCE, stream.read_to_end(&mut read)).await.unwrap().unwrap_err();
        assert!(read.ends_with(b"halfx"));
        error.kind()
    };
    let (_, error) = tokio::join!(serving, asking);
    assert_eq!(error, std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_stream_that_is_open_already_follows_from_its_next_message_on() {
    for traffic in policies() {
        let (listener, address) = app().await;
        let mut pair = Pair::new(address);
        let go_on = std::sync::Arc::new(tokio::sync::Notify::new());
        let (told, gone_on) = (go_on.clone(), tokio::sync::mpsc::channel(1));
        let (tell, mut ended) = gone_on;
        wire::serve(listener, move |(request, mut respond): Asked| {
            let (told, tell) = (told.clone(), tell.clone());
            async move {
                let is_other = request.uri().path() == "/other";
                let mut stream = respond.send_response(Response::new(()), is_other).unwrap();
                if is_other {
                    return;
                }
                stream.send_data(Bytes::from_static(b"half"), false).unwrap();
                told.notified().await;
                stream.send_data(Bytes::from_static(b"x"), false).unwrap();
                let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await;
                tell.send(reason.unwrap()).await.unwrap();
            }
        });
        let mut sender = wire::client(pair.connect().await).await;
        std::future::poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
        let (response, _) = sender.send_request(wire::request("GET", "/"), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        assert_eq!(body.data().await.unwrap().unwrap(), "half");
        // It has begun where nothing limits it. Where another request is answered, what was said is known.
        pair.treat(address, traffic);
        std::future::poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
        let (response, _) = sender.send_request(wire::request("GET", "/other"), true).unwrap();
        assert_eq!(timeout(PATIENCE, response).await.unwrap().unwrap().status(), 200);
        go_on.notify_one();
        let error = timeout(PATIENCE, wire::read(&mut body)).await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
        assert_eq!(timeout(PATIENCE, ended.recv()).await.unwrap().unwrap(), Reason::CANCEL);
    }
}

/// Takes requests, tells of their head, and answers only in part, or not at all; tells how they ended.
fn hang(listener: tokio::net::TcpListener, begins: Begins) -> tokio::sync::mpsc::Receiver<Told> {
    let (tell, told) = tokio::sync::mpsc::channel(8);
    wire::serve(listener, move |(request, mut respond): Asked| {
        let tell = tell.clone();
        async move {
            let allowed = request.headers().get("grpc-timeout").cloned();
            let allowed = allowed.map(|value| value.to_str().unwrap().to_owned());
            let mut stream = None;
            if begins == Begins::Yes {
                let response = Response::builder().header("content-type", "application/grpc");
                let mut sending = respond.send_response(response.body(()).unwrap(), false).unwrap();
                sending.send_data(Bytes::from_static(b"half"), false).unwrap();
                stream = Some(sending);
            }
            let reason = match &mut stream {
                Some(sending) => std::future::poll_fn(|cx| sending.poll_reset(cx)).await,
                None => std::future::poll_fn(|cx| respond.poll_reset(cx)).await,
            };
            tell.send(Told { allowed, reason: reason.unwrap() }).await.unwrap();
        }
    });
    told
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Begins {
    Yes,
    No,
}

struct Told {
    allowed: Option<String>,
    reason: Reason,
}

#[tokio::test]
async fn a_stream_that_is_not_answered_in_time_is_answered_by_the_mesh() {
    for traffic in policies() {
        let (listener, address) = app().await;
        let mut pair = Pair::new(address);
        pair.treat(address, traffic);
        let mut told = hang(listener, Begins::No);
        let mut sender = wire::client(pair.connect().await).await;
        let (head, _, _) = wire::ask(&mut sender, wire::request("GET", "/"), b"").await;
        assert_eq!(
            (head.status().as_u16(), head.headers()["weft-error"].to_str().unwrap()),
            (504, "timeout")
        );
        let Told { allowed, reason } = timeout(PATIENCE, told.recv()).await.unwrap().unwrap();
        assert_eq!((allowed, reason), (None, Reason::CANCEL));
    }
}

#[tokio::test]
async fn a_call_is_told_what_is_left_and_ends_with_its_status() {
    for (begins, own) in [(Begins::No, None), (Begins::Yes, None), (Begins::No, Some("100m"))] {
        let (listener, address) = app().await;
        let mut pair = Pair::new(address);
        pair.treat(address, request_within(LIMIT));
        let mut told = hang(listener, begins);
        let mut sender = wire::client(pair.connect().await).await;
        let mut call = wire::call();
        if let Some(own) = own {
            call.headers_mut().insert("grpc-timeout", own.parse().unwrap());
        }
        let (head, body, trailers) = wire::ask(&mut sender, call, b"").await;
        let fields = trailers.as_ref().unwrap_or_else(|| head.headers());
        assert_eq!(
            (fields["grpc-status"].as_bytes(), fields["weft-error"].as_bytes()),
            (&b"4"[..], &b"timeout"[..])
        );
        assert_eq!(&body[..], if begins == Begins::Yes { &b"half"[..] } else { b"" });
        let allowed = timeout(PATIENCE, told.recv()).await.unwrap().unwrap().allowed.expect("it is told");
        let left = weft_core::deadline::parse(allowed.as_bytes()).unwrap();
        let whole = if own.is_some() { Duration::from_millis(100) } else { LIMIT };
        assert!(left <= whole && !left.is_zero(), "{allowed}");
    }
}

#[tokio::test]
async fn a_stream_whose_answer_has_begun_and_takes_too_long_is_reset() {
    for traffic in policies() {
        let (listener, address) = app().await;
        let mut pair = Pair::new(address);
        pair.treat(address, traffic);
        let mut told = hang(listener, Begins::Yes);
        let mut sender = wire::client(pair.connect().await).await;
        std::future::poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
        let (response, _) = sender.send_request(wire::request("GET", "/"), true).unwrap();
        let mut body = response.await.unwrap().into_body();
        let error = timeout(PATIENCE, wire::read(&mut body)).await.unwrap().unwrap_err();
        assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
        assert_eq!(timeout(PATIENCE, told.recv()).await.unwrap().unwrap().reason, Reason::CANCEL);
    }
}
