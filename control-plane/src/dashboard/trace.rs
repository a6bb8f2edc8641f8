//! One trace as a waterfall, with what was waited for marked in it, and what is known of each span.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weft_core::why::{Stretch, critical_path};

use super::html::{Escaped, Frame, Millis, Page, Percent, Place};
use crate::api::hop;
use crate::report::rfc3339;
use crate::telemetry::{Span, SpanId, TraceId};

/// Spans on a page.
const MOST: usize = 500;
/// Hops that are named as those that took the time.
const SLOWEST: usize = 8;
/// Stretches that are marked in one span.
const MOST_STRETCHES: usize = 64;

/// A trace as a whole: its time, and where in it a moment lies.
pub(super) struct Whole {
    start: SystemTime,
    pub(super) lasts: Duration,
}

impl Whole {
    pub(super) fn of(spans: &[Span]) -> Self {
        let start = spans.iter().map(|span| span.start).min().unwrap_or(UNIX_EPOCH);
        let end = spans.iter().map(Span::end).max().unwrap_or(start);
        Self { start, lasts: end.duration_since(start).unwrap_or_default() }
    }

    /// The same on a scale of so long.
    pub(super) fn on(&self, lasts: Duration) -> Self {
        Self { start: self.start, lasts }
    }

    /// In thousandths of the whole.
    fn place(&self, since_start: Duration) -> f64 {
        (since_start.as_secs_f64() / self.lasts.as_secs_f64().max(1e-9) * 1000.0).min(1000.0)
    }

    fn place_of(&self, time: SystemTime) -> f64 {
        self.place(time.duration_since(self.start).unwrap_or_default())
    }
}

/// The page from the span of this number on.
pub(super) fn waterfall(id: TraceId, spans: &[Span], from: usize, frame: &Frame) -> String {
    let whole = Whole::of(spans);
    let mut page = Page::new(format!("Trace {id}"), Place::Traces, frame);
    let errors = spans.iter().filter(|span| span.error).count();
    let failed =
        if errors > 0 { format!(", <span class=\"bad\">{errors} failed</span>") } else { String::new() };
    page.push(format_args!(
        "<p>{} spans{failed}, {}, begun {}. In a terminal: <code>weft trace {id}</code>, and <code>weft why {id}</code> for what to do.</p>",
        spans.len(),
        Millis(whole.lasts),
        Escaped(rfc3339(whole.start)),
    ));
    let mut path: HashMap<usize, Vec<Stretch>> = HashMap::new();
    let hops: Vec<_> = spans.iter().map(hop).collect();
    for stretch in critical_path(&hops) {
        path.entry(stretch.hop).or_default().push(stretch);
    }
    slowest(&mut page, spans, &path, &whole);
    let nested = nested(spans);
    let shown: Vec<_> = nested.iter().skip(from).take(MOST).collect();
    let rows = shown.iter().filter_map(|(depth, place)| {
        let stretches = path.get(place).map_or(&[][..], Vec::as_slice);
        Some(row(*depth, spans.get(*place)?, stretches, &whole))
    });
    let rows: Vec<_> = rows.collect();
    page.table(
        "Spans",
        &["Service", "Operation", "#Duration", "Time, and in it what was waited for"],
        rows.into_iter(),
        "None.",
    );
    pages(&mut page, id, from, spans.len());
    page.push(format_args!(
        "<form action=\"/compare\"><input type=\"hidden\" name=\"id\" value=\"{id}\">\
         <label>Compare with trace<input name=\"id\" required autocomplete=\"off\" spellcheck=\"false\" placeholder=\"4bf92f35\"></label><button>Compare</button></form>"
    ));
    page.heading("What is known of each");
    for (_, place) in shown {
        page.push(spans.get(*place).map(details).unwrap_or_default());
    }
    page.finish()
}

/// Which hops the whole waited for longest.
fn slowest(page: &mut Page, spans: &[Span], path: &HashMap<usize, Vec<Stretch>>, whole: &Whole) {
    let time = |stretches: &Vec<Stretch>| {
        Duration::from_micros(stretches.iter().map(|it| it.end_us.saturating_sub(it.start_us)).sum())
    };
    let mut waited: Vec<_> = path.iter().map(|(place, stretches)| (time(stretches), *place)).collect();
    waited.sort_unstable_by_key(|(time, place)| (std::cmp::Reverse(*time), *place));
    let rows = waited.iter().take(SLOWEST).filter_map(|(time, place)| {
        let span = spans.get(*place)?;
        let share = time.as_secs_f64() / whole.lasts.as_secs_f64().max(1e-9);
        Some(format!(
            "<tr><td>{}</td><td><a href=\"#{}\">{}</a> <small>{}</small></td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            Escaped(&span.service),
            span.id,
            Escaped(&span.name),
            span.kind.as_str(),
            Millis(*time),
            Percent(share.min(1.0)),
        ))
    });
    let rows: Vec<_> = rows.collect();
    page.table(
        "Where the time went: the critical path",
        &["Service", "Operation", "#Waited for", "#Of all"],
        rows.into_iter(),
        "Nowhere.",
    );
}

fn pages(page: &mut Page, id: TraceId, from: usize, count: usize) {
    if count <= MOST {
        return;
    }
    let last = from.saturating_add(MOST).min(count);
    page.push(format_args!("<p>Spans {} to {last} of {count}.", from.min(last.saturating_sub(1)) + 1));
    if from > 0 {
        page.push(format_args!(
            " <a href=\"/traces/{id}?from={}\">Those before</a>",
            from.saturating_sub(MOST)
        ));
    }
    if last < count {
        page.push(format_args!(" <a href=\"/traces/{id}?from={last}\">The next</a>"));
    }
    page.push("</p>");
}

fn row(depth: usize, span: &Span, stretches: &[Stretch], whole: &Whole) -> String {
    let kind = span.kind.as_str();
    let bad = if span.error { "bad" } else { "" };
    format!(
        "<tr><td class=\"op\">{}</td><td class=\"op {bad}\">{}<a href=\"#{}\">{}</a> <small>{kind}{}</small></td><td class=\"n\">{}</td><td>{}</td></tr>",
        Escaped(&span.service),
        "<span class=\"in\"></span>".repeat(depth.min(24)),
        span.id,
        Escaped(&span.name),
        if span.error { ", failed" } else { "" },
        Millis(span.duration),
        lane(span, stretches, whole),
    )
}

/// A span within the trace's time.
pub(super) fn lane(span: &Span, stretches: &[Stretch], whole: &Whole) -> String {
    let left = whole.place_of(span.start);
    let width = whole.place(span.duration).min(1000.0 - left).max(3.0);
    let mut waited = String::new();
    for stretch in stretches.iter().take(MOST_STRETCHES) {
        let start = whole.place_of(UNIX_EPOCH + Duration::from_micros(stretch.start_us));
        let end = whole.place_of(UNIX_EPOCH + Duration::from_micros(stretch.end_us));
        // Writing to a String cannot fail.
        let _ = write!(
            waited,
            "<rect class=\"waited\" x=\"{start:.1}\" y=\"7\" width=\"{:.1}\" height=\"5\"></rect>",
            (end - start).max(1.0)
        );
    }
    format!(
        "<svg class=\"lane\" viewBox=\"0 0 1000 12\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"from {left:.0} to {:.0} of 1000\">\
         <rect class=\"{} {}\" x=\"{left:.1}\" y=\"0\" width=\"{width:.1}\" height=\"7\"></rect>{waited}</svg>",
        left + width,
        span.kind.as_str(),
        if span.error { "bad" } else { "" },
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
pub(super) fn absent(id: &str, frame: &Frame) -> String {
    let mut page = Page::new("No such trace", Place::Traces, frame);
    page.push(format_args!(
        "<p>There is no trace whose id begins with <code>{}</code>, or there are several. <a href=\"/traces\">All traces</a></p>",
        Escaped(id)
    ));
    page.finish()
}

/// Spans by their places, with their depth, children after their parents, by start. What has no parent here is at the top.
pub(super) fn nested(spans: &[Span]) -> Vec<(usize, usize)> {
    let ids: BTreeSet<SpanId> = spans.iter().map(|span| span.id).collect();
    let mut children: BTreeMap<Option<SpanId>, Vec<(usize, SpanId)>> = BTreeMap::new();
    for (place, span) in spans.iter().enumerate() {
        let parent = span.parent.filter(|parent| ids.contains(parent) && *parent != span.id);
        children.entry(parent).or_default().push((place, span.id));
    }
    let mut rows = Vec::with_capacity(spans.len());
    let mut open: Vec<_> =
        children.remove(&None).unwrap_or_default().into_iter().rev().map(|child| (0, child)).collect();
    while let Some((depth, (place, id))) = open.pop() {
        rows.push((depth, place));
        // Taken out, so that spans which are each other's parents cannot go round for ever.
        let next = children.remove(&Some(id)).unwrap_or_default();
        open.extend(next.into_iter().rev().map(|child| (depth + 1, child)));
    }
    rows.extend(children.into_values().flatten().map(|(place, _)| (0, place)));
    rows
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::telemetry::SpanKind;

    pub(crate) fn span(id: u8, parent: Option<u8>, name: &str) -> Span {
        Span {
            trace: TraceId([1; 16]),
            id: SpanId([id; 8]),
            parent: parent.map(|parent| SpanId([parent; 8])),
            service: "web".into(),
            kind: SpanKind::Server,
            name: name.into(),
            start: UNIX_EPOCH + Duration::from_millis(id.into()),
            duration: Duration::from_millis(5),
            attributes: vec![("k".into(), "\"v\"".into())],
            error: false,
        }
    }

    #[test]
    fn what_comes_from_outside_is_escaped() {
        let spans = [span(1, None, "<script>alert('x')</script>")];
        let page = waterfall(TraceId([1; 16]), &spans, 0, &Frame::default());
        assert!(!page.contains("<script"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)"), "{page}");
        assert!(page.contains("<code>k</code></td><td>&quot;v&quot;"), "{page}");
        assert!(!absent("<i>", &Frame::default()).contains("<i>"));
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
        let rows: Vec<_> =
            nested(&spans).iter().map(|(depth, place)| (*depth, spans[*place].name.as_str())).collect();
        assert_eq!(rows, [(0, "a"), (1, "b"), (2, "c"), (1, "d"), (0, "f"), (0, "e")]);
    }

    #[test]
    fn what_was_waited_for_is_marked_and_named() {
        let spans = [
            Span { duration: Duration::from_millis(100), ..span(1, None, "whole") },
            Span { duration: Duration::from_millis(60), ..span(11, Some(1), "slow") },
        ];
        let page = waterfall(TraceId([1; 16]), &spans, 0, &Frame::default());
        let slow = page.find(">slow</a>").expect("the slow one");
        assert!(slow < page.find(">whole</a>").expect("the whole"), "the slowest is named first");
        assert!(page.contains("<td class=\"n\">60.0 ms</td><td class=\"n\">60.0 %</td>"), "{page}");
        assert_eq!(page.matches("class=\"waited\"").count(), 3, "{page}");
    }

    #[test]
    fn a_trace_of_thousands_comes_in_pages() {
        let spans: Vec<_> = (0..1_200_u64)
            .map(|id| Span { id: SpanId((id + 1).to_be_bytes()), ..span(1, None, "GET") })
            .collect();
        let page = |from| waterfall(TraceId([1; 16]), &spans, from, &Frame::default());
        for (from, says) in [(0, "Spans 1 to 500 of 1200"), (1_000, "Spans 1001 to 1200 of 1200")] {
            let page = page(from);
            assert!(page.contains(says), "{says}");
            assert!(page.len() < 512 << 10, "{}", page.len());
        }
        assert_eq!(page(1_000).matches("<details").count(), 200);
        assert!(page(usize::MAX).contains("of 1200"));
    }
}
