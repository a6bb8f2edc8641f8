//! What is refused, and how it is said.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use weft_certs::{ClientAuth, alpn};
use weft_core::model::{AuthorizationDefault, Endpoint, MtlsMode, Protocol};

use crate::pair::{PATIENCE, Pair, app, endpoint, identity};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n";

async fn check(pair: &Pair, status: u16, code: &str) {
    let response = pair.ask(REQUEST).await;
    assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{response}");
    assert!(response.contains(&format!("weft-error: {code}\r\n")), "{response}");
}

/// An address where nobody listens.
async fn nobody() -> std::net::SocketAddr {
    app().await.1
}

#[tokio::test]
async fn a_service_without_endpoints_is_unavailable() {
    let mut pair = Pair::new(nobody().await);
    pair.offer(Vec::new(), Protocol::Http);
    check(&pair, 503, "no-endpoints").await;
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_is_a_bad_gateway() {
    let nobody = nobody().await;
    let mut pair = Pair::new(nobody);
    pair.offer(vec![endpoint(nobody, 80)], Protocol::Http);
    check(&pair, 502, "connect-failed").await;
    pair.offer(vec![Endpoint { identity: None, ..endpoint(nobody, nobody.port()) }], Protocol::Http);
    check(&pair, 502, "connect-failed").await;
}

#[tokio::test]
async fn an_app_that_does_not_listen_is_a_bad_gateway() {
    let pair = Pair::new(nobody().await);
    check(&pair, 502, "connect-failed").await;
}

#[tokio::test]
async fn an_endpoint_that_is_someone_else_is_not_spoken_to() {
    let (_listener, address) = app().await;
    let mut pair = Pair::new(address);
    let honest = endpoint(pair.callee.workers.inbound(), address.port());
    pair.offer(vec![Endpoint { identity: Some(identity("payments")), ..honest }], Protocol::Http);
    check(&pair, 502, "tls-failed").await;
}

#[tokio::test]
async fn policy_is_enforced_on_connections_that_exist() {
    let (listener, address) = app().await;
    let pair = Pair::new(address);
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        while stream.read(&mut request).await.unwrap() > 0 {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    };
    let asking = async {
        assert!(pair.ask(REQUEST).await.starts_with("HTTP/1.1 200 "));
        pair.allow(MtlsMode::Strict, AuthorizationDefault::Deny);
        check(&pair, 403, "denied").await;
        pair.allow(MtlsMode::Strict, AuthorizationDefault::Any);
        assert!(pair.ask(REQUEST).await.starts_with("HTTP/1.1 200 "));
    };
    tokio::select! {
        () = serving => panic!("the pooled connection was closed"),
        () = asking => {}
    }
}

#[tokio::test]
async fn without_configuration_no_one_is_let_in() {
    let (_listener, address) = app().await;
    let pair = Pair::new(address);
    pair.callee.publisher.publish(weft_proxy::state::Snapshot::default());
    check(&pair, 403, "denied").await;
}

#[tokio::test]
async fn what_is_no_handshake_on_the_inbound_port_is_closed() {
    let (_listener, address) = app().await;
    let pair = Pair::new(address);
    for garbage in [REQUEST.as_bytes(), b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x01\x40\x01", &[0xff; 300]] {
        let mut stream = TcpStream::connect(pair.callee.workers.inbound()).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(ended.is_err() || answer.len() < 16, "{answer:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_passed_over() {
    let (listener, address) = app().await;
    let mut pair = Pair::new(address);
    let there = endpoint(pair.callee.workers.inbound(), address.port());
    let gone = Endpoint { workload: "default/orders-2".parse().unwrap(), ..endpoint(nobody().await, 80) };
    pair.offer(vec![gone, there], Protocol::Http);
    let serving = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        while stream.read(&mut request).await.unwrap() > 0 {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        }
    };
    let asking = async {
        for _ in 0..20 {
            let response = pair.ask(REQUEST).await;
            assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
        }
    };
    tokio::select! {
        () = serving => panic!("the pooled connection was closed"),
        () = asking => {}
    }
}

/// A sidecar on its way out: it proves who it is, and whatever comes then it leaves unread. It ends in order, but the kernel
/// answers what was left with a reset. How often it was called.
async fn leave(listener: &TcpListener, acceptor: &TlsAcceptor, called: &mut u32) {
    let (tcp, _) = listener.accept().await.unwrap();
    let Ok(mut stream) = acceptor.accept(tcp).await else { return };
    *called += 1;
    // Some of it may have come with the handshake.
    let _ = timeout(Duration::from_millis(100), stream.get_ref().0.peek(&mut [0])).await;
    let _ = stream.shutdown().await;
}

#[tokio::test]
async fn what_a_sidecar_that_leaves_has_not_read_goes_to_another_one_even_a_post() {
    const POST: &str =
        "POST / HTTP/1.1\r\nHost: orders\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody";
    let (app, address) = app().await;
    let mut pair = Pair::new(address);
    let there = endpoint(pair.callee.workers.inbound(), address.port());
    let (leaving, gone) = crate::pair::app().await;
    let gone = Endpoint { workload: "default/orders-2".parse().unwrap(), ..endpoint(gone, 80) };
    pair.offer(vec![gone, there], Protocol::Http);
    let config = pair.credentials("orders").server_config(&[alpn::HTTP1], ClientAuth::Required).unwrap();
    let (acceptor, mut called) = (TlsAcceptor::from(config), 0);
    let serving = async {
        let (mut stream, _) = app.accept().await.unwrap();
        let mut request = [0; 4096];
        while stream.read(&mut request).await.unwrap() > 0 {
            let answer = b"HTTP/1.1 200 OK\r\nkeep-alive: timeout=60\r\ncontent-length: 0\r\n\r\n";
            stream.write_all(answer).await.unwrap();
        }
    };
    let ending = async {
        loop {
            leave(&leaving, &acceptor, &mut called).await;
        }
    };
    let asking = async {
        for _ in 0..30 {
            let response = pair.ask(POST).await;
            assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
        }
    };
    tokio::select! {
        () = serving => panic!("the pooled connection was closed"),
        () = ending => {}
        () = asking => {}
    }
    assert!(called > 0, "it was never asked");
}
