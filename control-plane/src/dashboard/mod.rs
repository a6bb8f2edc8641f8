//! HTTP: liveness, readiness, metrics, and the dashboard: pages rendered here, whole without scripts.
//!
//! What runs and how it fares is shown to whoever reaches the port; how the mesh is configured, what it would do with a request and
//! what passes through it, to who has logged in. An operator can go back to a revision; nothing else can be changed here.

mod calls;
mod chart;
mod compare;
#[cfg(test)]
mod contrast;
mod explain;
#[cfg(test)]
mod hostile;
mod html;
mod identities;
mod login;
mod map;
mod overview;
mod policies;
mod service;
mod sidecars;
mod tap;
mod trace;
mod traces;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::Bytes;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    LOCATION, REFERRER_POLICY, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use weft_core::manifest::ResourceKey;
use weft_core::model::QualifiedName;
use weft_proto::v1;
use weft_runtime::drain::DrainWatch;
use weft_runtime::metrics::Format;

use crate::api::{AdminGate, AdminService};
use crate::configuration::ConfigurationError;
use crate::metrics::Metrics;
use crate::report::chain;
use crate::telemetry::{Errors, Filter};
use calls::Window;
use html::{Frame, Query};
use login::{Session, Sessions};
pub(crate) use tap::Body;

/// Traces on pages that are not about them.
const TRACES: usize = 20;
const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("live.js");
const ICON: &str = include_str!("icon.svg");
/// Nothing is loaded from elsewhere, and nothing is run but the file that refreshes.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
);
/// What browsers say of who sent them.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

type Answer = Response<Body>;

/// Answers on port 7080.
#[derive(Debug, Clone)]
pub(crate) struct Dashboard {
    admin: AdminService,
    gate: AdminGate,
    metrics: Arc<Metrics>,
    sessions: Arc<Sessions>,
    drain: DrainWatch,
}

impl Dashboard {
    pub(crate) fn new(
        admin: AdminService,
        gate: AdminGate,
        metrics: Arc<Metrics>,
        drain: DrainWatch,
    ) -> Self {
        Self { admin, gate, metrics, sessions: Arc::default(), drain }
    }

    /// Answers a request.
    pub(crate) async fn answer(self, request: Request<Bytes>) -> Answer {
        match *request.method() {
            Method::GET | Method::HEAD => self.show(&request).await,
            Method::POST => self.act(&request).await,
            _ => text(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST\n"),
        }
    }

    async fn show(&self, request: &Request<Bytes>) -> Answer {
        let query = Query::of(request.uri().query());
        let path = request.uri().path();
        match path {
            "/live" | "/ready" => return text(StatusCode::OK, "ok\n"),
            "/metrics" => return self.metrics(request.headers()),
            "/style.css" => return asset("text/css; charset=utf-8", STYLE),
            "/live.js" => return asset("text/javascript; charset=utf-8", SCRIPT),
            "/icon.svg" => return asset("image/svg+xml", ICON),
            _ => {}
        }
        let frame = self.frame(self.sessions.of(request.headers(), Instant::now()));
        match path {
            "/" => self.overview(&query, &frame).await,
            "/traces" => self.traces(&query, &frame).await,
            "/compare" => self.compare(&query, &frame).await,
            "/sidecars" => self.sidecars(&frame).await,
            "/identities" => self.identities(&query, &frame).await,
            "/login" => html(StatusCode::OK, login::page("/", None, &frame)),
            _ => match parts(path).as_slice() {
                ["traces", id] => self.trace(id, &query, &frame).await,
                ["services", namespace, name] => self.service(namespace, name, &query, &frame).await,
                ["policies" | "explain" | "tap", ..] => self.guarded(request, &query).await,
                _ => text(StatusCode::NOT_FOUND, "no such page\n"),
            },
        }
    }

    fn frame(&self, session: Option<Session>) -> Frame {
        Frame { revision: self.admin.world.revision(), session, missing: String::new() }
    }

    /// Pages for those alone who have logged in.
    async fn guarded(&self, request: &Request<Bytes>, query: &Query) -> Answer {
        let frame = match self.admitted(request.headers()).await {
            Ok(session) => self.frame(Some(session)),
            Err(reason) => {
                let asked = request.uri().path_and_query().map_or("/", |asked| asked.as_str());
                return html(
                    StatusCode::UNAUTHORIZED,
                    login::page(asked, reason.as_deref(), &self.frame(None)),
                );
            }
        };
        match parts(request.uri().path()).as_slice() {
            ["policies"] => self.policies(&frame).await,
            ["policies", "document"] => self.document(query, &frame).await,
            ["policies", revision] => match revision.parse() {
                Ok(revision) => self.changes(revision, &frame).await,
                Err(_) => text(StatusCode::NOT_FOUND, "no such revision\n"),
            },
            ["explain"] => self.explain(query, &frame).await,
            ["tap"] => self.tap(query, &frame).await,
            _ => text(StatusCode::NOT_FOUND, "no such page\n"),
        }
    }

    /// The session of a request, as long as its token is good; else why not, where there is one.
    async fn admitted(&self, headers: &HeaderMap) -> Result<Session, Option<String>> {
        let session = self.sessions.of(headers, Instant::now()).ok_or(None)?;
        match self.gate.still_admits(&session.of).await {
            Ok(()) => Ok(session),
            Err(reason) => Err(Some(reason)),
        }
    }

    /// What changes something: nothing that another site has sent.
    async fn act(&self, request: &Request<Bytes>) -> Answer {
        let form = Query::of(std::str::from_utf8(request.body()).ok());
        if request.headers().get(FETCH_SITE).is_some_and(|site| site != "same-origin" && site != "none") {
            return text(StatusCode::FORBIDDEN, "a form of another site changes nothing here\n");
        }
        if request.uri().path() == "/login" {
            return self.log_in(&form).await;
        }
        let session = match self.admitted(request.headers()).await {
            Ok(session) => session,
            Err(reason) => {
                let page = login::page("/", reason.as_deref(), &self.frame(None));
                return html(StatusCode::UNAUTHORIZED, page);
            }
        };
        let frame = self.frame(Some(session.clone()));
        if !session.gave(&form) {
            let reason = "The form is not one that this session was given: open the page anew.";
            return html(StatusCode::FORBIDDEN, policies::refused(reason, &frame));
        }
        match parts(request.uri().path()).as_slice() {
            ["logout"] => {
                self.sessions.end(request.headers());
                go("/")
            }
            ["policies", revision, "rollback"] => self.roll_back(revision, &form, &session, &frame).await,
            _ => text(StatusCode::NOT_FOUND, "no such page\n"),
        }
    }

    async fn log_in(&self, form: &Query) -> Answer {
        let then = login::ours(form.value("then"));
        let administrator = match self.gate.admit(form.value("token").trim()).await {
            Ok(administrator) => administrator,
            Err(reason) => {
                let page = login::page(then, Some(&reason), &self.frame(None));
                return html(StatusCode::UNAUTHORIZED, page);
            }
        };
        let cookie = self.sessions.begin(administrator, Instant::now());
        let Some(cookie) = cookie.and_then(|cookie| HeaderValue::try_from(cookie).ok()) else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "no session could be made\n");
        };
        let mut response = go(then);
        response.headers_mut().insert(SET_COOKIE, cookie);
        response
    }

    async fn roll_back(&self, revision: &str, form: &Query, session: &Session, frame: &Frame) -> Answer {
        let (Ok(revision), Ok(now)) = (revision.parse(), form.value("now").parse()) else {
            return text(StatusCode::BAD_REQUEST, "no such revision\n");
        };
        if !session.operates() {
            let reason = "A viewer looks on; an operator can roll back.";
            return html(StatusCode::FORBIDDEN, policies::refused(reason, frame));
        }
        let author = match &session.of.token {
            Some(token) => format!("dashboard, token {token}"),
            None => "dashboard".to_owned(),
        };
        match self.admin.configuration.rollback(revision, &author, Some(now)).await {
            Ok(done) => go(&format!("/policies/{}", done.revision)),
            Err(error) => html(status(&error), policies::refused(&chain(&error), frame)),
        }
    }

    fn metrics(&self, headers: &HeaderMap) -> Answer {
        let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok());
        let format = Format::negotiate(accept);
        typed(StatusCode::OK, format.content_type(), self.metrics.registry.render(format))
    }

    async fn overview(&self, query: &Query, frame: &Frame) -> Answer {
        let window = Window::of(query.value("window"), "1m");
        let sidecars = self.admin.registry.list();
        let errors = Filter { errors: Errors::Only, limit: TRACES, ..Filter::default() };
        let mut asking = self.admin.together.asking();
        let find = query.value("find").trim().to_ascii_lowercase();
        let seen = overview::Overview {
            services: &self.admin.service_summaries(),
            calls: &calls::counted(&self.admin, &mut asking, window).await,
            window,
            find: &find,
            sidecars: (sidecars.iter().filter(|sidecar| sidecar.connected).count(), sidecars.len()),
            errors: &self.admin.list_traces(&mut asking, &errors).await,
        };
        html(StatusCode::OK, overview::overview(&seen, &frame.lacking(asking.missing())))
    }

    async fn service(&self, namespace: &str, name: &str, query: &Query, frame: &Frame) -> Answer {
        let (Ok(namespace), Ok(name)) = (namespace.parse(), name.parse()) else {
            return text(StatusCode::NOT_FOUND, "no such service\n");
        };
        let window = Window::of(query.value("window"), "10m");
        let mut asking = self.admin.together.asking();
        let name = QualifiedName::new(namespace, name);
        match service::Service::find(&self.admin, &mut asking, name, window).await {
            Some(service) => html(StatusCode::OK, service.page(&frame.lacking(asking.missing()))),
            None => text(StatusCode::NOT_FOUND, "no such service\n"),
        }
    }

    async fn traces(&self, query: &Query, frame: &Frame) -> Answer {
        let (filter, wrong) = traces::filter(query, SystemTime::now());
        let mut asking = self.admin.together.asking();
        let found = self.admin.list_traces(&mut asking, &filter).await;
        html(StatusCode::OK, traces::list(query, &found, &wrong, &frame.lacking(asking.missing())))
    }

    async fn trace(&self, id: &str, query: &Query, frame: &Frame) -> Answer {
        let mut asking = self.admin.together.asking();
        let found = self.admin.find_trace(&mut asking, id).await;
        let frame = &frame.lacking(asking.missing());
        match found {
            Some((id, spans)) => {
                let from = query.value("from").parse().unwrap_or_default();
                html(StatusCode::OK, trace::waterfall(id, &spans, from, frame))
            }
            None => html(StatusCode::NOT_FOUND, trace::absent(id, frame)),
        }
    }

    async fn compare(&self, query: &Query, frame: &Frame) -> Answer {
        let ids: Vec<_> = query.values("id").collect();
        let (mut asking, mut found) = (self.admin.together.asking(), Vec::new());
        for id in ids.iter().take(2) {
            found.push(self.admin.find_trace(&mut asking, id).await);
        }
        let frame = &frame.lacking(asking.missing());
        match (ids.len(), found.as_slice()) {
            (2, [Some(first), Some(second)]) => html(StatusCode::OK, compare::page(first, second, frame)),
            (given, _) => {
                let unknown = ids.iter().zip(&found).filter(|(_, found)| found.is_none()).map(|(id, _)| *id);
                let unknown: Vec<_> = unknown.collect();
                let status = if unknown.is_empty() { StatusCode::OK } else { StatusCode::NOT_FOUND };
                html(status, compare::asks(given, &unknown, frame))
            }
        }
    }

    async fn sidecars(&self, frame: &Frame) -> Answer {
        let all = v1::StatusRequest { all_namespaces: true, ..v1::StatusRequest::default() };
        let status = self.admin.status(all).await.unwrap_or_default();
        let frame = Frame { missing: status.missing.clone(), ..frame.clone() };
        html(StatusCode::OK, sidecars::page(&status, &frame))
    }

    async fn identities(&self, query: &Query, frame: &Frame) -> Answer {
        let authority = self.admin.ca_status(v1::CaStatusRequest {}).await.unwrap_or_default();
        let now = SystemTime::now();
        let certificates = self.admin.ca.valid_certificates(now);
        html(StatusCode::OK, identities::page(&certificates, &authority, query, now, frame))
    }

    async fn policies(&self, frame: &Frame) -> Answer {
        match self.admin.configuration.history(None).await {
            Ok(revisions) => {
                let documents: Vec<_> =
                    self.admin.world.read(|known| known.resources().map(policies::Listed::of).collect());
                html(StatusCode::OK, policies::history(&revisions, &documents, frame))
            }
            Err(error) => html(status(&error), policies::refused(&chain(&error), frame)),
        }
    }

    async fn document(&self, query: &Query, frame: &Frame) -> Answer {
        let [kind, namespace, name] = ["kind", "namespace", "name"].map(|part| query.value(part));
        let found = crate::api::key(kind, namespace, name).ok();
        let find = |key: &ResourceKey| self.admin.world.read(|known| known.resource(key).cloned());
        let Some((key, resource)) = found.and_then(|key| find(&key).map(|resource| (key, resource))) else {
            let page = policies::refused("There is no such document in force.", frame);
            return html(StatusCode::NOT_FOUND, page);
        };
        match self.admin.configuration.history(Some(&key)).await {
            Ok(revisions) => html(StatusCode::OK, policies::document(&resource, &revisions, frame)),
            Err(error) => html(status(&error), policies::refused(&chain(&error), frame)),
        }
    }

    async fn changes(&self, revision: u64, frame: &Frame) -> Answer {
        // First what names the revision that was asked for, where there is none.
        let back = self.admin.configuration.changes(frame.revision, revision).await;
        let changes = self.admin.configuration.changes(revision.saturating_sub(1), revision).await;
        match (back, changes) {
            (Ok(back), Ok(changes)) => {
                let home = self.admin.configuration.home();
                html(StatusCode::OK, policies::changes(revision, &changes, (&back, home), frame))
            }
            (Err(error), _) | (_, Err(error)) => {
                html(status(&error), policies::refused(&chain(&error), frame))
            }
        }
    }

    async fn explain(&self, query: &Query, frame: &Frame) -> Answer {
        let told = match explain::question(query) {
            Some(question) => {
                Some(self.admin.explain(question).await.map_err(|status| status.message().to_owned()))
            }
            None => None,
        };
        html(StatusCode::OK, explain::page(query, told, frame))
    }

    async fn tap(&self, query: &Query, frame: &Frame) -> Answer {
        let names = self.admin.world.read(|known| known.service_names());
        let names: Vec<_> = names.iter().map(|it| format!("{}.{}", it.name, it.namespace)).collect();
        let Some(request) = tap::request(query) else {
            return html(StatusCode::OK, tap::form(query, &names, None, frame));
        };
        match self.admin.tap(request).await {
            Ok(watching) => {
                let begin = tap::begin(query, &names, frame);
                let passing = tap::Passing::new(begin, watching, self.drain.clone());
                page(StatusCode::OK, Body::Passing(Box::new(passing)))
            }
            Err(status) => {
                html(StatusCode::BAD_REQUEST, tap::form(query, &names, Some(status.message()), frame))
            }
        }
    }
}

fn parts(path: &str) -> Vec<&str> {
    path.strip_prefix('/').map(|rest| rest.split('/').collect()).unwrap_or_default()
}

fn status(error: &ConfigurationError) -> StatusCode {
    match error {
        ConfigurationError::Absent(_) | ConfigurationError::NoRevision(_) => StatusCode::NOT_FOUND,
        ConfigurationError::InConfigDir { .. }
        | ConfigurationError::InKubernetes(_)
        | ConfigurationError::Outdated { .. }
        | ConfigurationError::Forgotten(_)
        | ConfigurationError::Unreadable { .. } => StatusCode::CONFLICT,
        ConfigurationError::Store(_) | ConfigurationError::NotReadYet => StatusCode::SERVICE_UNAVAILABLE,
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    weft_runtime::http::text(status, body).map(Body::from)
}

fn typed(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Answer {
    weft_runtime::http::typed(status, media_type, body).map(Body::from)
}

fn asset(media_type: &'static str, body: &'static str) -> Answer {
    let mut response = typed(StatusCode::OK, media_type, body);
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("max-age=300"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Opened by itself an image may not run anything either.
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'"));
    response
}

fn html(status: StatusCode, text: String) -> Answer {
    page(status, Body::from(Full::from(text)))
}

fn page(status: StatusCode, body: Body) -> Answer {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn go(to: &str) -> Answer {
    let mut response = text(StatusCode::SEE_OTHER, "");
    if let Ok(to) = HeaderValue::from_str(to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}
