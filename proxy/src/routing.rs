//! Stage 4, route: which of a service's rules a request or a connection falls under, where it goes and what becomes of it
//! on the way. What is decided, [`weft_core::route`] decides.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, HeaderName, HeaderValue,
    LOCATION, ORIGIN,
};
use http::{Method, Response, StatusCode};
use weft_core::fault::Injected;
use weft_core::host::Host;
use weft_core::model::{
    BackendTarget, ClaimName, Cors, FieldEdits, Filters, HttpMatch, HttpRule, Name, QualifiedName, Ratio,
    Redirect, Route, RouteRules, Service, TokenPolicy,
};
use weft_core::path::Path;
use weft_core::route::{
    Called, Hit, Preflight, Request, Requests, Routes, Rule, Split, Table, edit_path, location,
};

use crate::affinity::{Staying, backend_id};
use crate::failure::ErrorCode;
use crate::http::Exchange;
use crate::http::head::{Fields, Head, Value};
use crate::mirror::Mirrored;
use crate::session::Answer;
use crate::state::Snapshot;
use crate::tokens;
use crate::upstream::{Cluster, Source, inject};
use crate::worker::Worker;

/// A service's rules as they hold for our app, made ready when they arrive.
#[derive(Debug, Clone, Default)]
pub struct Routing(Arc<Ready>);

#[derive(Debug, Default)]
struct Ready {
    routes: Routes,
    /// Every field that some rule looks at or changes, sorted.
    fields: Vec<HeaderName>,
    /// By whose keys tokens are proved, where rules ask for claims.
    tokens: Option<Arc<TokenPolicy>>,
    /// Whether a policy for one of the routes says of how many requests there are traces.
    may_sample: bool,
}

impl Routing {
    /// The rules of a service for callers in our namespace. Where that is not known yet, the service's own hold.
    pub fn compile(service: &Service, namespace: Option<&Name>) -> Self {
        let caller = namespace.unwrap_or(&service.name.namespace);
        Self::of(&service.name, &service.routes, caller, service.tokens.clone())
    }

    /// A service's own rules, by which its sidecar tells requests apart that come without a decision about their trace. What is asked of
    /// claims fits none of them.
    pub fn inbound(service: &QualifiedName, routes: &[Route]) -> Self {
        Self::of(service, routes, &service.namespace, None)
    }

    fn of(
        service: &QualifiedName,
        routes: &[Route],
        caller: &Name,
        tokens: Option<Arc<TokenPolicy>>,
    ) -> Self {
        let mut fields: Vec<HeaderName> = routes.iter().flat_map(|r| field_names(&r.rules)).collect();
        fields.sort_by(|left, right| left.as_str().cmp(right.as_str()));
        fields.dedup();
        let samples = |route: &Route| route.traffic.as_ref().is_some_and(|said| said.sampling.is_some());
        let may_sample = routes.iter().any(samples);
        let routes = Routes::compile(service, routes, caller);
        Self(Arc::new(Ready { routes, fields, tokens, may_sample }))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.routes.is_empty()
    }

    /// Whether a policy for one of the routes says of how many requests there are traces.
    pub fn may_sample(&self) -> bool {
        self.0.may_sample
    }

    fn field(&self, name: &str) -> Option<&HeaderName> {
        let found = self.0.fields.binary_search_by(|field| field.as_str().cmp(name)).ok()?;
        self.0.fields.get(found)
    }

    fn edit(&self, edits: &FieldEdits, fields: &mut impl Fields) {
        for (name, value) in &edits.set {
            if let Some(name) = self.field(name.as_str()) {
                fields.set(name, Value::Once(value.as_str().as_bytes()));
            }
        }
        for (name, value) in &edits.add {
            if let Some(name) = self.field(name.as_str()) {
                fields.append(name, Value::Once(value.as_str().as_bytes()));
            }
        }
        for name in &edits.remove {
            if let Some(name) = self.field(name.as_str()) {
                fields.remove(name);
            }
        }
    }
}

fn field_names(rules: &RouteRules) -> Vec<HeaderName> {
    let (RouteRules::Http(rules) | RouteRules::Grpc(rules)) = rules else { return Vec::new() };
    let edited = |edits: &FieldEdits| -> Vec<_> {
        let pairs = edits.set.iter().chain(&edits.add).map(|(name, _)| name);
        pairs.chain(&edits.remove).cloned().collect()
    };
    let filtered = |filters: &Filters| [edited(&filters.request), edited(&filters.response)].concat();
    let matched =
        |wanted: &HttpMatch| wanted.headers.iter().map(|field| field.name.clone()).collect::<Vec<_>>();
    let of_rule = |rule: &HttpRule| {
        let backends = rule.backends.iter().flat_map(|backend| filtered(&backend.filters));
        let own = filtered(&rule.filters).into_iter().chain(rule.matches.iter().flat_map(matched));
        own.chain(backends).collect::<Vec<_>>()
    };
    let names = rules.iter().flat_map(of_rule);
    names.filter_map(|name| HeaderName::from_bytes(name.as_str().as_bytes()).ok()).collect()
}

/// The rule that a request falls under, and what is left to do by it.
#[derive(Debug)]
pub struct Routed {
    /// Whose rule it is.
    service: Rc<Cluster>,
    routing: Routing,
    rule: Arc<Rule>,
    backend: Option<usize>,
    mirrors: Vec<Rc<Cluster>>,
    /// The page's origin that the caller named, where the rule says which may call.
    origin: Option<Box<[u8]>>,
}

impl Routed {
    /// The rule.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The rule as it is now; what is gone stays as it was.
    pub fn current(&self) -> Arc<Rule> {
        let routing = self.service.routing();
        let current = routing.as_ref().and_then(|(routing, port)| match routing.0.routes.on(*port) {
            Table::Requests(requests) => requests.same(&self.rule),
            Table::None | Table::Tls(_) | Table::Tcp(_) => None,
        });
        Arc::clone(current.unwrap_or(&self.rule))
    }

    /// Changes whenever the rule may have.
    pub fn version(&self) -> u64 {
        self.service.version()
    }

    /// As metrics and spans name it.
    pub fn name(&self) -> &Arc<str> {
        &self.rule.label
    }

    /// Who is to get copies, told once.
    pub fn take_mirrors(&mut self) -> Vec<Rc<Cluster>> {
        std::mem::take(&mut self.mirrors)
    }

    /// Makes of a response's fields what the rule says.
    pub fn amend_response(&self, fields: &mut impl Fields) {
        self.routing.edit(&self.rule.filters.response, fields);
        if let Some(backend) = self.backend.and_then(|index| self.rule.split.backends().get(index)) {
            self.routing.edit(&backend.filters.response, fields);
        }
        if let (Some(cors), Some(origin)) = (&self.rule.filters.cors, &self.origin) {
            for (name, value) in cors.response(origin) {
                let name = HeaderName::from_static(name);
                // Of what caches must know there may be more already; the rest only the mesh says.
                if name == http::header::VARY {
                    fields.append(&name, Value::Once(&value));
                } else {
                    fields.set(&name, Value::Once(&value));
                }
            }
        }
    }
}

/// Where a connection goes to a service whose routes share connections out; none: its routes do not.
pub fn by_weight(worker: &Worker, cluster: &Cluster) -> Option<Result<Rc<Cluster>, ErrorCode>> {
    let (routing, port) = cluster.routing()?;
    let Table::Tcp(rule) = routing.0.routes.on(port) else { return None };
    Some(draw(worker, &rule.split).map(|(_, cluster)| cluster))
}

/// Where a connection of TLS goes to a service whose routes choose by the server name; none: it is no such service.
pub fn by_server_name(
    worker: &Worker,
    cluster: &Cluster,
    server_name: Option<&str>,
) -> Option<Result<Rc<Cluster>, ErrorCode>> {
    let (routing, port) = cluster.routing()?;
    let Table::Tls(connections) = routing.0.routes.on(port) else { return None };
    let rule = connections.find(server_name).ok_or(ErrorCode::NoRoute);
    Some(rule.and_then(|rule| draw(worker, &rule.split).map(|(_, cluster)| cluster)))
}

/// Rules on a request to a service: where it goes and what its route is to be tried with, or what it is answered instead.
/// Its head becomes what the rule says.
pub fn request(
    worker: &Worker,
    cluster: &Rc<Cluster>,
    head: &mut impl Head,
    exchange: &mut Exchange,
) -> Result<(Rc<Cluster>, Injected), Answer> {
    let unrouted = || Ok((Rc::clone(cluster), Injected::default()));
    let Some((routing, port)) = cluster.routing() else { return unrouted() };
    let Table::Requests(requests) = routing.0.routes.on(port) else { return unrouted() };
    let found = find(worker, &routing, requests, head)?;
    let Found { hit, origin, path } = found.ok_or(ErrorCode::NoRoute)?;
    let rule = Arc::clone(hit.rule);
    let called = Called {
        host: &Host::parse(head.authority().as_bytes()).map(|h| h.name().to_owned()).unwrap_or_default(),
        port,
        path: &path.forwarded,
        matched: path.matched.as_bytes(),
        query: path.query.as_deref(),
    };
    let routed = |backend: Option<usize>| Routed {
        service: Rc::clone(cluster),
        routing: routing.clone(),
        rule: Arc::clone(&rule),
        backend,
        mirrors: backend.map(|index| mirrors(worker, &rule, index)).unwrap_or_default(),
        origin: origin.clone(),
    };
    if let Some(answer) = preflight(&rule, head, origin.as_deref()) {
        // What may be said of it has been said.
        exchange.routed(Routed { origin: None, ..routed(None) });
        return Err(answer);
    }
    if let Some(redirect) = &rule.filters.redirect {
        exchange.routed(routed(None));
        return Err(redirected(redirect, &called, &hit));
    }
    let staying = Staying::of(&rule, head.fields());
    let drawn = draw_again(worker, &rule.split, staying.as_ref());
    exchange.routed(routed(drawn.as_ref().ok().map(|(index, _)| *index)));
    let (index, to) = drawn?;
    let faults = rule.traffic.as_ref().map_or(&[][..], |traffic| &traffic.faults);
    let injected =
        if faults.is_empty() { Injected::default() } else { inject(faults, &[], head.fields(), worker) };
    let backend = rule.split.backends().get(index);
    if let (Some(staying), Some(backend)) = (staying, backend) {
        exchange.stays(staying.goes_to(backend_id(&backend.target)));
    }
    let filters = [Some(&rule.filters), backend.map(|backend| &backend.filters)];
    for filters in filters.into_iter().flatten() {
        routing.edit(&filters.request, head.fields_mut());
    }
    for rewrite in filters.into_iter().flatten().filter_map(|filters| filters.rewrite.as_ref()) {
        if let Some(host) = &rewrite.host {
            head.set_host(host.as_str());
        }
        // What has no path keeps none.
        if let Some(edit) = rewrite.path.as_ref().filter(|_| !called.path.is_empty()) {
            let mut target = edit_path(edit, &called, hit.prefix).into_owned();
            if let Some(query) = called.query {
                target.push(b'?');
                target.extend_from_slice(query);
            }
            head.set_target(&target)?;
        }
    }
    Ok((to, injected))
}

/// Of how many requests like this one there are traces, where the rule that it falls under says so.
pub fn sampling(worker: &Worker, routing: &Routing, head: &impl Head) -> Option<Ratio> {
    // They are of one port, and name none.
    let Table::Requests(requests) = routing.0.routes.on(0) else { return None };
    let found = find(worker, routing, requests, head).ok()??;
    found.hit.rule.traffic.as_ref()?.sampling
}

/// A rule that fits, and what of the request is needed to carry it out.
struct Found<'t> {
    hit: Hit<'t>,
    origin: Option<Box<[u8]>>,
    path: Spelt,
}

/// A path's forms, by themselves: the head that they come from is about to be changed.
#[derive(Default)]
struct Spelt {
    forwarded: Vec<u8>,
    matched: String,
    query: Option<Vec<u8>>,
}

fn find<'t>(
    worker: &Worker,
    routing: &Routing,
    requests: &'t Requests,
    head: &impl Head,
) -> Result<Option<Found<'t>>, ErrorCode> {
    let path = match head.path() {
        // `CONNECT` has none, and `OPTIONS *` means the server as a whole.
        "" | "*" => None,
        path => Some(Path::parse(path.as_bytes()).map_err(|_| ErrorCode::BadRequest)?),
    };
    let any_value = |name: &str, good: &dyn Fn(&[u8]) -> bool| match name {
        "host" => good(head.authority().as_bytes()),
        name => routing.field(name).is_some_and(|name| head.fields().all(name).any(good)),
    };
    // Once a request, and only where a rule fits that asks for a claim.
    let claims = OnceCell::new();
    let any_claim = |name: &ClaimName, good: &dyn Fn(&[u8]) -> bool| {
        let read = || routing.0.tokens.as_ref().and_then(|policy| tokens::read(worker, policy, head));
        claims.get_or_init(read).as_ref().is_some_and(|claims| claims.any_value(name, good))
    };
    let query = head.query().map(str::as_bytes);
    let seen = Request {
        method: head.method().as_str(),
        path: path.as_ref().map_or(b"", |path| path.matched().as_bytes()),
        query,
        any_value: &any_value,
        any_claim: &any_claim,
    };
    let Some(hit) = requests.find(&seen) else { return Ok(None) };
    let filters = &hit.rule.filters;
    let origin = filters.cors.as_ref().and_then(|_| head.fields().first(&ORIGIN)).map(Box::from);
    let edits_path = filters.redirect.is_some()
        || filters.rewrite.is_some()
        || hit.rule.split.backends().iter().any(|backend| backend.filters.rewrite.is_some());
    let path = match (&path, edits_path) {
        (Some(path), true) => Spelt {
            forwarded: path.forwarded().to_vec(),
            matched: path.matched().to_owned(),
            query: query.map(<[u8]>::to_vec),
        },
        _ => Spelt::default(),
    };
    Ok(Some(Found { hit, origin, path }))
}

fn preflight(rule: &Rule, head: &impl Head, origin: Option<&[u8]>) -> Option<Answer> {
    let cors: &Cors = rule.filters.cors.as_ref()?;
    let method =
        head.fields().first(&ACCESS_CONTROL_REQUEST_METHOD).filter(|_| head.method() == Method::OPTIONS)?;
    let headers = head.fields().first(&ACCESS_CONTROL_REQUEST_HEADERS);
    let said = cors.answer(&Preflight { origin: origin?, method, headers });
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::NO_CONTENT;
    extend(response.headers_mut(), said);
    Some(Answer::Plain(Box::new(response)))
}

fn extend(fields: &mut HeaderMap, said: Vec<(&'static str, Vec<u8>)>) {
    for (name, value) in said {
        if let Ok(value) = HeaderValue::try_from(value) {
            fields.append(HeaderName::from_static(name), value);
        }
    }
}

fn redirected(redirect: &Redirect, called: &Called<'_>, hit: &Hit<'_>) -> Answer {
    let Ok(location) = HeaderValue::try_from(location(redirect, called, hit.prefix)) else {
        return Answer::Error(ErrorCode::BadRequest);
    };
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::from_u16(redirect.status.code()).unwrap_or(StatusCode::FOUND);
    response.headers_mut().insert(LOCATION, location);
    Answer::Plain(Box::new(response))
}

/// The backend that a session is with, where that is still one of them; else draws one.
fn draw_again(
    worker: &Worker,
    split: &Split,
    staying: Option<&Staying>,
) -> Result<(usize, Rc<Cluster>), ErrorCode> {
    let kept = staying.and_then(Staying::backend).and_then(|id| {
        let index = split.backends().iter().position(|backend| backend_id(&backend.target) == id)?;
        let backend = split.backends().get(index)?;
        Some((index, target(worker, &worker.discovery.snapshot(), &backend.target).ok()?))
    });
    kept.map_or_else(|| draw(worker, split), Ok)
}

/// Draws a backend; fails where no one has a share, or where there is nothing at what was drawn.
fn draw(worker: &Worker, split: &Split) -> Result<(usize, Rc<Cluster>), ErrorCode> {
    let index = split.draw(&mut worker.rng.borrow_mut()).ok_or(ErrorCode::NoBackend)?;
    let backend = split.backends().get(index).ok_or(ErrorCode::NoBackend)?;
    let snapshot = worker.discovery.peek();
    let cluster = target(worker, &snapshot, &backend.target)?;
    Ok((index, cluster))
}

/// Who is to get a copy of a request that goes to this backend.
fn mirrors(worker: &Worker, rule: &Rule, backend: usize) -> Vec<Rc<Cluster>> {
    let drawn = rule.mirrors(backend, &mut worker.rng.borrow_mut());
    if drawn.is_empty() {
        return Vec::new();
    }
    let snapshot = worker.discovery.snapshot();
    let known = |mirror: &BackendTarget| {
        let found = target(worker, &snapshot, mirror);
        if found.is_err() {
            let label = match mirror {
                BackendTarget::Service(name, _) => name.to_string(),
                BackendTarget::OtherKind | BackendTarget::NotPermitted => "unknown".to_owned(),
            };
            worker.observer.mirrored(&label, Mirrored::Failed);
        }
        found.ok()
    };
    drawn.into_iter().filter_map(known).collect()
}

/// The endpoints behind a backend. It is called as such: its own routes do not apply.
fn target(
    worker: &Worker,
    snapshot: &Arc<Snapshot>,
    target: &BackendTarget,
) -> Result<Rc<Cluster>, ErrorCode> {
    let BackendTarget::Service(name, port) = target else { return Err(ErrorCode::NoBackend) };
    match snapshot.services.get(name) {
        Some(known) if known.service.takes(*port) => {
            Ok(worker.cluster(Source::Service(name.clone(), *port), snapshot))
        }
        Some(_) | None => Err(ErrorCode::NoBackend),
    }
}
