//! The pages' HTML. Whatever comes from outside goes through [`Escaped`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Write};
use std::time::{Duration, SystemTime};

use weft_proto::v1::ServiceSummary;

use crate::report::rfc3339;
use crate::source::registry::Registered;
use crate::telemetry::{Span, SpanId, Summary, TraceId};

const STYLE: &str = "
:root{color-scheme:light dark;--fg:#1b1f24;--dim:#667;--line:#d8dce2;--bg:#fff;--bar:#3b7ddd;--bad:#c62f2f;--good:#2a7d3f}
@media(prefers-color-scheme:dark){:root{--fg:#e6e8eb;--dim:#99a;--line:#333a44;--bg:#14171b;--bar:#5b9bf0;--bad:#ef6b6b;--good:#62c07c}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);margin:2rem auto;max-width:72rem;padding:0 1rem}
h1{font-size:1.4rem;margin:0 0 1.5rem}h2{font-size:1.05rem;margin:2rem 0 .5rem}a{color:var(--bar);text-decoration:none}
small,.dim{color:var(--dim)}table{border-collapse:collapse;width:100%}th{text-align:left;font-weight:600}
td,th{padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}.bad{color:var(--bad)}.good{color:var(--good)}code{font-size:.92em}
.lane{position:relative;height:1.2rem;min-width:22rem}.lane i{position:absolute;top:.25rem;height:.7rem;border-radius:2px;background:var(--bar);min-width:2px}
.lane i.bad{background:var(--bad)}.server i{opacity:.65}
";

/// Text that is safe in an element and in a quoted attribute.
struct Escaped<T>(T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl Write for Escape<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                text.chars().try_for_each(|c| match c {
                    '&' => self.0.write_str("&amp;"),
                    '<' => self.0.write_str("&lt;"),
                    '>' => self.0.write_str("&gt;"),
                    '"' => self.0.write_str("&quot;"),
                    '\'' => self.0.write_str("&#39;"),
                    _ => self.0.write_char(c),
                })
            }
        }
        write!(Escape(f), "{}", self.0)
    }
}

/// The first page: services, workloads, traces.
pub(super) fn overview(
    services: &[ServiceSummary],
    workloads: &[Registered],
    traces: &[Summary],
    revision: u64,
) -> String {
    let mut body = format!("<h1>Weft <small>configuration revision {revision}</small></h1>");
    section(
        &mut body,
        "Services",
        &["Name", "Ports", "Addresses", "#Endpoints", "#Ready"],
        services.iter().map(service_row),
        "No service yet: start a sidecar that offers one, or apply a Service.",
    );
    section(
        &mut body,
        "Workloads",
        &["Name", "Identity", "Addresses", "Sidecar"],
        workloads.iter().map(workload_row),
        "No sidecar has connected yet.",
    );
    section(
        &mut body,
        "Traces",
        &["Begun", "Root", "Services", "#Spans", "#Errors", "#Duration"],
        traces.iter().map(trace_row),
        "No trace yet: they appear with the first request between services.",
    );
    document("Weft", &body)
}

/// One trace as a waterfall.
pub(super) fn trace(id: TraceId, spans: &[Span]) -> String {
    let start = spans.iter().map(|span| span.start).min().unwrap_or(SystemTime::UNIX_EPOCH);
    let end = spans.iter().map(Span::end).max().unwrap_or(start);
    let total = end.duration_since(start).unwrap_or_default();
    let mut body = format!(
        "<h1><a href=\"/\">Weft</a> / trace <code>{id}</code></h1><p>{} spans, {}, begun {}</p>",
        spans.len(),
        Millis(total),
        Escaped(rfc3339(start)),
    );
    let rows = nested(spans).into_iter().map(|(depth, span)| span_row(depth, span, start, total));
    section(&mut body, "Spans", &["Service", "Operation", "#Duration", "Time"], rows, "None.");
    document("Weft trace", &body)
}

/// No such trace.
pub(super) fn no_trace(id: &str) -> String {
    let body = format!(
        "<h1><a href=\"/\">Weft</a></h1><p>There is no trace whose id begins with <code>{}</code>, or there are several.</p>",
        Escaped(id)
    );
    document("Weft", &body)
}

fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>{title}</title><style>{STYLE}</style></head><body>{body}</body></html>"
    )
}

/// A table; headings that begin with `#` are over numbers.
fn section(
    body: &mut String,
    title: &str,
    headings: &[&str],
    rows: impl ExactSizeIterator<Item = String>,
    none: &str,
) {
    let count = rows.len();
    body.push_str(&format!("<h2>{title}</h2>"));
    if count == 0 {
        body.push_str(&format!("<p class=\"dim\">{none}</p>"));
        return;
    }
    body.push_str("<table><tr>");
    for heading in headings {
        body.push_str(&match heading.strip_prefix('#') {
            Some(number) => format!("<th class=\"n\">{number}</th>"),
            None => format!("<th>{heading}</th>"),
        });
    }
    body.push_str("</tr>");
    body.extend(rows);
    body.push_str("</table>");
}

fn service_row(service: &ServiceSummary) -> String {
    let ready = if service.ready > 0 { "good" } else { "bad" };
    format!(
        "<tr><td>{}<small>.{}</small></td><td>{}</td><td><code>{}</code></td><td class=\"n\">{}</td><td class=\"n {ready}\">{}</td></tr>",
        Escaped(&service.name),
        Escaped(&service.namespace),
        Escaped(service.ports.join(", ")),
        Escaped(service.addresses.join(" ")),
        service.endpoints,
        service.ready,
    )
}

fn workload_row(listed: &Registered) -> String {
    let workload = &listed.registration;
    let (class, state) = match (listed.connected, workload.ready) {
        (true, true) => ("good", "ready"),
        (true, false) => ("bad", "not ready"),
        (false, _) => ("bad", "not connected"),
    };
    let addresses: Vec<_> = workload.addresses.iter().map(ToString::to_string).collect();
    format!(
        "<tr><td>{}<small>.{}</small></td><td><code>{}</code></td><td><code>{}</code></td><td class=\"{class}\">{state}</td></tr>",
        Escaped(&workload.workload),
        Escaped(&workload.namespace),
        Escaped(&workload.spiffe_id),
        Escaped(addresses.join(" ")),
    )
}

fn trace_row(trace: &Summary) -> String {
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

fn span_row(depth: usize, span: &Span, start: SystemTime, total: Duration) -> String {
    let whole = total.as_secs_f64().max(1e-9);
    let left = span.start.duration_since(start).unwrap_or_default().as_secs_f64() / whole * 100.0;
    let width = span.duration.as_secs_f64() / whole * 100.0;
    let attributes = span.attributes.iter().fold(String::new(), |mut text, (key, value)| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key} = {value}");
        text
    });
    let kind = span.kind.as_str();
    let bad = if span.error { " class=\"bad\"" } else { "" };
    format!(
        "<tr title=\"{}\"><td>{}</td><td style=\"padding-left:{}rem\"{bad}>{} <small>{kind}</small></td><td class=\"n\">{}</td>\
         <td><div class=\"lane {kind}\"><i{bad} style=\"left:{left:.2}%;width:{:.2}%\"></i></div></td></tr>",
        Escaped(attributes),
        Escaped(&span.service),
        depth.min(24),
        Escaped(&span.name),
        Millis(span.duration),
        width.min(100.0 - left.min(100.0)),
    )
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

struct Millis(Duration);

impl Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} ms", self.0.as_secs_f64() * 1000.0)
    }
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
        let page = trace(TraceId([1; 16]), &[span(1, None, "<script>alert('x')</script>")]);
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)"), "{page}");
        assert!(page.contains("k = &quot;v&quot;"), "{page}");
        assert!(!no_trace("<b>").contains("<b>"));
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
}
