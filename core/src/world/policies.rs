//! Which policies are in force for a service, the most specific one first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::World;
use crate::manifest::{
    Distribution, ExternalServiceSpec, Kind, Problem, Resource, ResourceKey, Spec, TrafficLayer,
    TrafficPolicySpec,
};
use crate::model::{
    ConcurrencyMode, Fault, HealthCheck, Locality, MtlsMode, PlaceWanted, PolicyTarget, Priority, Probe,
    Protocol, QualifiedName, Ratio, ResourceName, RouteTraffic, Traffic,
};

/// `PreferSameNode`: as long as anybody works there. Who comes next is for `locality` to say.
static NODE_FIRST: [Priority; 1] = [Priority {
    labels: BTreeMap::new(),
    place: Some(PlaceWanted::CallersNode),
    failover_below: Ratio::NONE,
}];

/// The policies in force, by what they are for.
#[derive(Debug, Clone, Default)]
pub(super) struct Policies {
    by_scope: BTreeMap<PolicyTarget, BTreeMap<ResourceKey, Arc<Resource>>>,
    scopes: BTreeMap<ResourceKey, PolicyTarget>,
}

impl Policies {
    /// Puts a policy in force, or takes it out.
    pub(super) fn put(&mut self, key: &ResourceKey, resource: Option<&Arc<Resource>>) {
        if let Some(scope) = self.scopes.remove(key)
            && let Some(policies) = self.by_scope.get_mut(&scope)
        {
            policies.remove(key);
            if policies.is_empty() {
                self.by_scope.remove(&scope);
            }
        }
        let Some((resource, scope)) = resource.and_then(|r| Some((r, scope_of(r)?))) else { return };
        self.scopes.insert(key.clone(), scope.clone());
        self.by_scope.entry(scope).or_default().insert(key.clone(), Arc::clone(resource));
    }

    /// The policies for a service: its own, its namespace's, the mesh's; within each in the order of their names.
    fn of(&self, service: &QualifiedName) -> impl Iterator<Item = &Resource> {
        self.within([
            Some(PolicyTarget::Service(service.clone())),
            Some(PolicyTarget::Namespace(service.namespace.clone())),
            Some(PolicyTarget::Mesh),
        ])
    }

    /// The policies for a workload as one behind a service: its own, the service's, its namespace's, the mesh's.
    fn of_workload(
        &self,
        workload: &QualifiedName,
        service: Option<&QualifiedName>,
    ) -> impl Iterator<Item = &Resource> {
        self.within([
            Some(PolicyTarget::Workload(workload.clone())),
            service.map(|service| PolicyTarget::Service(service.clone())),
            Some(PolicyTarget::Namespace(workload.namespace.clone())),
            Some(PolicyTarget::Mesh),
        ])
    }

    fn within<const N: usize>(&self, scopes: [Option<PolicyTarget>; N]) -> impl Iterator<Item = &Resource> {
        let policies = scopes.into_iter().flatten().filter_map(|scope| self.by_scope.get(&scope));
        policies.flat_map(BTreeMap::values).map(AsRef::as_ref)
    }
}

impl World {
    /// The policies for a service's callers: its own, its namespace's, the mesh's; within each in the order of their names.
    pub fn policies(&self, service: &QualifiedName) -> impl Iterator<Item = &Resource> {
        self.policies.of(service)
    }

    /// How a service is to be called.
    pub fn traffic(&self, service: &QualifiedName) -> Traffic {
        let layers = self.policies.of(service).filter_map(traffic_policy);
        let said = layers.fold(TrafficLayer::default(), |above, policy| above.over(&policy.layer));
        let faults = self.policies.of(service).filter_map(fault).collect();
        let mut traffic = Traffic { faults, ..said.resolve() };
        self.priorities(service).clone_into(&mut traffic.balancing.priorities);
        if self.distribution(service).is_some() && traffic.balancing.locality.is_none() {
            // As long as anybody is there, as kube-proxy has it.
            traffic.balancing.locality = Some(Locality { failover_below: Ratio::NONE });
        }
        if self.external_service(service).is_some() {
            traffic.health_check = self.health_check_outside(service);
        }
        traffic
    }

    /// How the addresses of a host outside the mesh are asked whether they work. What is said of all apps is not said of it.
    fn health_check_outside(&self, service: &QualifiedName) -> Option<HealthCheck> {
        let own = self.policies.within([Some(PolicyTarget::Service(service.clone()))]);
        let said = own.filter_map(traffic_policy).filter_map(|policy| policy.layer.health_check.clone());
        let layer = TrafficLayer {
            health_check: said.reduce(|above, below| above.over(&below)),
            ..TrafficLayer::default()
        };
        layer.resolve().health_check
    }

    /// Of how many of a service's requests without a decision there are traces, where a policy says so.
    pub fn sampling(&self, service: &QualifiedName) -> Option<Ratio> {
        self.policies.of(service).filter_map(traffic_policy).find_map(|policy| policy.layer.sampling)
    }

    /// Whether a policy says it for one of a service's routes.
    pub fn samples_by_route(&self, service: &QualifiedName) -> bool {
        let said =
            |target: PolicyTarget| self.route_traffic(&target).is_some_and(|said| said.sampling.is_some());
        self.routes_of(service).any(|(route, _)| route.as_target().is_some_and(said))
    }

    /// Which endpoints of a service go first.
    pub fn priorities(&self, service: &QualifiedName) -> &[Priority] {
        let mut policies = self.policies.of(service).filter_map(traffic_policy);
        if let Some(said) = policies.find_map(|policy| policy.layer.balancing.priorities.as_deref()) {
            return said;
        }
        let says_locality = |policy: &TrafficPolicySpec| policy.layer.balancing.locality.is_some();
        match self.distribution(service) {
            Some(Distribution::SameNode)
                if !self.policies.of(service).filter_map(traffic_policy).any(says_locality) =>
            {
                &NODE_FIRST
            }
            _ => &[],
        }
    }

    /// Who goes before others where no policy says it.
    fn distribution(&self, service: &QualifiedName) -> Option<Distribution> {
        self.documented_service(service).and_then(|spec| spec.distribution)
    }

    /// The policies for a route, in the order of their names.
    pub fn route_policies(&self, route: &PolicyTarget) -> impl Iterator<Item = &Resource> {
        self.policies.within([Some(route.clone())])
    }

    /// What is said of a route's requests, before what is said of the services that they go to; none: nothing.
    pub fn route_traffic(&self, route: &PolicyTarget) -> Option<RouteTraffic> {
        let layers = self.route_policies(route).filter_map(traffic_policy);
        let said = layers.fold(TrafficLayer::default(), |above, policy| above.over(&policy.layer));
        let faults = self.route_policies(route).filter_map(fault).collect();
        Some(RouteTraffic { faults, ..said.of_route() }).filter(|traffic| !traffic.is_empty())
    }

    /// Whether it is found out how many requests a workload is given at once, as one behind a service.
    pub fn concurrency(&self, workload: &QualifiedName, service: Option<&QualifiedName>) -> ConcurrencyMode {
        let policies = self.policies.of_workload(workload, service).filter_map(traffic_policy);
        policies.filter_map(|policy| policy.layer.concurrency).next().unwrap_or_default()
    }

    /// Whether a workload takes plaintext, as one behind a service, where a policy says so, and which one does.
    pub fn mtls(
        &self,
        workload: &QualifiedName,
        service: Option<&QualifiedName>,
    ) -> Option<(MtlsMode, &Resource)> {
        let mut policies = self.policies.of_workload(workload, service);
        policies.find_map(|policy| Some((traffic_policy(policy)?.layer.mtls?, policy)))
    }

    /// How a workload is asked whether it works, as one behind a service.
    pub fn health_check(&self, workload: &QualifiedName, service: &QualifiedName) -> Option<HealthCheck> {
        let policies = self.policies.of_workload(workload, Some(service)).filter_map(traffic_policy);
        let said = policies.fold(TrafficLayer::default(), |above, policy| above.over(&policy.layer));
        said.resolve().health_check
    }

    /// What follows from policies among these resources: what is said of the services that they are for, and, where they
    /// say something of apps, what sidecars are told of their own.
    pub(super) fn governed(&self, keys: &[ResourceKey]) -> BTreeSet<ResourceName> {
        let mut governed = BTreeSet::new();
        for key in keys {
            if key.kind == Kind::JwtAuthentication
                && let Some(target) = self.inbound_policies.get(key).and_then(|policy| policy.target())
            {
                governed.extend(self.asking_claims(target).into_iter().map(ResourceName::Service));
            }
            if matches!(key.kind, Kind::HttpRoute | Kind::GrpcRoute) {
                let sampled = self.parents(key).into_iter().filter(|service| self.samples_by_route(service));
                governed.extend(self.members_of(sampled));
            }
            let Some(scope) = self.policies.scopes.get(key) else { continue };
            governed.extend(self.services_within(scope).into_iter().map(ResourceName::Service));
            let policy = self.policies.by_scope.get(scope).and_then(|policies| policies.get(key));
            let Some(policy) = policy.and_then(|policy| traffic_policy(policy)) else { continue };
            if policy.layer.is_about_apps() {
                governed.extend(self.targeted(scope).into_iter().map(ResourceName::Workload));
            }
            // What comes to a service without a decision its own sidecars decide about.
            if policy.layer.sampling.is_some() {
                governed.extend(self.members_of(self.services_within(scope)));
            }
            // Each endpoint says which of the priorities it fits.
            if policy.layer.balancing.priorities.is_some() {
                governed.extend(self.services_within(scope).into_iter().map(ResourceName::Endpoints));
            }
        }
        governed
    }

    fn members_of(&self, services: impl IntoIterator<Item = QualifiedName>) -> BTreeSet<ResourceName> {
        let members = services.into_iter().flat_map(|service| self.members(&service).into_keys());
        members.map(ResourceName::Workload).collect()
    }

    fn services_within(&self, scope: &PolicyTarget) -> BTreeSet<QualifiedName> {
        match scope {
            PolicyTarget::Service(name) => [name.clone()].into(),
            PolicyTarget::Namespace(namespace) => {
                let of = |name: &QualifiedName| name.namespace == *namespace;
                self.service_names().into_iter().filter(of).collect()
            }
            PolicyTarget::Mesh => self.service_names(),
            PolicyTarget::HttpRoute(name) => self.parents(&key_of(Kind::HttpRoute, name)),
            PolicyTarget::GrpcRoute(name) => self.parents(&key_of(Kind::GrpcRoute, name)),
            PolicyTarget::Workload(_) => BTreeSet::new(),
        }
    }
}

/// Two policies that are equally specific must not both speak of the same thing: nobody could say which one holds.
pub(super) fn check(resource: &Resource, all: &[&Resource]) -> Option<Problem> {
    if let Spec::JwtAuthentication(_) = &resource.spec {
        return check_tokens(resource, all);
    }
    let (policy, scope) = (traffic_policy(resource)?, scope_of(resource)?);
    if let Some(problem) = check_outside(resource, policy, all) {
        return Some(problem);
    }
    all.iter().find_map(|other| {
        let theirs = traffic_policy(other)?;
        if other.key() == resource.key() || scope_of(other)? != scope {
            return None;
        }
        let parts = policy.layer.overlap(&theirs.layer);
        let part = parts.first()?;
        let message = format!(
            "spec.{part}: {} at {}:{} says it for {} as well",
            other.key(),
            other.file,
            other.line,
            policy.target
        );
        let hint = "say it in one of them".to_owned();
        Some(resource.problem(&format!("spec.{part}"), message, hint))
    })
}

/// Hosts outside the mesh have no sidecar that could do what is said of apps, and their addresses have neither labels nor zones.
fn check_outside(resource: &Resource, policy: &TrafficPolicySpec, all: &[&Resource]) -> Option<Problem> {
    let PolicyTarget::Service(name) = &policy.target else { return None };
    let is_named = |other: &&&Resource| other.qualified_name().as_ref() == Some(name);
    let (outside, spec) = all.iter().filter(is_named).find_map(|other| match &other.spec {
        Spec::ExternalService(spec) => Some((other, spec)),
        _ => None,
    })?;
    let (part, why, hint) = misplaced_outside(&policy.layer, spec)?;
    let message = format!(
        "spec.{part}: {} at {}:{} is outside the mesh, {why}",
        outside.key(),
        outside.file,
        outside.line
    );
    // Places are known by section.
    let section = part.split('.').next().unwrap_or(part);
    Some(resource.problem(&format!("spec.{section}"), message, hint.to_owned()))
}

/// What cannot be said of a host outside: the field, why, and what to do.
fn misplaced_outside(
    layer: &TrafficLayer,
    spec: &ExternalServiceSpec,
) -> Option<(&'static str, &'static str, &'static str)> {
    let breaker = "write circuitBreaker, which leaves addresses alone that fail";
    let of_apps = ["concurrency", "mtls"].map(|part| (part, "where no sidecar could do it", breaker));
    let of_pods = ["loadBalancing.locality", "loadBalancing.priorities"]
        .map(|part| (part, "where addresses have no labels and no zones", "take it out"));
    let said = layer.fields();
    let is_said = |part: &str| said.iter().any(|field| field.starts_with(part));
    let misplaced = of_apps.into_iter().chain(of_pods).find(|(part, ..)| is_said(part));
    let check = layer.health_check.as_ref();
    let unasked = check.and_then(|check| {
        if spec.host().is_none() {
            return Some((
                "healthCheck",
                "and none of its hosts has a name of its own that could be asked",
                breaker,
            ));
        }
        let asked = check.port.or_else(|| spec.ports.first().map(|port| port.port));
        let asked = spec.ports.iter().find(|port| Some(port.port) == asked);
        let speaks = check.probe.as_ref().is_some_and(|probe| *probe != Probe::Tcp);
        let is_sealed = speaks && asked.is_some_and(|port| port.protocol == Protocol::Tls);
        let why = "where only apps speak TLS on this port";
        is_sealed.then_some(("healthCheck", why, "write tcp: {}, or tls: {originate: true} there"))
    });
    misplaced.or(unasked)
}

/// Of policies about tokens the most precise one holds, whole: of two that are equally precise nobody could say which.
fn check_tokens(resource: &Resource, all: &[&Resource]) -> Option<Problem> {
    let is_rival = |other: &&&Resource| {
        other.key() != resource.key() && other.kind == resource.kind && other.target() == resource.target()
    };
    let rival = all.iter().find(is_rival)?;
    let message = format!(
        "spec.targetRef: {} at {}:{} says whose tokens are taken for {} as well",
        rival.key(),
        rival.file,
        rival.line,
        resource.target()?
    );
    let hint = "name all providers in one of them".to_owned();
    Some(resource.problem("spec.targetRef", message, hint))
}

fn key_of(kind: Kind, name: &QualifiedName) -> ResourceKey {
    ResourceKey { kind, namespace: Some(name.namespace.clone()), name: name.name.clone() }
}

fn fault(resource: &Resource) -> Option<Fault> {
    match &resource.spec {
        Spec::FaultInjection(spec) => {
            let policy = resource.qualified_name().map(|name| name.to_string()).unwrap_or_default().into();
            Some(Fault { policy, ..spec.fault.clone() })
        }
        _ => None,
    }
}

fn traffic_policy(resource: &Resource) -> Option<&TrafficPolicySpec> {
    match &resource.spec {
        Spec::TrafficPolicy(spec) => Some(spec),
        _ => None,
    }
}

fn scope_of(resource: &Resource) -> Option<PolicyTarget> {
    match &resource.spec {
        Spec::TrafficPolicy(spec) => Some(spec.target.clone()),
        Spec::FaultInjection(spec) => Some(spec.target.clone()),
        _ => None,
    }
}
