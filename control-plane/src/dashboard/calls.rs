//! Who calls whom, by the traces of the last minutes.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::telemetry::{Span, SpanKind};

/// How far back the calls go.
pub(super) const WINDOW: Duration = Duration::from_mins(15);

/// From whom to whom, each `NAMESPACE/NAME`; the mesh does not know everybody.
pub(super) type Edge = (String, String);

/// The calls from one to another.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Calls {
    pub(super) count: usize,
    pub(super) failed: usize,
    /// Not over mutual TLS.
    pub(super) plaintext: usize,
    durations: Vec<Duration>,
}

impl Calls {
    /// The share that was answered well.
    pub(super) fn success(&self) -> f64 {
        share(self.count - self.failed, self.count)
    }

    /// The duration that 99 of 100 stay below.
    pub(super) fn p99(&self) -> Duration {
        let mut sorted = self.durations.clone();
        sorted.sort_unstable();
        sorted.get((sorted.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
    }
}

/// A part of a whole, from 0 to 1.
pub(super) fn share(part: usize, whole: usize) -> f64 {
    let [part, whole] = [part, whole.max(1)].map(|number| u32::try_from(number).unwrap_or(u32::MAX));
    f64::from(part) / f64::from(whole)
}

/// Adds a trace's calls: as the caller's side saw them, and as the called one did where no caller's side is in the trace.
pub(super) fn add(edges: &mut BTreeMap<Edge, Calls>, spans: &[Span], now: SystemTime) {
    let is_sent = |span: &&Span| span.kind == SpanKind::Client;
    let came_alone = |span: &&Span| {
        let sent = |parent| spans.iter().any(|other| other.id == parent && other.kind == SpanKind::Client);
        span.kind == SpanKind::Server && !span.parent.is_some_and(sent)
    };
    let recent = |span: &&Span| now.duration_since(span.end()).is_ok_and(|age| age < WINDOW);
    for span in spans.iter().filter(|span| is_sent(span) || came_alone(span)).filter(recent) {
        let (Some(from), Some(to)) = (attribute(span, "weft.source"), attribute(span, "weft.destination"))
        else {
            continue;
        };
        let calls = edges.entry((from.to_owned(), to.to_owned())).or_default();
        calls.count += 1;
        calls.failed += usize::from(span.error);
        calls.plaintext += usize::from(attribute(span, "weft.tls") != Some("mutual"));
        calls.durations.push(span.duration);
    }
}

fn attribute<'s>(span: &'s Span, key: &str) -> Option<&'s str> {
    span.attributes.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{SpanId, TraceId};

    fn span(id: u8, parent: Option<u8>, kind: SpanKind, [from, to, tls]: [&str; 3]) -> Span {
        let attributes = [("weft.source", from), ("weft.destination", to), ("weft.tls", tls)];
        Span {
            trace: TraceId([1; 16]),
            id: SpanId([id; 8]),
            parent: parent.map(|parent| SpanId([parent; 8])),
            service: "any".into(),
            kind,
            name: "GET".into(),
            start: SystemTime::UNIX_EPOCH,
            duration: Duration::from_millis(id.into()),
            attributes: attributes.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            error: id == 3,
        }
    }

    #[test]
    fn each_call_counts_once_wherever_it_was_seen() {
        let spans = [
            span(1, None, SpanKind::Server, ["unknown", "default/web", "none"]),
            span(2, Some(1), SpanKind::Client, ["default/web", "default/orders", "mutual"]),
            span(4, Some(2), SpanKind::Server, ["default/web", "default/orders", "mutual"]),
            span(3, Some(1), SpanKind::Client, ["default/web", "default/orders", "mutual"]),
        ];
        let mut edges = BTreeMap::new();
        add(&mut edges, &spans, SystemTime::UNIX_EPOCH + Duration::from_secs(60));
        let orders = &edges[&("default/web".to_owned(), "default/orders".to_owned())];
        assert_eq!((orders.count, orders.failed, orders.plaintext), (2, 1, 0));
        assert_eq!((orders.success(), orders.p99()), (0.5, Duration::from_millis(3)));
        let web = &edges[&("unknown".to_owned(), "default/web".to_owned())];
        assert_eq!((edges.len(), web.count, web.plaintext), (2, 1, 1));
        let mut none = BTreeMap::new();
        add(&mut none, &spans, SystemTime::UNIX_EPOCH + WINDOW + Duration::from_secs(1));
        assert!(none.is_empty());
    }
}
