//! Records as OpenTelemetry spans, by the semantic conventions for HTTP and gRPC (1.44), straight in the wire's form.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use weft_core::classify::{Outcome, classify, grpc_code};

use super::event::{Direction, Spoken, Verb};
use super::record::Record;
use super::wire::Fields;

/// Spans are written into pieces of memory of this size, so that few of them need one of their own.
const PIECE: usize = 16 * 1024;

/// What a span takes at most in the usual case.
const USUAL: usize = 1024;

/// The numbers of a span's fields in OpenTelemetry's `trace.proto`.
mod field {
    pub(super) const TRACE_ID: u32 = 1;
    pub(super) const SPAN_ID: u32 = 2;
    pub(super) const PARENT_SPAN_ID: u32 = 4;
    pub(super) const NAME: u32 = 5;
    pub(super) const KIND: u32 = 6;
    pub(super) const START: u32 = 7;
    pub(super) const END: u32 = 8;
    pub(super) const ATTRIBUTES: u32 = 9;
    pub(super) const STATUS: u32 = 15;
    pub(super) const FLAGS: u32 = 16;
    /// Of the status.
    pub(super) const CODE: u32 = 3;
}

/// The span of a request: CLIENT for what the app sent, SERVER for what it got. `buffer` is where spans are written;
/// give the same one each time.
pub fn encode(record: &Record, buffer: &mut BytesMut) -> Bytes {
    if buffer.capacity() < USUAL {
        buffer.reserve(PIECE);
    }
    let kind = match record.direction {
        Direction::Inbound => SpanKind::Server,
        Direction::Outbound => SpanKind::Client,
    };
    let mut span = Fields::new(buffer);
    span.bytes(field::TRACE_ID, record.trace.trace.as_bytes());
    span.bytes(field::SPAN_ID, record.trace.span.as_bytes());
    if let Some(parent) = &record.parent {
        span.bytes(field::PARENT_SPAN_ID, parent.as_bytes());
    }
    span.text(field::NAME, &name(record));
    span.number(field::KIND, kind as u64);
    let (started, duration) = record.tried;
    span.fixed64(field::START, nanoseconds(started));
    span.fixed64(field::END, nanoseconds(started + duration));
    attributes(record, &mut Attributes(&mut span));
    if is_error(record) {
        span.message(field::STATUS, |status| status.number(field::CODE, StatusCode::Error as u64));
    }
    span.fixed32(field::FLAGS, u32::from(record.trace.sampled));
    buffer.split().freeze()
}

/// Where a span's attributes go.
pub trait Tags {
    /// Text made of several parts.
    fn joined(&mut self, key: &str, parts: &[&str]);

    /// A number.
    fn number(&mut self, key: &str, value: u64);

    /// Text.
    fn text(&mut self, key: &str, value: &str) {
        self.joined(key, &[value]);
    }
}

/// A span's attributes in OpenTelemetry's form.
struct Attributes<'a, 'b>(&'a mut Fields<'b>);

impl Tags for Attributes<'_, '_> {
    fn joined(&mut self, key: &str, parts: &[&str]) {
        self.0.text_attribute(field::ATTRIBUTES, key, parts);
    }

    fn number(&mut self, key: &str, value: u64) {
        self.0.number_attribute(field::ATTRIBUTES, key, value);
    }
}

/// A span's name, in parts. Never the raw path: a name is what spans are grouped by.
pub fn name(record: &Record) -> [&str; 3] {
    if record.protocol == Spoken::Grpc {
        return [record.path.trim_start_matches('/'), "", ""];
    }
    let method = if is_known(record) { record.method.as_str() } else { "HTTP" };
    match &record.route {
        Some(route) if !route.is_empty() => [method, " ", route],
        _ => [method, "", ""],
    }
}

/// What the semantic conventions name, and what the mesh knows besides.
pub fn attributes(record: &Record, all: &mut impl Tags) {
    all.text("weft.direction", record.direction.as_str());
    all.text("weft.source", &record.source);
    all.text("weft.destination", &record.destination);
    all.text("weft.tls", record.security.as_str());
    if is_known(record) {
        all.text("http.request.method", record.method.as_str());
    } else {
        all.text("http.request.method", "_OTHER");
        all.text("http.request.method_original", record.method.as_str());
    }
    all.text("url.path", &record.path);
    all.text("url.scheme", "http");
    address_attributes(record, all);
    let (host, port) = host_and_port(&record.authority);
    all.text("server.address", host);
    all.number("server.port", port.into());
    all.text("network.protocol.version", if record.protocol == Spoken::Http1 { "1.1" } else { "2" });
    let peer = match record.direction {
        Direction::Inbound => record.client,
        Direction::Outbound => record.upstream,
    };
    peer_attributes(peer, all);
    if let Some(status) = record.status {
        all.number("http.response.status_code", status.into());
    }
    if let Some(route) = &record.route {
        all.text("http.route", route);
    }
    if let Some(error) = record.error {
        all.text("weft.error", error.as_str());
    }
    for (key, value) in &record.notes {
        all.text(key, value);
    }
    if record.retries > 0 {
        all.number("http.request.resend_count", record.retries.into());
        all.number("weft.retries", record.retries.into());
    }
    if record.hedges > 0 {
        all.number("weft.hedges", record.hedges.into());
    }
    if record.protocol == Spoken::Grpc {
        all.text("rpc.system.name", "grpc");
        all.text("rpc.method", record.path.trim_start_matches('/'));
        if let Some(code) = record.grpc_status {
            all.text("rpc.response.status_code", &grpc_code(code));
        }
    }
    if let Some(kind) = error_type(record) {
        all.text("error.type", &kind);
    }
}

/// The query and, as the conventions have it, of a client's the whole address, of a server's who asked.
fn address_attributes(record: &Record, all: &mut impl Tags) {
    if let Some(query) = &record.query {
        all.text("url.query", query);
    }
    if record.direction == Direction::Outbound {
        let (mark, query) = record.query.as_deref().map_or(("", ""), |query| ("?", query));
        all.joined("url.full", &["http://", &record.authority, &record.path, mark, query]);
    } else if let Some(agent) = &record.agent {
        all.text("user_agent.original", agent);
    }
}

fn peer_attributes(peer: Option<SocketAddr>, all: &mut impl Tags) {
    if let Some(peer) = peer {
        all.text("network.peer.address", &peer.ip().to_canonical().to_string());
        all.number("network.peer.port", peer.port().into());
    }
}

fn is_known(record: &Record) -> bool {
    Verb::of(&record.method) != Verb::Other
}

/// A server answers for its own faults only; a client's call has failed whoever is to blame.
fn is_error(record: &Record) -> bool {
    let outcome = match record.status {
        Some(status) => classify(status, record.grpc_status),
        None => return record.error.is_some(),
    };
    match (outcome, record.direction) {
        (Outcome::Failure, _) | (Outcome::CallerError, Direction::Outbound) => true,
        (Outcome::CallerError, Direction::Inbound) | (Outcome::Success, _) => false,
    }
}

/// Why it failed, in a word that does not come from the wire; none where it did not.
pub fn error_type(record: &Record) -> Option<String> {
    if let Some(error) = record.error {
        return Some(error.as_str().to_owned());
    }
    if !is_error(record) {
        return None;
    }
    match record.grpc_status {
        Some(code) if code != 0 => Some(grpc_code(code)),
        _ => record.status.map(|status| status.to_string()),
    }
}

/// Of `HOST`, `HOST:PORT`, `[V6]` and `[V6]:PORT`.
fn host_and_port(authority: &str) -> (&str, u16) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            (host.trim_matches(['[', ']']), port.parse().unwrap_or(80))
        }
        _ => (authority.trim_matches(['[', ']']), 80),
    }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::trace::v1::Span;
    use prost::Message as _;
    use weft_core::model::AccessLog;
    use weft_runtime::metrics::Registry;

    use super::super::{
        Observe, Party, RequestEnded, Requested,
        tests::{TARGET, request},
    };
    use super::*;
    use crate::failure::ErrorCode;

    fn span(direction: Direction, change: impl FnOnce(&mut RequestEnded<'_>)) -> Span {
        let (observe, _queue) = Observe::new(&Registry::new());
        let flow = observe.observer().flow(direction, Party::Unknown, Party::Unknown);
        let mut event = request(&flow, true);
        change(&mut event);
        let record = Record::of(&event, event.target.unwrap(), AccessLog::Off);
        Span::decode(encode(&record, &mut BytesMut::new())).unwrap()
    }

    fn value(span: &Span, key: &str) -> Option<String> {
        let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
        match found.value.as_ref()?.value.as_ref()? {
            Value::StringValue(text) => Some(text.clone()),
            Value::IntValue(number) => Some(number.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn spans_are_named_by_method_and_route_never_by_path() {
        let client = span(Direction::Outbound, |_| {});
        assert_eq!((client.name.as_str(), client.kind), ("GET", SpanKind::Client.into()));
        assert_eq!(value(&client, "server.address").as_deref(), Some("orders"));
        assert_eq!(value(&client, "server.port").as_deref(), Some("8080"));
        assert_eq!(value(&client, "url.path").as_deref(), Some("/orders/7"));
        assert_eq!(client.end_time_unix_nano - client.start_time_unix_nano, 3_000_000);
        let odd = http::Method::from_bytes(b"BREW").unwrap();
        let odd = span(Direction::Inbound, |event| {
            event.target = Some(Requested { method: Box::leak(Box::new(odd)), ..TARGET });
        });
        assert_eq!((odd.name.as_str(), odd.kind), ("HTTP", SpanKind::Server.into()));
        assert_eq!(value(&odd, "http.request.method_original").as_deref(), Some("BREW"));
    }

    #[test]
    fn spans_say_what_was_asked_by_whom_and_over_what() {
        let address = Some(([10, 0, 0, 7], 4143).into());
        let client = span(Direction::Outbound, |event| event.upstream = address);
        let full = "http://orders:8080/orders/7?page=REDACTED";
        assert_eq!(value(&client, "url.full").as_deref(), Some(full));
        assert_eq!(value(&client, "user_agent.original"), None, "it is a server's");
        let server = span(Direction::Inbound, |event| {
            event.client = address;
            event.protocol = Spoken::Http2;
        });
        assert_eq!(value(&server, "url.full"), None, "it is a client's");
        assert_eq!(value(&server, "user_agent.original").as_deref(), Some("curl/8"));
        for (span, version) in [(&client, "1.1"), (&server, "2")] {
            assert_eq!(value(span, "url.query").as_deref(), Some("page=REDACTED"));
            assert_eq!(value(span, "network.protocol.version").as_deref(), Some(version));
            assert_eq!(value(span, "network.peer.address").as_deref(), Some("10.0.0.7"));
            assert_eq!(value(span, "network.peer.port").as_deref(), Some("4143"));
        }
    }

    #[test]
    fn grpc_spans_are_named_by_rpc_and_carry_the_status_as_text() {
        let call = span(Direction::Outbound, |event| {
            event.protocol = Spoken::Grpc;
            event.target = Some(Requested { path: "/shop.Orders/Place", ..TARGET });
            event.grpc_status = Some(14);
        });
        assert_eq!(call.name, "shop.Orders/Place");
        assert_eq!(value(&call, "rpc.response.status_code").as_deref(), Some("UNAVAILABLE"));
        assert_eq!(value(&call, "error.type").as_deref(), Some("UNAVAILABLE"));
        assert_eq!(call.status.unwrap().code, i32::from(StatusCode::Error));
    }

    #[test]
    fn what_policies_decided_is_among_the_attributes() {
        let notes = [("weft.authorization.policy", "default/readers".into())];
        let denied = span(Direction::Inbound, |event| {
            event.error = Some(ErrorCode::Denied);
            event.target = Some(Requested { notes: Box::leak(Box::new(notes)), ..TARGET });
        });
        assert_eq!(value(&denied, "weft.authorization.policy").as_deref(), Some("default/readers"));
        assert_eq!(value(&denied, "weft.error").as_deref(), Some("denied"));
    }

    #[test]
    fn a_callers_error_fails_the_clients_span_alone() {
        for (direction, failed) in [(Direction::Outbound, true), (Direction::Inbound, false)] {
            let found = span(direction, |event| event.status = Some(404));
            assert_eq!(found.status.is_some(), failed, "{direction:?}");
            assert_eq!(value(&found, "error.type").is_some(), failed, "{direction:?}");
        }
        let mesh = span(Direction::Inbound, |event| {
            event.status = Some(403);
            event.error = Some(ErrorCode::Denied);
        });
        assert_eq!(value(&mesh, "error.type").as_deref(), Some("denied"));
    }

    #[test]
    fn authorities_are_split_into_host_and_port() {
        for (authority, expected) in [
            ("orders:8080", ("orders", 8080)),
            ("orders", ("orders", 80)),
            ("[::1]:90", ("::1", 90)),
            ("[::1]", ("::1", 80)),
            ("", ("", 80)),
        ] {
            assert_eq!(host_and_port(authority), expected, "{authority}");
        }
    }
}
