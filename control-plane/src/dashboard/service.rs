//! A service's page: how it fares over time, by route and by caller, who answers for it, and what is decided about its calls.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_core::manifest::{Resource, Spec};
use weft_core::model::{Endpoint, PolicyTarget, QualifiedName};
use weft_core::world::World;
use weft_core::{attachment, compile};
use weft_proto::v1::{Circuit, ServiceSummary};

use super::calls::{self, Calls, Window};
use super::chart::{Chart, Line};
use super::html::{Escaped, Frame, Ms, Page, Percent, Place, Rate, encoded};
use super::{map, overview, policies, traces};
use crate::api::AdminService;
use crate::telemetry::{By, Errors, Filter, Summary, Tally};
use crate::together::Asking;

/// Traces on the page.
const TRACES: usize = 10;

/// What the page shows.
pub(super) struct Service {
    name: QualifiedName,
    window: Window,
    /// None: it only calls.
    summary: Option<ServiceSummary>,
    endpoints: Vec<Endpoint>,
    course: Vec<Option<Tally>>,
    routes: BTreeMap<String, Tally>,
    calls: Calls,
    /// `KIND NAMESPACE/NAME`, the link to it and where it stands.
    rules: Vec<policies::Listed>,
    errors: Vec<Summary>,
    traces: Vec<Summary>,
}

impl Service {
    /// What is known of a service; none where there is no such service and nobody of that name calls.
    pub(super) async fn find(
        admin: &AdminService,
        asking: &mut Asking<'_>,
        name: QualifiedName,
        window: Window,
    ) -> Option<Self> {
        let is_it = |summary: &ServiceSummary| {
            summary.namespace == name.namespace.as_str() && summary.name == name.name.as_str()
        };
        let summary = admin.service_summaries().into_iter().find(is_it);
        let calls = calls::counted(admin, asking, window).await.around(&name.to_string());
        if summary.is_none() && calls.edges.is_empty() {
            return None;
        }
        let (endpoints, rules) = admin
            .world
            .read(|known| (compile::endpoints(known, &name).unwrap_or_default(), rules(known, &name)));
        let routes = admin.counted(asking, window.lasts, By::Route).await.sums;
        let routes = routes.into_iter().filter(|(of, _)| *of.service == name.to_string());
        let route = |route: &str| if route.is_empty() { "none".to_owned() } else { route.to_owned() };
        let about = Filter { service: Some(name.name.to_string()), limit: TRACES, ..Filter::default() };
        let failed = Filter { errors: Errors::Only, ..about.clone() };
        Some(Self {
            summary,
            endpoints,
            course: admin.course(asking, &name, window.lasts, window.step).await,
            routes: routes.map(|(of, tally)| (route(&of.route), tally)).collect(),
            calls,
            rules,
            errors: admin.list_traces(asking, &failed).await,
            traces: admin.list_traces(asking, &about).await,
            name,
            window,
        })
    }

    pub(super) fn page(&self, frame: &Frame) -> String {
        let mut page = Page::new(format!("Service {}", self.name), Place::Map, frame).live();
        let name = self.name.to_string();
        let path = format!(
            "/services/{}/{}",
            encoded(self.name.namespace.as_str()),
            encoded(self.name.name.as_str())
        );
        page.push(self.window.choice(&path));
        match &self.summary {
            Some(summary) => self.offer(&mut page, summary),
            None => _ = page.note("It offers no service; it calls others."),
        }
        page.heading("Who calls it, and whom it calls");
        if !self.calls.edges.is_empty() {
            page.push(map::draw(&self.calls));
        }
        overview::table(&mut page, "Callers", &self.calls, |(_, to)| *to == name);
        overview::table(&mut page, "Calls", &self.calls, |(from, _)| *from == name);
        if self.summary.is_some() {
            overview::by_name(&mut page, "Routes", "Route", &self.routes, &self.calls);
            self.endpoints(&mut page);
        }
        policies::table(
            &mut page,
            "Policies in force",
            &self.rules,
            "No document is about it; what the mesh's defaults say holds.",
        );
        traces::table(&mut page, "Recent errors", &self.errors, "None in the traces that are kept.");
        traces::table(&mut page, "Traces", &self.traces, traces::NONE);
        page.finish()
    }

    fn offer(&self, page: &mut Page, summary: &ServiceSummary) {
        page.push(format_args!(
            "<p>Ports {}, addresses <code>{}</code>, {} of {} endpoints ready. <a href=\"/tap?service={}\">Look at its requests</a></p>",
            Escaped(summary.ports.join(", ")),
            Escaped(summary.addresses.join(" ")),
            summary.ready,
            summary.endpoints,
            encoded(&format!("{}.{}", self.name.name, self.name.namespace)),
        ));
        page.push("<div class=\"charts\">");
        charts(&self.course, self.window).iter().for_each(|chart| _ = page.push(chart.draw()));
        page.push("</div>");
    }

    fn endpoints(&self, page: &mut Page) {
        page.table(
            "Endpoints",
            &["Workload", "Addresses", "Identity", "Zone", "#Weight", "Health", "Circuit breakers"],
            self.endpoints.iter().map(|endpoint| endpoint_row(endpoint, &self.calls.circuits)),
            "Nobody offers it now: callers are answered 503 no-endpoints.",
        );
        circuits(page, &self.calls.circuits);
    }
}

/// What is not closed: of which endpoint, and whose.
pub(super) fn circuits(page: &mut Page, circuits: &[(Arc<str>, Circuit)]) {
    let row = |(caller, circuit): &(Arc<str>, Circuit)| {
        let of = if circuit.endpoint.is_empty() { "the service as a whole" } else { &circuit.endpoint };
        format!(
            "<tr><td>{}</td><td class=\"bad\">{}</td><td>{}</td></tr>",
            Escaped(of),
            state(circuit),
            Escaped(caller)
        )
    };
    page.table(
        "Circuit breakers that are not closed",
        &["Of", "State", "At the sidecar of"],
        circuits.iter().map(row),
        "All are closed.",
    );
}

fn charts(course: &[Option<Tally>], window: Window) -> [Chart<'static>; 3] {
    let line = |name, class, value: &dyn Fn(&Tally) -> Option<f64>| Line {
        name,
        class,
        points: course.iter().map(|point| point.as_ref().and_then(value)).collect(),
    };
    let asked = |tally: &Tally, value: f64| (tally.requests() > 0).then_some(value);
    let quantile = |share: f64| move |tally: &Tally| asked(tally, tally.quantile_ms(share));
    let all = |tally: &Tally| Some(tally.rps(window.step));
    let failed = |tally: &Tally| Some(tally.rps(window.step) * (1.0 - tally.success_rate()));
    let lasts = window.lasts;
    [
        Chart {
            title: "Requests a second",
            lines: vec![line("all", "l0", &all), line("failed", "failed", &failed)],
            show: |value| Rate(value).to_string(),
            scale: (0.0, f64::MAX),
            lasts,
        },
        Chart {
            title: "Succeeded",
            lines: vec![line("of all", "l0", &|tally| asked(tally, tally.success_rate()))],
            show: |value| Percent(value).to_string(),
            scale: (1.0, 1.0),
            lasts,
        },
        Chart {
            title: "Time until answered",
            lines: vec![
                line("p50", "l0", &quantile(0.5)),
                line("p95", "l1", &quantile(0.95)),
                line("p99", "l2", &quantile(0.99)),
            ],
            show: |value| Ms(value).to_string(),
            scale: (0.0, f64::MAX),
            lasts,
        },
    ]
}

fn endpoint_row(endpoint: &Endpoint, circuits: &[(Arc<str>, Circuit)]) -> String {
    let addresses: Vec<_> = endpoint.addresses.iter().map(ToString::to_string).collect();
    let (class, health) = if endpoint.healthy { ("good", "works") } else { ("bad", "fails its checks") };
    let identity = match &endpoint.identity {
        Some(identity) => format!("<code>{}</code>", Escaped(identity)),
        None => "<span class=\"warn\">none: plaintext</span>".to_owned(),
    };
    let workload = endpoint.workload.to_string();
    let open = circuits.iter().filter(|(_, circuit)| circuit.endpoint == workload);
    let open: Vec<_> = open
        .map(|(caller, circuit)| {
            format!("<span class=\"bad\">{} at {}</span>", state(circuit), Escaped(caller))
        })
        .collect();
    let breakers = if open.is_empty() { "closed".to_owned() } else { open.join("<br>") };
    format!(
        "<tr><td>{}</td><td><code>{}</code></td><td>{identity}</td><td>{}</td><td class=\"n\">{}</td><td class=\"{class}\">{health}</td><td>{breakers}</td></tr>",
        Escaped(&endpoint.workload),
        Escaped(addresses.join(" ")),
        Escaped(&endpoint.zone),
        endpoint.weight,
    )
}

fn state(circuit: &Circuit) -> &'static str {
    if circuit.half_open { "half open" } else { "open" }
}

/// The documents that are about a service.
fn rules(known: &World, service: &QualifiedName) -> Vec<policies::Listed> {
    let concerns = |resource: &&Resource| match (&resource.spec, resource.target()) {
        (Spec::Route(_), _) => {
            attachment::status(known, resource).iter().any(|s| s.parent.service == *service)
        }
        (Spec::Service(_) | Spec::ExternalService(_), _) => {
            resource.qualified_name().as_ref() == Some(service)
        }
        (_, Some(PolicyTarget::Mesh)) => true,
        (_, Some(PolicyTarget::Namespace(namespace))) => *namespace == service.namespace,
        (_, Some(PolicyTarget::Service(name))) => name == service,
        _ => false,
    };
    let inbound = known.resources().filter(concerns);
    inbound.chain(known.policies(service)).map(policies::Listed::of).collect()
}
