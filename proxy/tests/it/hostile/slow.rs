//! Slowness: who never finishes what it began is cut off; who is slow and goes on is served.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_core::model::Protocol;

use super::read_all;
use crate::pair::{PATIENCE, Pair, app, read_head};

/// How long a beginning may take: the limits are 10 s for what is detected or read, 5 s for a handshake.
const CUT_BY: Duration = Duration::from_secs(15);

/// Sends `piece` again and again, ten times a second, until the connection is cut.
async fn drip(mut stream: TcpStream, begin: &[u8], piece: &[u8]) -> Duration {
    let begun = Instant::now();
    stream.write_all(begin).await.unwrap();
    let (mut read, mut write) = stream.split();
    let dripping = async {
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        loop {
            pace.tick().await;
            if write.write_all(piece).await.is_err() {
                return std::future::pending().await;
            }
        }
    };
    let reading = async { while read.read(&mut [0; 1024]).await.is_ok_and(|length| length > 0) {} };
    timeout(PATIENCE, async {
        tokio::select! {
            () = reading => {}
            () = dripping => {}
        }
    })
    .await
    .expect("the connection was left open");
    begun.elapsed()
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_cut_off() {
    let (_listener, address) = app().await;
    let pair = Pair::new(address);
    let stream = TcpStream::connect(pair.callee.workers.inbound()).await.unwrap();
    // The beginning of a ClientHello of 16,000 bytes, which goes on and on.
    let took = drip(stream, b"\x16\x03\x01\x3e\x80\x01\x00\x3e\x7c\x03\x03", b"x").await;
    assert!(took < CUT_BY, "{took:?}");
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let (_listener, address) = app().await;
    let pair = Pair::of_protocol(address, Protocol::Http);
    let took = drip(pair.connect().await, b"GET / HTTP/1.1\r\nHost: orders\r\nX-Slow: ", b"x").await;
    assert!(took < CUT_BY, "{took:?}");
}

#[tokio::test]
async fn others_are_served_while_many_never_finish_their_heads() {
    let (listener, address) = app().await;
    let pair = Pair::of_protocol(address, Protocol::Http);
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = pair.connect().await;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: orders\r\nX-Slow: ").await.unwrap();
        slow.push(stream);
    }
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        while !read_head(&mut stream).await.is_empty() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
        }
    };
    let asking = async {
        for _ in 0..20 {
            let begun = Instant::now();
            let answer = pair.ask("GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n").await;
            assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
            assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        }
    };
    tokio::select! {
        () = serving => panic!("the pooled connection was closed"),
        () = asking => {}
    }
}

#[tokio::test]
async fn an_app_that_answers_a_byte_at_a_time_is_heard_to_the_end() {
    let (listener, address) = app().await;
    let pair = Pair::of_protocol(address, Protocol::Http);
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        let mut pace = tokio::time::interval(Duration::from_millis(20));
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nslowly" {
            pace.tick().await;
            stream.write_all(&[*byte]).await.unwrap();
        }
        std::future::pending().await
    };
    let asking = async {
        let mut client = pair.connect().await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n").await.unwrap();
        read_all(&mut client).await
    };
    let answer = tokio::select! {
        () = serving => unreachable!(),
        answer = asking => answer,
    };
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nslowly"), "{answer}");
}
