//! Traces: searched for, and one as a waterfall.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::html::{Escaped, Millis, Page, Place, Query, field};
use crate::report::rfc3339;
use crate::telemetry::{Errors, Filter, Span, SpanId, Summary, TraceId};

/// Traces on a page.
const MOST: usize = 100;
/// What is said where there are none.
pub(super) const NONE: &str = "None is kept: traces appear with the first sampled request between services.";

/// Which traces a form asks for.
pub(super) fn filter(query: &Query) -> Filter {
    let service = query.value("service");
    let slower: f64 = query.value("slower").trim_end_matches("ms").trim().parse().unwrap_or(0.0);
    Filter {
        service: (!service.is_empty()).then(|| service.to_owned()),
        errors: if query.value("errors").is_empty() { Errors::Any } else { Errors::Only },
        slower_than: Duration::try_from_secs_f64(slower / 1000.0).unwrap_or_default(),
        limit: MOST,
        ..Filter::default()
    }
}

/// The form and what it found.
pub(super) fn list(query: &Query, traces: &[Summary], revision: u64) -> String {
    let mut page = Page::new("Traces", Place::Traces, revision);
    let checked = if query.value("errors").is_empty() { "" } else { " checked" };
    page.push("<form action=\"/traces\">")
        .push(field("Service", "service", query.value("service"), "orders"))
        .push(field("Slower than, ms", "slower", query.value("slower"), "100"))
        .push(format_args!(
            "<label class=\"row\"><input type=\"checkbox\" name=\"errors\" value=\"1\"{checked}>with errors</label><button>Search</button></form>"
        ));
    table(&mut page, &format!("{} traces, newest first", traces.len()), traces, NONE);
    page.finish()
}

/// Traces as a table of a page.
pub(super) fn table(page: &mut Page, heading: &str, traces: &[Summary], none: &str) {
    page.table(
        heading,
        &["Begun", "Root", "Services", "#Spans", "#Errors", "#Duration"],
        traces.iter().map(row),
        none,
    );
}

fn row(trace: &Summary) -> String {
    let services: Vec<_> = trace.services.iter().map(AsRef::as_ref).collect();
    let class = if trace.errors > 0 { " bad" } else { "" };
    format!(
        "<tr><td><a href=\"/traces/{}\">{}</a></td><td>{} <small>{}</small></td><td>{}</td><td class=\"n\">{}</td><td class=\"n{class}\">{}</td><td class=\"n\">{}</td></tr>",
        trace.id,
        Escaped(rfc3339(trace.start)),
        Escaped(&trace.root),
        Escaped(&trace.service),
        Escaped(services.join(", ")),
        trace.spans,
        trace.errors,
        Millis(trace.duration),
    )
}

/// One trace as a waterfall.
pub(super) fn waterfall(id: TraceId, spans: &[Span], revision: u64) -> String {
    let start = spans.iter().map(|span| span.start).min().unwrap_or(SystemTime::UNIX_EPOCH);
    let end = spans.iter().map(Span::end).max().unwrap_or(start);
    let total = end.duration_since(start).unwrap_or_default();
    let mut page = Page::new(format!("Trace {id}"), Place::Traces, revision);
    page.push(format_args!(
        "<p>{} spans, {}, begun {}. In a terminal: <code>weft trace {id}</code></p>",
        spans.len(),
        Millis(total),
        Escaped(rfc3339(start)),
    ));
    let rows: Vec<_> =
        nested(spans).into_iter().map(|(depth, span)| bar(depth, span, start, total)).collect();
    page.table("Spans", &["Service", "Operation", "#Duration", "Time"], rows.into_iter(), "None.");
    page.heading("What is known of each");
    for (_, span) in nested(spans) {
        page.push(details(span));
    }
    page.finish()
}

fn bar(depth: usize, span: &Span, start: SystemTime, total: Duration) -> String {
    let whole = total.as_secs_f64().max(1e-9);
    let left =
        (span.start.duration_since(start).unwrap_or_default().as_secs_f64() / whole * 1000.0).min(1000.0);
    let width = (span.duration.as_secs_f64() / whole * 1000.0).min(1000.0 - left).max(3.0);
    let kind = span.kind.as_str();
    let bad = if span.error { "bad" } else { "" };
    format!(
        "<tr><td class=\"op\">{}</td><td class=\"op {bad}\">{}<a href=\"#{}\">{}</a> <small>{kind}</small></td><td class=\"n\">{}</td>\
         <td><svg class=\"lane\" viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"from {:.0} to {:.0} of 1000\">\
         <rect class=\"{kind} {bad}\" x=\"{left:.1}\" y=\"0\" width=\"{width:.1}\" height=\"10\"></rect></svg></td></tr>",
        Escaped(&span.service),
        "<span class=\"in\"></span>".repeat(depth.min(24)),
        span.id,
        Escaped(&span.name),
        Millis(span.duration),
        left,
        left + width,
    )
}

fn details(span: &Span) -> String {
    let attributes: String = span
        .attributes
        .iter()
        .map(|(key, value)| {
            format!("<tr><td><code>{}</code></td><td>{}</td></tr>", Escaped(key), Escaped(value))
        })
        .collect();
    format!(
        "<details id=\"{}\"><summary>{} {} <small>{}</small></summary><div class=\"wide\"><table>{attributes}</table></div></details>",
        span.id,
        Escaped(&span.service),
        Escaped(&span.name),
        span.kind.as_str(),
    )
}

/// No such trace.
pub(super) fn absent(id: &str, revision: u64) -> String {
    let mut page = Page::new("No such trace", Place::Traces, revision);
    page.push(format_args!(
        "<p>There is no trace whose id begins with <code>{}</code>, or there are several. <a href=\"/traces\">All traces</a></p>",
        Escaped(id)
    ));
    page.finish()
}

/// Spans with their depth, children after their parents, by start. What has no parent here is at the top.
fn nested(spans: &[Span]) -> Vec<(usize, &Span)> {
    let ids: BTreeSet<SpanId> = spans.iter().map(|span| span.id).collect();
    let mut children: BTreeMap<Option<SpanId>, Vec<&Span>> = BTreeMap::new();
    for span in spans {
        let parent = span.parent.filter(|parent| ids.contains(parent) && *parent != span.id);
        children.entry(parent).or_default().push(span);
    }
    let mut rows = Vec::with_capacity(spans.len());
    let mut open: Vec<_> =
        children.remove(&None).unwrap_or_default().into_iter().rev().map(|s| (0, s)).collect();
    while let Some((depth, span)) = open.pop() {
        rows.push((depth, span));
        // Taken out, so that spans which are each other's parents cannot go round for ever.
        let next = children.remove(&Some(span.id)).unwrap_or_default();
        open.extend(next.into_iter().rev().map(|child| (depth + 1, child)));
    }
    rows.extend(children.into_values().flatten().map(|span| (0, span)));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::SpanKind;

    fn span(id: u8, parent: Option<u8>, name: &str) -> Span {
        Span {
            trace: TraceId([1; 16]),
            id: SpanId([id; 8]),
            parent: parent.map(|parent| SpanId([parent; 8])),
            service: "web".into(),
            kind: SpanKind::Server,
            name: name.into(),
            start: SystemTime::UNIX_EPOCH + Duration::from_millis(id.into()),
            duration: Duration::from_millis(5),
            attributes: vec![("k".into(), "\"v\"".into())],
            error: false,
        }
    }

    #[test]
    fn what_comes_from_outside_is_escaped() {
        let page = waterfall(TraceId([1; 16]), &[span(1, None, "<script>alert('x')</script>")], 1);
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)"), "{page}");
        assert!(page.contains("<code>k</code></td><td>&quot;v&quot;"), "{page}");
        assert!(!absent("<i>", 1).contains("<i>"));
    }

    #[test]
    fn children_follow_their_parents_and_cycles_end() {
        let spans = [
            span(1, None, "a"),
            span(2, Some(1), "b"),
            span(3, Some(2), "c"),
            span(4, Some(1), "d"),
            span(5, Some(6), "e"),
            span(6, Some(5), "f"),
        ];
        let rows: Vec<_> = nested(&spans).iter().map(|(depth, span)| (*depth, span.name.clone())).collect();
        let expected = [(0, "a"), (1, "b"), (2, "c"), (1, "d"), (0, "f"), (0, "e")];
        assert_eq!(rows, expected.map(|(depth, name)| (depth, name.to_owned())));
    }

    #[test]
    fn a_form_becomes_a_filter() {
        let asked = filter(&Query::of(Some("service=orders&slower=100ms&errors=1")));
        assert_eq!(
            (asked.service.as_deref(), asked.slower_than),
            (Some("orders"), Duration::from_millis(100))
        );
        assert_eq!(asked.errors, Errors::Only);
        for nonsense in ["slower=-1", "slower=NaN", "slower=1e999", "slower=x"] {
            assert_eq!(filter(&Query::of(Some(nonsense))).slower_than, Duration::ZERO, "{nonsense}");
        }
    }
}
