//! A span as it is kept: what OTLP says, within limits.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind as WireKind;
use opentelemetry_proto::tonic::trace::v1::{Span as WireSpan, status::StatusCode};

const MOST_ATTRIBUTES: usize = 64;
const LONGEST_TEXT: usize = 1024;

/// A trace's id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TraceId(pub [u8; 16]);

/// A span's id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SpanId(pub [u8; 8]);

/// Which part a span plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpanKind {
    /// Within a process.
    Internal,
    /// A request that came in.
    Server,
    /// A request that went out.
    Client,
    /// A message that went out.
    Producer,
    /// A message that came in.
    Consumer,
}

/// A span.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Span {
    /// The trace it belongs to.
    pub trace: TraceId,
    /// Its id.
    pub id: SpanId,
    /// The span that caused it.
    pub parent: Option<SpanId>,
    /// The service it is of.
    pub service: Arc<str>,
    /// Which part it plays.
    pub kind: SpanKind,
    /// What was done.
    pub name: String,
    /// When it began.
    pub start: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// What else is known, as text.
    pub attributes: Vec<(String, String)>,
    /// It failed.
    pub error: bool,
}

impl Span {
    /// When it ended.
    pub(crate) fn end(&self) -> SystemTime {
        self.start + self.duration
    }

    /// The same without its attributes.
    pub(crate) fn bare(&self) -> Self {
        Self { attributes: Vec::new(), service: self.service.clone(), name: self.name.clone(), ..*self }
    }

    /// How much memory it takes, roughly.
    pub(crate) fn weight(&self) -> usize {
        let attributes = self.attributes.iter().map(|(key, value)| key.len() + value.len() + 64);
        size_of::<Self>() + self.name.len() + attributes.sum::<usize>()
    }
}

impl SpanKind {
    /// As OTLP has it.
    pub(crate) fn of(wire: WireKind) -> Self {
        match wire {
            WireKind::Unspecified | WireKind::Internal => Self::Internal,
            WireKind::Server => Self::Server,
            WireKind::Client => Self::Client,
            WireKind::Producer => Self::Producer,
            WireKind::Consumer => Self::Consumer,
        }
    }

    /// The same for others.
    pub(crate) fn to_wire(self) -> WireKind {
        match self {
            Self::Internal => WireKind::Internal,
            Self::Server => WireKind::Server,
            Self::Client => WireKind::Client,
            Self::Producer => WireKind::Producer,
            Self::Consumer => WireKind::Consumer,
        }
    }

    /// As it is shown.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Server => "server",
            Self::Client => "client",
            Self::Producer => "producer",
            Self::Consumer => "consumer",
        }
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The spans of a batch, and how many were none.
pub(super) fn read(batch: &ExportTraceServiceRequest) -> (Vec<Span>, u64) {
    let mut spans = Vec::new();
    let mut invalid = 0;
    for of_resource in &batch.resource_spans {
        let attributes = of_resource.resource.as_ref().map(|r| r.attributes.as_slice()).unwrap_or_default();
        let name = attributes.iter().find(|attribute| attribute.key == "service.name");
        let name = name.and_then(|name| name.value.as_ref()).map(text).unwrap_or_default();
        let service: Arc<str> = if name.is_empty() { "unknown".into() } else { name.into() };
        for wire in of_resource.scope_spans.iter().flat_map(|scope| &scope.spans) {
            match one(wire, &service) {
                Some(span) => spans.push(span),
                None => invalid += 1,
            }
        }
    }
    (spans, invalid)
}

fn one(wire: &WireSpan, service: &Arc<str>) -> Option<Span> {
    let trace = <[u8; 16]>::try_from(wire.trace_id.as_slice()).ok().filter(|id| *id != [0; 16])?;
    let id = <[u8; 8]>::try_from(wire.span_id.as_slice()).ok().filter(|id| *id != [0; 8])?;
    let parent = <[u8; 8]>::try_from(wire.parent_span_id.as_slice()).ok().filter(|id| *id != [0; 8]);
    let start = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(wire.start_time_unix_nano))?;
    let duration = Duration::from_nanos(wire.end_time_unix_nano.saturating_sub(wire.start_time_unix_nano));
    let kind = SpanKind::of(wire.kind());
    let mut attributes: Vec<_> = wire.attributes.iter().take(MOST_ATTRIBUTES).map(attribute).collect();
    if let Some(status) = wire.status.as_ref().filter(|status| !status.message.is_empty()) {
        attributes.push(("status.message".into(), short(&status.message)));
    }
    Some(Span {
        trace: TraceId(trace),
        id: SpanId(id),
        parent: parent.map(SpanId),
        service: service.clone(),
        kind,
        name: short(&wire.name),
        start,
        duration,
        attributes,
        error: wire.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error),
    })
}

fn attribute(wire: &KeyValue) -> (String, String) {
    (short(&wire.key), wire.value.as_ref().map(text).unwrap_or_default())
}

fn text(value: &AnyValue) -> String {
    match &value.value {
        Some(Value::StringValue(text)) => short(text),
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) => value.to_string(),
        Some(Value::BytesValue(bytes)) => format!("{} bytes", bytes.len()),
        Some(Value::ArrayValue(list)) => {
            // One level: what is nested deeper says nothing in a table.
            let items = list.values.iter().filter(|item| !matches!(item.value, Some(Value::ArrayValue(_))));
            short(&items.take(MOST_ATTRIBUTES).map(text).collect::<Vec<_>>().join(", "))
        }
        Some(Value::KvlistValue(list)) => format!("{} entries", list.values.len()),
        Some(Value::StringValueStrindex(_)) | None => String::new(),
    }
}

fn short(text: &str) -> String {
    text.chars().take(LONGEST_TEXT).collect()
}
