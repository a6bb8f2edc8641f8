//! Requests that are meant to be read differently by different readers, or to wear a sidecar out.

use tokio::io::AsyncWriteExt;

use crate::http1_fidelity::{both, read_to_end};

#[tokio::test]
async fn what_has_more_than_one_meaning_is_refused_and_the_connection_closed() {
    both(async |pair, listener| {
        let post = |fields: &str| {
            format!("POST / HTTP/1.1\r\nHost: orders\r\n{fields}\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n")
        };
        for request in [
            post("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            post("Content-Length: 5\r\nContent-Length: 6\r\n"),
            post("Transfer-Encoding: chunked, gzip\r\n"),
            post("Transfer-Encoding: chunked, chunked\r\n"),
            post("Transfer-Encoding : chunked\r\n"),
            post("X: a\r\n folded\r\n"),
            post("X: a\0\r\n"),
            post("X: a\nY: b\r\n"),
            post("X: a\rY: b\r\n"),
            post("Host: other\r\n"),
            "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
            "GET / HTTP/1.1\r\n\r\n".to_owned(),
            "GET http://other/ HTTP/1.1\r\nHost: orders\r\n\r\n".to_owned(),
            "GET /a#b HTTP/1.1\r\nHost: orders\r\n\r\n".to_owned(),
            "GET /../a HTTP/1.1\r\nHost: orders\r\n\r\n".to_owned(),
        ] {
            let mut client = pair.connect().await;
            client.write_all(request.as_bytes()).await.unwrap();
            let (answer, clean) = read_to_end(&mut client).await;
            assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n") && clean, "{request:?}: {answer:?}");
            assert!(answer.contains("weft-error: bad-request\r\n"), "{request:?}: {answer:?}");
            assert!(answer.contains("connection: close\r\n"), "{request:?}: {answer:?}");
            assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{request:?}: {answer:?}");
        }
        let untouched = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(untouched, listener.accept()).await.is_err(), "the app was reached");
    })
    .await;
}

#[tokio::test]
async fn a_body_with_more_than_one_meaning_never_ends_for_the_app() {
    both(async |pair, listener| {
        for chunk in [
            "+3\r\nabc\r\n0\r\n\r\n",
            "0x3\r\nabc\r\n0\r\n\r\n",
            "3 \r\nabc\r\n0\r\n\r\n",
            "3\nabc\r\n0\r\n\r\n",
        ] {
            let mut client = pair.connect().await;
            let head = "POST / HTTP/1.1\r\nHost: orders\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n";
            client.write_all(format!("{head}{chunk}").as_bytes()).await.unwrap();
            let (answer, _) = read_to_end(&mut client).await;
            assert!(answer.starts_with("HTTP/1.1 400 "), "{chunk:?}: {answer:?}");
        }
        // Nothing of it was sent; or what was is cut off.
        let serving = async {
            loop {
                let (mut server, _) = listener.accept().await.unwrap();
                let (seen, clean) = read_to_end(&mut server).await;
                assert!(!seen.contains("0\r\n\r\n") && !clean, "{seen:?}");
            }
        };
        let over = tokio::time::sleep(std::time::Duration::from_millis(50));
        tokio::select! {
            () = serving => {}
            () = over => {}
        }
    })
    .await;
}

#[tokio::test]
async fn more_than_the_limits_is_refused_with_431() {
    both(async |pair, _listener| {
        for head in [
            format!("GET / HTTP/1.1\r\nHost: orders\r\nX: {}\r\n\r\n", "a".repeat(70_000)),
            format!("GET / HTTP/1.1\r\nHost: orders\r\n{}\r\n", "a: b\r\n".repeat(300)),
            format!("GET /{} HTTP/1.1\r\nHost: orders\r\n\r\n", "a".repeat(33_000)),
        ] {
            let mut client = pair.connect().await;
            client.write_all(head.as_bytes()).await.unwrap();
            let (answer, _) = read_to_end(&mut client).await;
            assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
            assert!(answer.contains("weft-error: header-too-large\r\n"), "{answer:?}");
        }
    })
    .await;
}
