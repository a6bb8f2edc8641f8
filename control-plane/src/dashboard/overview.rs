//! The first page, and a service's own.

use std::collections::BTreeMap;

use weft_core::model::{Endpoint, QualifiedName};
use weft_proto::v1::ServiceSummary;

use super::calls::{Calls, Edge, share};
use super::html::{Escaped, Millis, Page, Place, service_link};
use super::{map, traces};
use crate::telemetry::Summary;

/// What the first page shows.
pub(super) struct Overview<'a> {
    pub(super) services: &'a [ServiceSummary],
    pub(super) edges: &'a BTreeMap<Edge, Calls>,
    /// Connected, and all that were.
    pub(super) sidecars: (usize, usize),
    /// The newest traces that hold an error.
    pub(super) errors: &'a [Summary],
    pub(super) revision: u64,
}

pub(super) fn overview(seen: &Overview<'_>) -> String {
    let mut page = Page::new("Services", Place::Overview, seen.revision).reloading();
    tiles(&mut page, seen);
    page.heading("Who calls whom");
    if seen.edges.is_empty() {
        page.note("No call was traced in the last 15 minutes.");
    } else {
        page.push(map::draw(seen.edges));
    }
    page.table(
        "Services",
        &["Name", "Ports", "Addresses", "#Endpoints", "#Ready"],
        seen.services.iter().map(service_row),
        "No service yet: start a sidecar that offers one, or apply a Service.",
    );
    calls_table(&mut page, "Calls", seen.edges.iter().collect());
    traces::table(&mut page, "Recent errors", seen.errors, "None in the traces that are kept.");
    page.finish()
}

fn tiles(page: &mut Page, seen: &Overview<'_>) {
    let (count, failed, plaintext) = seen
        .edges
        .values()
        .fold((0, 0, 0), |(c, f, p), calls| (c + calls.count, f + calls.failed, p + calls.plaintext));
    let percent = |part| match count {
        0 => "-".to_owned(),
        _ => format!("{:.1} %", share(part, count) * 100.0),
    };
    let tiles = [
        (format!("{} of {}", seen.sidecars.0, seen.sidecars.1), "sidecars connected"),
        (seen.services.len().to_string(), "services"),
        (count.to_string(), "traced calls, 15 min"),
        (percent(count - failed), "answered well"),
        (percent(count - plaintext), "over mutual TLS"),
    ];
    page.push("<ul class=\"tiles\">");
    for (number, what) in tiles {
        page.push(format_args!("<li><b>{number}</b><small>{what}</small></li>"));
    }
    page.push("</ul>");
}

fn service_row(service: &ServiceSummary) -> String {
    let ready = if service.ready > 0 { "good" } else { "bad" };
    format!(
        "<tr><td>{}</td><td>{}</td><td><code>{}</code></td><td class=\"n\">{}</td><td class=\"n {ready}\">{}</td></tr>",
        service_link(&service.namespace, &service.name),
        Escaped(service.ports.join(", ")),
        Escaped(service.addresses.join(" ")),
        service.endpoints,
        service.ready,
    )
}

fn calls_table(page: &mut Page, heading: &str, mut calls: Vec<(&Edge, &Calls)>) {
    calls.sort_by_key(|(_, calls)| std::cmp::Reverse(calls.count));
    page.table(
        heading,
        &["From", "To", "#Traced calls", "#Answered well", "#p99", "TLS"],
        calls.into_iter().map(call_row),
        "None was traced in the last 15 minutes.",
    );
}

fn call_row(((from, to), calls): (&Edge, &Calls)) -> String {
    let linked = |name: &str| match name.split_once('/') {
        Some((namespace, name)) => service_link(namespace, name),
        None => Escaped(name).to_string(),
    };
    let class = if calls.failed > 0 { "n bad" } else { "n" };
    let tls = match calls.plaintext {
        0 => "mutual".to_owned(),
        plain => format!("<span class=\"warn\">{plain} in plaintext</span>"),
    };
    format!(
        "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"{class}\">{:.1} %</td><td class=\"n\">{}</td><td>{tls}</td></tr>",
        linked(from),
        linked(to),
        calls.count,
        calls.success() * 100.0,
        Millis(calls.p99()),
    )
}

/// What a service's page shows.
pub(super) struct Service<'a> {
    pub(super) name: &'a QualifiedName,
    /// None: it only calls.
    pub(super) summary: Option<&'a ServiceSummary>,
    pub(super) endpoints: &'a [Endpoint],
    /// `KIND NAMESPACE/NAME` and where it stands.
    pub(super) rules: &'a [(String, String)],
    pub(super) edges: &'a BTreeMap<Edge, Calls>,
    pub(super) traces: &'a [Summary],
    pub(super) revision: u64,
}

pub(super) fn service(seen: &Service<'_>) -> String {
    let mut page = Page::new(format!("Service {}", seen.name), Place::Overview, seen.revision).reloading();
    match seen.summary {
        Some(summary) => offer(&mut page, summary, seen.endpoints),
        None => _ = page.note("It offers no service; it calls others."),
    }
    let name = seen.name.to_string();
    let of = |end: fn(&Edge) -> &String| {
        seen.edges.iter().filter(|(edge, _)| *end(edge) == name).collect::<Vec<_>>()
    };
    calls_table(&mut page, "Callers", of(|(_, to)| to));
    calls_table(&mut page, "Calls", of(|(from, _)| from));
    page.table(
        "Rules in force",
        &["Document", "Stands in"],
        seen.rules.iter().map(|(key, place)| {
            format!("<tr><td>{}</td><td><code>{}</code></td></tr>", Escaped(key), Escaped(place))
        }),
        "No document is about it; what the mesh's defaults say holds.",
    );
    traces::table(&mut page, "Traces", seen.traces, traces::NONE);
    page.finish()
}

fn offer(page: &mut Page, summary: &ServiceSummary, endpoints: &[Endpoint]) {
    page.push(format_args!(
        "<p>Ports {}, addresses <code>{}</code>, {} of {} endpoints ready.</p>",
        Escaped(summary.ports.join(", ")),
        Escaped(summary.addresses.join(" ")),
        summary.ready,
        summary.endpoints
    ));
    page.table(
        "Endpoints",
        &["Workload", "Addresses", "Identity", "Zone", "#Weight", "Health"],
        endpoints.iter().map(endpoint_row),
        "Nobody offers it now: callers are answered 503 no-endpoints.",
    );
}

fn endpoint_row(endpoint: &Endpoint) -> String {
    let addresses: Vec<_> = endpoint.addresses.iter().map(ToString::to_string).collect();
    let (class, health) = if endpoint.healthy { ("good", "works") } else { ("bad", "fails its checks") };
    let identity = match &endpoint.identity {
        Some(identity) => format!("<code>{}</code>", Escaped(identity)),
        None => "<span class=\"warn\">none: plaintext</span>".to_owned(),
    };
    format!(
        "<tr><td>{}</td><td><code>{}</code></td><td>{identity}</td><td>{}</td><td class=\"n\">{}</td><td class=\"{class}\">{health}</td></tr>",
        Escaped(&endpoint.workload),
        Escaped(addresses.join(" ")),
        Escaped(&endpoint.zone),
        endpoint.weight,
    )
}
