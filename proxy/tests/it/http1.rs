//! HTTP/1 through both sidecars.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_core::model::Protocol;
use weft_proxy::observe::{Direction, Security, Spoken};

use crate::pair::{PATIENCE, Pair, app, read_head};

const CLOSE: &str = "GET /a?b=c HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";

/// Takes one connection of the app's side and answers each request on it with what `answer` says, until it ends.
async fn serve(mut stream: TcpStream, mut answer: impl FnMut(&str) -> String) {
    loop {
        let head = read_head(&mut stream).await;
        if head.is_empty() {
            return;
        }
        stream.write_all(answer(&head).as_bytes()).await.unwrap();
    }
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-App: yes\r\n\r\n{body}", body.len())
}

#[tokio::test]
async fn a_request_arrives_with_what_the_mesh_adds_and_nothing_else_changed() {
    let (listener, address) = app().await;
    let pair = Pair::of_http(address);
    let mut seen = String::new();
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, |head| {
            seen = head.to_owned();
            ok("hello")
        })
        .await;
    };
    let request = "GET /a?b=c HTTP/1.1\r\nHost: orders\r\nX-Mixed-Case: Kept\r\nweft-client-id: liar\r\n\
                   x-forwarded-for: 9.9.9.9\r\nConnection: close, x-hop\r\nx-hop: 1\r\n\r\n";
    let response = tokio::select! {
        response = pair.ask(request) => response,
        () = serving => panic!("the pooled connection was closed"),
    };
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.contains("X-App: yes\r\n") && response.ends_with("\r\n\r\nhello"), "{response}");
    assert!(!response.to_lowercase().contains("weft-") && !response.contains("date:"), "{response}");

    let mut lines = seen.lines();
    assert_eq!(lines.next(), Some("GET /a?b=c HTTP/1.1"));
    for expected in [
        "X-Mixed-Case: Kept",
        "Host: orders",
        "weft-client-id: spiffe://mesh.local/ns/default/sa/web",
        "x-forwarded-for: 9.9.9.9, 127.0.0.1",
        "x-forwarded-proto: http",
    ] {
        assert_eq!(seen.lines().filter(|line| *line == expected).count(), 1, "{expected} in {seen}");
    }
    assert!(seen.contains("traceparent: 00-") && seen.contains("x-request-id: "), "{seen}");
    assert!(!seen.contains("liar") && !seen.contains("x-hop") && !seen.contains("lose"), "{seen}");
}

#[tokio::test]
async fn a_client_that_closes_does_not_close_the_pooled_connection() {
    let (listener, address) = app().await;
    let pair = Pair::of_http(address);
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut count = 0;
        let first = serve(stream, |_| {
            count += 1;
            ok(&count.to_string())
        });
        tokio::select! {
            () = first => panic!("the first connection was closed"),
            _ = listener.accept() => panic!("a second connection was opened"),
        }
    };
    let asking = async {
        for expected in 1..=5 {
            let response = pair.ask(CLOSE).await;
            assert!(response.ends_with(&format!("\r\n\r\n{expected}")), "{response}");
        }
    };
    tokio::select! {
        () = serving => panic!("the app serves for ever"),
        () = asking => {}
    }
}

#[tokio::test]
async fn a_connection_that_the_app_closed_while_idle_costs_no_request() {
    let (listener, address) = app().await;
    let pair = Pair::of_http(address);
    let serving = async {
        loop {
            // One request, then the connection is closed without a word.
            let (mut stream, _) = listener.accept().await.unwrap();
            read_head(&mut stream).await;
            stream.write_all(ok("x").as_bytes()).await.unwrap();
        }
    };
    let asking = async {
        for _ in 0..50 {
            let response = pair.ask(CLOSE.replace("GET", "POST").as_str()).await;
            assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        }
    };
    tokio::select! {
        () = serving => panic!("the app serves for ever"),
        () = asking => {}
    }
}

#[tokio::test]
async fn bodies_pass_both_ways_at_once_whatever_their_framing() {
    let (listener, address) = app().await;
    let pair = Pair::of_http(address);
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.to_lowercase().contains("transfer-encoding: chunked"), "{head}");
        let mut body = String::new();
        while !body.ends_with("0\r\n\r\n") {
            let mut piece = [0; 1024];
            let count = stream.read(&mut piece).await.unwrap();
            body.push_str(std::str::from_utf8(&piece[..count]).unwrap());
        }
        let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n";
        stream.write_all(response.as_bytes()).await.unwrap();
        body
    };
    let request = "POST / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
                   5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let (body, response) = tokio::join!(serving, pair.ask(request));
    let sent: String = body.split("\r\n").skip(1).step_by(2).collect();
    assert_eq!(sent, "hello world");
    assert!(response.contains("4\r\nabcd\r\n0\r\n\r\n"), "{response}");
}

#[tokio::test]
async fn megabytes_stream_through_in_pieces() {
    const SIZE: usize = 8 << 20;
    let (listener, address) = app().await;
    let pair = Pair::of_protocol(address, Protocol::Http);
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        let mut received = vec![0; SIZE];
        stream.read_exact(&mut received).await.unwrap();
        stream
            .write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        stream.write_all(&received).await.unwrap();
    };
    let asking = async {
        let head =
            format!("PUT / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\nContent-Length: {SIZE}\r\n\r\n");
        let sent: Vec<u8> = (0..SIZE).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let mut stream = pair.connect().await;
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&sent).await.unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).await.unwrap();
        assert!(response.ends_with(&sent));
    };
    tokio::join!(serving, asking);
}

#[tokio::test]
async fn responses_without_a_body_end_at_their_head() {
    let (listener, address) = app().await;
    let pair = Pair::of_http(address);
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, |head| {
            let response = match head.split(' ').next() {
                Some("HEAD") => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
                Some("DELETE") => "HTTP/1.1 204 No Content\r\n\r\n",
                _ => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 7\r\n\r\n",
            };
            response.to_owned()
        })
        .await;
    };
    let asking = async {
        let mut stream = pair.connect().await;
        for method in ["HEAD", "DELETE", "GET"] {
            stream
                .write_all(format!("{method} / HTTP/1.1\r\nHost: orders\r\n\r\n").as_bytes())
                .await
                .unwrap();
            let head = timeout(PATIENCE, read_head(&mut stream)).await.unwrap();
            let expected = match method {
                "HEAD" => "Content-Length: 1000",
                "DELETE" => "204 No Content",
                _ => "ETag: \"x\"\r\nContent-Length: 7\r\n",
            };
            assert!(head.contains(expected), "{method}: {head}");
        }
    };
    tokio::select! {
        () = serving => panic!("the pooled connection was closed"),
        () = asking => {}
    }
}

#[tokio::test]
async fn http_1_0_is_answered_in_its_own_way() {
    let (listener, address) = app().await;
    let pair = Pair::of_http(address);
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, |head| {
            assert!(
                head.starts_with("GET / HTTP/1.1\r\n") && head.to_lowercase().contains("host: "),
                "{head}"
            );
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_owned()
        })
        .await;
    };
    let response = tokio::select! {
        response = pair.ask("GET / HTTP/1.0\r\n\r\n") => response,
        () = serving => panic!("the pooled connection was closed"),
    };
    assert!(response.starts_with("HTTP/1.0 200 OK") && response.ends_with("\r\n\r\nabc"), "{response}");
}

#[tokio::test]
async fn an_upgraded_connection_carries_bytes_both_ways() {
    let (listener, address) = app().await;
    let pair = Pair::of_http(address);
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await.to_lowercase();
        assert!(
            head.contains("connection: upgrade\r\n") && head.contains("upgrade: websocket\r\n"),
            "{head}"
        );
        let response =
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst";
        stream.write_all(response.as_bytes()).await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        stream.write_all(b", last").await.unwrap();
        heard
    };
    let asking = async {
        let mut stream = pair.connect().await;
        let request =
            "GET /chat HTTP/1.1\r\nHost: orders\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = read_head(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        stream.write_all(b"from the client").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        rest
    };
    let (heard, rest) = timeout(PATIENCE, async { tokio::join!(serving, asking) }).await.unwrap();
    assert_eq!((heard.as_str(), rest.as_str()), ("from the client", "first, last"));
}

#[tokio::test]
async fn a_response_that_breaks_off_does_not_look_complete() {
    let (listener, address) = app().await;
    let pair = Pair::of_http(address);
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_head(&mut stream).await;
        let part = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n";
        stream.write_all(part.as_bytes()).await.unwrap();
    };
    let asking = async {
        let mut stream = pair.connect().await;
        stream.write_all(CLOSE.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        drop(stream.read_to_end(&mut response).await);
        response
    };
    let ((), response) = tokio::join!(serving, asking);
    let response = String::from_utf8(response).unwrap();
    assert!(response.contains("abcd") && !response.contains("\r\n0\r\n"), "{response}");
}

#[tokio::test]
async fn a_connection_that_rests_ends_with_a_drain_however_often_it_was_used() {
    for requests in [1, 3] {
        let (listener, address) = app().await;
        let pair = Pair::of_http(address);
        let serving = async {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serve(stream, |_| ok("x")).await;
            }
        };
        let client = async {
            let mut stream = pair.connect().await;
            for _ in 0..requests {
                stream.write_all(b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await.unwrap();
                assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 200 "));
                assert_eq!(stream.read_u8().await.unwrap(), b'x');
            }
            pair.caller.drain.start();
            timeout(PATIENCE, stream.read(&mut [0])).await.unwrap().unwrap()
        };
        let read = tokio::select! {
            read = client => read,
            () = serving => panic!("the app serves for ever"),
        };
        assert_eq!(read, 0, "after {requests} requests");
    }
}

#[tokio::test]
async fn a_request_in_flight_outlives_the_beginning_of_a_drain() {
    let (listener, address) = app().await;
    let pair = Pair::of_http(address);
    let mut client = pair.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    read_head(&mut stream).await;
    pair.caller.drain.start();
    pair.callee.drain.start();
    stream.write_all(ok("late").as_bytes()).await.unwrap();
    let mut response = String::new();
    timeout(PATIENCE, client.read_to_string(&mut response)).await.unwrap().unwrap();
    assert!(response.ends_with("late"), "{response}");
    timeout(PATIENCE, pair.caller.workers.ended()).await.unwrap();
    timeout(PATIENCE, pair.callee.workers.ended()).await.unwrap();
}

#[tokio::test]
async fn callers_are_still_served_while_they_hear_that_a_sidecar_leaves() {
    let (listener, address) = app().await;
    let pair = Pair::of_protocol(address, Protocol::Http);
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream, |_| ok("x").replace("OK\r\n", "OK\r\nKeep-Alive: timeout=60\r\n")).await;
    };
    let asking = async {
        assert!(pair.ask(CLOSE).await.starts_with("HTTP/1.1 200"));
        pair.callee.drain.start();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(200) {
            let response = pair.ask(&CLOSE.replace("GET", "POST")).await;
            assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        }
    };
    tokio::select! {
        () = serving => panic!("the pooled connection was closed"),
        done = timeout(PATIENCE, asking) => done.unwrap(),
    }
    timeout(PATIENCE, pair.callee.workers.ended()).await.unwrap();
}

#[tokio::test]
async fn renewed_certificates_cost_no_request() {
    let (listener, address) = app().await;
    let pair = Pair::of_protocol(address, Protocol::Http);
    let serving = async {
        let mut serving = futures_util::stream::FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => serving.push(serve(accepted.unwrap().0, |_| ok("x"))),
                _ = serving.next(), if !serving.is_empty() => {}
            }
        }
    };
    let asking = async {
        for _ in 0..20 {
            let (mut kept, both) = (pair.connect().await, [CLOSE, CLOSE]);
            kept.write_all(b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n").await.unwrap();
            read_head(&mut kept).await;
            pair.renew();
            // More than are pooled, so that new connections are made with what is new.
            let answers = futures_util::future::join_all(both.map(|request| pair.ask(request))).await;
            assert!(answers.iter().all(|answer| answer.starts_with("HTTP/1.1 200")), "{answers:?}");
            assert_eq!(kept.read_u8().await.unwrap(), b'x');
            kept.write_all(CLOSE.as_bytes()).await.unwrap();
            assert!(read_head(&mut kept).await.starts_with("HTTP/1.1 200"));
        }
    };
    tokio::select! {
        () = serving => {}
        done = timeout(PATIENCE, asking) => done.unwrap(),
    }
}

#[tokio::test]
async fn both_sidecars_tell_of_a_request_as_two_spans_of_one_trace() {
    let (listener, address) = app().await;
    let mut pair = Pair::of_protocol(address, Protocol::Http);
    let serving = async { serve(listener.accept().await.unwrap().0, |_| ok("hello")).await };
    let request =
        "PUT /orders?x=1 HTTP/1.1\r\nHost: orders:80\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc";
    tokio::select! {
        () = serving => {}
        response = pair.ask(request) => assert!(response.starts_with("HTTP/1.1 200"), "{response}"),
    }
    let caller = timeout(PATIENCE, pair.caller.record()).await.unwrap();
    let callee = timeout(PATIENCE, pair.callee.record()).await.unwrap();
    assert_eq!((caller.direction, callee.direction), (Direction::Outbound, Direction::Inbound));
    assert_eq!(caller.trace.trace, callee.trace.trace);
    assert_eq!((caller.parent, callee.parent), (None, Some(caller.trace.span)));
    assert_eq!((&*callee.source, &*callee.destination), ("default/web", "default/orders"));
    assert_eq!(&*caller.destination, "default/orders");
    assert_eq!((caller.upstream, callee.upstream), (Some(pair.callee.workers.inbound()), Some(address)));
    for record in [caller, callee] {
        assert_eq!((record.security, record.protocol), (Security::Mutual, Spoken::Http1));
        assert_eq!((record.status, record.error, record.retries), (Some(200), None, 0));
        assert_eq!((record.bytes_in, record.bytes_out), (3, 5));
        assert_eq!(
            (record.method.as_str(), &*record.authority, &*record.path),
            ("PUT", "orders:80", "/orders")
        );
    }
}
