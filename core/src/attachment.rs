//! Which routes are bound to which service, and what is to be said of each (Gateway API's status conditions).
//!
//! A route is bound to the services that it names as parents, on the ports that it names there. What it sends to another
//! namespace needs that namespace's leave (`ReferenceGrant`), except for a caller's own route back to the service that it
//! is bound to: that is where its calls went anyway.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::compile;
use crate::manifest::{ParentRef, Resource, RouteSpec, Spec};
use crate::model::{BackendTarget, QualifiedName, Route, RouteRules, ServicePort};
use crate::world::World;

/// The routes of a service, the oldest first.
pub fn routes(world: &World, service: &QualifiedName, ports: &[ServicePort]) -> Vec<Route> {
    let mut routes: Vec<_> = world
        .routes_of(service)
        .filter_map(|(resource, spec)| Some((age(resource), route(world, resource, spec, service, ports)?)))
        .collect();
    routes.sort_by(|(left_age, left), (right_age, right)| {
        left_age.cmp(right_age).then_with(|| left.name.cmp(&right.name))
    });
    routes.into_iter().map(|(_, route)| route).collect()
}

/// Whether of two routes that say the same this one holds: the older, else the first by name.
pub(crate) fn goes_first(one: &Resource, other: &Resource) -> bool {
    (age(one), &one.namespace, &one.name) <= (age(other), &other.namespace, &other.name)
}

/// When a route was made; what does not say so is younger than what does.
fn age(resource: &Resource) -> (bool, Option<jiff::Timestamp>) {
    let text = resource.document.pointer("/metadata/creationTimestamp").and_then(serde_json::Value::as_str);
    let created = text.and_then(|text| text.parse().ok());
    (created.is_none(), created)
}

/// What a route says for calls to one service; none where it names none of its ports.
fn route(
    world: &World,
    resource: &Resource,
    spec: &RouteSpec,
    service: &QualifiedName,
    ports: &[ServicePort],
) -> Option<Route> {
    let mut named = BTreeSet::new();
    let mut every_port = false;
    for parent in spec.parents.iter().filter(|parent| parent.service == *service) {
        match bound_ports(parent, ports) {
            Ports::All => every_port = true,
            Ports::These(these) => named.extend(these),
        }
    }
    if named.is_empty() && !every_port {
        return None;
    }
    let mut rules = spec.rules.clone();
    for target in rules.targets_mut() {
        if let BackendTarget::Service(name, _) = target
            && !may_send(world, resource, service, name)
        {
            *target = BackendTarget::NotPermitted;
        }
    }
    let ports = if every_port { Vec::new() } else { named.into_iter().collect() };
    let traffic = resource.as_target().and_then(|target| world.route_traffic(&target)).map(Arc::new);
    Some(Route { name: resource.qualified_name()?, ports, rules, traffic })
}

/// The ports that a parent reference names.
enum Ports {
    All,
    /// None of them may be the service's.
    These(Vec<u16>),
}

fn bound_ports(parent: &ParentRef, ports: &[ServicePort]) -> Ports {
    if parent.port.is_none() && parent.section.is_none() {
        return Ports::All;
    }
    // A service that declares no ports is called on any.
    if let (Some(port), true) = (parent.port, ports.is_empty()) {
        return Ports::These(vec![port]);
    }
    let named = |port: &&ServicePort| {
        parent.port.is_none_or(|number| number == port.port)
            && parent.section.as_ref().is_none_or(|section| *section == port.name)
    };
    Ports::These(ports.iter().filter(named).map(|port| port.port).collect())
}

fn may_send(world: &World, resource: &Resource, parent: &QualifiedName, target: &QualifiedName) -> bool {
    let own = resource.namespace.as_ref();
    own == Some(&target.namespace)
        || parent.namespace == target.namespace
        || own.is_some_and(|own| world.grants(resource.kind, own, target))
}

/// What is to be said of one of a route's parents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentStatus<'r> {
    /// The parent.
    pub parent: &'r ParentRef,
    /// Whether the route is in force for it.
    pub accepted: Condition,
    /// Whether all that it names is there.
    pub resolved: Condition,
}

/// Something that holds or not, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whether it holds.
    pub holds: bool,
    /// Why, in one word that Gateway API has for it.
    pub reason: &'static str,
    /// Why, in words.
    pub message: String,
}

impl Condition {
    fn holds(reason: &'static str, message: &str) -> Self {
        Self { holds: true, reason, message: message.to_owned() }
    }

    fn fails(reason: &'static str, message: String) -> Self {
        Self { holds: false, reason, message }
    }
}

/// What is to be said of a route, parent by parent; nothing of what is no route.
pub fn status<'r>(world: &World, resource: &'r Resource) -> Vec<ParentStatus<'r>> {
    let Spec::Route(spec) = &resource.spec else { return Vec::new() };
    let status = |parent: &'r ParentRef| ParentStatus {
        parent,
        accepted: accepted(world, resource, spec, parent),
        resolved: resolved(world, resource, spec, parent),
    };
    spec.parents.iter().map(status).collect()
}

fn accepted(world: &World, resource: &Resource, spec: &RouteSpec, parent: &ParentRef) -> Condition {
    let no_parent = |message: String| Condition::fails("NoMatchingParent", message);
    let Some(service) = compile::service(world, &parent.service) else {
        return no_parent(format!("there is no Service {}", parent.service));
    };
    let covered = |rules: &RouteRules, ports: &[u16]| {
        let before = |other: &&Route| {
            Some(&other.name.namespace) == resource.namespace.as_ref() && other.rules.goes_before(rules)
        };
        let before: Vec<_> = service.routes.iter().filter(before).collect();
        let takes = |port: &u16| before.iter().find(|o| o.ports.is_empty() || o.ports.contains(port));
        match ports {
            [] => before.iter().find(|other| other.ports.is_empty()).map(|other| other.name.clone()),
            _ if ports.iter().all(|port| takes(port).is_some()) => {
                ports.first().and_then(takes).map(|other| other.name.clone())
            }
            _ => None,
        }
    };
    let all: Vec<u16> = service.ports.iter().map(|port| port.port).collect();
    let ports = match bound_ports(parent, &service.ports) {
        Ports::These(these) if these.is_empty() => {
            return no_parent(format!("the Service {} has no such port", parent.service));
        }
        Ports::These(these) => these,
        Ports::All => all,
    };
    match covered(&spec.rules, &ports) {
        Some(other) => Condition::fails(
            "Conflicted",
            format!("the route {other} is of a more specific kind and takes its ports"),
        ),
        None => Condition::holds("Accepted", "in force"),
    }
}

fn resolved(world: &World, resource: &Resource, spec: &RouteSpec, parent: &ParentRef) -> Condition {
    for target in spec.rules.targets() {
        let problem = match target {
            BackendTarget::OtherKind => {
                ("InvalidKind", "a backend is of a kind that nothing can be sent to".to_owned())
            }
            BackendTarget::NotPermitted => continue,
            BackendTarget::Service(name, _) if !may_send(world, resource, &parent.service, name) => {
                let message = format!(
                    "the Service {name} is in another namespace, whose ReferenceGrants do not allow this route"
                );
                ("RefNotPermitted", message)
            }
            BackendTarget::Service(name, port) => match compile::service(world, name) {
                None => ("BackendNotFound", format!("there is no Service {name}")),
                Some(service) if !service.takes(*port) => {
                    ("BackendNotFound", format!("the Service {name} has no port {port}"))
                }
                Some(_) => continue,
            },
        };
        return Condition::fails(problem.0, problem.1);
    }
    Condition::holds("ResolvedRefs", "all that is named is there")
}
