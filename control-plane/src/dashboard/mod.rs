//! HTTP: liveness, readiness, metrics, and the dashboard: pages rendered here, without scripts.
//!
//! What runs and how it fares is shown to whoever reaches the port; how the mesh is configured, and what it would do with a
//! request, to who has logged in. Nothing can be changed here.

mod calls;
mod configuration;
mod explain;
mod html;
mod login;
mod map;
mod overview;
mod sidecars;
mod traces;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, HeaderValue, LOCATION, REFERRER_POLICY, SET_COOKIE,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use weft_core::manifest::{Resource, Spec};
use weft_core::model::{PolicyTarget, QualifiedName};
use weft_core::world::World;
use weft_core::{attachment, compile};
use weft_proto::v1;
use weft_runtime::http::{text, typed};
use weft_runtime::metrics::Format;

use crate::api::{AdminGate, AdminService};
use crate::metrics::Metrics;
use crate::telemetry::{Errors, Filter};
use html::Query;
use login::Sessions;

/// Traces on pages that are not about them.
const TRACES: usize = 20;
const STYLE: &str = include_str!("style.css");
/// Nothing is loaded from elsewhere, nothing is run.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);

type Answer = Response<Full<Bytes>>;

/// Answers on port 7080.
#[derive(Debug, Clone)]
pub(crate) struct Dashboard {
    admin: AdminService,
    gate: AdminGate,
    metrics: Arc<Metrics>,
    sessions: Arc<Sessions>,
}

impl Dashboard {
    pub(crate) fn new(admin: AdminService, gate: AdminGate, metrics: Arc<Metrics>) -> Self {
        Self { admin, gate, metrics, sessions: Arc::default() }
    }

    /// Answers a request.
    pub(crate) async fn answer(self, request: Request<Bytes>) -> Answer {
        let path = request.uri().path();
        match *request.method() {
            Method::GET | Method::HEAD => {}
            Method::POST if path == "/login" => return self.log_in(request.body()).await,
            _ => return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n"),
        }
        let query = Query::of(request.uri().query());
        match path {
            "/live" | "/ready" => text(StatusCode::OK, "ok\n"),
            "/metrics" => {
                let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok());
                let format = Format::negotiate(accept);
                typed(StatusCode::OK, format.content_type(), self.metrics.registry.render(format))
            }
            "/style.css" => style(),
            "/" => self.overview(),
            "/traces" => self.traces(&query),
            "/sidecars" => self.sidecars().await,
            "/login" => html(StatusCode::OK, login::page("/", None, self.revision())),
            _ => match path.split_once('/').map(|(_, rest)| rest.split('/').collect::<Vec<_>>()).as_deref() {
                Some(["traces", id]) => self.trace(id),
                Some(["services", namespace, name]) => self.service(namespace, name),
                Some(["configuration" | "explain", ..]) => self.guarded(&request, &query).await,
                _ => text(StatusCode::NOT_FOUND, "no such page\n"),
            },
        }
    }

    fn revision(&self) -> u64 {
        self.admin.world.revision()
    }

    /// Pages for those alone who have logged in.
    async fn guarded(&self, request: &Request<Bytes>, query: &Query) -> Answer {
        let refused = match self.sessions.holder(request.headers(), Instant::now()) {
            None => Some(None),
            Some(administrator) => self.gate.still_admits(&administrator).await.err().map(Some),
        };
        if let Some(reason) = refused {
            let asked = request.uri().path_and_query().map_or("/", |asked| asked.as_str());
            return html(StatusCode::UNAUTHORIZED, login::page(asked, reason.as_deref(), self.revision()));
        }
        match request.uri().path() {
            "/configuration" => self.configuration().await,
            "/explain" => self.explain(query).await,
            path => match path.strip_prefix("/configuration/").map(str::parse) {
                Some(Ok(revision)) => self.changes(revision).await,
                _ => text(StatusCode::NOT_FOUND, "no such page\n"),
            },
        }
    }

    async fn log_in(&self, form: &Bytes) -> Answer {
        let form = Query::of(std::str::from_utf8(form).ok());
        let then = login::ours(form.value("then"));
        let administrator = match self.gate.admit(form.value("token").trim()).await {
            Ok(administrator) => administrator,
            Err(reason) => {
                return html(StatusCode::UNAUTHORIZED, login::page(then, Some(&reason), self.revision()));
            }
        };
        let cookie = self
            .sessions
            .begin(administrator, Instant::now())
            .and_then(|cookie| HeaderValue::try_from(cookie).ok());
        let (Some(cookie), Ok(then)) = (cookie, HeaderValue::from_str(then)) else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "no session could be made\n");
        };
        let mut response = text(StatusCode::SEE_OTHER, "");
        response.headers_mut().insert(LOCATION, then);
        response.headers_mut().insert(SET_COOKIE, cookie);
        response
    }

    fn overview(&self) -> Answer {
        let services = self.admin.service_summaries();
        let sidecars = self.admin.registry.list();
        let errors = Filter { errors: Errors::Only, limit: TRACES, ..Filter::default() };
        html(
            StatusCode::OK,
            overview::overview(&overview::Overview {
                services: &services,
                edges: &self.edges(),
                sidecars: (sidecars.iter().filter(|sidecar| sidecar.connected).count(), sidecars.len()),
                errors: &self.admin.telemetry.traces().list(&errors),
                revision: self.revision(),
            }),
        )
    }

    fn edges(&self) -> BTreeMap<calls::Edge, calls::Calls> {
        let (mut edges, now) = (BTreeMap::new(), SystemTime::now());
        self.admin.telemetry.traces().each(|spans| calls::add(&mut edges, spans, now));
        edges
    }

    fn service(&self, namespace: &str, name: &str) -> Answer {
        let (Ok(namespace), Ok(name)) = (namespace.parse(), name.parse()) else {
            return text(StatusCode::NOT_FOUND, "no such service\n");
        };
        let name = QualifiedName::new(namespace, name);
        let is_it = |summary: &v1::ServiceSummary| {
            summary.namespace == name.namespace.as_str() && summary.name == name.name.as_str()
        };
        let summary = self.admin.service_summaries().into_iter().find(is_it);
        let (edges, full) = (self.edges(), name.to_string());
        if summary.is_none() && !edges.keys().any(|(from, to)| *from == full || *to == full) {
            return text(StatusCode::NOT_FOUND, "no such service\n");
        }
        let (endpoints, rules) = self
            .admin
            .world
            .read(|known| (compile::endpoints(known, &name).unwrap_or_default(), rules(known, &name)));
        let about = Filter { service: Some(name.name.to_string()), limit: TRACES, ..Filter::default() };
        html(
            StatusCode::OK,
            overview::service(&overview::Service {
                name: &name,
                summary: summary.as_ref(),
                endpoints: &endpoints,
                rules: &rules,
                edges: &edges,
                traces: &self.admin.telemetry.traces().list(&about),
                revision: self.revision(),
            }),
        )
    }

    fn traces(&self, query: &Query) -> Answer {
        let found = self.admin.telemetry.traces().list(&traces::filter(query));
        html(StatusCode::OK, traces::list(query, &found, self.revision()))
    }

    fn trace(&self, id: &str) -> Answer {
        match self.admin.telemetry.traces().find(id) {
            Some((id, spans)) => html(StatusCode::OK, traces::waterfall(id, &spans, self.revision())),
            None => html(StatusCode::NOT_FOUND, traces::absent(id, self.revision())),
        }
    }

    async fn sidecars(&self) -> Answer {
        let all = v1::StatusRequest { all_namespaces: true, ..v1::StatusRequest::default() };
        let status = self.admin.status(all).await.unwrap_or_default();
        let all = v1::IdentitiesRequest { all_namespaces: true, ..v1::IdentitiesRequest::default() };
        let identities = self.admin.identities(all).await.unwrap_or_default().identities;
        html(StatusCode::OK, sidecars::page(&status, &identities))
    }

    async fn configuration(&self) -> Answer {
        match self.admin.configuration.history(None).await {
            Ok(revisions) => {
                let place = |resource: &Resource| (resource.key().to_string(), resource.place(""));
                let documents: Vec<_> = self.admin.world.read(|known| known.resources().map(place).collect());
                html(StatusCode::OK, configuration::history(&revisions, &documents, self.revision()))
            }
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
        }
    }

    async fn changes(&self, revision: u64) -> Answer {
        match self.admin.configuration.changes(revision.saturating_sub(1), revision).await {
            Ok(changes) => html(StatusCode::OK, configuration::changes(revision, &changes, self.revision())),
            Err(error) => text(StatusCode::NOT_FOUND, format!("{error}\n")),
        }
    }

    async fn explain(&self, query: &Query) -> Answer {
        let told = match explain::question(query) {
            Some(question) => {
                Some(self.admin.explain(question).await.map_err(|status| status.message().to_owned()))
            }
            None => None,
        };
        html(StatusCode::OK, explain::page(query, told, self.revision()))
    }
}

/// The documents that are about a service, and where each stands.
fn rules(known: &World, service: &QualifiedName) -> Vec<(String, String)> {
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
    inbound
        .chain(known.policies(service))
        .map(|resource| (resource.key().to_string(), resource.place("")))
        .collect()
}

fn style() -> Answer {
    let mut response = typed(StatusCode::OK, "text/css; charset=utf-8", STYLE);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    response
}

fn html(status: StatusCode, page: String) -> Answer {
    let mut response = typed(status, "text/html; charset=utf-8", page);
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
