//! Requests that one reader takes for one and another for two. What the app gets is read as one strict reader would: it is
//! what was ruled on or nothing, and nothing hides behind it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use weft_core::model::Protocol;

use super::read_all;
use crate::pair::{PATIENCE, Pair, app};

const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: orders\r\n\r\n";

/// What is sent, each with the hidden request behind or within it.
fn corpus() -> Vec<String> {
    let post =
        |fields: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: orders\r\n{fields}\r\n{body}{HIDDEN}");
    let chunked = "Transfer-Encoding: chunked\r\n";
    let end = "0\r\n\r\n";
    let length = HIDDEN.len() + end.len();
    vec![
        // Two lengths, or a length and an encoding (RFC 9112 section 6.1).
        post(&format!("Content-Length: {length}\r\n{chunked}"), end),
        post(&format!("{chunked}Content-Length: 4\r\n"), &format!("{:x}\r\n", HIDDEN.len())),
        post(&format!("Content-Length: 0\r\nContent-Length: {}\r\n", HIDDEN.len()), ""),
        post(&format!("Content-Length: {0}, {0}\r\n", HIDDEN.len()), ""),
        post("Content-Length: +0\r\n", ""),
        post("Content-Length: 0x0\r\n", ""),
        post("Content-Length: 0 0\r\n", ""),
        post("Content-Length: 99999999999999999999\r\n", ""),
        // An encoding that only some readers see.
        post("Transfer-Encoding: xchunked\r\n", end),
        post("Transfer-Encoding: chunked, identity\r\n", end),
        post("Transfer-Encoding: identity, chunked, chunked\r\n", end),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", end),
        post("Transfer-Encoding : chunked\r\n", end),
        post("Transfer-Encoding:\x0bchunked\r\n", end),
        post("Transfer-Encoding\r\n : chunked\r\n", end),
        post("X: a\r\n Transfer-Encoding: chunked\r\n", end),
        post("X: a\nTransfer-Encoding: chunked\r\n", end),
        post("X: a\rTransfer-Encoding: chunked\r\n", end),
        post("X: a\0\r\nTransfer-Encoding: chunked\r\n", end),
        format!("POST / HTTP/1.0\r\nHost: orders\r\n{chunked}\r\n{end}{HIDDEN}"),
        // Chunks.
        post(chunked, "0\n\n"),
        post(chunked, "0\r\r\n\r\n"),
        post(chunked, "-0\r\n\r\n"),
        post(chunked, "0x0\r\n\r\n"),
        post(chunked, "1\r\naa\r\n0\r\n\r\n"),
        post(chunked, "0;a=\"\n\"\r\n\r\n"),
        post(chunked, "fffffffffffffffff\r\n"),
        post(chunked, &format!("0;{}\r\n\r\n", "x".repeat(20_000))),
        post(chunked, "0\r\nX : a\r\n\r\n"),
        // Lines and hosts.
        format!("GET / HTTP/1.1\nHost: orders\n\n{HIDDEN}"),
        format!("GET / HTTP/1.1\r\nHost: orders\r\nHost: other\r\n\r\n{HIDDEN}"),
        format!("GET / HTTP/1.1\r\nHost : orders\r\n\r\n{HIDDEN}"),
        format!("GET / HTTP/1.1\r\n Host: orders\r\n\r\n{HIDDEN}"),
        format!("GET http://other/ HTTP/1.1\r\nHost: orders\r\n\r\n{HIDDEN}"),
        format!("GET / HTTP/1.1\r\nno colon\r\n\r\n{HIDDEN}"),
        format!("GET / HTTP/1.1\r\n: empty\r\n\r\n{HIDDEN}"),
        format!("GET / HTTP/1.1 \r\nHost: orders\r\n\r\n{HIDDEN}"),
        format!("GET  / HTTP/1.1\r\nHost: orders\r\n\r\n{HIDDEN}"),
        format!("GET / HTTP/1.2\r\nHost: orders\r\n\r\n{HIDDEN}"),
    ]
}

/// The app: it answers each request as it reads it, and says what it got on all connections.
async fn record(listener: &TcpListener, got: &mut Vec<Vec<u8>>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        while stream.read_buf(&mut bytes).await.is_ok_and(|length| length > 0) {
            if bytes.ends_with(b"\r\n\r\n") {
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                    .await;
            }
        }
        got.push(bytes);
    }
}

/// The paths that a strict reader finds.
fn read_strictly(mut bytes: &[u8]) -> Vec<String> {
    let mut paths = Vec::new();
    while let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
        let head = String::from_utf8(bytes[..end].to_vec()).expect("a head is text");
        assert!(!head.replace("\r\n", "").contains(['\r', '\n', '\0']), "a bare line end: {head:?}");
        bytes = &bytes[end + 4..];
        let fields: Vec<_> =
            head.lines().skip(1).map(|line| line.split_once(": ").expect("a field")).collect();
        let values = |name: &str| {
            fields
                .iter()
                .filter(|(field, _)| field.eq_ignore_ascii_case(name))
                .map(|(_, value)| *value)
                .collect::<Vec<_>>()
        };
        assert_eq!(values("host").len(), 1, "{head}");
        match (&values("content-length")[..], &values("transfer-encoding")[..]) {
            ([], []) => {}
            ([length], []) => bytes = bytes.get(length.parse().expect("a length")..).unwrap_or_default(),
            ([], ["chunked"]) => {
                let end = bytes.windows(5).position(|window| window == b"0\r\n\r\n");
                bytes = end.map_or(&[][..], |end| &bytes[end + 5..]);
            }
            both => panic!("two lengths: {both:?}"),
        }
        paths.push(head.split(' ').nth(1).expect("a target").to_owned());
    }
    paths
}

#[tokio::test]
async fn what_is_smuggled_reaches_no_app() {
    for (number, attack) in corpus().iter().enumerate() {
        let (listener, address) = app().await;
        let pair = Pair::of_protocol(address, Protocol::Http);
        let mut got = Vec::new();
        let attacking = async {
            let mut client = pair.connect().await;
            client.write_all(attack.as_bytes()).await.unwrap();
            let answer = read_all(&mut client).await;
            drop(client);
            answer
        };
        let answer = tokio::select! {
            () = record(&listener, &mut got) => unreachable!("an app serves for ever"),
            answer = timeout(PATIENCE, attacking) => answer.unwrap(),
        };
        assert!(answer.starts_with("HTTP/1.1 400 "), "{number}: {attack:?} was answered {answer:?}");
        assert!(answer.contains("weft-error: bad-request\r\n"), "{number}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{number}: {attack:?} was answered {answer:?}");
        for bytes in got {
            let paths = read_strictly(&bytes);
            assert!(paths.iter().all(|path| path == "/"), "{number}: {attack:?}: the app saw {paths:?}");
        }
    }
}
