//! Every metric of the data path, declared once, and the handles a worker keeps of their series.
//!
//! Labels come from the configuration, from verified identities and from closed sets, never from the wire; the hosts that
//! TLS asks for and the methods of gRPC are the exceptions, and bounded.

mod views;

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use weft_core::authorize::Decision;
use weft_core::model::QualifiedName;
use weft_runtime::metrics::{Counter, Exemplar, Family, Gauge, Histogram, Registry, Shard};

use super::event::{Direction, Refusal, RequestEnded, Security, Spoken, Verb};
use crate::failure::ErrorCode;
use crate::mirror::Mirrored;
use crate::ties::Cut;

/// The semantic conventions' bounds for request durations, with finer ones below for hops within a machine.
const SECONDS: [f64; 19] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5,
    5.0, 7.5, 10.0,
];

/// Hosts that each worker counts TLS of one by one.
const SERVER_NAMES: usize = 100;

/// What is counted of requests, once; what is shown of them is made of it when somebody asks.
const ENDED: Family<Histogram, 12> = Family::histogram(
    "weft_requests_ended",
    "Requests by all that tells them apart.",
    [
        "direction",
        "source",
        "destination",
        "route",
        "protocol",
        "status",
        "grpc_status",
        "error",
        "tls",
        "method",
        "port",
        "rpc_method",
    ],
    &SECONDS,
)
.in_views();
const REQUESTS: Family<Counter, 9> = Family::counter(
    "weft_requests_total",
    "Requests that ended.",
    ["direction", "source", "destination", "route", "protocol", "status", "grpc_status", "error", "tls"],
);
const DURATION: Family<Histogram, 8> = Family::histogram(
    "weft_request_duration_seconds",
    "From the end of a request's head to the last byte of its response.",
    ["direction", "source", "destination", "route", "protocol", "grpc_status", "error", "tls"],
    &SECONDS,
);
/// OpenTelemetry's names (semantic conventions 1.44), for dashboards that know them. Whose `route` is empty has none.
const HTTP_SERVER: Family<Histogram, 6> = Family::histogram(
    "http_server_request_duration_seconds",
    "Duration of HTTP requests to the app.",
    [
        "http_request_method",
        "url_scheme",
        "http_response_status_code",
        "http_route",
        "network_protocol_version",
        "error_type",
    ],
    &SECONDS,
);
const HTTP_CLIENT: Family<Histogram, 6> = Family::histogram(
    "http_client_request_duration_seconds",
    "Duration of HTTP requests of the app, tries and all, by the service that they were for.",
    [
        "http_request_method",
        "server_address",
        "server_port",
        "http_response_status_code",
        "network_protocol_version",
        "error_type",
    ],
    &SECONDS,
);
const RPC_SERVER: Family<Histogram, 4> = Family::histogram(
    "rpc_server_call_duration_seconds",
    "Duration of calls to the app.",
    ["rpc_system_name", "rpc_method", "rpc_response_status_code", "error_type"],
    &SECONDS,
);
const RPC_CLIENT: Family<Histogram, 6> = Family::histogram(
    "rpc_client_call_duration_seconds",
    "Duration of calls of the app, tries and all, by the service that they were for.",
    [
        "rpc_system_name",
        "rpc_method",
        "server_address",
        "server_port",
        "rpc_response_status_code",
        "error_type",
    ],
    &SECONDS,
);
const RETRIES: Family<Counter, 4> = Family::counter(
    "weft_retries_total",
    "Sends of a request after its first.",
    ["direction", "source", "destination", "route"],
);
const HEDGES: Family<Counter, 4> = Family::counter(
    "weft_hedges_total",
    "Sends of a request while another one was under way.",
    ["direction", "source", "destination", "route"],
);
const EXHAUSTED: Family<Counter, 4> = Family::counter(
    "weft_retry_budget_exhausted_total",
    "Requests that would have been sent once more, had there been budget for it.",
    ["direction", "source", "destination", "route"],
);
const OPEN: Family<Gauge, 5> = Family::gauge(
    "weft_connections",
    "Connections that are open.",
    ["direction", "source", "destination", "protocol", "tls"],
);
const OPENED: Family<Counter, 5> = Family::counter(
    "weft_connections_total",
    "Connections that were opened.",
    ["direction", "source", "destination", "protocol", "tls"],
);
const REFUSED: Family<Counter, 2> = Family::counter(
    "weft_connections_refused_total",
    "Connections closed before they carried anything.",
    ["direction", "reason"],
);
const HANDSHAKES: Family<Counter, 2> = Family::counter(
    "weft_tls_handshake_failures_total",
    "TLS handshakes that failed.",
    ["direction", "reason"],
);
const CUT: Family<Counter, 1> = Family::counter(
    "weft_connections_cut_total",
    "Open connections that were ended: their peer was revoked, or a changed policy lets them in no longer.",
    ["reason"],
);
const PROBES: Family<Counter, 1> = Family::counter(
    "weft_probes_total",
    "Probes from outside the mesh that were let in without an identity.",
    ["kind"],
);
const TLS: Family<Counter, 1> = Family::counter(
    "weft_tls_connections_total",
    "Connections of the app's own TLS, by the host that it asked for.",
    ["sni"],
);
const BYTES: Family<Counter, 4> = Family::counter(
    "weft_bytes_total",
    "Bytes of bodies and streams, in from the caller and out to the caller.",
    ["direction", "source", "destination", "way"],
);
const MIRRORED: Family<Counter, 2> = Family::counter(
    "weft_mirrored_total",
    "Copies of requests for a route's mirrors, by whom they were for and what became of them.",
    ["destination", "outcome"],
);
const DECISIONS: Family<Counter, 2> = Family::counter(
    "weft_policy_decisions_total",
    "What policies decided about requests and connections.",
    ["policy", "decision"],
);

const TOKENS: Family<Counter, 2> = Family::counter(
    "weft_tokens_total",
    "Requests by what became of their token: proved, missing, or why it was refused.",
    ["policy", "outcome"],
);

/// Spans and access log lines that were not delivered.
pub(super) const SPANS_DROPPED: Family<Counter, 2> = Family::counter(
    "weft_spans_dropped_total",
    "Spans (and access log lines, for exporter all) that were dropped, by who was to have them and why.",
    ["exporter", "reason"],
);
/// Spans that were delivered.
pub(super) const EXPORTED: Family<Counter, 1> =
    Family::counter("weft_spans_exported_total", "Spans that were taken, by whom.", ["exporter"]);

/// Makes every family known, so that dashboards find them before the first request.
pub(super) fn declare(registry: &Registry) {
    views::declare(registry);
    registry.declare(&RETRIES);
    registry.declare(&HEDGES);
    registry.declare(&EXHAUSTED);
    registry.declare(&OPEN);
    registry.declare(&OPENED);
    registry.declare(&REFUSED);
    registry.declare(&HANDSHAKES);
    registry.declare(&CUT);
    registry.declare(&PROBES);
    registry.declare(&TLS);
    registry.declare(&BYTES);
    registry.declare(&DECISIONS);
    registry.declare(&TOKENS);
    registry.declare(&MIRRORED);
    registry.declare(&SPANS_DROPPED);
    registry.declare(&EXPORTED);
}

pub(super) fn refused(shard: &Shard, direction: Direction, refusal: Refusal) {
    shard.series(&REFUSED, &[direction.as_str(), refusal.as_str()]).increment();
}

pub(super) fn mirrored(shard: &Shard, destination: &str, outcome: Mirrored) {
    shard.series(&MIRRORED, &[destination, outcome.as_str()]).increment();
}

pub(super) fn cut(shard: &Shard, cut: Cut, count: u64) {
    shard.series(&CUT, &[cut.as_str()]).add(count);
}

pub(super) fn probed(shard: &Shard, kind: &'static str) {
    shard.series(&PROBES, &[kind]).increment();
}

pub(super) fn handshake_failed(shard: &Shard, direction: Direction, reason: &'static str) {
    shard.series(&HANDSHAKES, &[direction.as_str(), reason]).increment();
}

/// Connections of TLS by the host that they ask for. It is on the wire: only what is a host's name is a label, and only so
/// many of them; what comes after these is counted as one.
#[derive(Debug, Default)]
pub(super) struct ServerNames(HashMap<Box<str>, Counter>);

impl ServerNames {
    pub(super) fn opened(&mut self, shard: &Shard, server_name: Option<&str>) {
        let label = match server_name {
            None => "_none",
            Some(name) if !is_host(name) => "_other",
            Some(name) if self.0.contains_key(name) || self.0.len() < SERVER_NAMES => name,
            Some(_) => "_other",
        };
        let counter = self.0.entry(label.into()).or_insert_with(|| shard.series(&TLS, &[label]));
        counter.increment();
    }
}

/// Whether a server name, in lower case already, is a name of DNS (RFC 1123 section 2.1).
fn is_host(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= 253 && name.split('.').all(label)
}

pub(super) fn decisions(shard: &Shard, policy: &QualifiedName, decision: Decision) -> Counter {
    shard.series(&DECISIONS, &[&policy.to_string(), decision.as_str()])
}

pub(super) fn tokens(shard: &Shard, policy: &QualifiedName, outcome: &str) -> Counter {
    shard.series(&TOKENS, &[&policy.to_string(), outcome])
}

/// The series of one flow that were needed so far.
pub(super) struct FlowSeries {
    direction: Direction,
    source: Arc<str>,
    destination: Arc<str>,
    /// The port that is called; empty: it is not told of.
    port: String,
    bytes_in: Counter,
    bytes_out: Counter,
    outcomes: RefCell<Vec<(Outcome, Histogram)>>,
    connections: RefCell<Vec<(Spoken, Security, Connections)>>,
}

/// Connections of one flow, of one kind.
#[derive(Debug, Clone)]
pub(super) struct Connections {
    pub(super) open: Gauge,
    pub(super) opened: Counter,
}

/// What requests of one flow are told apart by.
#[derive(PartialEq)]
struct Outcome {
    protocol: Spoken,
    security: Security,
    status: Option<u16>,
    grpc_status: Option<u8>,
    error: Option<ErrorCode>,
    route: Option<Arc<str>>,
    verb: Verb,
    rpc: Option<Arc<str>>,
}

impl FlowSeries {
    pub(super) fn new(
        shard: &Shard,
        direction: Direction,
        (source, destination): (&Arc<str>, &Arc<str>),
        port: u16,
    ) -> Self {
        let bytes = |way| shard.series(&BYTES, &[direction.as_str(), source, destination, way]);
        Self {
            direction,
            source: Arc::clone(source),
            destination: Arc::clone(destination),
            port: if port == 0 { String::new() } else { port.to_string() },
            bytes_in: bytes("in"),
            bytes_out: bytes("out"),
            outcomes: RefCell::default(),
            connections: RefCell::default(),
        }
    }

    pub(super) fn moved(&self, from_caller: u64, to_caller: u64) {
        self.bytes_in.add(from_caller);
        self.bytes_out.add(to_caller);
    }

    pub(super) fn request_ended(&self, shard: &Shard, event: &RequestEnded<'_>) {
        self.moved(event.bytes_in, event.bytes_out);
        if event.retries > 0 || event.over_budget {
            self.sent_again(shard, event);
        }
        let outcome = Outcome {
            protocol: event.protocol,
            security: event.security,
            status: event.status,
            grpc_status: event.grpc_status.map(|code| code.min(17)),
            error: event.error,
            route: event.route.cloned(),
            verb: event.verb,
            rpc: event.rpc.clone(),
        };
        let mut outcomes = self.outcomes.borrow_mut();
        let found = outcomes.iter().position(|(known, _)| *known == outcome);
        let index = found.unwrap_or_else(|| {
            let series = self.series_of(shard, &outcome);
            outcomes.push((outcome, series));
            outcomes.len() - 1
        });
        if let Some((_, series)) = outcomes.get(index) {
            match event.target.filter(|_| event.trace.sampled) {
                None => series.observe_duration(event.duration),
                Some(target) => series.observe_exemplar(Exemplar {
                    trace: *event.trace.trace.as_bytes(),
                    span: *event.trace.span.as_bytes(),
                    value: event.duration,
                    at: target.started + event.duration,
                }),
            }
        }
        // The usual outcome moves to the front, so that it is found at once.
        if let Some(before) = index.checked_sub(1) {
            outcomes.swap(before, index);
        }
    }

    fn sent_again(&self, shard: &Shard, event: &RequestEnded<'_>) {
        let route = event.route.map_or("", |route| route);
        let labels = [self.direction.as_str(), &*self.source, &*self.destination, route];
        for (family, count) in
            [(&RETRIES, event.retries), (&HEDGES, event.hedges), (&EXHAUSTED, event.over_budget.into())]
        {
            if count > 0 {
                shard.series(family, &labels).add(count.into());
            }
        }
    }

    /// The series of connections that speak `protocol`.
    pub(super) fn connections(&self, shard: &Shard, protocol: Spoken, security: Security) -> Connections {
        let mut connections = self.connections.borrow_mut();
        let found =
            connections.iter().find(|(spoken, secured, _)| (*spoken, *secured) == (protocol, security));
        if let Some((.., found)) = found {
            return found.clone();
        }
        let labels = [
            self.direction.as_str(),
            &*self.source,
            &*self.destination,
            protocol.as_str(),
            security.as_str(),
        ];
        let made = Connections { open: shard.series(&OPEN, &labels), opened: shard.series(&OPENED, &labels) };
        connections.push((protocol, security, made.clone()));
        made
    }

    fn series_of(&self, shard: &Shard, outcome: &Outcome) -> Histogram {
        let (direction, source, destination) = (self.direction.as_str(), &*self.source, &*self.destination);
        let route = outcome.route.as_deref().unwrap_or_default();
        let (protocol, tls) = (outcome.protocol.as_str(), outcome.security.as_str());
        let status = outcome.status.map(|status| status.to_string()).unwrap_or_default();
        let grpc = outcome.grpc_status.map(|status| status.to_string()).unwrap_or_default();
        let error = outcome.error.map_or("", ErrorCode::as_str);
        let verb = outcome.verb.as_str();
        let rpc = match &outcome.rpc {
            Some(method) => method,
            None if outcome.protocol == Spoken::Grpc => "_OTHER",
            None => "",
        };
        shard.series(
            &ENDED,
            &[
                direction,
                source,
                destination,
                route,
                protocol,
                &status,
                &grpc,
                error,
                tls,
                verb,
                &self.port,
                rpc,
            ],
        )
    }
}
