//! What sidecars are told, and when.

use std::time::{Duration, Instant};

use tonic::Code;
use weft_proto::v1::sidecar_message::Message;
use weft_proto::v1::{self, Kind};

use crate::mesh::{Mesh, connect, eventually};
use crate::sidecar::{Sidecar, endpoints, hello, name, offering, told};
use crate::wire::Wire;

const UNASKED: [&str; 3] = ["+MESH default", "+TRUST mesh.local", "+WORKLOAD default/web"];

/// A caller that was told of orders, with so many workloads behind it.
async fn caller(mesh: &Mesh, workloads: usize) -> Sidecar {
    let mut web = Sidecar::start(mesh, "web", hello("web")).await;
    assert_eq!(told(&web.take().await), UNASKED);
    web.subscribe(Kind::Service, "default/orders").await;
    let push = web.take().await;
    assert_eq!(told(&push), ["+SERVICE default/orders", "+ENDPOINTS default/orders"]);
    assert_eq!(endpoints(&push).len(), workloads);
    web
}

#[tokio::test]
async fn a_service_is_known_to_others_as_soon_as_a_workload_offers_it() {
    let mesh = Mesh::start().await;
    let mut orders = Sidecar::start(&mesh, "orders", offering("orders", 1)).await;
    let first = orders.take().await;
    assert_eq!(first.epoch, 1);
    let mut admin = mesh.admin().await;
    eventually("orders is ready and in sync", async || {
        admin.sidecar("orders-1").await.is_some_and(|orders| orders.ready && orders.in_sync)
    })
    .await;

    let mut web = Sidecar::start(&mesh, "web", hello("web")).await;
    assert_eq!(told(&web.take().await), UNASKED);
    web.subscribe(Kind::Service, "default/orders").await;
    let push = web.take().await;
    assert_eq!(push.epoch, 2);
    let endpoint = endpoints(&push).pop().unwrap();
    assert_eq!(endpoint.workload, "default/orders-1");
    assert_eq!(endpoint.identity, "spiffe://mesh.local/ns/default/sa/orders");
    assert_eq!((endpoint.addresses, endpoint.inbound_port), (vec![vec![10, 0, 0, 1]], 4143));
    assert_eq!(endpoint.ports, [v1::PortMap { port: 80, target_port: 8080 }]);

    let listed = admin.services(v1::ServicesRequest {}).await.unwrap().services;
    assert_eq!(
        (listed[0].name.as_str(), listed[0].ports.as_slice()),
        ("orders", &["80/http".to_owned()][..])
    );
    assert_eq!((listed[0].endpoints, listed[0].ready, listed[0].addresses.len()), (1, 1, 2));
}

#[tokio::test]
async fn an_address_brings_its_service_along() {
    let mesh = Mesh::start().await;
    let _orders = Sidecar::ready(&mesh, "orders", offering("orders", 1)).await;
    let listed = mesh.admin().await.services(v1::ServicesRequest {}).await.unwrap().services;
    let address = listed[0].addresses[0].clone();
    let mut web = Sidecar::ready(&mesh, "web", hello("web")).await;
    web.subscribe(Kind::Address, &address).await;
    let expected = ["+SERVICE default/orders", "+ENDPOINTS default/orders", &format!("+ADDRESS {address}")];
    assert_eq!(told(&web.take().await), expected);
}

#[tokio::test]
async fn an_unknown_name_is_denied_and_told_when_it_appears() {
    let mesh = Mesh::start().await;
    let mut web = Sidecar::ready(&mesh, "web", hello("web")).await;
    web.subscribe(Kind::Service, "default/orders").await;
    assert_eq!(told(&web.take().await), ["-SERVICE default/orders", "-ENDPOINTS default/orders"]);
    let _orders = Sidecar::start(&mesh, "orders", offering("orders", 1)).await;
    assert_eq!(told(&web.take().await), ["+SERVICE default/orders", "+ENDPOINTS default/orders"]);
}

#[tokio::test]
async fn readiness_takes_a_workload_in_and_out_by_a_small_message() {
    let mesh = Mesh::start().await;
    let mut ready = Vec::new();
    for number in 1..=3 {
        ready.push(Sidecar::ready(&mesh, "orders", offering("orders", number)).await);
    }
    all_ready(&mesh, 3).await;
    let mut web = caller(&mesh, 3).await;
    ready[0].send(Message::Readiness(v1::Readiness { ready: false })).await;
    let push = web.take().await;
    assert_eq!(told(&push), ["~ENDPOINTS default/orders"]);
    assert_eq!(push.endpoint_deltas[0].removed, ["default/orders-1"]);
    ready[0].send(Message::Readiness(v1::Readiness { ready: true })).await;
    let push = web.take().await;
    assert_eq!(push.endpoint_deltas[0].upserts[0].workload, "default/orders-1");
}

async fn all_ready(mesh: &Mesh, number: u32) {
    let mut admin = mesh.admin().await;
    eventually("all are ready", async || {
        let listed = admin.services(v1::ServicesRequest {}).await.unwrap().services;
        listed.first().is_some_and(|service| service.ready == number)
    })
    .await;
}

#[tokio::test]
async fn a_farewell_takes_a_workload_out_at_once_and_an_end_without_one_may_be_made_good() {
    let mesh = Mesh::start().await;
    let leaving = Sidecar::ready(&mesh, "orders", offering("orders", 1)).await;
    let staying = Sidecar::ready(&mesh, "orders", offering("orders", 2)).await;
    all_ready(&mesh, 2).await;
    let mut web = caller(&mesh, 2).await;
    leaving.send(Message::Readiness(v1::Readiness { ready: false })).await;
    leaving.leave().await;
    // A second of grace, as for a broken stream, would have it listed still.
    assert!(mesh.admin().await.sidecar("orders-1").await.is_none());
    assert_eq!(endpoints_removed(&web.take().await), ["default/orders-1"]);
    staying.leave().await;
    assert!(mesh.admin().await.sidecar("orders-2").await.is_some());
}

fn endpoints_removed(push: &v1::Push) -> &[String] {
    &push.endpoint_deltas[0].removed
}

#[tokio::test]
async fn a_crash_that_nobody_reports_is_noticed_within_five_seconds() {
    let mesh = Mesh::start().await;
    let _staying = Sidecar::ready(&mesh, "orders", offering("orders", 2)).await;
    let wire = Wire::before(mesh.handle.grpc).await;
    let credentials = mesh.join("orders", "orders-1").await;
    let tls = credentials.client_config(&mesh.identity(), &[weft_certs::alpn::H2]).unwrap();
    let channel = connect(wire.address.to_string(), tls).await;
    let mut crashing = Sidecar::sync(channel, offering("orders", 1)).await.unwrap();
    crashing.take().await;
    all_ready(&mesh, 2).await;
    let mut web = caller(&mesh, 2).await;
    let begun = Instant::now();
    wire.silence();
    assert_eq!(endpoints_removed(&web.take().await), ["default/orders-1"]);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_sidecar_that_lost_only_its_connection_stays_in_rotation() {
    let mesh = Mesh::start().await;
    let wire = Wire::before(mesh.handle.grpc).await;
    let credentials = mesh.join("orders", "orders-1").await;
    let tls = credentials.client_config(&mesh.identity(), &[weft_certs::alpn::H2]).unwrap();
    let channel = connect(wire.address.to_string(), tls).await;
    let mut orders = Sidecar::sync(channel, offering("orders", 1)).await.unwrap();
    orders.take().await;
    all_ready(&mesh, 1).await;
    let mut web = caller(&mesh, 1).await;
    wire.cut();
    assert!(orders.push().await.is_err());
    let mut orders = Sidecar::sync(mesh.known(&credentials).await, offering("orders", 1)).await.unwrap();
    orders.take().await;
    // The next thing that is heard is the newcomer, not a gap.
    let _other = Sidecar::ready(&mesh, "orders", offering("orders", 2)).await;
    let push = web.take().await;
    assert_eq!(push.endpoint_deltas[0].upserts[0].workload, "default/orders-2");
    assert!(endpoints_removed(&push).is_empty());
}

#[tokio::test]
async fn a_newer_instance_supersedes_and_the_old_one_stays_out() {
    let mesh = Mesh::start().await;
    let credentials = mesh.join("web", "web").await;
    let mut old = Sidecar::sync(mesh.known(&credentials).await, hello("web")).await.unwrap();
    old.take().await;
    let newer = v1::Hello { instance: "web-2".into(), ..hello("web") };
    let mut new = Sidecar::sync(mesh.known(&credentials).await, newer).await.unwrap();
    new.take().await;
    assert_eq!(old.push().await.unwrap_err().code(), Code::Aborted);
    let mut back = Sidecar::sync(mesh.known(&credentials).await, hello("web")).await.unwrap();
    assert_eq!(back.push().await.unwrap_err().code(), Code::Aborted);
    assert!(mesh.admin().await.sidecar("web").await.unwrap().connected);
}

#[tokio::test]
async fn what_is_held_is_not_sent_again() {
    let mesh = Mesh::start().await;
    let _orders = Sidecar::ready(&mesh, "orders", offering("orders", 1)).await;
    all_ready(&mesh, 1).await;
    let web = caller(&mesh, 1).await;
    let held = web.held();
    drop(web);
    let again = v1::Hello { held, ..hello("web") };
    let mut web = Sidecar::start(&mesh, "web", again).await;
    let push = web.take().await;
    assert_eq!((push.epoch, told(&push)), (1, Vec::new()));
}

#[tokio::test]
async fn a_refusal_is_shown_with_its_reason() {
    let mesh = Mesh::start().await;
    let mut web = Sidecar::start(&mesh, "web", hello("web")).await;
    let push = web.push().await.unwrap();
    let rejected = v1::Rejection { name: Some(name(Kind::Mesh, "default")), reason: "not today".into() };
    web.ack(push.epoch, vec![rejected]).await;
    let mut admin = mesh.admin().await;
    eventually("the refusal is listed", async || !admin.sidecar("web").await.unwrap().rejected.is_empty())
        .await;
    let listed = admin.sidecar("web").await.unwrap();
    assert!(!listed.in_sync);
    assert_eq!(listed.rejected[0].reason, "not today");
    assert_eq!(listed.rejected[0].name, Some(name(Kind::Mesh, "default")));
}

#[tokio::test]
async fn an_ack_of_nothing_ends_the_stream() {
    let mesh = Mesh::start().await;
    let mut web = Sidecar::ready(&mesh, "web", hello("web")).await;
    web.ack(7, Vec::new()).await;
    assert_eq!(web.push().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_sidecar_is_in_sync_once_it_has_acked_what_concerns_it() {
    let mesh = Mesh::start().await;
    let mut web = Sidecar::ready(&mesh, "web", hello("web")).await;
    let mut admin = mesh.admin().await;
    let applied = admin
        .apply_text("apiVersion: weft.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {mtls: {mode: Permissive}}\n")
        .await;
    assert_eq!((applied.revision, applied.problems.len()), (1, 0));
    assert!(!admin.sidecar("web").await.unwrap().in_sync);
    let push = web.take().await;
    assert_eq!((told(&push), push.revision), (vec!["+MESH default".to_owned()], 1));
    eventually("web is in sync", async || admin.sidecar("web").await.unwrap().in_sync).await;
    assert_eq!(admin.sidecar("web").await.unwrap().revision, 1);
}
