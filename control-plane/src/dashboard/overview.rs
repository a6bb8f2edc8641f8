//! The first page: how everything fares, and who calls whom.

use std::collections::BTreeMap;

use weft_proto::v1::ServiceSummary;

use super::calls::{Calls, Edge, Window};
use super::html::{Escaped, Frame, Ms, Page, Percent, Place, Rate, encoded, grade, service_link};
use super::{map, traces};
use crate::telemetry::{Summary, Tally};

const NO_SERVICE: &str = "No service yet: start a sidecar that offers one, or apply a Service.";

/// What the first page shows.
pub(super) struct Overview<'a> {
    pub(super) services: &'a [ServiceSummary],
    pub(super) calls: &'a Calls,
    pub(super) window: Window,
    /// Whom the map and the tables are about, in lower case; empty: all.
    pub(super) find: &'a str,
    /// Connected, and all that were.
    pub(super) sidecars: (usize, usize),
    /// The newest traces that hold an error.
    pub(super) errors: &'a [Summary],
}

pub(super) fn overview(seen: &Overview<'_>, frame: &Frame) -> String {
    let mut page = Page::new("Service map", Place::Map, frame).live();
    let path = if seen.find.is_empty() { "/".to_owned() } else { format!("/?find={}", encoded(seen.find)) };
    page.push(seen.window.choice(&path));
    tiles(&mut page, seen);
    page.heading("Who calls whom");
    finder(&mut page, seen);
    let calls = &seen.calls.about(seen.find);
    if calls.edges.is_empty() {
        let about = if seen.find.is_empty() { "" } else { " of that name" };
        page.note(format_args!("No call between services{about} ended in the last {}.", seen.window.words));
    } else {
        page.push(map::draw(calls));
    }
    let is_found = |service: &&ServiceSummary| {
        format!("{}/{}", service.namespace, service.name).to_ascii_lowercase().contains(seen.find)
    };
    let services: Vec<_> = seen.services.iter().filter(is_found).collect();
    page.table(
        "Services",
        &["Name", "#Requests", "#Succeeded", "#p50", "#p99", "Policies", "#Endpoints ready", "Ports"],
        services.iter().map(|service| service_row(service, seen.calls)),
        if seen.find.is_empty() { NO_SERVICE } else { "No service has this in its name." },
    );
    table(&mut page, "Calls", calls, |_| true);
    traces::table(&mut page, "Recent errors", seen.errors, "None in the traces that are kept.");
    page.finish()
}

/// Asks for those services alone that have something in their name, and for whom they call or are called by.
fn finder(page: &mut Page, seen: &Overview<'_>) {
    page.push(format_args!(
        "<form class=\"find\" action=\"/\" role=\"search\"><input type=\"hidden\" name=\"window\" value=\"{}\">\
         <input name=\"find\" value=\"{}\" aria-label=\"Only around services with this in their name\" placeholder=\"Only around …\" list=\"known\" autocomplete=\"off\" spellcheck=\"false\"><button class=\"quiet\">Show</button>",
        seen.window.name,
        Escaped(seen.find),
    ));
    if !seen.find.is_empty() {
        page.push(format_args!("<a href=\"/?window={}\">Show all</a>", seen.window.name));
    }
    page.push("<datalist id=\"known\">");
    for service in seen.services {
        page.push(format_args!(
            "<option value=\"{}/{}\">",
            Escaped(&service.namespace),
            Escaped(&service.name)
        ));
    }
    page.push("</datalist></form>");
}

fn tiles(page: &mut Page, seen: &Overview<'_>) {
    let all = seen.calls.all();
    let known = |text: String| if all.requests() == 0 { "-".to_owned() } else { text };
    let (connected, sidecars) = seen.sidecars;
    let class = if connected == sidecars { "" } else { "warn" };
    let tiles = [
        (Rate(seen.calls.rps(&all)).to_string(), "requests", ""),
        (known(Percent(all.success_rate()).to_string()), "succeeded", grade(all.success_rate())),
        (known(Ms(all.quantile_ms(0.99)).to_string()), "p99", ""),
        (
            known(Percent(all.mtls_rate()).to_string()),
            "by mutual TLS",
            if all.mtls_rate() < 1.0 { "warn" } else { "" },
        ),
        (seen.services.len().to_string(), "services", ""),
        (format!("{connected} of {sidecars}"), "sidecars connected", class),
    ];
    page.push("<ul class=\"tiles\">");
    for (number, what, class) in tiles {
        page.push(format_args!("<li><b class=\"{class}\">{number}</b><small>{what}</small></li>"));
    }
    page.push("</ul>");
}

fn service_row(service: &ServiceSummary, calls: &Calls) -> String {
    let name = format!("{}/{}", service.namespace, service.name);
    let badges = calls.badges.get(&name).into_iter().flatten();
    let badges: String = badges.map(|word| format!("<span class=\"badge\">{word}</span> ")).collect();
    let ready = if service.ready > 0 { "" } else { "bad" };
    format!(
        "<tr><td>{}</td>{}<td>{badges}</td><td class=\"n {ready}\">{} of {}</td><td>{}</td></tr>",
        service_link(&service.namespace, &service.name),
        numbers(&calls.of(&name), calls),
        service.ready,
        service.endpoints,
        Escaped(service.ports.join(", ")),
    )
}

/// How often, how well, how fast: four cells.
pub(super) fn numbers(tally: &Tally, calls: &Calls) -> String {
    if tally.requests() == 0 {
        return "<td class=\"n dim\">-</td>".repeat(4);
    }
    format!(
        "<td class=\"n\">{}</td><td class=\"n {}\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td>",
        Rate(calls.rps(tally)),
        grade(tally.success_rate()),
        Percent(tally.success_rate()),
        Ms(tally.quantile_ms(0.5)),
        Ms(tally.quantile_ms(0.99)),
    )
}

/// The calls of these edges, the most frequent first.
pub(super) fn table(page: &mut Page, heading: &str, calls: &Calls, wanted: impl Fn(&Edge) -> bool) {
    let mut rows: Vec<_> = calls.edges.iter().filter(|(edge, _)| wanted(edge)).collect();
    rows.sort_by_key(|(_, tally)| std::cmp::Reverse(tally.requests()));
    page.table(
        heading,
        &["From", "To", "#Requests", "#Succeeded", "#p50", "#p99", "TLS"],
        rows.into_iter().map(|row| call_row(row, calls)),
        "None in this time.",
    );
}

fn call_row(((from, to), tally): (&Edge, &Tally), calls: &Calls) -> String {
    let linked = |name: &str| match name.split_once('/') {
        Some((namespace, name)) => service_link(namespace, name),
        None => Escaped(name).to_string(),
    };
    let tls = match tally.mtls_rate() {
        1.0.. => "mutual".to_owned(),
        0.0 => "<span class=\"warn\">plaintext</span>".to_owned(),
        share => format!("<span class=\"warn\">{} mutual</span>", Percent(share)),
    };
    format!(
        "<tr><td>{}</td><td>{}</td>{}<td>{tls}</td></tr>",
        linked(from),
        linked(to),
        numbers(tally, calls)
    )
}

/// Requests by some name of their own, as a table.
pub(super) fn by_name(
    page: &mut Page,
    heading: &str,
    column: &str,
    sums: &BTreeMap<String, Tally>,
    calls: &Calls,
) {
    let row = |(name, tally): (&String, &Tally)| {
        let retries = tally.retries();
        format!("<tr><td>{}</td>{}<td class=\"n\">{retries}</td></tr>", Escaped(name), numbers(tally, calls))
    };
    page.table(
        heading,
        &[column, "#Requests", "#Succeeded", "#p50", "#p99", "#Retries"],
        sums.iter().map(row),
        "None in this time.",
    );
}
