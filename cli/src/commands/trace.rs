//! `weft trace`: one trace, as a waterfall.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::process::ExitCode;

use jiff::Timestamp;
use serde::Serialize;
use weft_proto::v1;

use crate::args::Common;
use crate::client::{self, answer};
use crate::output::{self, harmless};
use crate::target::Target;
use crate::time::milliseconds;

/// Show one trace as a waterfall
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft trace 4bf92f3577b34da6a3ce929d0e0e4736
  weft trace 4bf92f3577b34da6a3ce929d0e0e4736 -o json")]
pub(crate) struct Arguments {
    /// The trace's id, as weft traces and the header traceparent show it
    id: String,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let response = answer(admin.trace(v1::TraceRequest { trace_id: arguments.id }).await)?;
    output::missing(&response.missing)?;
    let trace = Trace::from(response);
    let waterfall = waterfall(&trace, output::width(), output::colours());
    output::object(common.output, &trace, &waterfall)?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Serialize)]
struct Trace {
    trace_id: String,
    spans: Vec<Span>,
}

#[derive(Debug, Serialize)]
struct Span {
    span_id: String,
    parent_id: String,
    service: String,
    kind: String,
    name: String,
    start: String,
    duration_ms: f64,
    attributes: BTreeMap<String, String>,
    error: bool,
    inferred: bool,
}

impl From<v1::TraceResponse> for Trace {
    fn from(response: v1::TraceResponse) -> Self {
        let span = |span: v1::Span| Span {
            span_id: span.span_id,
            parent_id: span.parent_id,
            service: span.service,
            kind: span.kind,
            name: span.name,
            start: span.start,
            duration_ms: span.duration_ms,
            attributes: span.attributes.into_iter().collect(),
            error: span.error,
            inferred: span.inferred,
        };
        Self { trace_id: response.trace_id, spans: response.spans.into_iter().map(span).collect() }
    }
}

/// How far a span is set in at most.
const DEEPEST: usize = 12;
/// Spans that are shown as bars.
const SHOWN: usize = 500;

/// The spans as a tree, with a bar each that shows when it ran.
fn waterfall(trace: &Trace, width: usize, colours: bool) -> String {
    let Some(scale) = Scale::of(&trace.spans) else { return "no spans\n".to_owned() };
    let mut order = tree(&trace.spans);
    let left = order.len().saturating_sub(SHOWN);
    order.truncate(SHOWN);
    let label = |(depth, span): &(usize, &Span)| {
        let error = if span.error { " !" } else { "" };
        format!("{:depth$}{} {}{error}", "", harmless(&span.service), harmless(&span.name), depth = depth * 2)
    };
    let labels: Vec<String> = order.iter().map(label).collect();
    let label_width =
        labels.iter().map(|label| label.chars().count()).max().unwrap_or_default().min(width / 2);
    let widest = |text: &dyn Fn(&Span) -> String| {
        order.iter().map(|(_, span)| text(span).chars().count()).max().unwrap_or_default()
    };
    let others = widest(&|span| span.kind.clone()) + widest(&|span| milliseconds(span.duration_ms));
    let bar_width = width.saturating_sub(label_width + others + 6).max(10);

    let mut lines = Vec::new();
    for ((_, span), label) in order.iter().zip(&labels) {
        let bar = scale.bar(span, bar_width);
        let bar = match (colours, span.error) {
            (false, _) => bar,
            (true, true) => format!("\u{1b}[31m{bar}\u{1b}[0m"),
            (true, false) => format!("\u{1b}[36m{bar}\u{1b}[0m"),
        };
        let label = output::shorten(label, label_width);
        lines.push(vec![label, span.kind.clone(), milliseconds(span.duration_ms), bar]);
    }
    let more = if left > 0 { format!("({left} more spans; -o json has all)\n") } else { String::new() };
    format!("trace {}, {}\n{}{more}", trace.trace_id, milliseconds(scale.length_ms), output::align(lines))
}

/// Spans in the order of a walk through their tree, with their depth. Whose parent is not here is a root.
fn tree(spans: &[Span]) -> Vec<(usize, &Span)> {
    let present: HashSet<&str> = spans.iter().map(|span| span.span_id.as_str()).collect();
    let mut children: HashMap<&str, Vec<&Span>> = HashMap::new();
    for span in spans {
        children.entry(span.parent_id.as_str()).or_default().push(span);
    }
    let is_root = |span: &&Span| !present.contains(span.parent_id.as_str()) || span.parent_id == span.span_id;
    let mut order = Vec::new();
    let mut seen = HashSet::new();
    let mut next: Vec<(usize, &Span)> = spans.iter().filter(is_root).map(|root| (0, root)).rev().collect();
    while let Some((depth, span)) = next.pop() {
        // Span ids come from many programs: one that comes twice, or a ring, must not keep us here.
        if !seen.insert(span.span_id.as_str()) {
            continue;
        }
        order.push((depth, span));
        let below = children.get(span.span_id.as_str()).into_iter().flatten();
        next.extend(below.map(|child| ((depth + 1).min(DEEPEST), *child)).rev());
    }
    // Those in a ring are below nobody.
    let left = spans.iter().filter(|span| seen.insert(span.span_id.as_str()));
    order.extend(left.map(|span| (0, span)));
    order
}

/// Where in time the trace lies.
struct Scale {
    start: Timestamp,
    length_ms: f64,
}

impl Scale {
    fn of(spans: &[Span]) -> Option<Self> {
        let start = spans.iter().filter_map(start_of).min()?;
        let scale = Self { start, length_ms: 0.0 };
        let ends = spans.iter().map(|span| scale.offset_ms(span) + span.duration_ms);
        Some(Self { start, length_ms: ends.fold(0.0, f64::max) })
    }

    fn offset_ms(&self, span: &Span) -> f64 {
        start_of(span).map_or(0.0, |start| self.start.duration_until(start).as_secs_f64() * 1000.0)
    }

    fn bar(&self, span: &Span, width: usize) -> String {
        let columns = |ms: f64| columns(ms / self.length_ms.max(f64::MIN_POSITIVE), width);
        let from = columns(self.offset_ms(span)).min(width.saturating_sub(1));
        let length = columns(span.duration_ms).clamp(1, width - from);
        format!("{}{}", " ".repeat(from), "━".repeat(length))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to a terminal's width")]
fn columns(share: f64, width: usize) -> usize {
    let width = u32::try_from(width).unwrap_or(u32::MAX);
    (share * f64::from(width)).round().clamp(0.0, f64::from(width)) as usize
}

fn start_of(span: &Span) -> Option<Timestamp> {
    span.start.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: &str, parent: &str, service: &str, start_ms: u32, duration_ms: f64) -> Span {
        Span {
            span_id: id.into(),
            parent_id: parent.into(),
            service: service.into(),
            kind: "server".into(),
            name: "GET /".into(),
            start: format!("2026-01-02T03:04:05.{start_ms:03}Z"),
            duration_ms,
            attributes: BTreeMap::new(),
            error: id == "3",
            inferred: false,
        }
    }

    #[test]
    fn a_waterfall_shows_the_tree_and_when_each_span_ran() {
        let spans = vec![
            span("1", "absent", "web", 0, 40.0),
            span("2", "1", "orders", 10, 20.0),
            span("4", "1", "payments", 30, 10.0),
            span("3", "2", "inventory", 15, 5.0),
        ];
        let trace = Trace { trace_id: "abc".into(), spans };
        assert_eq!(
            waterfall(&trace, 74, false),
            "trace abc, 40ms
web GET /              server  40ms   ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
  orders GET /         server  20ms            ━━━━━━━━━━━━━━━━━━
    inventory GET / !  server  5.0ms                ━━━━━
  payments GET /       server  10ms                              ━━━━━━━━━
"
        );
    }

    #[test]
    fn rings_and_doubles_do_not_trap_us() {
        let spans = vec![
            span("1", "2", "a", 0, 1.0),
            span("2", "1", "b", 0, 1.0),
            span("3", "3", "c", 0, 1.0),
            span("3", "", "d", 0, 1.0),
        ];
        let order: Vec<&str> = tree(&spans).iter().map(|(_, span)| span.service.as_str()).collect();
        assert_eq!(order, ["c", "a", "b"]);
        let chain: Vec<Span> = (0..10_000_u32)
            .map(|number| span(&number.to_string(), &(number + 1).to_string(), "\u{1b}[2J", 0, 1.0))
            .collect();
        let shown = waterfall(&Trace { trace_id: "abc".into(), spans: chain }, 80, false);
        assert!(shown.ends_with("(9500 more spans; -o json has all)\n") && !shown.contains('\u{1b}'));
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        assert_eq!(waterfall(&Trace { trace_id: "abc".into(), spans: Vec::new() }, 80, false), "no spans\n");
    }

    #[test]
    fn the_json_is_as_scripts_rely_on() {
        let trace = Trace { trace_id: "abc".into(), spans: vec![span("1", "", "web", 0, 40.0)] };
        assert_eq!(
            serde_json::to_string(&trace).unwrap(),
            r#"{"trace_id":"abc","spans":[{"span_id":"1","parent_id":"","service":"web","kind":"server","name":"GET /","start":"2026-01-02T03:04:05.000Z","duration_ms":40.0,"attributes":{},"error":false,"inferred":false}]}"#
        );
    }
}
