//! What a hundred sidecars are told, counted: the same rules as for thousands, which `bench/sidecars` holds and times.

use std::sync::Arc;

use prost::Message as _;
use weft_certs::alpn;
use weft_proto::v1::sidecar_message::Message;
use weft_proto::v1::{self, Kind};

use crate::mesh::{Mesh, eventually};
use crate::returning::Counters;
use crate::sidecar::{Sidecar, hello, told};

const SIDECARS: usize = 100;
const SERVICES: usize = 50;

/// Sidecars that each offer ten services, twenty behind each.
async fn offering(mesh: &Mesh) -> Vec<Sidecar> {
    let mut sidecars = Vec::new();
    for number in 0..SIDECARS {
        let services = (0..10).map(|index| format!("s{}", (number * 10 + index) % SERVICES));
        let services: Vec<String> = services.collect();
        let wanted = v1::CreateTokenRequest {
            service_account: format!("w{number}"),
            services: services.clone(),
            ..Default::default()
        };
        let token = mesh.admin().await.create_token(wanted).await.unwrap().token;
        let name = format!("w{number}");
        let credentials = mesh.sign(&token, &name).await.unwrap();
        let hello = v1::Hello {
            offers: services.iter().map(|service| crate::sidecar::offer(service)).collect(),
            addresses: vec![vec![10, 1, 0, u8::try_from(number).unwrap()]],
            ..hello(&name)
        };
        let mut sidecar = Sidecar::sync(mesh.known(&credentials).await, hello).await.unwrap();
        sidecar.take().await;
        sidecars.push(sidecar);
    }
    sidecars
}

#[tokio::test]
async fn a_hundred_are_told_of_a_change_once_and_in_a_few_bytes_and_of_nothing_when_they_return() {
    let mesh = Mesh::start().await;
    let sidecars = offering(&mesh).await;
    let mut admin = mesh.admin().await;
    eventually("all are ready", async || {
        let listed = admin.services(v1::ServicesRequest {}).await.unwrap().services;
        listed.len() == SERVICES && listed.iter().all(|service| service.ready == 20)
    })
    .await;
    let of_one = v1::EndpointsRequest { service: "s0".into(), ..Default::default() };
    let listed = admin.endpoints(of_one).await.unwrap().endpoints;
    let shown = (listed.len(), listed[0].source.as_str(), listed[0].ports.as_slice());
    assert_eq!(shown, (20, "registry", &["80->8080".to_owned()][..]));
    let mut callers = Vec::new();
    for number in 0..SIDECARS {
        let mut caller = Sidecar::ready(&mesh, "caller", hello(&format!("c{number}"))).await;
        caller.subscribe(Kind::Service, "default/s0").await;
        assert_eq!(told(&caller.take().await), ["+SERVICE default/s0", "+ENDPOINTS default/s0"]);
        callers.push(caller);
    }

    let unhealthy = vec!["default/s0".to_owned()];
    sidecars[0].send(Message::Health(v1::Health { unhealthy })).await;
    for caller in &mut callers {
        let push = caller.take().await;
        assert_eq!(told(&push), ["~ENDPOINTS default/s0"]);
        assert_eq!(push.endpoint_deltas[0].upserts.len(), 1);
        assert!(push.encoded_len() < 200, "{} bytes for one endpoint", push.encoded_len());
    }

    // What nobody calls is told to nobody: the next thing that is heard is of what they call.
    let failing = |services: &[&str]| {
        let unhealthy = services.iter().map(|service| format!("default/{service}")).collect();
        Message::Health(v1::Health { unhealthy })
    };
    sidecars[0].send(failing(&["s0", "s1"])).await;
    sidecars[0].send(failing(&["s1"])).await;
    for caller in &mut callers {
        assert_eq!(told(&caller.take().await), ["~ENDPOINTS default/s0"]);
    }

    let mut sent = 0;
    for (number, caller) in callers.into_iter().enumerate() {
        let held = caller.held();
        drop(caller);
        let name = format!("c{number}");
        let mut back = Sidecar::start(&mesh, "caller", v1::Hello { held, ..hello(&name) }).await;
        let push = back.take().await;
        assert_eq!(told(&push), Vec::<String>::new());
        sent += push.encoded_len();
    }
    assert!(sent < SIDECARS * 16, "{sent} bytes for those who lacked nothing");
}

#[tokio::test]
async fn who_comes_back_is_sent_less_than_a_kibibyte_tls_included() {
    let mesh = Mesh::start().await;
    let credentials = mesh.join("web", "web").await;
    let tls = Arc::new(credentials.resuming_client(&mesh.identity(), &[alpn::H2]).unwrap());
    let counters = Arc::new(Counters::default());
    let mut web = Sidecar::sync(mesh.returning(&tls, &counters).await, hello("web")).await.unwrap();
    web.take().await;
    let first = counters.take().received;
    let held = web.held();
    for _ in 0..3 {
        drop(web);
        let channel = mesh.returning(&tls, &counters).await;
        web = Sidecar::sync(channel, v1::Hello { held: held.clone(), ..hello("web") }).await.unwrap();
        assert_eq!(told(&web.take().await), Vec::<String>::new());
        let again = counters.take().received;
        assert!(again < 1024, "{again} bytes to one who lacks nothing, {first} the first time");
    }
}
