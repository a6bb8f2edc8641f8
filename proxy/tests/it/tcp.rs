//! Bytes through both sidecars.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use weft_core::model::Protocol;

use crate::pair::{PATIENCE, Pair, app};

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
            assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
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
