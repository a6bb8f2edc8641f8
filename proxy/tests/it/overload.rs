//! An app that has enough to do, in gRPC: further calls are refused in its words, and it can still be asked how it is.

use std::sync::Arc;

use http::Response;
use tokio::sync::watch;
use tokio::time::timeout;
use weft_core::model::{CircuitBreaker, ConcurrencyMode, Protocol, Traffic, Workload};
use weft_proxy::state::Snapshot;

use crate::pair::{PATIENCE, Pair, app, endpoint, mesh, workload};
use crate::wire::{self, Asked};

/// Requests at once before anything is known of an app.
const AT_FIRST: u32 = 128;

#[tokio::test]
async fn calls_beyond_the_limit_are_unavailable_at_once_and_health_is_answered() {
    let (listener, address) = app().await;
    let (count, mut begun) = watch::channel(0);
    wire::serve(listener, move |(request, mut respond): Asked| {
        let count = count.clone();
        async move {
            if request.uri().path() == "/grpc.health.v1.Health/Check" {
                respond
                    .send_response(Response::builder().header("grpc-status", "0").body(()).unwrap(), true)
                    .unwrap();
                return;
            }
            count.send_modify(|count| *count += 1);
            // Answers only when the caller is gone.
            let _ = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        }
    });
    let mut pair = Pair::of_protocol(address, Protocol::Grpc);
    // An app that has enough to do works: its circuit stays closed.
    let circuit_breaker = Some(CircuitBreaker { consecutive_failures: Some(2), ..Default::default() });
    pair.traffic = Traffic { circuit_breaker, ..Traffic::default() };
    pair.offer(vec![endpoint(pair.callee.workers.inbound(), address.port())], Protocol::Grpc);
    let workload = Workload { concurrency: ConcurrencyMode::Adaptive, ..workload() };
    pair.callee.publisher.publish(Snapshot {
        mesh: Some(Arc::new(mesh())),
        workload: Some(Arc::new(workload)),
        ..Snapshot::default()
    });
    let mut client = wire::client(pair.connect().await).await;
    let mut held = Vec::new();
    for _ in 0..AT_FIRST {
        std::future::poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
        held.push(client.send_request(wire::call(), true).unwrap());
    }
    timeout(PATIENCE, begun.wait_for(|begun| *begun == AT_FIRST)).await.unwrap().unwrap();
    for _ in 0..5 {
        let (head, ..) = wire::ask(&mut client, wire::call(), b"").await;
        assert_eq!(head.headers()["weft-error"], "overloaded");
        assert_eq!(head.headers()["grpc-status"], "14");
    }
    let mut health = wire::call();
    *health.uri_mut() = "http://orders/grpc.health.v1.Health/Check".parse().unwrap();
    let (head, ..) = wire::ask(&mut client, health, b"").await;
    assert_eq!(
        (head.headers().get("weft-error"), &head.headers()["grpc-status"]),
        (None, &"0".parse().unwrap())
    );
    // Who goes away leaves a place.
    drop(held.pop());
    timeout(PATIENCE, async {
        loop {
            std::future::poll_fn(|cx| client.poll_ready(cx)).await.unwrap();
            held.push(client.send_request(wire::call(), true).unwrap());
            if timeout(std::time::Duration::from_millis(50), begun.changed()).await.is_ok() {
                return;
            }
        }
    })
    .await
    .unwrap();
}
