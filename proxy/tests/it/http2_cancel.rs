//! How soon the other end hears that nobody wants a stream any more.

use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::Reason;
use http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use weft_runtime::task;

use crate::pair::{PATIENCE, Pair, app};
use crate::wire::{self, Asked};

const ROUNDS: usize = 20;

/// What is promised, both sidecars included.
const PROMISED: Duration = Duration::from_millis(10);

/// Half of the rounds must keep the promise. On a machine so busy that a byte between two of its tasks takes a good part of
/// that, it can only be measured by that byte.
fn check(mut took: Vec<Duration>, mut bytes: Vec<Duration>) {
    took.sort();
    bytes.sort();
    let (median, byte) = (took[ROUNDS / 2], bytes[ROUNDS / 2]);
    let allowed = PROMISED.max(20 * byte);
    assert!(median <= allowed, "{median:?}, a byte takes {byte:?}: {took:?}");
}

/// Someone who gives every byte back.
async fn echo() -> TcpStream {
    let (listener, address) = app().await;
    task::spawn("test-echo", async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        while let Ok(byte) = stream.read_u8().await {
            stream.write_u8(byte).await.unwrap();
        }
    });
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

async fn byte(echo: &mut TcpStream) -> Duration {
    let begun = Instant::now();
    echo.write_u8(7).await.unwrap();
    echo.read_u8().await.unwrap();
    begun.elapsed()
}

#[tokio::test]
async fn an_app_hears_within_ten_milliseconds_that_a_request_is_taken_back() {
    let (listener, address) = app().await;
    let (tell, mut heard) = mpsc::channel(1);
    wire::serve(listener, move |(_, mut respond): Asked| {
        let tell = tell.clone();
        async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            let reason = std::future::poll_fn(|cx| stream.poll_reset(cx)).await.unwrap();
            tell.send((reason, Instant::now())).await.unwrap();
        }
    });
    for pair in Pair::both(address) {
        let (mut sender, mut echo) = (wire::client(pair.connect().await).await, echo().await);
        let (mut took, mut bytes) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (response, mut stream) = sender.send_request(wire::request("POST", "/"), false).unwrap();
            timeout(PATIENCE, response).await.unwrap().unwrap();
            bytes.push(byte(&mut echo).await);
            let begun = Instant::now();
            stream.send_reset(Reason::CANCEL);
            let (reason, at) = timeout(PATIENCE, heard.recv()).await.unwrap().unwrap();
            assert_eq!(reason, Reason::CANCEL);
            took.push(at - begun);
        }
        check(took, bytes);
    }
}

#[tokio::test]
async fn a_client_hears_within_ten_milliseconds_that_the_app_gives_up() {
    let (listener, address) = app().await;
    let (tell, mut given_up) = mpsc::channel(1);
    wire::serve(listener, move |(request, mut respond): Asked| {
        let tell = tell.clone();
        async move {
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"begun"), false).unwrap();
            // It goes on when the client has read that.
            wire::read(&mut request.into_body()).await.unwrap();
            tell.send(Instant::now()).await.unwrap();
            stream.send_reset(Reason::INTERNAL_ERROR);
        }
    });
    for pair in Pair::both(address) {
        let (mut sender, mut echo) = (wire::client(pair.connect().await).await, echo().await);
        let (mut took, mut bytes) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let (response, mut stream) = sender.send_request(wire::request("POST", "/"), false).unwrap();
            let mut body = timeout(PATIENCE, response).await.unwrap().unwrap().into_body();
            assert_eq!(timeout(PATIENCE, body.data()).await.unwrap().unwrap().unwrap(), "begun");
            bytes.push(byte(&mut echo).await);
            stream.send_data(Bytes::new(), true).unwrap();
            let error = timeout(PATIENCE, body.data()).await.unwrap().unwrap().unwrap_err();
            let heard = Instant::now();
            assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
            took.push(heard - timeout(PATIENCE, given_up.recv()).await.unwrap().unwrap());
        }
        check(took, bytes);
    }
}
