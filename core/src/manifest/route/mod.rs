//! `gateway.networking.k8s.io`: routes of every kind, and `ReferenceGrant`.
//!
//! What Gateway API checks across fields when a route is applied is checked here, with file and line.

mod backend;
mod filter;
mod grant;
mod matching;
mod policy;

use std::collections::HashMap;

pub(super) use grant::read as read_grant;

use super::decode::{Field, Object};
use super::document::{Places, field_name};
use super::resource::{ParentRef, RouteSpec};
use super::service::port_name;
use crate::model::{Filters, HostPattern, HttpRule, Name, QualifiedName, RouteRules};
use backend::read_backends;
use filter::Where;

/// The API group of routes.
pub(super) const GROUP: &str = "gateway.networking.k8s.io";

const PARENTS: usize = 32;
const RULES: usize = 16;
const MATCHES: usize = 64;
const MATCHES_OF_ALL_RULES: usize = 128;
const HOSTNAMES: usize = 16;
const SERVER_NAMES: usize = 1024;

/// Which kind of route is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RouteKind {
    Http,
    Grpc,
    Tls,
    Tcp,
}

/// Reads the spec of a route in `namespace`.
pub(super) fn read(
    kind: RouteKind,
    spec: &Field<'_>,
    namespace: &Name,
    places: &mut Places,
) -> Option<RouteSpec> {
    let fields: &[&str] = match kind {
        RouteKind::Http | RouteKind::Grpc => &["parentRefs", "useDefaultGateways", "hostnames", "rules"],
        RouteKind::Tls => &["parentRefs", "useDefaultGateways", "hostnames", "rules"],
        RouteKind::Tcp => &["parentRefs", "useDefaultGateways", "rules"],
    };
    let spec = spec.object(fields)?;
    let parents = read_parents(&spec, namespace, places);
    let rules = match kind {
        RouteKind::Http => {
            ignore_hostnames(&spec);
            RouteRules::Http(read_rules(kind, &spec, namespace, places))
        }
        RouteKind::Grpc => {
            ignore_hostnames(&spec);
            RouteRules::Grpc(read_rules(kind, &spec, namespace, places))
        }
        RouteKind::Tls => {
            let hosts = items(&spec, "hostnames", SERVER_NAMES);
            let hosts = hosts.iter().filter_map(server_name).collect();
            RouteRules::Tls { hosts, backends: read_only_rule(&spec, namespace)? }
        }
        RouteKind::Tcp => RouteRules::Tcp(read_only_rule(&spec, namespace)?),
    };
    Some(RouteSpec { parents, rules })
}

/// The members of a list that may be left out, at most `most`.
fn items<'a>(object: &Object<'a>, key: &str, most: usize) -> Vec<Field<'a>> {
    let Some(field) = object.field(key) else { return Vec::new() };
    let items = field.list().unwrap_or_default();
    if items.len() > most {
        field.mistake(format!("{} are more than {most}", items.len()), format!("write {most} at most"));
    }
    items
}

/// Routes are attached to services by address; what callers name their hosts plays no part (GEP-1294).
fn ignore_hostnames(spec: &Object<'_>) {
    let hosts = items(spec, "hostnames", HOSTNAMES);
    for host in &hosts {
        host.parse::<HostPattern>("write www.example.com or *.example.com");
    }
    if let (Some(field), false) = (spec.field("hostnames"), hosts.is_empty()) {
        field.note("ignored: a route of a Service is for whoever calls the Service's address; match the header host instead");
    }
}

fn server_name(field: &Field<'_>) -> Option<HostPattern> {
    field.parse("write www.example.com or *.example.com")
}

fn read_parents(spec: &Object<'_>, namespace: &Name, places: &mut Places) -> Vec<ParentRef> {
    let mut parents: Vec<ParentRef> = Vec::new();
    for field in items(spec, "parentRefs", PARENTS) {
        let Some(parent) = read_parent(&field, namespace) else { continue };
        if parents.contains(&parent) {
            field.mistake(format!("the Service {} is there twice", parent.service), "keep one of them");
            continue;
        }
        places.insert(format!("parent {}", parents.len()), field.place());
        parents.push(parent);
    }
    if parents.is_empty() {
        let at = spec.field("parentRefs");
        let note = "no Service is a parent of this route, so that the mesh has nothing to do with it";
        match at {
            Some(field) => field.note(note),
            None => {
                spec.required("parentRefs", "write parentRefs: [{group: \"\", kind: Service, name: NAME}]");
            }
        }
    }
    parents
}

fn read_parent(field: &Field<'_>, namespace: &Name) -> Option<ParentRef> {
    let object = field.object(&["group", "kind", "namespace", "name", "sectionName", "port"])?;
    let group = object.field("group").and_then(|field| field.text());
    let kind = object.field("kind").and_then(|field| field.text()).unwrap_or("Gateway");
    let name = object.required("name", "write the Service's name").and_then(|name| field_name(&name))?;
    let namespace = match object.field("namespace") {
        Some(field) => field_name(&field)?,
        None => namespace.clone(),
    };
    let port = match object.field("port") {
        Some(field) => Some(field.port()?),
        None => None,
    };
    let section = match object.field("sectionName") {
        Some(field) => Some(port_name(&field)?),
        None => None,
    };
    match (kind, group) {
        ("Service", Some("" | "core")) => {
            Some(ParentRef { service: QualifiedName::new(namespace, name), port, section })
        }
        ("Service", None) => {
            field.mistake("a Service is of the core group, but none is named", "add group: \"\"");
            None
        }
        _ => {
            field.note(format!("ignored: the mesh attaches routes to a Service, not to a {kind}"));
            None
        }
    }
}

/// The one rule of a route for connections: there is nothing by which to choose between several.
fn read_only_rule(spec: &Object<'_>, namespace: &Name) -> Option<Vec<crate::model::Backend>> {
    let field = spec.required("rules", "write rules: [{backendRefs: [{name: NAME, port: PORT}]}]")?;
    let rules = field.list()?;
    let [rule] = rules.as_slice() else {
        field.mistake(
            format!("{} rules: connections have nothing to choose between rules by", rules.len()),
            "write exactly one, with several backendRefs if need be",
        );
        return None;
    };
    let object = rule.object(&["name", "backendRefs"])?;
    rule_name(&object);
    Some(read_backends(rule, &object, Where::Connections, namespace))
}

fn read_rules(kind: RouteKind, spec: &Object<'_>, namespace: &Name, places: &mut Places) -> Vec<HttpRule> {
    let fields = items(spec, "rules", RULES);
    // Without a rule it is as with an empty one, which takes everything (HTTPRoute's default).
    if fields.is_empty() {
        if let Some(field) = spec.field("rules") {
            field.note("without rules every request is answered with 500: there is no backend");
        }
        return vec![HttpRule::default()];
    }
    let mut names: HashMap<String, String> = HashMap::new();
    let mut rules: Vec<HttpRule> = Vec::new();
    for field in &fields {
        let Some(rule) = read_rule(kind, field, namespace, rules.len(), places) else { continue };
        if !rule.name.is_empty()
            && let Some(first) = names.insert(rule.name.clone(), field.path().to_owned())
        {
            field.mistake(
                format!("the name {:?} is there twice, first as {first}", rule.name),
                "name it otherwise",
            );
        }
        rules.push(rule);
    }
    let matches = rules.iter().map(|rule| rule.matches.len()).sum::<usize>();
    if let (Some(field), true) = (spec.field("rules"), matches > MATCHES_OF_ALL_RULES) {
        field.mistake(
            format!("{matches} matches are more than {MATCHES_OF_ALL_RULES}"),
            "write several routes",
        );
    }
    rules
}

fn read_rule(
    kind: RouteKind,
    field: &Field<'_>,
    namespace: &Name,
    index: usize,
    places: &mut Places,
) -> Option<HttpRule> {
    let fields: &[&str] = match kind {
        RouteKind::Http => {
            &["name", "matches", "filters", "backendRefs", "timeouts", "retry", "sessionPersistence"]
        }
        RouteKind::Grpc | RouteKind::Tls | RouteKind::Tcp => {
            &["name", "matches", "filters", "backendRefs", "sessionPersistence"]
        }
    };
    let object = field.object(fields)?;
    let name = rule_name(&object);
    let matches = items(&object, "matches", MATCHES);
    places.insert(format!("rule {index}"), field.place());
    for (number, wanted) in matches.iter().enumerate() {
        places.insert(format!("rule {index} match {number}"), wanted.place());
    }
    let matches: Vec<_> = matches.iter().filter_map(|wanted| matching::read(kind, wanted)).collect();
    let filters = filter::read(kind, &object, &matches, Where::Rule, namespace);
    let backends = read_backends(field, &object, Where::Backend(kind, &matches), namespace);
    if filters.redirect.is_some() && !backends.is_empty() {
        field.mistake(
            "a rule that redirects sends nothing to backends",
            "take out backendRefs, or the filter RequestRedirect",
        );
    }
    refuse_echoes(field, &filters, &backends);
    note_dead_end(field, &filters, &backends);
    Some(HttpRule { name, matches, filters, backends, policy: policy::read(&object) })
}

/// A copy that goes where its request goes would be the same request twice. Longer ways round there are none: what a mirror
/// gets falls under no further route.
fn refuse_echoes(field: &Field<'_>, filters: &Filters, backends: &[crate::model::Backend]) {
    for backend in backends.iter().filter(|backend| backend.weight > 0) {
        let mut mirrors = filters.mirrors.iter().chain(&backend.filters.mirrors);
        if let Some(mirror) = mirrors.find(|mirror| mirror.target == backend.target) {
            field.mistake(
                format!("{} is a backend and its own mirror: it would get each request twice", mirror.target),
                "mirror to another Service",
            );
            return;
        }
    }
    if filters.redirect.is_some() && !filters.mirrors.is_empty() {
        field.note("mirrors get nothing: a rule that redirects sends no request that could be copied");
    }
}

fn note_dead_end(field: &Field<'_>, filters: &Filters, backends: &[crate::model::Backend]) {
    if filters.redirect.is_some() {
        return;
    }
    if backends.is_empty() {
        field.note("no backendRefs: what matches is answered with 500");
    } else if backends.iter().all(|backend| backend.weight == 0) {
        field.note("all weights are 0: what matches is answered with 500");
    }
}

fn rule_name(object: &Object<'_>) -> String {
    let name = object.field("name").and_then(|field| field_name(&field));
    name.map(|name| name.to_string()).unwrap_or_default()
}
