//! Several control planes answer as one: whoever is asked, what the sidecars of all have told.

use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tempfile::TempDir;
use tonic::{Code, Request};
use weft_proto::v1::control_message::Message as Told;
use weft_proto::v1::replica_client::ReplicaClient;
use weft_proto::v1::sidecar_message::Message;
use weft_proto::v1::{self, ask::What};

use crate::etcd::Etcd;
use crate::join::page;
use crate::mesh::{Admin, Mesh, eventually, with_bearer};
use crate::sidecar::{Sidecar, hello, offering};
use crate::telemetry::{attribute, batch, span};

async fn join(etcd: &Etcd, flags: &[&str]) -> Mesh {
    let store = format!("etcd://{}", etcd.endpoints());
    // However busy this machine is.
    let flags = [&["--store", &store, "--others-timeout", "20s"], flags].concat();
    Mesh::start_in(Arc::new(TempDir::new().unwrap()), &flags).await
}

async fn status(mesh: &Mesh) -> v1::StatusResponse {
    mesh.admin().await.status(v1::StatusRequest::default()).await.unwrap()
}

/// Until each has heard of all the others, and has them answer.
async fn all_answer(meshes: &[&Mesh]) {
    for mesh in meshes {
        eventually("all answer", async || {
            let told = status(mesh).await;
            told.missing.is_empty() && told.sidecars.iter().filter(|it| it.connected).count() == 2
        })
        .await;
    }
}

fn golden(requests: u64) -> Message {
    let row = v1::GoldenRow {
        service: "default/orders".into(),
        requests,
        failures: 1,
        mutual: requests,
        buckets: vec![requests, 0],
        ..Default::default()
    };
    let circuit = v1::Circuit { service: "default/orders".into(), ..Default::default() };
    Message::Golden(v1::Golden { bounds_us: vec![1_000], rows: vec![row], circuits: vec![circuit] })
}

async fn report(mesh: &Mesh, service: &str, span: opentelemetry_proto::tonic::trace::v1::Span) {
    let mut otlp = TraceServiceClient::connect(format!("http://{}", mesh.handle.otlp)).await.unwrap();
    otlp.export(batch(service, vec![span])).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_asked_tells_what_the_sidecars_of_all_have_told() {
    let Some(etcd) = Etcd::start(1, |_, _| Vec::new()) else { return };
    let (one, two, three) = (join(&etcd, &[]).await, join(&etcd, &[]).await, join(&etcd, &[]).await);
    let orders = Sidecar::ready(&two, "orders", offering("orders", 1)).await;
    let mut web = Sidecar::ready(&one, "web", hello("web")).await;
    all_answer(&[&one, &two, &three]).await;

    let all = [&one, &two, &three];
    counters(all, &web, &orders).await;
    traces(all).await;
    rehearsal(all).await;
    plaintext(&three, &orders).await;
    let mut admin = three.admin().await;
    tap(&mut admin, &mut web).await;
    ask(&mut admin, &mut web).await;

    // Who goes is asked no more, and what it held alone is gone with it.
    drop((web, admin));
    three.handle.shutdown().await;
    for mesh in [&one, &two] {
        eventually("it is asked no more", async || {
            let told = mesh.admin().await.traces(v1::TracesRequest::default()).await.unwrap();
            told.missing.is_empty() && told.traces.len() == 2
        })
        .await;
    }
}

async fn counters(all: [&Mesh; 3], web: &Sidecar, orders: &Sidecar) {
    let [_, _, three] = all;
    web.send(golden(3)).await;
    orders.send(golden(4)).await;
    for mesh in all {
        eventually("both are counted", async || {
            let asked =
                v1::StatRequest { service: "orders".into(), by: "service".into(), ..Default::default() };
            let told = mesh.admin().await.stat(asked).await.unwrap();
            told.missing.is_empty()
                && told.rows.iter().map(|row| (row.requests, row.circuits_open)).eq([(7, 2)])
        })
        .await;
    }
    let graph = three.admin().await.graph(v1::GraphRequest::default()).await.unwrap();
    let callers: Vec<_> = graph.edges.iter().map(|edge| edge.caller.as_str()).collect();
    assert_eq!(callers, ["default/orders", "default/web"]);
    let html = page(three, "/services/default/orders").await;
    assert!(html.contains("default/web") && !html.contains("did not answer"), "{html}");
}

/// A trace whose spans went to two of them, one of the spans to both.
async fn traces(all: [&Mesh; 3]) {
    let [one, two, three] = all;
    let call = span(7, 1, 0, SpanKind::Client, 0, 10);
    report(one, "web", call.clone()).await;
    report(two, "web", call).await;
    report(two, "orders", span(7, 2, 1, SpanKind::Server, 1, 8)).await;
    report(three, "orders", span(8, 3, 0, SpanKind::Server, 50, 1)).await;
    for mesh in all {
        let mut admin = mesh.admin().await;
        let traces = admin.traces(v1::TracesRequest::default()).await.unwrap();
        let listed: Vec<_> =
            traces.traces.iter().map(|it| (it.spans, it.service.as_str(), it.services.len())).collect();
        assert_eq!(listed, [(1, "orders", 1), (2, "web", 2)], "{}", traces.missing);
        let limited = v1::TracesRequest { limit: 1, ..Default::default() };
        assert_eq!(admin.traces(limited).await.unwrap().traces.len(), 1);
        let found = admin.trace(v1::TraceRequest { trace_id: "07".into() }).await.unwrap();
        let spans: Vec<_> = found.spans.iter().map(|it| (it.service.as_str(), it.kind.as_str())).collect();
        assert_eq!(spans, [("web", "client"), ("orders", "server")]);
        assert_eq!(found.spans[1].attributes["http.route"], "/<x>");
        let why = admin.why(v1::WhyRequest { trace_id: "07".repeat(16) }).await.unwrap();
        assert_eq!((why.verdict.as_str(), why.hops.len()), ("worked", 2));
        let several = admin.trace(v1::TraceRequest { trace_id: "0".into() }).await.unwrap_err();
        assert_eq!(several.code(), Code::NotFound);
        let html = page(mesh, &format!("/traces/{}", "07".repeat(16))).await;
        assert!(html.contains("GET /1") && html.contains("GET /2"), "{html}");
    }
}

/// What a change would do to the calls that all of them know of.
async fn rehearsal([one, _, three]: [&Mesh; 3]) {
    let said = [
        ("weft.direction", "outbound"),
        ("weft.source", "default/web"),
        ("weft.destination", "default/orders"),
    ];
    let mut carried = span(9, 1, 0, SpanKind::Client, 0, 10);
    carried.attributes.extend(said.map(|(key, value)| attribute(key, value)));
    report(one, "web", carried).await;
    let text = "apiVersion: weft.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: nobody}\nspec: {targetRef: {kind: Service, name: orders}, action: Deny, rules: [{}]}\n";
    let files = vec![v1::SourceFile { name: "nobody.yaml".into(), text: text.into() }];
    let tried = v1::TestPolicyRequest { files, ..Default::default() };
    let tried = three.admin().await.test_policy(tried).await.unwrap();
    assert_eq!((tried.requests, tried.kinds, tried.missing.as_str()), (1, 1, ""), "{tried:?}");
}

/// What only the control plane of a sidecar knows of it.
async fn plaintext(three: &Mesh, orders: &Sidecar) {
    let heard = v1::PlaintextCaller { address: vec![10, 0, 0, 77], port: 8080, ..Default::default() };
    orders.send(Message::PlaintextCallers(v1::PlaintextCallers { callers: vec![heard] })).await;
    eventually("it is known who was let in", async || {
        let told = three.admin().await.sidecar("orders-1").await.unwrap();
        told.plaintext.iter().map(|heard| heard.address.as_str()).eq(["10.0.0.77"])
    })
    .await;
}

async fn tap(admin: &mut Admin, web: &mut Sidecar) {
    let mut seen =
        admin.tap(v1::TapRequest { service: "orders".into(), ..Default::default() }).await.unwrap();
    let Told::Taps(v1::Taps { taps }) = web.message().await.unwrap() else { panic!("no taps") };
    web.tapped(taps[0].id, "/a").await;
    let first = seen.message().await.unwrap().unwrap();
    assert_eq!((first.workload.as_str(), first.missing.as_str()), ("default/web", ""));
    assert_eq!(first.event.unwrap().path, "/a");
    drop(seen);
    assert_eq!(web.message().await.unwrap(), Told::Taps(v1::Taps { taps: Vec::new() }));
}

async fn ask(admin: &mut Admin, web: &mut Sidecar) {
    let what = Some(What::LogLevel("debug".into()));
    let ask = v1::AskSidecarRequest {
        workload: "web".into(),
        ask: Some(v1::Ask { id: 0, what: what.clone() }),
        ..Default::default()
    };
    let answering = async {
        let Told::Ask(asked) = web.message().await.unwrap() else { panic!("no question") };
        assert_eq!(asked.what, what);
        web.send(Message::Answer(v1::Answer { id: asked.id, status: 200, text: b"debug".to_vec() })).await;
    };
    let (answered, ()) = tokio::join!(admin.ask_sidecar(ask), answering);
    assert_eq!(answered.unwrap().text, "debug");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_answer_is_told_of_and_nobody_else_is_answered() {
    let Some(etcd) = Etcd::start(1, |_, _| Vec::new()) else { return };
    let one = join(&etcd, &[]).await;
    // Where it says that it is, another one is; it is taken for none but itself.
    let elsewhere = join(&etcd, &["--advertise-addr", &one.handle.grpc.to_string()]).await;
    report(&one, "web", span(7, 1, 0, SpanKind::Client, 0, 10)).await;
    let missing = "1 of 2 control planes did not answer: what only they know is missing";
    eventually("it is missing", async || status(&one).await.missing == missing).await;
    let mut admin = one.admin().await;
    let traces = admin.traces(v1::TracesRequest::default()).await.unwrap();
    assert_eq!((traces.traces.len(), traces.missing.as_str()), (1, missing));
    assert_eq!(admin.stat(v1::StatRequest::default()).await.unwrap().missing, missing);
    let found = admin.trace(v1::TraceRequest { trace_id: "07".into() }).await.unwrap();
    assert_eq!((found.spans.len(), found.missing.as_str()), (1, missing));
    let absent = admin.trace(v1::TraceRequest { trace_id: "09".into() }).await.unwrap_err();
    assert!(absent.message().ends_with(missing), "{}", absent.message());
    for path in ["/", "/traces", "/sidecars", &format!("/traces/{}", "07".repeat(16))] {
        let html = page(&one, path).await;
        assert!(html.contains(&format!("role=\"status\">{missing}.</p>")), "{path}: {html}");
    }
    // The other one reaches the first.
    assert_eq!(status(&elsewhere).await.missing, "");
    let traces = elsewhere.admin().await.traces(v1::TracesRequest::default()).await.unwrap();
    assert_eq!((traces.traces.len(), traces.missing.as_str()), (1, ""));

    // Neither a sidecar nor an administrator is a control plane.
    let orders = one.join("orders", "orders-1").await;
    let mut sidecar = ReplicaClient::new(one.known(&orders).await);
    let refused = sidecar.find_traces(v1::FindTracesRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let (asked, ()) =
        with_bearer(one.handle.admin_token.reveal(), (Request::new(v1::ConnectedRequest::default()), ()));
    let refused = ReplicaClient::new(one.stranger().await).connected(asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}
