//! The caller's side: faults, the route, what becomes of the head, where it goes, and how it is sent there.

use super::question::Asked;
use super::{Candidate, Decision, Explanation, Question};
use crate::compile;
use crate::fault;
use crate::host::Host;
use crate::manifest::{Kind, Resource, ResourceKey, Spec};
use crate::model::{
    Backend, BackendTarget, FieldEdits, Filters, Protocol, QualifiedName, RetryBudget, RoutePolicy,
    RouteRules,
};
use crate::path::Path;
use crate::plan::Plan;
use crate::retry::budget_of;
use crate::route::{Called, Hit, Preflight, Request, Routes, Rule, Table, edit_path, location};
use crate::world::World;

const BAD_REQUEST: (u16, &str) = (400, "bad-request");
const NO_ROUTE: (u16, &str) = (404, "no-route");
const NO_BACKEND: (u16, &str) = (500, "no-backend");
const NO_ENDPOINTS: (u16, &str) = (503, "no-endpoints");
const FAULT: &str = "fault-injected";

/// A call as the server's side gets it.
#[derive(Debug)]
pub(super) struct Arrival {
    /// Whose endpoints.
    pub(super) service: QualifiedName,
    pub(super) port: u16,
    /// None: bytes.
    pub(super) request: Option<Head>,
}

/// A request's head.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) host: String,
    pub(super) headers: Vec<(String, String)>,
}

/// Where a call is led.
struct Led {
    backends: Vec<(Backend, f64)>,
    filters: Filters,
    prefix: Option<crate::model::RoutePath>,
    policy: RoutePolicy,
}

/// Follows a call to an endpoint; none where it gets to none.
pub(super) fn follow(
    world: &World,
    question: &Question<'_>,
    asked: Asked,
    told: &mut Explanation,
) -> Option<Arrival> {
    let Asked { service, port, request } = asked;
    told.service(world, &service.name, port);
    let head = request.map(|request| Head::of(request, &service.name));
    if let Some(head) = &head
        && let Err(error) = Path::parse(head.target.as_bytes())
    {
        told.step("route", format!("the path is refused: {error}"), None);
        told.fails(Decision::Refuse, BAD_REQUEST);
        return None;
    }
    if strikes(world, question, &service.name, head.as_ref(), told) {
        return None;
    }
    let routes = Routes::compile(&service.name, &service.routes, question.namespace);
    let led = lead(world, routes.on(port), &service.name, port, head.as_ref(), told)?;
    let (first, _) = led.backends.iter().max_by(|(_, left), (_, right)| left.total_cmp(right)).cloned()?;
    let head = match head.map(|head| head.filtered(&led, &first, port, told)) {
        Some(filtered) => Some(filtered?),
        None => None,
    };
    let BackendTarget::Service(backend, backend_port) = &first.target else { return None };
    told.backend = first.target.to_string();
    if *backend != service.name && strikes(world, question, backend, head.as_ref(), told) {
        return None;
    }
    told.send(world, backend, &led.policy);
    told.choose(world, backend, *backend_port).then(|| Arrival {
        service: backend.clone(),
        port: *backend_port,
        request: head,
    })
}

impl Head {
    fn of(request: super::RequestAsked, service: &QualifiedName) -> Self {
        let super::RequestAsked { method, path, mut headers } = request;
        let named = headers.iter().position(|(name, _)| name == "host");
        let host = named.map_or_else(|| service.name.to_string(), |index| headers.swap_remove(index).1);
        Self { method, target: path, host, headers }
    }

    pub(super) fn has(&self, name: &str, good: &dyn Fn(&[u8]) -> bool) -> bool {
        if name == "host" {
            return good(self.host.as_bytes());
        }
        self.headers.iter().filter(|(own, _)| own == name).any(|(_, value)| good(value.as_bytes()))
    }

    fn edit(&mut self, edits: &FieldEdits) {
        for (name, value) in &edits.set {
            self.headers.retain(|(own, _)| own != name.as_str());
            self.headers.push((name.as_str().into(), value.as_str().into()));
        }
        let added = edits.add.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into()));
        self.headers.extend(added);
        self.headers.retain(|(own, _)| !edits.remove.iter().any(|name| name.as_str() == own));
    }

    /// What the rule's filters and the backend's make of it; none where it is answered instead.
    fn filtered(mut self, led: &Led, backend: &Backend, port: u16, told: &mut Explanation) -> Option<Self> {
        let before = (self.headers.clone(), self.host.clone(), self.target.clone());
        for filters in [&led.filters, &backend.filters] {
            self.edit(&filters.request);
        }
        for rewrite in [&led.filters, &backend.filters].into_iter().filter_map(|f| f.rewrite.as_ref()) {
            if let Some(host) = &rewrite.host {
                host.as_str().clone_into(&mut self.host);
            }
            if let Some(edit) = &rewrite.path {
                let target = before.2.clone();
                let path = Path::parse(target.as_bytes()).ok()?;
                let called = called(&path, &self.host, port);
                let edited = edit_path(edit, &called, led.prefix.as_ref());
                let query = path.query().map(|query| format!("?{}", String::from_utf8_lossy(query)));
                self.target = String::from_utf8_lossy(&edited).into_owned() + &query.unwrap_or_default();
            }
        }
        if before.0 != self.headers {
            told.step("filters", "the request's header fields are changed".into(), None);
        }
        if (&before.1, &before.2) != (&self.host, &self.target) {
            told.step("filters", format!("it is rewritten to {} at {}", self.target, self.host), None);
        }
        Some(self)
    }
}

fn called<'a>(path: &'a Path<'_>, host: &'a str, port: u16) -> Called<'a> {
    let whole = path.forwarded();
    let end = whole.iter().position(|byte| *byte == b'?').unwrap_or(whole.len());
    Called {
        host,
        port,
        path: whole.get(..end).unwrap_or_default(),
        matched: path.matched().as_bytes(),
        query: path.query(),
    }
}

/// What faults of a service would do. Whether one keeps the call from going on: an abort of all requests.
fn strikes(
    world: &World,
    question: &Question<'_>,
    service: &QualifiedName,
    head: Option<&Head>,
    told: &mut Explanation,
) -> bool {
    let Some(head) = head else { return false };
    let caller = question.identity(world);
    for resource in world.policies(service) {
        let Spec::FaultInjection(spec) = &resource.spec else { continue };
        let fault = &spec.fault;
        let is_meant =
            fault.headers.iter().all(|(name, value)| head.has(name, &|found| found == value.as_bytes()));
        let is_meant = is_meant && fault::is_for(fault, Some(&caller));
        if !is_meant || fault.expires.is_some_and(|end| end <= question.now) {
            continue;
        }
        let percent = |share: crate::model::Ratio| share.as_f64() * 100.0;
        if let Some((delay, share)) = fault.delay {
            let does = format!("holds up {}% of such requests by {delay:?}", percent(share));
            told.step("faults", does.clone(), Some(resource));
            told.applied(resource, does);
        }
        if let Some((abort, share)) = fault.abort {
            let does = format!("answers {}% of such requests with {}", percent(share), abort.status);
            told.step("faults", does.clone(), Some(resource));
            told.applied(resource, does);
            if share == crate::model::Ratio::WHOLE {
                told.fails(Decision::Answer, (abort.status, FAULT));
                return true;
            }
        }
    }
    false
}

/// Which rule a call falls under, and where that leads; none: nowhere.
fn lead(
    world: &World,
    table: &Table,
    service: &QualifiedName,
    port: u16,
    head: Option<&Head>,
    told: &mut Explanation,
) -> Option<Led> {
    let rule = match (table, head) {
        (Table::Requests(requests), Some(head)) => {
            let path = Path::parse(head.target.as_bytes()).ok()?;
            let any_value = |name: &str, good: &dyn Fn(&[u8]) -> bool| head.has(name, good);
            let request = Request {
                method: &head.method,
                path: path.matched().as_bytes(),
                query: path.query(),
                any_value: &any_value,
            };
            let Some(hit) = requests.find(&request) else {
                told.step("route", "there are routes for this port, and no rule of theirs fits".into(), None);
                told.fails(Decision::Refuse, NO_ROUTE);
                return None;
            };
            told.under(world, hit.rule);
            if told.answered(&hit, head, &path, port) {
                return None;
            }
            return told.share(world, hit.rule, hit.prefix.cloned());
        }
        (Table::Tls(connections), _) => {
            let name =
                head.and_then(|head| Host::parse(head.host.as_bytes()).ok().map(|h| h.name().to_owned()));
            connections.find(name.as_deref())
        }
        (Table::Tcp(rule), _) => Some(rule),
        (Table::Requests(_), None) | (Table::None, _) => {
            told.step("route", "no route is for it: it goes to the Service itself".into(), None);
            let backend = Backend {
                target: BackendTarget::Service(service.clone(), port),
                weight: 1,
                filters: Filters::default(),
            };
            told.backends.push((backend.target.to_string(), 1.0));
            let filters = Filters::default();
            return Some(Led {
                backends: vec![(backend, 1.0)],
                filters,
                prefix: None,
                policy: RoutePolicy::default(),
            });
        }
    };
    let Some(rule) = rule else {
        told.step("route", "no route is for this server name: the connection is reset".into(), None);
        told.fails(Decision::Refuse, NO_ROUTE);
        return None;
    };
    told.under(world, rule);
    told.share(world, rule, None)
}

impl Explanation {
    fn service(&mut self, world: &World, name: &QualifiedName, port: u16) {
        let service = compile::service(world, name);
        let ports = service.iter().flat_map(|service| &service.ports);
        let protocol =
            ports.filter(|declared| declared.port == port).map(|declared| declared.protocol).next();
        let spoken = match protocol.unwrap_or_default() {
            Protocol::Detect => "what is spoken is found out",
            Protocol::Http => "HTTP/1.1",
            Protocol::Http2 => "HTTP/2",
            Protocol::Grpc => "gRPC",
            Protocol::Tcp => "bytes",
            Protocol::Tls => "TLS of the app's own",
        };
        let addresses: Vec<_> = world.service_addresses(name).iter().map(ToString::to_string).collect();
        let at = if addresses.is_empty() { "no address of its own".into() } else { addresses.join(", ") };
        let key = ResourceKey {
            kind: Kind::Service,
            namespace: Some(name.namespace.clone()),
            name: name.name.clone(),
        };
        let text = format!("Service {name}, {at}, port {port}: {spoken}");
        self.step("service", text, world.resource(&key));
    }

    /// Names the rule that was found.
    fn under(&mut self, world: &World, rule: &Rule) {
        self.route = rule.route.to_string();
        self.rule = if rule.name.is_empty() { format!("#{}", rule.index + 1) } else { rule.name.clone() };
        let found = route_of(world, rule);
        let text = format!("rule {} of the route {}", self.rule, rule.route);
        let source = found.map(|resource| {
            format!("{} ({})", resource.key(), resource.place(&format!("rule {}", rule.index)))
        });
        self.steps.push(super::Step { stage: "route", text, source: source.unwrap_or_default() });
    }

    /// Whether the rule has the mesh itself answer.
    fn answered(&mut self, hit: &Hit<'_>, head: &Head, path: &Path<'_>, port: u16) -> bool {
        let filters = &hit.rule.filters;
        let origin = head.headers.iter().find(|(name, _)| name == "origin");
        let method = head.headers.iter().find(|(name, _)| name == "access-control-request-method");
        if let (Some(cors), Some((_, origin)), Some((_, method)), "OPTIONS") =
            (&filters.cors, origin, method, head.method.as_str())
        {
            let asked = Preflight { origin: origin.as_bytes(), method: method.as_bytes(), headers: None };
            let allows = if cors.answer(&asked).is_empty() { "does not allow" } else { "allows" };
            self.step("filters", format!("the preflight is answered: CORS {allows} {origin}"), None);
            (self.decision, self.status) = (Decision::Answer, Some(204));
            return true;
        }
        let Some(redirect) = &filters.redirect else { return false };
        let host = Host::parse(head.host.as_bytes()).map(|host| host.name().to_owned()).unwrap_or_default();
        let location = location(redirect, &called(path, &host, port), hit.prefix);
        let status = redirect.status.code();
        let text = format!("it is redirected to {}, {status}", String::from_utf8_lossy(&location));
        self.step("filters", text, None);
        (self.decision, self.status) = (Decision::Answer, Some(status));
        true
    }

    /// The backends that have a share; none where there are none, or the rule's only one leads nowhere.
    fn share(&mut self, world: &World, rule: &Rule, prefix: Option<crate::model::RoutePath>) -> Option<Led> {
        let whole: f64 = rule.split.backends().iter().map(|backend| f64::from(backend.weight)).sum();
        let weighed = rule.split.backends().iter().filter(|backend| backend.weight > 0);
        let shares: Vec<_> =
            weighed.map(|backend| (backend.clone(), f64::from(backend.weight) / whole)).collect();
        let words: Vec<_> =
            shares.iter().map(|(b, share)| format!("{} {:.0}%", b.target, share * 100.0)).collect();
        self.backends = shares.iter().map(|(backend, share)| (backend.target.to_string(), *share)).collect();
        let text = if words.is_empty() { "no backend has a share".into() } else { words.join(", ") };
        self.step("backend", text, None);
        let mirrors = rule.filters.mirrors.iter().map(|mirror| mirror.target.to_string());
        self.mirrors = mirrors.collect();
        if !self.mirrors.is_empty() {
            self.step("mirrors", format!("copies go to {}", self.mirrors.join(", ")), None);
        }
        let largest = shares.iter().max_by(|(_, left), (_, right)| left.total_cmp(right));
        let exists = largest.is_some_and(|(backend, _)| match &backend.target {
            BackendTarget::Service(name, port) => {
                compile::service(world, name).is_some_and(|service| service.takes(*port))
            }
            BackendTarget::OtherKind | BackendTarget::NotPermitted => false,
        });
        if !exists {
            self.step("backend", "there is nothing that it could be sent to".into(), None);
            self.fails(Decision::Refuse, NO_BACKEND);
            return None;
        }
        Some(Led { backends: shares, filters: rule.filters.clone(), prefix, policy: rule.policy.clone() })
    }

    /// How long and how often it is tried.
    fn send(&mut self, world: &World, backend: &QualifiedName, route: &RoutePolicy) {
        for resource in world.policies(backend) {
            let Spec::TrafficPolicy(spec) = &resource.spec else { continue };
            let does = format!("says {}", spec.layer.sections().join(", "));
            self.step("traffic", does.clone(), Some(resource));
            self.applied(resource, does);
        }
        let traffic = world.traffic(backend);
        let mut time = |name, limit: Option<std::time::Duration>| {
            if let Some(limit) = limit {
                self.timeouts.insert(name, format!("{limit:?}"));
            }
        };
        let Plan { limits, retry, hedging } = Plan::of(&traffic, Some(route)).unwrap_or_default();
        time("connect", traffic.timeouts.connect);
        time("request", limits.whole);
        time("try", limits.each.map(|each| each.limit));
        time("idle", limits.idle);
        if let Some(retry) = &retry {
            let RetryBudget { ratio, min_per_second, window } = budget_of(&traffic);
            self.retries.extend(retry.describe());
            self.retries
                .insert("budget", format!("{ratio} in {window:?}, {min_per_second} a second in any case"));
        }
        if let Some(hedging) = hedging {
            self.retries.insert("hedging", format!("a second endpoint after {}", hedging.after));
        }
        self.retries.insert("unsent", "what reached nobody goes to another endpoint, twice at most".into());
    }

    /// Who may get it. False: nobody.
    fn choose(&mut self, world: &World, service: &QualifiedName, port: u16) -> bool {
        if let Some(spec) = world.external_service(service) {
            let host = spec.host().unwrap_or("the host that the client of TLS asks for");
            let target = spec.ports.iter().find(|own| own.port == port).map_or(port, |own| own.target_port);
            let tls = if spec.tls.is_some() { ", in TLS that the sidecar speaks" } else { "" };
            let text = format!("{host}, port {target}, outside the mesh: found by DNS{tls}");
            self.step("endpoints", text, None);
            return true;
        }
        let endpoints = compile::endpoints(world, service).unwrap_or_default();
        let working = endpoints.iter().filter(|endpoint| endpoint.healthy);
        let candidates = working.filter_map(|endpoint| {
            let target = endpoint.target_port(port)?;
            let address = endpoint.addresses.first()?;
            Some(Candidate {
                workload: endpoint.workload.to_string(),
                address: std::net::SocketAddr::new(*address, target).to_string(),
                identity: endpoint.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
                zone: endpoint.zone.clone(),
                denied: String::new(),
            })
        });
        self.endpoints = candidates.collect();
        let members = world.members(service).len();
        let text = match (self.endpoints.len(), members) {
            (0, 0) => format!("{service} has no workloads"),
            (0, some) => format!("none of the {some} workloads of {service} is ready on this port"),
            (ready, some) => format!("{ready} of {some} workloads of {service} take it"),
        };
        self.step("endpoints", text, None);
        if self.endpoints.is_empty() {
            self.fails(Decision::Refuse, NO_ENDPOINTS);
        }
        !self.endpoints.is_empty()
    }
}

/// The document of a rule's route.
fn route_of<'w>(world: &'w World, rule: &Rule) -> Option<&'w Resource> {
    world.resources().find(|resource| {
        resource.qualified_name().as_ref() == Some(&rule.route)
            && match &resource.spec {
                Spec::Route(spec) => match &spec.rules {
                    RouteRules::Http(rules) | RouteRules::Grpc(rules) => {
                        rules.get(rule.index).is_some_and(|own| own.name == rule.name)
                    }
                    RouteRules::Tls { .. } | RouteRules::Tcp(_) => true,
                },
                _ => false,
            }
    })
}
