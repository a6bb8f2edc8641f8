//! What opens a circuit besides statuses of HTTP: gRPC's, and connections that cannot be made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;
use weft_core::model::{CircuitBreaker, Protocol, Traffic};
use weft_runtime::task;

use crate::pair::{PATIENCE, Pair, app, endpoint};
use crate::wire::{self, Asked};

fn after(failures: u32) -> Traffic {
    let circuit_breaker = Some(CircuitBreaker { consecutive_failures: Some(failures), ..Default::default() });
    Traffic { circuit_breaker, ..Traffic::default() }
}

#[tokio::test]
async fn a_grpc_status_that_blames_the_server_is_a_failure_and_one_that_blames_the_caller_is_none() {
    let (listener, address) = app().await;
    wire::serve(listener, |(request, mut respond): Asked| async move {
        let status = request.headers()["wanted"].clone();
        let mut stream = respond.send_response(Response::new(()), false).unwrap();
        stream.send_data(Bytes::from_static(b"\0\0\0\0\0"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status);
        stream.send_trailers(trailers).unwrap();
    });
    let mut pair = Pair::new(address);
    pair.traffic = after(3);
    pair.offer(vec![endpoint(pair.callee.workers.inbound(), address.port())], Protocol::Grpc);
    let mut client = wire::client(pair.connect().await).await;
    let mut statuses = Vec::new();
    // NOT_FOUND is the caller's affair, UNAVAILABLE the server's.
    for wanted in ["5", "5", "5", "5", "14", "14", "0", "14", "14", "14", "0"] {
        let mut call = wire::call();
        call.headers_mut().insert("wanted", wanted.parse().unwrap());
        let (head, _, trailers) = wire::ask(&mut client, call, b"\0\0\0\0\0").await;
        let error = head.headers().get("weft-error").map(|code| code.to_str().unwrap().to_owned());
        let status = trailers.map(|trailers| trailers["grpc-status"].to_str().unwrap().to_owned());
        statuses.push(error.or(status).unwrap());
    }
    let expected = ["5", "5", "5", "5", "14", "14", "0", "14", "14", "14", "circuit-open"];
    assert_eq!(statuses, expected);
}

#[tokio::test]
async fn connections_that_cannot_be_made_are_failures() {
    let (listener, address) = app().await;
    let mut pair = Pair::new(address);
    // It accepts, and says nothing of TLS.
    let (broken, inbound) = app().await;
    let tries = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&tries);
    task::spawn("broken", async move {
        while let Ok((stream, _)) = broken.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            drop(stream);
        }
    });
    pair.traffic = after(3);
    pair.offer(vec![endpoint(inbound, address.port())], Protocol::Tcp);
    for _ in 0..5 {
        let asked = async { pair.try_connect().await?.read(&mut [0]).await };
        let ended = timeout(PATIENCE, asked).await.unwrap();
        assert!(!matches!(ended, Ok(1..)), "{ended:?}");
    }
    // One connection is given three attempts, and after these there are no more.
    assert_eq!(tries.load(Ordering::Relaxed), 3);
    drop(listener);
}
