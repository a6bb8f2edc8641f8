//! World -> resources: what sidecars are told follows from what the control plane knows, and from nothing else.
//!
//! Each resource is compiled by itself, so that a change costs what it touches:
//! after [`World::apply`] compile the affected names again, and the sum is what [`compile`] would give.

mod cluster;
mod sources;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::attachment;
use crate::manifest::{
    AuthorizationPolicySpec, DocumentedPort, ExternalServiceSpec, JwtAuthenticationSpec, LimitScope,
    RateLimitSpec, ServiceSpec, Spec, TargetPort,
};
use crate::model::{
    AccessPolicy, Address, AppCheck, Endpoint, External, ExternalHosts, ExternalPort, Fits, HttpRule,
    InboundPort, InboundSampling, KeySource, Limit, Mesh, PolicyTarget, PortMap, Propagation, Protocol,
    QualifiedName, RateLimit, Resource, ResourceName, Route, RouteRules, RouteTraffic, Service, ServicePort,
    SpiffeId, TokenPolicy, TokenProvider, Workload,
};
use crate::world::{Holder, Member, Registration, World};

pub use sources::endpoints as sourced_endpoints;

/// The port at which a sidecar takes mesh traffic where nothing else is said.
const INBOUND_PORT: u16 = 4143;

/// Everything there is to tell, by name.
pub fn compile(world: &World) -> BTreeMap<ResourceName, Resource> {
    let compiled = |name: ResourceName| compile_one(world, &name).map(|resource| (name, resource));
    names(world).into_iter().filter_map(compiled).collect()
}

/// The names of everything there is to tell.
pub fn names(world: &World) -> BTreeSet<ResourceName> {
    let mut names =
        BTreeSet::from([ResourceName::Mesh, ResourceName::Trust(world.defaults().trust_domain.clone())]);
    for service in world.service_names() {
        names.insert(ResourceName::Service(service.clone()));
        names.insert(ResourceName::Endpoints(service));
    }
    names.extend(world.addresses().map(ResourceName::Address));
    names.extend(world.registrations().map(|registration| ResourceName::Workload(registration.name.clone())));
    names
}

/// One resource, where it exists.
pub fn compile_one(world: &World, name: &ResourceName) -> Option<Resource> {
    match name {
        ResourceName::Mesh => Some(Resource::Mesh(mesh(world))),
        ResourceName::Trust(domain) => {
            (*domain == world.defaults().trust_domain).then(|| Resource::Trust(world.trust().clone()))
        }
        ResourceName::Service(name) => service(world, name).map(Resource::Service),
        ResourceName::Endpoints(name) => endpoints(world, name).map(Resource::Endpoints),
        ResourceName::Address(ip) => address(world, *ip).map(Resource::Address),
        ResourceName::Workload(name) => workload(world, name).map(Resource::Workload),
    }
}

/// The mesh's settings.
pub fn mesh(world: &World) -> Mesh {
    let defaults = world.defaults();
    let mut mesh = Mesh::with_defaults(defaults.trust_domain.clone(), defaults.service_cidrs.clone());
    mesh.externals = external_hosts(world);
    let Some(config) = world.mesh_config() else { return mesh };
    mesh.mtls = config.mtls.unwrap_or(mesh.mtls);
    mesh.outbound = config.outbound.unwrap_or(mesh.outbound);
    mesh.authorization = config.authorization.unwrap_or(mesh.authorization);
    mesh.access_log = config.access_log.unwrap_or(mesh.access_log);
    if let Some(sampling) = config.access_log_sampling {
        mesh.access_log_per_million = sampling.per_million();
    }
    if let Some(sampling) = config.sampling {
        mesh.tracing.sampling_per_million = sampling.per_million();
    }
    for format in config.propagation.iter().flatten() {
        // W3C's is always on, and first.
        if *format != Propagation::W3c && !mesh.tracing.propagation.contains(format) {
            mesh.tracing.propagation.push(*format);
        }
    }
    mesh.tracing.export.extend(config.export.iter().flatten().cloned());
    mesh
}

/// By which hosts each service outside the mesh is known.
fn external_hosts(world: &World) -> Vec<ExternalHosts> {
    let hosts = |(service, spec): (QualifiedName, &ExternalServiceSpec)| ExternalHosts {
        service,
        hosts: spec.hosts.clone(),
        ports: spec.ports.iter().map(|port| port.port).collect(),
    };
    world.external_services().map(hosts).collect()
}

/// How a service outside the mesh is reached.
fn external(spec: &ExternalServiceSpec) -> External {
    let map = |port: &ExternalPort| PortMap { port: port.port, target_port: port.target_port };
    External {
        host: spec.host().and_then(|host| host.parse().ok()),
        ports: spec.ports.iter().map(map).collect(),
        tls: spec.tls.clone(),
    }
}

/// A service: its virtual addresses, its ports and its routes.
pub fn service(world: &World, name: &QualifiedName) -> Option<Service> {
    if !world.has_service(name) {
        return None;
    }
    let addresses = world.service_addresses(name).to_vec();
    let ports = service_ports(world, name);
    let routes = attachment::routes(world, name, &ports);
    let traffic = Box::new(world.traffic(name));
    let external = world.external_service(name).map(external);
    // Callers prove tokens for nothing but to choose a rule by them.
    let asks_claims = routes.iter().any(|route| route.rules.claims().next().is_some());
    let tokens = asks_claims.then(|| tokens_of_callers(world, name)).flatten().map(Arc::new);
    Some(Service { name: name.clone(), addresses, ports, traffic, routes, external, tokens })
}

/// Whose tokens a service's callers have, as far as that is said of the whole service.
fn tokens_of_callers(world: &World, service: &QualifiedName) -> Option<TokenPolicy> {
    let policies = world.inbound_policies().filter_map(|(name, target, spec)| match spec {
        Spec::JwtAuthentication(spec) if target.comprises(service) => Some((target, name, spec)),
        _ => None,
    });
    let (_, name, spec) = policies.max_by_key(|(target, ..)| *target)?;
    Some(token_policy(world, name, Vec::new(), spec))
}

/// The endpoints of a service: its members that are ready and have an app's port behind one of its ports. Where a service
/// has no ports, neither have its endpoints: it is called on the apps' own.
pub fn endpoints(world: &World, service: &QualifiedName) -> Option<Vec<Endpoint>> {
    let sourced = sources::endpoints(world, service)?;
    Some(sourced.into_iter().map(|(_, endpoint)| endpoint).collect())
}

/// Who answers at an address.
pub fn address(world: &World, address: IpAddr) -> Option<Address> {
    let name = match world.holder(address)? {
        Holder::Service(name) => return Some(Address::Service(name.clone())),
        Holder::Workload(name) => name,
    };
    let member = world.member(name)?;
    let first_offered = match member {
        Member::Registered(registration) => registration.offers.first().map(|offer| offer.service.clone()),
        Member::Documented(..) | Member::Pod(_) => None,
    };
    let service = first_offered.or_else(|| world.selecting(name).into_iter().next());
    let target_ports = target_ports(world, name, member);
    Some(Address::Workload { endpoint: endpoint(world, name, member), service, target_ports })
}

/// What a registered workload's sidecar must know of it.
pub fn workload(world: &World, name: &QualifiedName) -> Option<Workload> {
    let registration = world.registration(name)?;
    let ports = inbound_ports(world, name, world.member(name)?);
    let service_account = registration.service_account.clone();
    let (mut policies, mut limits, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    // By name: the order decides nothing.
    for (policy, target, spec) in world.inbound_policies() {
        let Some(about) = ports_of(world, name, &ports, target) else { continue };
        match spec {
            Spec::AuthorizationPolicy(AuthorizationPolicySpec { action, mode, rules, .. }) => {
                let (action, mode, rules) = (*action, *mode, rules.clone().into());
                policies.push(AccessPolicy { name: policy, action, mode, ports: about, rules });
            }
            Spec::RateLimit(RateLimitSpec { rules, limits: said, .. }) => {
                let own = |(limit, scope): &(Limit, LimitScope)| match scope {
                    LimitScope::Local => limit.clone(),
                    LimitScope::Global => limit.share(world.sharing(target)),
                };
                let said = said.iter().map(own).collect();
                limits.push(RateLimit { name: policy, ports: about, rules: rules.clone(), limits: said });
            }
            Spec::JwtAuthentication(spec) => tokens.push((target, token_policy(world, policy, about, spec))),
            _ => {}
        }
    }
    // The most precise first.
    tokens.sort_by(|(left, _), (right, _)| right.cmp(left));
    let tokens = tokens.into_iter().map(|(_, policy)| Arc::new(policy)).collect();
    // Where a service has no ports, every port is its.
    let portless = services(world, name).into_iter().find(|service| service_ports(world, service).is_empty());
    let concurrency = world.concurrency(name, portless.as_ref());
    let mtls = world.mtls(name, portless.as_ref()).map(|(mode, _)| mode);
    let checks = checks(world, name);
    Some(Workload {
        name: name.clone(),
        service_account,
        ports,
        policies,
        limits,
        tokens,
        concurrency,
        checks,
        mtls,
    })
}

/// Whose tokens are taken, with the keys that are known now.
fn token_policy(
    world: &World,
    name: QualifiedName,
    ports: Vec<u16>,
    spec: &JwtAuthenticationSpec,
) -> TokenPolicy {
    let provider = |(provider, source): &(TokenProvider, Option<KeySource>)| {
        let mut provider = provider.clone();
        if let Some(source) = source {
            provider.keys = world.keys(source).to_vec();
        }
        provider
    };
    TokenPolicy {
        name,
        ports,
        presence: spec.presence,
        providers: spec.providers.iter().map(provider).collect(),
    }
}

/// The ports of a workload that a policy is about, where it is about the workload; none: all of them.
fn ports_of(
    world: &World,
    workload: &QualifiedName,
    inbound: &[InboundPort],
    target: &PolicyTarget,
) -> Option<Vec<u16>> {
    match target {
        PolicyTarget::Mesh => Some(Vec::new()),
        PolicyTarget::Namespace(namespace) => (workload.namespace == *namespace).then(Vec::new),
        PolicyTarget::Workload(name) => (workload == name).then(Vec::new),
        PolicyTarget::Service(service) => {
            // Without declared ports the service is every port of its workloads.
            let ports = inbound.iter().filter(|port| port.service == *service).map(|port| port.port);
            let ports: BTreeSet<u16> = ports.collect();
            world.members(service).contains_key(workload).then(|| ports.into_iter().collect())
        }
        PolicyTarget::HttpRoute(_) | PolicyTarget::GrpcRoute(_) => None,
    }
}

/// The document's ports stand; without any, those that are offered.
fn service_ports(world: &World, service: &QualifiedName) -> Vec<ServicePort> {
    if let Some(spec) = world.external_service(service) {
        return spec.ports.iter().map(Into::into).collect();
    }
    let document = world.documented_service(service).filter(|spec| !spec.ports.is_empty());
    if let Some(spec) = document {
        let members = world.members(service);
        let port = |port: &DocumentedPort| {
            let told = || members.values().map(|member| told_protocol(service, spec, *member, port));
            let protocol = port.protocol.unwrap_or_else(|| agreed(told()));
            ServicePort { port: port.port, name: port.name.clone(), protocol }
        };
        return spec.ports.iter().map(port).collect();
    }
    let mut told: BTreeMap<u16, Vec<Protocol>> = BTreeMap::new();
    for registration in world.offering(service) {
        for offer in registration.offers.iter().filter(|offer| offer.service == *service) {
            if let Some(offered) = offer.port {
                told.entry(offered.port).or_default().push(offered.protocol);
            }
        }
    }
    let port = |(port, told): (u16, Vec<Protocol>)| ServicePort {
        port,
        name: String::new(),
        protocol: agreed(told.into_iter()),
    };
    told.into_iter().map(port).collect()
}

/// What all who say something agree on; else it is found out call by call.
fn agreed(told: impl Iterator<Item = Protocol>) -> Protocol {
    let mut told = told.filter(|protocol| *protocol != Protocol::Detect);
    let Some(first) = told.next() else { return Protocol::Detect };
    if told.all(|other| other == first) { first } else { Protocol::Detect }
}

/// What a member says is spoken behind a documented port.
fn told_protocol(
    service: &QualifiedName,
    spec: &ServiceSpec,
    member: Member<'_>,
    port: &DocumentedPort,
) -> Protocol {
    match member {
        Member::Registered(registration) => {
            offered(registration, service, port.port).map_or(Protocol::Detect, |(_, protocol)| protocol)
        }
        Member::Documented(_, workload) => {
            let target = target_port(service, Some(spec), member, port.port);
            let told = workload.ports.iter().find(|own| Some(own.port) == target);
            told.map_or(Protocol::Detect, |own| own.protocol)
        }
        Member::Pod(pod) => {
            let target = target_port(service, Some(spec), member, port.port);
            let is_opaque = target.is_some_and(|target| pod.is_opaque(target));
            if is_opaque { Protocol::Tcp } else { Protocol::Detect }
        }
    }
}

/// The app's port behind a service port: the workload's own offer, else the document's.
fn target_port(
    service: &QualifiedName,
    document: Option<&ServiceSpec>,
    member: Member<'_>,
    port: u16,
) -> Option<u16> {
    if let Member::Registered(registration) = member
        && let Some((target, _)) = offered(registration, service, port)
    {
        return Some(target);
    }
    let spec = document?;
    if spec.selector.is_empty()
        || !spec.selector.iter().all(|(key, value)| member.labels().get(key) == Some(value))
    {
        return None;
    }
    match &spec.ports.iter().find(|documented| documented.port == port)?.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Named(name) => cluster::named_port(member, name),
    }
}

fn offered(registration: &Registration, service: &QualifiedName, port: u16) -> Option<(u16, Protocol)> {
    let mut offers = registration.offers.iter().filter(|offer| offer.service == *service);
    let mut every_port = false;
    let said = offers.find_map(|offer| {
        every_port |= offer.port.is_none();
        offer.port.filter(|offered| offered.port == port)
    });
    match said {
        Some(offered) => Some((offered.target_port, offered.protocol)),
        None => every_port.then_some((port, Protocol::Detect)),
    }
}

/// A member without the ports of a service.
fn endpoint(world: &World, name: &QualifiedName, member: Member<'_>) -> Endpoint {
    match member {
        Member::Pod(pod) => cluster::pod(world, pod),
        Member::Registered(registration) => Endpoint {
            workload: name.clone(),
            addresses: registration.addresses.clone(),
            identity: Some(registration.identity.clone()),
            inbound_port: Some(registration.inbound_port),
            zone: registration.zone.clone(),
            node: world.pod(name).map(|pod| Arc::clone(&pod.node)).unwrap_or_default(),
            weight: 1,
            ports: Vec::new(),
            healthy: true,
            fits: Fits::default(),
        },
        Member::Documented(_, spec) => {
            let account = spec.service_account.as_ref().filter(|_| spec.mtls);
            let domain = &world.defaults().trust_domain;
            let identity = account.map(|sa| SpiffeId::of_service_account(domain, &name.namespace, sa));
            Endpoint {
                workload: name.clone(),
                addresses: vec![spec.address],
                inbound_port: identity.as_ref().map(|_| INBOUND_PORT),
                identity,
                zone: spec.zone.clone(),
                node: Arc::default(),
                weight: spec.weight,
                ports: Vec::new(),
                healthy: true,
                fits: Fits::default(),
            }
        }
    }
}

/// How a workload's app is asked whether it works, for each service that says so and has a port to ask at.
fn checks(world: &World, name: &QualifiedName) -> Vec<AppCheck> {
    let (Some(_), Some(member)) = (world.registration(name), world.member(name)) else { return Vec::new() };
    let check = |service: QualifiedName| {
        let settings = world.health_check(name, &service)?;
        let ports = service_ports(world, &service);
        let asked = settings.port.or_else(|| ports.first().map(|port| port.port))?;
        let document = world.documented_service(&service);
        let behind = target_port(&service, document, member, asked);
        // A service without ports has every one of the app's.
        let port = behind.or_else(|| ports.is_empty().then_some(asked))?;
        let declared = ports.iter().find(|declared| declared.port == asked);
        let protocol = declared.map(|declared| declared.protocol).unwrap_or_default();
        Some(AppCheck { service, port, protocol, settings })
    };
    services(world, name).into_iter().filter_map(check).collect()
}

/// The services that a workload is behind.
fn services(world: &World, workload: &QualifiedName) -> BTreeSet<QualifiedName> {
    let offers = world.registration(workload).map(|registration| registration.offers.as_slice());
    let offered = offers.into_iter().flatten().map(|offer| offer.service.clone());
    world.selecting(workload).into_iter().chain(offered).collect()
}

/// The app's ports that serve something, by number and service.
fn inbound_ports(world: &World, name: &QualifiedName, member: Member<'_>) -> Vec<InboundPort> {
    let mut ports: BTreeMap<(u16, QualifiedName), (Protocol, u16)> = BTreeMap::new();
    for service in services(world, name) {
        let document = world.documented_service(&service);
        for port in service_ports(world, &service) {
            let Some(target) = target_port(&service, document, member, port.port) else { continue };
            let documented =
                document.and_then(|spec| spec.ports.iter().find(|other| other.port == port.port));
            let protocol = match (documented, member) {
                (Some(DocumentedPort { protocol: Some(protocol), .. }), _) => *protocol,
                (Some(documented), _) if let Some(spec) = document => {
                    told_protocol(&service, spec, member, documented)
                }
                (_, Member::Registered(registration)) => offered(registration, &service, port.port)
                    .map_or(Protocol::Detect, |(_, protocol)| protocol),
                (_, Member::Documented(..) | Member::Pod(_)) => Protocol::Detect,
            };
            ports.entry((target, service.clone())).or_insert((protocol, port.port));
        }
    }
    let port = |((port, service), (protocol, called))| {
        let concurrency = world.concurrency(name, Some(&service));
        let mtls = world.mtls(name, Some(&service)).map(|(mode, _)| mode);
        let sampling = inbound_sampling(world, &service, called).map(Arc::new);
        InboundPort { port, protocol, service, concurrency, mtls, sampling }
    };
    ports.into_iter().map(port).collect()
}

/// What is said of the traces of requests to a service's port that nobody has decided about; none: nothing. Of its routes those count
/// that hold for callers without routes of their own.
fn inbound_sampling(world: &World, service: &QualifiedName, port: u16) -> Option<InboundSampling> {
    let of_service = world.sampling(service);
    let mut routes = Vec::new();
    if world.samples_by_route(service) {
        let own = attachment::routes(world, service, &service_ports(world, service)).into_iter();
        let on_port = |route: &Route| route.ports.is_empty() || route.ports.contains(&port);
        let own = own.filter(|route| route.name.namespace == service.namespace && on_port(route));
        routes.extend(own.map(sampling_alone));
    }
    let says = of_service.is_some() || !routes.is_empty();
    says.then_some(InboundSampling { service: of_service, routes })
}

/// A route by which only that is found out: which requests it is for, and of how many of them there are traces.
fn sampling_alone(route: Route) -> Route {
    let bare = |rules: Vec<HttpRule>| -> Vec<HttpRule> {
        rules
            .into_iter()
            .map(|HttpRule { name, matches, .. }| HttpRule { name, matches, ..HttpRule::default() })
            .collect()
    };
    let rules = match route.rules {
        RouteRules::Http(rules) => RouteRules::Http(bare(rules)),
        RouteRules::Grpc(rules) => RouteRules::Grpc(bare(rules)),
        RouteRules::Tls { .. } | RouteRules::Tcp(_) => RouteRules::Tcp(Vec::new()),
    };
    let sampling = route.traffic.and_then(|traffic| traffic.sampling);
    let traffic =
        sampling.map(|ratio| Arc::new(RouteTraffic { sampling: Some(ratio), ..RouteTraffic::default() }));
    Route { name: route.name, ports: Vec::new(), rules, traffic }
}

/// What is known of the app's ports, by number.
fn target_ports(world: &World, name: &QualifiedName, member: Member<'_>) -> Vec<ServicePort> {
    let mut ports: BTreeMap<u16, ServicePort> = BTreeMap::new();
    if let Member::Documented(_, spec) = member {
        for own in &spec.ports {
            let port = ServicePort { port: own.port, name: own.name.clone(), protocol: own.protocol };
            ports.insert(own.port, port);
        }
    }
    for inbound in inbound_ports(world, name, member) {
        let unknown = ServicePort { port: inbound.port, name: String::new(), protocol: Protocol::Detect };
        let port = ports.entry(inbound.port).or_insert(unknown);
        if port.protocol == Protocol::Detect {
            port.protocol = inbound.protocol;
        }
    }
    ports.into_values().collect()
}
