//! Sidecars with a certificate and bad manners: what they ask for is bounded, they are cut off, and nobody else notices.

use std::sync::Arc;

use tempfile::TempDir;
use tonic::Code;
use weft_proto::v1::sidecar_message::Message;
use weft_proto::v1::{self, Kind};

use crate::mesh::{Mesh, eventually};
use crate::sidecar::{Sidecar, hello, name, offering, told};

fn names(range: std::ops::Range<usize>) -> Vec<v1::ResourceName> {
    range.map(|number| name(Kind::Service, &format!("default/x{number}"))).collect()
}

/// Reads, and answers nothing, until the stream ends; how many pushes there were, and why it ended.
async fn read_to_the_end(sidecar: &mut Sidecar) -> (usize, tonic::Status) {
    let mut pushes = 0;
    loop {
        match sidecar.push().await {
            Ok(_) => pushes += 1,
            Err(status) => return (pushes, status),
        }
    }
}

/// Whether somebody else is told of a newcomer, as if nothing were.
async fn others_are_served(mesh: &Mesh, web: &mut Sidecar) {
    web.subscribe(Kind::Service, "default/other").await;
    assert_eq!(told(&web.take().await), ["-SERVICE default/other", "-ENDPOINTS default/other"]);
    let _other = Sidecar::start(mesh, "other", offering("other", 9)).await;
    assert_eq!(told(&web.take().await), ["+SERVICE default/other", "+ENDPOINTS default/other"]);
}

#[tokio::test]
async fn who_subscribes_to_more_than_there_can_be_is_cut_off() {
    let mesh = Mesh::start().await;
    let mut web = Sidecar::ready(&mesh, "web", hello("web")).await;
    let mut greedy = Sidecar::ready(&mesh, "greedy", hello("greedy")).await;
    for part in 0..4 {
        let add = names(part * 3_000..(part + 1) * 3_000);
        greedy.send(Message::Subscribe(v1::Subscribe { add, remove: Vec::new() })).await;
    }
    let (pushes, status) = read_to_the_end(&mut greedy).await;
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "more than 20000 subscriptions"));
    assert!(pushes <= 8, "{pushes} pushes that nobody had answered");
    others_are_served(&mesh, &mut web).await;
}

#[tokio::test]
async fn who_subscribes_again_and_again_is_cut_off() {
    let mesh = Mesh::start().await;
    let mut web = Sidecar::ready(&mesh, "web", hello("web")).await;
    let mut restless = Sidecar::ready(&mesh, "restless", hello("restless")).await;
    for round in 0..20 {
        let (add, remove) =
            if round % 2 == 0 { (names(0..5_000), Vec::new()) } else { (Vec::new(), names(0..5_000)) };
        restless.send(Message::Subscribe(v1::Subscribe { add, remove })).await;
    }
    let (pushes, status) = read_to_the_end(&mut restless).await;
    let said = "asks for more than 2000 names a second";
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, said));
    assert!(pushes <= 8, "{pushes} pushes that nobody had answered");
    others_are_served(&mesh, &mut web).await;
}

#[tokio::test]
async fn who_never_answers_is_told_eight_times_at_most_and_cut_off() {
    let mesh = Mesh::start_in(Arc::new(TempDir::new().unwrap()), &["--ack-timeout", "1s"]).await;
    let mut admin = mesh.admin().await;
    let orders = Sidecar::ready(&mesh, "orders", offering("orders", 1)).await;
    let mut silent = Sidecar::ready(&mesh, "silent", hello("silent")).await;
    silent.subscribe(Kind::Service, "default/orders").await;
    for round in 0..24 {
        let ready = round % 2 == 1;
        orders.send(Message::Readiness(v1::Readiness { ready })).await;
        eventually("the change is known", async || {
            let listed = admin.services(v1::ServicesRequest {}).await.unwrap().services;
            listed.first().is_some_and(|service| (service.ready == 1) == ready)
        })
        .await;
    }
    let (pushes, status) = read_to_the_end(&mut silent).await;
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "no ack for 1 s"));
    assert!((1..=8).contains(&pushes), "{pushes} pushes");
    others_are_served(&mesh, &mut Sidecar::ready(&mesh, "web", hello("web")).await).await;
}
