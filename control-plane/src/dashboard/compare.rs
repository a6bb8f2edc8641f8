//! Two traces beside each other: which hop took longer, which is in one of them alone.

use std::collections::BTreeMap;

use super::html::{Escaped, Frame, Millis, Ms, Page, Place};
use super::trace::{Whole, lane, nested};
use crate::report::rfc3339;
use crate::telemetry::{Span, TraceId};

/// Hops that are compared.
const MOST: usize = 500;

/// A trace with its spans.
pub(super) type Found = (TraceId, Vec<Span>);

/// What makes a hop of one trace that of the other: the hop above it, its service, its name, its kind, and which of several.
type Key<'s> = (usize, &'s str, &'s str, &'static str, usize);

/// A hop, as each trace has it.
struct Pair<'s> {
    depth: usize,
    first: Option<&'s Span>,
    second: Option<&'s Span>,
}

pub(super) fn page(first: &Found, second: &Found, frame: &Frame) -> String {
    let mut page = Page::new("Two traces", Place::Traces, frame);
    let wholes = (Whole::of(&first.1), Whole::of(&second.1));
    summary(&mut page, first, second, &wholes);
    let longest = wholes.0.lasts.max(wholes.1.lasts);
    let scales = (wholes.0.on(longest), wholes.1.on(longest));
    let pairs = pairs(&first.1, &second.1);
    page.table(
        "Hop by hop",
        &["Service", "Operation", "#First", "#Second", "#Difference", "Time in the first, in the second"],
        pairs.iter().take(MOST).map(|pair| row(pair, &scales)).collect::<Vec<_>>().into_iter(),
        "None.",
    );
    if pairs.len() > MOST {
        page.note(format_args!("{} more hops are not shown.", pairs.len() - MOST));
    }
    page.finish()
}

fn summary(page: &mut Page, first: &Found, second: &Found, wholes: &(Whole, Whole)) {
    let line = |word: &'static str, (id, spans): &Found, whole: &Whole| {
        let errors = spans.iter().filter(|span| span.error).count();
        let class = if errors > 0 { "n bad" } else { "n" };
        let begun = spans.iter().map(|span| span.start).min().map(rfc3339).unwrap_or_default();
        format!(
            "<tr><td>{word}</td><td><a href=\"/traces/{id}\"><code>{id}</code></a></td><td>{}</td><td class=\"n\">{}</td><td class=\"{class}\">{errors}</td><td class=\"n\">{}</td></tr>",
            Escaped(begun),
            spans.len(),
            Millis(whole.lasts),
        )
    };
    let rows = [line("first", first, &wholes.0), line("second", second, &wholes.1)];
    page.table("Both", &["", "Trace", "Begun", "#Spans", "#Errors", "#Duration"], rows.into_iter(), "");
}

fn row(pair: &Pair<'_>, scales: &(Whole, Whole)) -> String {
    let Some(span) = pair.first.or(pair.second) else { return String::new() };
    let time = |span: Option<&Span>| match span {
        Some(span) => {
            let class = if span.error { "n bad" } else { "n" };
            format!(
                "<td class=\"{class}\">{}{}</td>",
                Millis(span.duration),
                if span.error { " failed" } else { "" }
            )
        }
        None => "<td class=\"n dim\">not there</td>".to_owned(),
    };
    let difference = match (pair.first, pair.second) {
        (Some(first), Some(second)) => {
            let more = (second.duration.as_secs_f64() - first.duration.as_secs_f64()) * 1000.0;
            let (class, sign) = if more > 0.0 { ("warn", "+") } else { ("good", "−") };
            format!("<td class=\"n {class}\">{sign}{}</td>", Ms(more.abs()))
        }
        _ => "<td class=\"n dim\">-</td>".to_owned(),
    };
    let lanes = [(pair.first, &scales.0), (pair.second, &scales.1)];
    let lanes = lanes.map(|(span, scale)| span.map(|span| lane(span, &[], scale)).unwrap_or_default());
    format!(
        "<tr><td class=\"op\">{}</td><td class=\"op\">{}{} <small>{}</small></td>{}{}{difference}<td>{}</td></tr>",
        Escaped(&span.service),
        "<span class=\"in\"></span>".repeat(pair.depth.min(24)),
        Escaped(&span.name),
        span.kind.as_str(),
        time(pair.first),
        time(pair.second),
        lanes.concat(),
    )
}

/// The hops of both, in the order of the first; those of the second alone come last.
fn pairs<'s>(first: &'s [Span], second: &'s [Span]) -> Vec<Pair<'s>> {
    let mut numbers = BTreeMap::new();
    let ours = keyed(first, &mut numbers);
    let theirs = keyed(second, &mut numbers);
    let mut others: BTreeMap<usize, &Span> =
        theirs.iter().map(|(number, _, span)| (*number, *span)).collect();
    let mut pairs: Vec<_> = ours
        .into_iter()
        .map(|(number, depth, span)| Pair { depth, first: Some(span), second: others.remove(&number) })
        .collect();
    let alone = theirs.into_iter().filter(|(number, ..)| others.contains_key(number));
    pairs.extend(alone.map(|(_, depth, span)| Pair { depth, first: None, second: Some(span) }));
    pairs
}

/// Each span with the number of its key, which is the same in both traces, and its depth; a number holds the whole way from the top.
fn keyed<'s>(spans: &'s [Span], numbers: &mut BTreeMap<Key<'s>, usize>) -> Vec<(usize, usize, &'s Span)> {
    let mut above: Vec<usize> = Vec::new();
    let mut seen: BTreeMap<(usize, &str, &str, &str), usize> = BTreeMap::new();
    let mut keyed = Vec::with_capacity(spans.len());
    for (depth, place) in nested(spans) {
        let Some(span) = spans.get(place) else { continue };
        above.truncate(depth);
        let parent = above.last().copied().unwrap_or_default();
        let like = (parent, &*span.service, span.name.as_str(), span.kind.as_str());
        let which = seen.entry(like).or_default();
        let fresh = numbers.len() + 1;
        let number = *numbers.entry((like.0, like.1, like.2, like.3, *which)).or_insert(fresh);
        *which += 1;
        above.push(number);
        keyed.push((number, depth, span));
    }
    keyed
}

/// The form, where there are not two.
pub(super) fn asks(given: usize, unknown: &[&str], frame: &Frame) -> String {
    let mut page = Page::new("Two traces", Place::Traces, frame);
    for id in unknown {
        page.push(format_args!(
            "<p class=\"bad\" role=\"alert\">No trace's id begins with <code>{}</code>, or several do.</p>",
            Escaped(id)
        ));
    }
    if unknown.is_empty() && given != 2 {
        page.push(format_args!(
            "<p class=\"bad\" role=\"alert\">Two traces can be compared, {given} were chosen.</p>"
        ));
    }
    page.push(
        "<form action=\"/compare\"><label>First<input name=\"id\" required autocomplete=\"off\" spellcheck=\"false\"></label>\
         <label>Second<input name=\"id\" required autocomplete=\"off\" spellcheck=\"false\"></label><button>Compare</button></form>\
         <p><a href=\"/traces\">All traces</a></p>",
    );
    page.finish()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::trace::tests::span;
    use super::*;

    #[test]
    fn hops_are_paired_by_the_way_to_them() {
        let first =
            [span(1, None, "in"), span(2, Some(1), "call"), span(3, Some(1), "call"), span(4, Some(2), "db")];
        let second = [span(9, None, "in"), span(8, Some(9), "call"), span(7, Some(8), "cache")];
        let shown: Vec<_> = pairs(&first, &second)
            .iter()
            .map(|pair| {
                (pair.depth, pair.first.map(|span| span.id.0[0]), pair.second.map(|span| span.id.0[0]))
            })
            .collect();
        assert_eq!(
            shown,
            [
                (0, Some(1), Some(9)),
                (1, Some(2), Some(8)),
                (2, Some(4), None),
                (1, Some(3), None),
                (2, None, Some(7))
            ]
        );
    }

    #[test]
    fn the_difference_is_the_second_less_the_first() {
        let slower = Span { duration: Duration::from_millis(12), ..span(1, None, "<i>") };
        let two = |first: &Span, second: &Span| {
            let found = |span: &Span| (TraceId([span.id.0[0]; 16]), vec![span.clone()]);
            page(&found(first), &found(second), &Frame::default())
        };
        let shown = two(&span(1, None, "<i>"), &slower);
        assert!(shown.contains("<td class=\"n warn\">+7.0 ms</td>"), "{shown}");
        assert!(two(&slower, &span(1, None, "<i>")).contains("<td class=\"n good\">−7.0 ms</td>"));
        assert!(!shown.contains("<i>"), "{shown}");
        assert!(!asks(1, &["<i>"], &Frame::default()).contains("<i>"));
    }
}
