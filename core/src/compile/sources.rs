//! Who is behind a service, by where they are known from.

use super::{Endpoint, Fits, Member, PortMap, QualifiedName, World, cluster, service_ports, target_port};
use crate::manifest::{SourceKind, Sources};

/// The endpoints of a service, each with its source: of all sources, or of the first that has somebody who works.
pub fn endpoints(world: &World, service: &QualifiedName) -> Option<Vec<(SourceKind, Endpoint)>> {
    if !world.has_service(service) {
        return None;
    }
    let backends = world.backends(service);
    let mut all = match backends {
        Some(backends) => cluster::endpoints(world, service, &service_ports(world, service), backends),
        None => Vec::new(),
    }
    .into_iter()
    .map(|endpoint| (SourceKind::Kubernetes, endpoint))
    .collect::<Vec<_>>();
    all.extend(members(world, service));
    all.sort_by(|(_, left), (_, right)| left.workload.cmp(&right.workload));
    match world.documented_service(service).map(|spec| &spec.sources) {
        Some(Sources::InOrder(order)) => Some(first(order, all)),
        Some(Sources::Merged) | None => Some(all),
    }
}

/// Those that no orchestrator tells of.
fn members(world: &World, service: &QualifiedName) -> Vec<(SourceKind, Endpoint)> {
    let document = world.documented_service(service);
    let takes_unready = document.is_some_and(|spec| spec.publish_not_ready);
    let is_backed = world.backends(service).is_some();
    let ports: Vec<u16> = service_ports(world, service).into_iter().map(|port| port.port).collect();
    let portless = ports.is_empty();
    let priorities = world.priorities(service);
    let mut endpoints = Vec::new();
    for (name, member) in world.members(service) {
        let takes_traffic = match member {
            // Of its own pods an orchestrator alone says who is called; others say by an offer that they belong to it.
            Member::Registered(known) if is_backed && !known.offers.iter().any(|o| o.service == *service) => {
                false
            }
            Member::Registered(registration) => registration.ready || takes_unready,
            Member::Documented(_, spec) => spec.weight > 0,
            // Without a word on who is behind the service nobody is.
            Member::Pod(_) => takes_unready && !is_backed,
        };
        let target = |port: &u16| {
            let target_port = target_port(service, document, member, *port)?;
            Some(PortMap { port: *port, target_port })
        };
        let ports: Vec<_> = ports.iter().filter_map(target).collect();
        if takes_traffic && (!ports.is_empty() || portless) {
            let healthy = match member {
                Member::Registered(registration) => !registration.unhealthy.contains(service),
                Member::Documented(..) | Member::Pod(_) => true,
            };
            let endpoint = super::endpoint(world, &name, member);
            let fits = Fits::of(priorities, member.labels(), &endpoint.zone);
            endpoints.push((world.source_of(member), Endpoint { ports, healthy, fits, ..endpoint }));
        }
    }
    endpoints
}

/// Those of the first source that has somebody who works; where none has, of the first that has anybody.
fn first(order: &[SourceKind], all: Vec<(SourceKind, Endpoint)>) -> Vec<(SourceKind, Endpoint)> {
    let has = |kind: &&SourceKind, works: bool| {
        all.iter().any(|(of, endpoint)| of == *kind && (endpoint.healthy || !works))
    };
    let chosen =
        order.iter().find(|kind| has(kind, true)).or_else(|| order.iter().find(|kind| has(kind, false)));
    let chosen = chosen.copied();
    all.into_iter().filter(|(kind, _)| Some(*kind) == chosen).collect()
}
