//! Requests that are passed off as bytes, so that nothing is ruled of them and nothing taken out of them.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use weft_core::model::Protocol;

use crate::pair::{PATIENCE, Pair, app};

/// Sends `first`, and `rest` once the app has got something of it; what the app got until its connection ended.
async fn app_gets(protocol: Protocol, first: &str, rest: &str) -> (String, bool) {
    let (listener, address) = app().await;
    let pair = Pair::of_protocol(address, protocol);
    let mut client = pair.connect().await;
    client.write_all(first.as_bytes()).await.unwrap();
    let (mut server, _) = timeout(PATIENCE, listener.accept()).await.unwrap().unwrap();
    let mut got = Vec::new();
    if !rest.is_empty() {
        server.read_buf(&mut got).await.unwrap();
        client.write_all(rest.as_bytes()).await.unwrap();
    }
    client.shutdown().await.unwrap();
    let reading = async {
        while server.read_buf(&mut got).await? > 0 {}
        Ok::<_, std::io::Error>(())
    };
    let whole = timeout(PATIENCE, reading).await.unwrap().is_ok();
    (String::from_utf8(got).unwrap(), whole)
}

const LIE: &str = "\r\nHost: orders\r\nweft-client-id: spiffe://mesh.local/ns/default/sa/admin\r\n\r\n";

#[tokio::test]
async fn a_request_that_detection_does_not_know_reaches_no_app() {
    for line in ["get / HTTP/1.1", "GET\t/ HTTP/1.1", "GET * HTTP/1.1", "\r\n\r\n\r\n\r\nGET / http/1.1"] {
        let (got, whole) = app_gets(Protocol::Detect, &format!("{line}{LIE}"), "").await;
        assert!(got.is_empty() && !whole, "{line}: {got:?}");
    }
}

#[tokio::test]
async fn a_request_that_pauses_in_its_first_line_reaches_no_app() {
    let (got, whole) = app_gets(Protocol::Detect, "GE", &format!("T / HTTP/1.1{LIE}")).await;
    assert!(got == "GE" && !whole, "{got:?}");
}

#[tokio::test]
async fn bytes_that_are_no_request_pass_and_so_does_anything_where_bytes_were_declared() {
    let (got, whole) = app_gets(Protocol::Detect, "HELLO\r\n", LIE).await;
    assert!(got.starts_with("HELLO\r\n") && got.ends_with(LIE) && whole, "{got:?}");
    // The first line alone decides; and a message that ends without one is whole.
    let (got, whole) = app_gets(Protocol::Detect, "GET", "").await;
    assert!(got == "GET" && whole, "{got:?}");
}
