//! Spans in, traces out.

use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind};
use tonic::Code;
use tonic::codec::CompressionEncoding;
use weft_proto::v1;

use crate::join::page;
use crate::mesh::Mesh;

/// Half an hour ago, in whole seconds: old traces are not kept.
fn begin() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Duration::from_secs(now.as_secs() - 1800)
}

pub(crate) fn attribute(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.into())) });
    KeyValue { key: key.into(), value, ..Default::default() }
}

pub(crate) fn batch(service: &str, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let resource = Resource { attributes: vec![attribute("service.name", service)], ..Default::default() };
    let scope_spans = vec![ScopeSpans { spans, ..Default::default() }];
    let of_resource = ResourceSpans { resource: Some(resource), scope_spans, ..Default::default() };
    ExportTraceServiceRequest { resource_spans: vec![of_resource] }
}

pub(crate) fn span(trace: u8, id: u8, parent: u8, kind: SpanKind, start_ms: u64, millis: u64) -> Span {
    let begin = u64::try_from(begin().as_nanos()).unwrap();
    Span {
        trace_id: vec![trace; 16],
        span_id: vec![id; 8],
        parent_span_id: if parent == 0 { Vec::new() } else { vec![parent; 8] },
        name: format!("GET /{id}"),
        kind: kind.into(),
        start_time_unix_nano: begin + start_ms * 1_000_000,
        end_time_unix_nano: begin + (start_ms + millis) * 1_000_000,
        attributes: vec![attribute("http.route", "/<x>")],
        ..Default::default()
    }
}

#[tokio::test]
async fn spans_of_several_services_become_one_trace_that_outlives_the_process() {
    let mesh = Mesh::start().await;
    let mut otlp = TraceServiceClient::connect(format!("http://{}", mesh.handle.otlp)).await.unwrap();
    let mut failed = span(7, 2, 1, SpanKind::Server, 1, 8);
    failed.status = Some(Status { code: 2, message: "boom".into() });
    otlp.export(batch("web", vec![span(7, 1, 0, SpanKind::Client, 0, 10)])).await.unwrap();
    otlp.export(batch("orders", vec![failed])).await.unwrap();
    otlp.export(batch("orders", vec![span(8, 3, 0, SpanKind::Server, 50, 1)])).await.unwrap();
    let bad = Span { trace_id: vec![0; 16], ..span(9, 1, 0, SpanKind::Server, 0, 1) };
    let partial = otlp.export(batch("web", vec![bad])).await.unwrap().into_inner().partial_success;
    assert_eq!(partial.unwrap().rejected_spans, 1);
    drop(otlp);
    check(&mesh).await;
    check(&mesh.restart().await).await;
}

async fn check(mesh: &Mesh) {
    let mut admin = mesh.admin().await;
    let all = admin.traces(v1::TracesRequest::default()).await.unwrap().traces;
    assert_eq!(all.iter().map(|trace| trace.spans).collect::<Vec<_>>(), [1, 2]);
    let bad = v1::TracesRequest { errors: true, slower_than_ms: 5.0, ..Default::default() };
    let bad = admin.traces(bad).await.unwrap().traces;
    assert_eq!(bad.len(), 1);
    assert_eq!((bad[0].service.as_str(), bad[0].errors, bad[0].duration_ms), ("web", 1, 10.0));
    assert_eq!(bad[0].services, ["orders", "web"]);

    let found = admin.trace(v1::TraceRequest { trace_id: "0707".into() }).await.unwrap();
    assert_eq!(found.trace_id, "07".repeat(16));
    let kinds: Vec<_> = found.spans.iter().map(|span| (span.service.as_str(), span.kind.as_str())).collect();
    assert_eq!(kinds, [("web", "client"), ("orders", "server")]);
    assert_eq!(found.spans[1].parent_id, found.spans[0].span_id);
    assert!(found.spans[1].error);
    assert!(found.spans[1].start.ends_with(".001000Z"), "{}", found.spans[1].start);
    assert_eq!(found.spans[1].attributes["status.message"], "boom");
    let none = admin.trace(v1::TraceRequest { trace_id: "ff".into() }).await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound);

    let html = page(mesh, "/").await;
    assert!(html.contains(&format!("/traces/{}", found.trace_id)), "{html}");
    let html = page(mesh, &format!("/traces/{}", found.trace_id)).await;
    assert!(html.contains("GET /2") && html.contains("/&lt;x&gt;") && !html.contains("/<x>"), "{html}");
}

#[tokio::test]
async fn on_the_mesh_port_only_the_mesh_sends_spans() {
    let mesh = Mesh::start().await;
    let mut stranger = TraceServiceClient::new(mesh.stranger().await);
    let refused = stranger.export(ExportTraceServiceRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let web = mesh.join("web", "web").await;
    let mut known = TraceServiceClient::new(mesh.known(&web).await);
    known.export(batch("web", vec![span(1, 1, 0, SpanKind::Server, 0, 1)])).await.unwrap();
    let traces = mesh.admin().await.traces(v1::TracesRequest::default()).await.unwrap().traces;
    assert_eq!(traces.len(), 1);
}

#[tokio::test]
async fn batches_may_be_compressed_and_are_bounded_as_they_are_unpacked() {
    let mesh = Mesh::start().await;
    let otlp = TraceServiceClient::connect(format!("http://{}", mesh.handle.otlp)).await.unwrap();
    let mut otlp = otlp.send_compressed(CompressionEncoding::Gzip);
    otlp.export(batch("web", vec![span(7, 1, 0, SpanKind::Server, 0, 1)])).await.unwrap();
    let huge = Span { name: "x".repeat(8 << 20), ..span(8, 1, 0, SpanKind::Server, 0, 1) };
    assert!(otlp.export(batch("web", vec![huge])).await.is_err());
    let found = mesh.admin().await.traces(v1::TracesRequest::default()).await.unwrap().traces;
    assert_eq!(found.len(), 1);
}
