//! The endpoints of a service as an orchestrator tells of them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::model::{Endpoint, Fits, Name, PortMap, QualifiedName, ServicePort, SpiffeId};
use crate::world::{Backend, Member, Pod, Readiness, World};

/// Those that are ready; where none is, those that still serve on their way out.
pub(super) fn endpoints(
    world: &World,
    service: &QualifiedName,
    ports: &[ServicePort],
    backends: &[Backend],
) -> Vec<Endpoint> {
    let takes_unready = world.documented_service(service).is_some_and(|spec| spec.publish_not_ready);
    let readiness = |backend: &Backend| {
        let pod = backend.pod.as_ref().and_then(|name| world.pod(name));
        let at_most =
            if pod.is_some_and(|pod| pod.is_leaving) { Readiness::Leaving } else { Readiness::Ready };
        backend.readiness.min(at_most)
    };
    let best = backends.iter().map(readiness).max().unwrap_or(Readiness::Not);
    let wanted = match best {
        _ if takes_unready => Readiness::Not,
        Readiness::Not => return Vec::new(),
        best => best,
    };
    let backends = backends.iter().filter(|backend| readiness(backend) >= wanted);
    backends.filter_map(|backend| endpoint(world, service, ports, backend)).collect()
}

fn endpoint(
    world: &World,
    service: &QualifiedName,
    ports: &[ServicePort],
    backend: &Backend,
) -> Option<Endpoint> {
    let pod = match &backend.pod {
        // Whether it has a sidecar is not known yet, and who has one must not be called without.
        Some(name) => Some(world.pod(name)?),
        None => None,
    };
    let target = |port: &ServicePort| {
        let target_port = *backend.ports.get(&port.name)?;
        Some(PortMap { port: port.port, target_port })
    };
    let maps: Vec<_> = ports.iter().filter_map(target).collect();
    if maps.is_empty() && !ports.is_empty() {
        return None;
    }
    let identity = pod.and_then(|pod| identity(world, pod));
    let workload = match pod {
        Some(pod) => pod.name.clone(),
        None => QualifiedName::new(service.namespace.clone(), nameless(service, backend)?),
    };
    let no_labels = BTreeMap::new();
    let labels = pod.map_or(&no_labels, |pod| &pod.labels);
    let fits = Fits::of(world.priorities(service), labels, &backend.zone);
    let node = pod.map(|pod| &pod.node).filter(|node| !node.is_empty()).unwrap_or(&backend.node);
    let unhealthy = world.registration(&workload).is_some_and(|known| known.unhealthy.contains(service));
    Some(Endpoint {
        workload,
        addresses: backend.addresses.clone(),
        inbound_port: identity.as_ref().map(|_| super::INBOUND_PORT),
        identity,
        zone: backend.zone.clone(),
        node: Arc::clone(node),
        weight: 1,
        ports: maps,
        healthy: !unhealthy,
        fits,
    })
}

/// A pod, without the ports of a service.
pub(super) fn pod(world: &World, pod: &Pod) -> Endpoint {
    let identity = identity(world, pod);
    Endpoint {
        workload: pod.name.clone(),
        addresses: pod.addresses.clone(),
        inbound_port: identity.as_ref().map(|_| super::INBOUND_PORT),
        identity,
        zone: String::new(),
        node: Arc::clone(&pod.node),
        weight: 1,
        ports: Vec::new(),
        healthy: true,
        fits: Fits::default(),
    }
}

/// The app's port of this name.
pub(super) fn named_port(member: Member<'_>, name: &str) -> Option<u16> {
    match member {
        Member::Pod(pod) => pod.ports.get(name).copied(),
        Member::Documented(_, workload) => {
            workload.ports.iter().find(|own| own.name == name).map(|own| own.port)
        }
        // Whoever registers itself says by an offer which port it means.
        Member::Registered(_) => None,
    }
}

fn identity(world: &World, pod: &Pod) -> Option<SpiffeId> {
    let domain = &world.defaults().trust_domain;
    pod.has_sidecar.then(|| SpiffeId::of_service_account(domain, &pod.name.namespace, &pod.service_account))
}

/// What an endpoint without a pod is called: `orders.10-0-0-9`.
fn nameless(service: &QualifiedName, backend: &Backend) -> Option<Name> {
    let address = match backend.addresses.first()? {
        IpAddr::V4(address) => address.to_string().replace('.', "-"),
        IpAddr::V6(address) => address.segments().map(|segment| format!("{segment:x}")).join("-"),
    };
    format!("{}.{address}", service.name).parse().ok()
}
