//! The caller's side: the route, what becomes of the head, and where it goes.

use super::question::Asked;
use super::token::Token;
use super::{Decision, Explanation, NO_BACKEND, Question};
use crate::compile;
use crate::host::Host;
use crate::jwt::Claims;
use crate::manifest::{Kind, Resource, ResourceKey, Spec};
use crate::model::{
    Backend, BackendTarget, FieldEdits, Filters, PolicyTarget, Protocol, QualifiedName, RoutePath, RouteRules,
};
use crate::path::Path;
use crate::route::{Called, Hit, Preflight, Request, Routes, Rule, Table, edit_path, location};
use crate::world::World;

const BAD_REQUEST: (u16, &str) = (400, "bad-request");
const NO_ROUTE: (u16, &str) = (404, "no-route");

/// A request's head.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) host: String,
    pub(super) headers: Vec<(String, String)>,
}

/// Where a call is led.
pub(super) struct Led {
    /// As it came; none: bytes.
    pub(super) head: Option<Head>,
    /// The service that was called, and its port.
    pub(super) called: QualifiedName,
    pub(super) port: u16,
    /// Everywhere it may go with the share of each, the largest first. There is at least one.
    pub(super) backends: Vec<(Backend, f64)>,
    /// The rule that it falls under; none: no route is for it.
    pub(super) rule: Option<Rule>,
    /// The document of the rule's route, as policies name it.
    pub(super) route: Option<PolicyTarget>,
    prefix: Option<RoutePath>,
}

/// Follows a call to where its route leads it; none where it gets nowhere.
pub(super) fn follow(
    world: &World,
    question: &Question<'_>,
    asked: Asked,
    told: &mut Explanation,
) -> Option<Led> {
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
    let routes = Routes::compile(&service.name, &service.routes, question.namespace);
    let token = head.as_ref().and_then(|head| told.token_of_caller(world, question, &service, head));
    let claims = token.as_ref().and_then(Token::claims);
    let (rule, prefix) =
        find(routes.on(port), port, head.as_ref().map(|head| (head, claims)), world, told).ok()?;
    let backends = match &rule {
        Some(rule) => told.share(rule)?,
        None => {
            told.step("route", "no route is for it: it goes to the Service itself".into(), None);
            let target = BackendTarget::Service(service.name.clone(), port);
            told.backends.push((target.to_string(), 1.0));
            vec![(Backend { target, weight: 1, filters: Filters::default() }, 1.0)]
        }
    };
    let route = rule.as_ref().and_then(|rule| route_of(world, rule)?.as_target());
    Some(Led { head, called: service.name, port, backends, rule, route, prefix })
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
    pub(super) fn filtered(mut self, led: &Led, backend: &Backend, told: &mut Explanation) -> Option<Self> {
        let before = (self.headers.clone(), self.host.clone(), self.target.clone());
        let filters = [led.rule.as_ref().map(|rule| &rule.filters), Some(&backend.filters)];
        for filters in filters.into_iter().flatten() {
            self.edit(&filters.request);
        }
        for rewrite in filters.into_iter().flatten().filter_map(|filters| filters.rewrite.as_ref()) {
            if let Some(host) = &rewrite.host {
                host.as_str().clone_into(&mut self.host);
            }
            if let Some(edit) = &rewrite.path {
                let target = before.2.clone();
                let path = Path::parse(target.as_bytes()).ok()?;
                let called = called(&path, &self.host, led.port);
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

/// A rule, and the prefix that fitted.
type Found = (Option<Rule>, Option<RoutePath>);

/// Which rule a call falls under, if there are any; fails where it gets no further. A request comes with what its token says.
fn find(
    table: &Table,
    port: u16,
    request: Option<(&Head, Option<&Claims>)>,
    world: &World,
    told: &mut Explanation,
) -> Result<Found, ()> {
    let rule = match (table, request) {
        (Table::Requests(requests), Some((head, claims))) => {
            let path = Path::parse(head.target.as_bytes()).map_err(drop)?;
            let any_value = |name: &str, good: &dyn Fn(&[u8]) -> bool| head.has(name, good);
            let request = Request {
                method: &head.method,
                path: path.matched().as_bytes(),
                query: path.query(),
                any_value: &any_value,
                any_claim: &|name, good| claims.is_some_and(|claims| claims.any_value(name, good)),
            };
            let Some(hit) = requests.find(&request) else {
                told.step("route", "there are routes for this port, and no rule of theirs fits".into(), None);
                told.fails(Decision::Refuse, NO_ROUTE);
                return Err(());
            };
            told.under(world, hit.rule);
            let found = (Some(hit.rule.as_ref().clone()), hit.prefix.cloned());
            return if told.answered(&hit, head, &path, port) { Err(()) } else { Ok(found) };
        }
        (Table::Tls(connections), _) => {
            let name = request
                .and_then(|(head, _)| Host::parse(head.host.as_bytes()).ok().map(|h| h.name().to_owned()));
            connections.find(name.as_deref())
        }
        (Table::Tcp(rule), _) => Some(rule),
        (Table::Requests(_), None) | (Table::None, _) => return Ok((None, None)),
    };
    let Some(rule) = rule else {
        told.step("route", "no route is for this server name: the connection is reset".into(), None);
        told.fails(Decision::Refuse, NO_ROUTE);
        return Err(());
    };
    told.under(world, rule);
    Ok((Some(rule.as_ref().clone()), None))
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

    /// The backends that have a share, the largest first; none where there are none.
    fn share(&mut self, rule: &Rule) -> Option<Vec<(Backend, f64)>> {
        let whole: f64 = rule.split.backends().iter().map(|backend| f64::from(backend.weight)).sum();
        let weighed = rule.split.backends().iter().filter(|backend| backend.weight > 0);
        let mut shares: Vec<_> =
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
        if shares.is_empty() {
            self.fails(Decision::Refuse, NO_BACKEND);
            return None;
        }
        // Stable: of equal shares the first one goes first.
        shares.sort_by(|(_, left), (_, right)| right.total_cmp(left));
        Some(shares)
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
