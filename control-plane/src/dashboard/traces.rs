//! Traces: searched for and listed.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use weft_core::manifest::parse_duration;

use super::html::{Escaped, Frame, Millis, Page, Place, Query, field};
use crate::report::rfc3339;
use crate::telemetry::{Errors, Filter, Summary};

/// Traces on a page.
const MOST: usize = 100;
/// Attributes that a form asks for.
const MOST_ATTRIBUTES: usize = 4;
/// What is said where there are none.
pub(super) const NONE: &str = "None is kept: traces appear with the first sampled request between services.";

/// Which traces a form asks for; what cannot be read is not asked for, and named.
pub(super) fn filter(query: &Query, now: SystemTime) -> (Filter, Vec<String>) {
    let mut wrong = Vec::new();
    let text = |name: &str| Some(query.value(name).trim().to_owned()).filter(|text| !text.is_empty());
    let mut time = |name: &str| {
        let text = text(name)?;
        let found = time(&text, now);
        if found.is_none() {
            wrong.push(format!(
                "{text:?} is neither a time ago, such as 15m, nor a time, such as 2026-01-31T12:00:00Z"
            ));
        }
        found
    };
    let (since, until) = (time("since"), time("until"));
    let slower = text("slower").map(|text| {
        let milliseconds =
            text.parse::<f64>().ok().and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok());
        milliseconds.or_else(|| parse_duration(&text).ok()).ok_or(text)
    });
    let slower_than = slower.transpose().unwrap_or_else(|text| {
        wrong.push(format!("{text:?} is no time such as 100 or 250ms"));
        None
    });
    let status = text("status").map(|text| text.parse::<u32>().map_err(|_| text));
    let status = status.transpose().unwrap_or_else(|text| {
        wrong.push(format!("{text:?} is no status such as 503"));
        None
    });
    let mut attributes = Vec::new();
    for attribute in query.values("attribute").take(MOST_ATTRIBUTES) {
        match attribute.split_once('=') {
            Some((key, value)) => attributes.push((key.trim().to_owned(), value.trim().to_owned())),
            None => wrong.push(format!("{attribute:?} is no attribute such as weft.source=default/web")),
        }
    }
    let filter = Filter {
        // Spans know services by their names alone.
        service: text("service").map(|name| name.split(['.', ':']).next().unwrap_or_default().to_owned()),
        errors: if query.value("errors").is_empty() { Errors::Any } else { Errors::Only },
        slower_than: slower_than.unwrap_or_default(),
        route: text("route"),
        status,
        attributes,
        since,
        until,
        limit: MOST,
    };
    (filter, wrong)
}

/// A time, or how long ago it was.
fn time(text: &str, now: SystemTime) -> Option<SystemTime> {
    match parse_duration(text) {
        Ok(ago) => now.checked_sub(ago),
        Err(_) => text.parse::<Timestamp>().ok().map(SystemTime::from),
    }
}

/// The form and what it found.
pub(super) fn list(query: &Query, found: &[Summary], wrong: &[String], frame: &Frame) -> String {
    let mut page = Page::new("Traces", Place::Traces, frame);
    let checked = if query.value("errors").is_empty() { "" } else { " checked" };
    page.push("<form action=\"/traces\" role=\"search\">")
        .push(field("Service", "service", query.value("service"), "orders"))
        .push(field("Route", "route", query.value("route"), "/orders/{id}"))
        .push(field("Status", "status", query.value("status"), "503"))
        .push(field("Slower than, ms", "slower", query.value("slower"), "100"))
        .push(field("From (a time, or ago)", "since", query.value("since"), "15m"))
        .push(field("Until", "until", query.value("until"), "5m"));
    let given = query.values("attribute").take(MOST_ATTRIBUTES - 1);
    for value in given.chain([""]) {
        page.push(field("Attribute", "attribute", value, "weft.source=default/web"));
    }
    page.push(format_args!(
        "<label class=\"row\"><input type=\"checkbox\" name=\"errors\" value=\"1\"{checked}>with errors</label><button>Search</button></form>"
    ));
    for reason in wrong {
        page.push(format_args!("<p class=\"bad\" role=\"alert\">{}</p>", Escaped(reason)));
    }
    let heading = match found.len() {
        MOST => format!("The newest {MOST} traces"),
        1 => "1 trace".to_owned(),
        count => format!("{count} traces, newest first"),
    };
    if found.len() > 1 {
        page.push("<form action=\"/compare\" class=\"below\">");
        choosable(&mut page, &heading, found);
        page.push("<button>Compare the two that are ticked</button></form>");
    } else {
        table(&mut page, &heading, found, "None that is kept is like that.");
    }
    page.finish()
}

const COLUMNS: [&str; 6] = ["Begun", "Root", "Services", "#Spans", "#Errors", "#Duration"];

/// Traces as a table of a page.
pub(super) fn table(page: &mut Page, heading: &str, traces: &[Summary], none: &str) {
    let rows = traces.iter().map(|trace| format!("<tr>{}</tr>", cells(trace)));
    page.table(heading, &COLUMNS, rows, none);
}

/// The same, each with a box to tick.
fn choosable(page: &mut Page, heading: &str, traces: &[Summary]) {
    let [begun, root, services, spans, errors, duration] = COLUMNS;
    let columns = ["Compare", begun, root, services, spans, errors, duration];
    let rows = traces.iter().map(|trace| {
        format!(
            "<tr><td><input type=\"checkbox\" name=\"id\" value=\"{0}\" aria-label=\"Compare trace {0}\"></td>{1}</tr>",
            trace.id,
            cells(trace)
        )
    });
    page.table(heading, &columns, rows, NONE);
}

fn cells(trace: &Summary) -> String {
    let services: Vec<_> = trace.services.iter().map(AsRef::as_ref).collect();
    let class = if trace.errors > 0 { " bad" } else { "" };
    format!(
        "<td><a href=\"/traces/{}\">{}</a></td><td>{} <small>{}</small></td><td>{}</td><td class=\"n\">{}</td><td class=\"n{class}\">{}</td><td class=\"n\">{}</td>",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_becomes_a_filter() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        let asked = |text: &str| filter(&Query::of(Some(text)), now);
        let (all, wrong) = asked(
            "service=orders.default&slower=100ms&errors=1&route=/a&status=503&attribute=user%3D7&attribute=a%3Db%3Dc&since=15m&until=1970-01-01T02:00:00Z",
        );
        assert_eq!((all.service.as_deref(), all.route.as_deref()), (Some("orders"), Some("/a")));
        assert_eq!(
            (all.slower_than, all.status, all.errors),
            (Duration::from_millis(100), Some(503), Errors::Only)
        );
        let pairs = [("user", "7"), ("a", "b=c")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(all.attributes, pairs);
        assert_eq!(all.since, Some(now - Duration::from_mins(15)));
        assert_eq!(all.until, Some(SystemTime::UNIX_EPOCH + Duration::from_hours(2)));
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!(asked("slower=2.5").0.slower_than, Duration::from_micros(2_500));
        assert_eq!((asked("").0.service, asked("").1.len()), (None, 0));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let now = SystemTime::UNIX_EPOCH;
        for nonsense in
            ["slower=-1", "slower=NaN", "slower=1e999", "slower=x", "status=5xx", "attribute=x", "since=soon"]
        {
            let (found, wrong) = filter(&Query::of(Some(nonsense)), now);
            assert_eq!(
                (found.slower_than, found.status, found.since),
                (Duration::ZERO, None, None),
                "{nonsense}"
            );
            assert_eq!(wrong.len(), 1, "{nonsense}");
        }
    }
}
