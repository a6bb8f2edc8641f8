//! What observers count, keep and say in the log.

use std::time::{Duration, SystemTime};

use weft_runtime::metrics::Format;

use super::*;
use crate::failure::ErrorCode;

fn party(name: &str) -> Party {
    Party::Named(name.parse().unwrap())
}

pub(super) const TARGET: Requested<'_> = Requested {
    started: SystemTime::UNIX_EPOCH,
    method: &http::Method::GET,
    authority: "orders:8080",
    path: "/orders/7",
    query: Some("page=REDACTED"),
    agent: Some("curl/8"),
    notes: &[],
};

pub(super) fn request(flow: &Flow, sampled: bool) -> RequestEnded<'_> {
    let trace = TraceContext { sampled, ..TraceContext::begin(&mut fastrand::Rng::with_seed(1), 0) };
    RequestEnded {
        flow,
        route: None,
        protocol: Spoken::Http1,
        verb: Verb::Known("GET"),
        rpc: None,
        security: Security::Mutual,
        status: Some(200),
        grpc_status: None,
        error: None,
        duration: Duration::from_millis(3),
        target: sampled.then_some(TARGET),
        bytes_in: 1,
        bytes_out: 20,
        client: None,
        upstream: None,
        tried: None,
        retries: 0,
        hedges: 0,
        over_budget: false,
        trace,
        parent: None,
    }
}

#[test]
fn a_request_counts_under_the_contracts_names_and_labels() {
    let registry = Registry::new();
    let (observe, _queue) = Observe::new(&registry);
    let observer = observe.observer();
    let flow = observer.flow_to(party("default/web"), party("default/orders"), 8080);
    observer.request_ended(&request(&flow, false));
    observer.request_ended(&request(&flow, false));
    let failed = RequestEnded {
        status: Some(503),
        error: Some(ErrorCode::NoEndpoints),
        retries: 2,
        hedges: 1,
        over_budget: true,
        ..request(&flow, false)
    };
    observer.request_ended(&failed);
    let text = registry.render(Format::Prometheus);
    let otel = r#"http_client_request_duration_seconds_count{http_request_method="GET",server_address="orders.default",server_port="8080""#;
    let common = r#"direction="outbound",source="default/web",destination="default/orders",route="""#;
    for line in [
        format!(
            r#"weft_requests_total{{{common},protocol="http/1.1",status="200",grpc_status="",error="",tls="mutual"}} 2"#
        ),
        format!(
            r#"weft_requests_total{{{common},protocol="http/1.1",status="503",grpc_status="",error="no-endpoints",tls="mutual"}} 1"#
        ),
        format!(
            r#"weft_request_duration_seconds_count{{{common},protocol="http/1.1",grpc_status="",error="",tls="mutual"}} 2"#
        ),
        format!(r#"{otel},http_response_status_code="200",network_protocol_version="1.1",error_type=""}} 2"#),
        format!(
            r#"{otel},http_response_status_code="503",network_protocol_version="1.1",error_type="no-endpoints"}} 1"#
        ),
        format!("weft_retries_total{{{common}}} 2"),
        format!("weft_hedges_total{{{common}}} 1"),
        format!("weft_retry_budget_exhausted_total{{{common}}} 1"),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\nnot in\n{text}");
    }
}

#[test]
fn where_telemetry_is_off_no_request_is_counted_or_kept() {
    let registry = Registry::new();
    let (observe, mut queue) = Observe::new(&registry);
    observe.set_access_log(AccessLog::Json, 1_000_000);
    let observer = observe.with(Telemetry::Off).observer();
    let flow = observer.flow_to(party("default/web"), party("default/orders"), 8080);
    let event = request(&flow, true);
    assert!(!observer.records(&event.trace));
    observer.request_ended(&event);
    observer.policy_decided(&"default/a".parse().unwrap(), Decision::Allowed);
    assert_eq!(queue.take().len(), 0);
    let text = registry.render(Format::Prometheus);
    let counts = |name: &str| text.lines().any(|line| line.starts_with(name) && line.contains('{'));
    assert!(!counts("weft_requests_total") && !counts("weft_policy_decisions_total"), "{text}");
    // What is open is a matter of the sidecar's own health.
    let _open = observer.connection_opened(&flow, Spoken::Http1, Security::Mutual);
    assert!(registry.render(Format::Prometheus).contains("weft_connections{"));
}

#[test]
fn every_family_is_there_before_the_first_request() {
    let registry = Registry::new();
    let (_observe, _queue) = Observe::new(&registry);
    let text = registry.render(Format::Prometheus);
    for name in [
        "weft_requests_total",
        "weft_request_duration_seconds",
        "http_server_request_duration_seconds",
        "http_client_request_duration_seconds",
        "rpc_server_call_duration_seconds",
        "rpc_client_call_duration_seconds",
        "weft_retries_total",
        "weft_hedges_total",
        "weft_retry_budget_exhausted_total",
        "weft_connections",
        "weft_connections_total",
        "weft_bytes_total",
        "weft_policy_decisions_total",
        "weft_spans_dropped_total",
        "weft_spans_exported_total",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name}");
    }
}

#[test]
fn a_hundred_thousand_parties_cost_no_more_than_a_few() {
    let registry = Registry::new();
    let (observe, _queue) = Observe::new(&registry);
    let observer = observe.observer();
    for number in 0..100_000 {
        let flow =
            observer.flow(Direction::Outbound, Party::Unknown, party(&format!("default/host{number}")));
        observer.request_ended(&request(&flow, false));
    }
    let text = registry.render(Format::Prometheus);
    let counts = text.lines().filter_map(|line| line.strip_prefix("weft_requests_total{")?.rsplit_once(' '));
    let counts: Vec<u64> = counts.map(|(_, count)| count.parse().unwrap()).collect();
    assert!(counts.len() <= 2001, "{}", counts.len());
    assert_eq!(counts.iter().sum::<u64>(), 100_000, "none is lost");
    assert!(observer.0.flows.borrow().len() <= FLOWS + 1);
}

#[test]
fn a_sampled_request_is_its_buckets_exemplar_in_openmetrics_alone() {
    let registry = Registry::new();
    let (observe, _queue) = Observe::new(&registry);
    let observer = observe.observer();
    let flow = observer.flow(Direction::Inbound, party("default/web"), party("default/orders"));
    observer.request_ended(&request(&flow, false));
    assert!(!registry.render(Format::OpenMetrics).contains("trace_id"), "nobody could look it up");
    let event = request(&flow, true);
    observer.request_ended(&event);
    let beside = format!(
        "le=\"0.005\"}} 2 # {{trace_id=\"{}\",span_id=\"{}\"}} 0.003 0.003\n",
        event.trace.trace, event.trace.span
    );
    let text = registry.render(Format::OpenMetrics);
    assert_eq!(text.matches(&beside).count(), 2, "the mesh's family and OpenTelemetry's: {text}");
    assert!(!registry.render(Format::Prometheus).contains("trace_id"));
}

#[test]
fn the_access_log_tells_of_as_many_requests_as_it_is_told_and_of_the_same_everywhere() {
    let (observe, _queue) = Observe::new(&Registry::new());
    let (one, other) = (observe.observer(), observe.observer());
    let mut rng = fastrand::Rng::with_seed(1);
    let traces: Vec<_> = (0..10_000).map(|_| TraceContext::begin(&mut rng, 0)).collect();
    let told = |observer: &Observer| traces.iter().filter(|it| observer.records(it)).count();
    observe.set_access_log(AccessLog::Json, 100_000);
    assert!((900..1100).contains(&told(&one)), "{}", told(&one));
    assert!(traces.iter().all(|trace| one.records(trace) == other.records(trace)));
    observe.set_access_log(AccessLog::Json, 1_000_000);
    assert_eq!(told(&one), 10_000);
    observe.set_access_log(AccessLog::Off, 1_000_000);
    assert_eq!(told(&one), 0);
}

#[test]
fn connections_count_as_open_until_they_are_dropped() {
    let registry = Registry::new();
    let (observe, _queue) = Observe::new(&registry);
    let observer = observe.observer();
    let flow = observer.flow(Direction::Inbound, Party::Unknown, party("default/orders"));
    let connection = observer.connection_opened(&flow, Spoken::Tcp, Security::Plaintext);
    connection.moved(5, 7);
    let labels = r#"direction="inbound",source="unknown",destination="default/orders""#;
    let open = |n| format!("weft_connections{{{labels},protocol=\"tcp\",tls=\"none\"}} {n}\n");
    assert!(registry.render(Format::Prometheus).contains(&open(1)));
    drop(connection);
    let text = registry.render(Format::Prometheus);
    assert!(text.contains(&open(0)));
    assert!(text.contains(&format!("weft_bytes_total{{{labels},way=\"out\"}} 7\n")), "{text}");
}

#[test]
fn tls_is_counted_by_host_and_never_by_more_than_a_few() {
    let registry = Registry::new();
    let (observe, _queue) = Observe::new(&registry);
    let observer = observe.observer();
    for name in [Some("orders.example"), Some("orders.example"), None, Some("a\"b"), Some("-x")] {
        observer.tls_opened(name);
    }
    for number in 0..300 {
        observer.tls_opened(Some(&format!("host{number}.example")));
    }
    let text = registry.render(Format::Prometheus);
    let count = |sni: &str| {
        let begin = format!("weft_tls_connections_total{{sni=\"{sni}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&begin)).unwrap_or("0").to_owned()
    };
    assert_eq!(
        (count("orders.example"), count("_none"), count("host1.example")),
        ("2".into(), "1".into(), "1".into())
    );
    let series = text.lines().filter(|line| line.starts_with("weft_tls_connections_total{")).count();
    assert!(series <= 102, "{series}");
    assert!(count("_other").parse::<u32>().unwrap() > 200);
}

#[test]
fn a_full_queue_drops_and_counts() {
    let registry = Registry::new();
    let (observe, mut queue) = Observe::new(&registry);
    let observer = observe.observer();
    let flow = observer.flow(Direction::Outbound, Party::Unknown, Party::Unknown);
    for _ in 0..record::QUEUE + 3 {
        observer.request_ended(&request(&flow, true));
    }
    observer.request_ended(&request(&flow, false));
    let text = registry.render(Format::Prometheus);
    let dropped = "weft_spans_dropped_total{exporter=\"all\",reason=\"queue-full\"} 3\n";
    assert!(text.contains(dropped), "{text}");
    assert_eq!(queue.take().len(), record::BATCH);
}
