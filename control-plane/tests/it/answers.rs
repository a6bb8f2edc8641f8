//! What sidecars tell of requests, and what they are asked.

use tonic::Code;
use weft_proto::v1::control_message::Message as Told;
use weft_proto::v1::sidecar_message::Message;
use weft_proto::v1::{self, ask::What};

use crate::mesh::{Mesh, eventually};
use crate::sidecar::{Sidecar, hello, offering};

fn row(caller: &str, requests: u64) -> v1::GoldenRow {
    v1::GoldenRow {
        caller: caller.into(),
        service: "default/orders".into(),
        requests,
        mutual: requests,
        buckets: vec![requests, 0],
        ..Default::default()
    }
}

async fn orders_of_web(mesh: &Mesh) -> Option<v1::StatRow> {
    let request = v1::StatRequest { service: "orders".into(), ..Default::default() };
    let rows = mesh.admin().await.stat(request).await.unwrap().rows;
    rows.into_iter().find(|row| row.caller == "web")
}

#[tokio::test]
async fn what_is_counted_counts_for_whom_the_certificate_names() {
    let mesh = Mesh::start().await;
    let _orders = Sidecar::ready(&mesh, "orders", offering("orders", 1)).await;
    let web = Sidecar::ready(&mesh, "web", hello("web")).await;
    let circuit = v1::Circuit { service: "default/orders".into(), ..Default::default() };
    let golden = v1::Golden {
        bounds_us: vec![1_000],
        rows: vec![row("default/somebody-else", 3)],
        circuits: vec![circuit],
    };
    web.send(Message::Golden(golden)).await;
    eventually("it is counted", async || orders_of_web(&mesh).await.is_some()).await;
    let counted = orders_of_web(&mesh).await.unwrap();
    assert_eq!((counted.requests, counted.success_rate, counted.mtls_rate), (3, 1.0, 1.0));
    assert_eq!((counted.circuit.as_str(), counted.circuits_open), ("open", 1));
    let edges = mesh.admin().await.graph(v1::GraphRequest::default()).await.unwrap().edges;
    assert_eq!(edges.len(), 1);
    assert_eq!((edges[0].caller.as_str(), edges[0].service.as_str()), ("default/web", "default/orders"));
    web.leave().await;
    eventually("what a sidecar said of its circuits goes with it", async || {
        orders_of_web(&mesh).await.is_some_and(|row| row.circuit == "closed")
    })
    .await;
    let unknown = v1::StatRequest { service: "nothing".into(), ..Default::default() };
    assert_eq!(mesh.admin().await.stat(unknown).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn who_looks_sees_what_passes_and_takes_the_filter_along() {
    let mesh = Mesh::start().await;
    let _orders = Sidecar::ready(&mesh, "orders", offering("orders", 1)).await;
    let mut web = Sidecar::ready(&mesh, "web", hello("web")).await;
    let request = v1::TapRequest {
        service: "orders".into(),
        from: "web".into(),
        status: "5xx".into(),
        ..Default::default()
    };
    let mut admin = mesh.admin().await;
    let mut seen = admin.tap(request).await.unwrap();
    let Told::Taps(v1::Taps { taps }) = web.message().await.unwrap() else { panic!("no taps") };
    assert_eq!(taps.len(), 1);
    assert_eq!((taps[0].service.as_str(), taps[0].strangers), ("default/orders", false));
    assert_eq!((taps[0].status_from, taps[0].status_to), (500, 600));
    web.tapped(taps[0].id, "/a").await;
    let first = seen.message().await.unwrap().unwrap();
    assert_eq!(first.workload, "default/web");
    let event = first.event.unwrap();
    assert_eq!((event.caller.as_str(), event.path.as_str()), ("default/web", "/a"));
    drop(seen);
    assert_eq!(web.message().await.unwrap(), Told::Taps(v1::Taps { taps: Vec::new() }));
}

#[tokio::test]
async fn a_sidecar_is_asked_on_its_stream() {
    let mesh = Mesh::start().await;
    let mut web = Sidecar::ready(&mesh, "web", hello("web")).await;
    let ask = |workload: &str| v1::AskSidecarRequest {
        workload: workload.into(),
        ask: Some(v1::Ask { id: 0, what: Some(What::LogLevel("debug".into())) }),
        ..Default::default()
    };
    let mut admin = mesh.admin().await;
    let answering = async {
        let Told::Ask(asked) = web.message().await.unwrap() else { panic!("no question") };
        assert_eq!(asked.what, Some(What::LogLevel("debug".into())));
        web.send(Message::Answer(v1::Answer { id: asked.id, status: 200, text: b"debug".to_vec() })).await;
    };
    let (answered, ()) = tokio::join!(admin.ask_sidecar(ask("web")), answering);
    assert_eq!(answered.unwrap().text, "debug");
    assert_eq!(admin.ask_sidecar(ask("nobody")).await.unwrap_err().code(), Code::NotFound);
}
