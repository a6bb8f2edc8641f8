//! All that the control plane knows, and what becomes of it with each change.
//!
//! Every source turns what it sees into a [`Change`]; [`World::apply`] folds it in and says which resources
//! it may have altered, so that only those are compiled and pushed again.

mod by_namespace;
mod check;
mod claims;
mod cluster;
mod fold;
mod members;
mod policies;
mod routes;
mod ties;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::manifest::{
    ExternalServiceSpec, MeshConfigSpec, Resource, ResourceKey, ServiceAddresses, ServiceSpec, Spec,
    WorkloadSpec,
};
use crate::model::{
    Cidr, KeySource, Name, PolicyTarget, Protocol, QualifiedName, ResourceName, SpiffeId, TokenKey, Trust,
    TrustDomain,
};
use by_namespace::ByNamespace;
pub use cluster::{Backend, Pod, Readiness};
use policies::Policies;

/// What is fixed for the life of a control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defaults {
    /// The authority behind every identity.
    pub trust_domain: TrustDomain,
    /// Where virtual addresses come from; a service gets one of each.
    pub service_cidrs: Vec<Cidr>,
}

/// A workload that told us of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its name; the namespace is its identity's.
    pub name: QualifiedName,
    /// The service account it runs as.
    pub service_account: Name,
    /// The identity it has proven.
    pub identity: SpiffeId,
    /// Where others reach it.
    pub addresses: Vec<IpAddr>,
    /// The port of its sidecar that takes mesh traffic.
    pub inbound_port: u16,
    /// What it serves.
    pub offers: Vec<Offer>,
    /// What selectors see.
    pub labels: BTreeMap<String, String>,
    /// Its locality; empty: unknown.
    pub zone: String,
    /// Whether it takes traffic.
    pub ready: bool,
    /// The services whose checks found that its app does not work.
    pub unhealthy: BTreeSet<QualifiedName>,
}

/// What a workload serves of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The service.
    pub service: QualifiedName,
    /// One port of it; none: every port, each by the app's port of the same number.
    pub port: Option<OfferedPort>,
}

/// A service port that a workload serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OfferedPort {
    /// The port callers use.
    pub port: u16,
    /// The app's port.
    pub target_port: u16,
    /// What is spoken there, as far as it was told.
    pub protocol: Protocol,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// All that a source of documents now holds.
    Documents {
        /// Which source. Where two hold the same resource, that of the first name in order is in force.
        source: String,
        /// Its resources.
        resources: Vec<Resource>,
    },
    /// One resource of a source of documents is now so; none: it is gone.
    Document {
        /// Which source.
        source: String,
        /// Which resource.
        key: ResourceKey,
        /// What it says.
        resource: Option<Box<Resource>>,
    },
    /// A pod is now so; none: it is gone.
    Pod {
        /// Which one.
        name: QualifiedName,
        /// What there is to know of it.
        pod: Option<Pod>,
    },
    /// Those behind a service are now these; none: nobody says who they are.
    Backends {
        /// The service.
        service: QualifiedName,
        /// Those behind it.
        backends: Option<Vec<Backend>>,
    },
    /// A workload came, or told something new of itself.
    Registered(Registration),
    /// A workload went.
    Unregistered(QualifiedName),
    /// A workload takes traffic, or takes none any more.
    Ready {
        /// Which one.
        workload: QualifiedName,
        /// Whether it takes traffic.
        ready: bool,
    },
    /// Its sidecar has asked a workload's app whether it works.
    Health {
        /// Which one.
        workload: QualifiedName,
        /// The services as one behind which it does not.
        unhealthy: BTreeSet<QualifiedName>,
    },
    /// Virtual addresses were given to a service by somebody else; none: they were taken back.
    Allocated {
        /// Which one.
        service: QualifiedName,
        /// Its addresses.
        addresses: Vec<IpAddr>,
    },
    /// Keys were fetched; none: they are to be forgotten.
    Keys {
        /// From where.
        source: KeySource,
        /// The keys.
        keys: Vec<TokenKey>,
    },
    /// Whom to believe is now this.
    Trust(Trust),
}

/// What a change brought about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// Every resource that may be another now, or exist no more; some may be as they were.
    pub affected: BTreeSet<ResourceName>,
    /// Virtual addresses to be remembered across restarts; with none: to be forgotten.
    pub allocated: BTreeMap<QualifiedName, Vec<IpAddr>>,
}

/// All that the control plane knows.
#[derive(Debug, Clone)]
pub struct World {
    defaults: Defaults,
    trust: Trust,
    sources: BTreeMap<String, BTreeMap<ResourceKey, Arc<Resource>>>,
    /// Those in force.
    resources: BTreeMap<ResourceKey, Arc<Resource>>,
    services: ByNamespace<Arc<Resource>>,
    workloads: ByNamespace<Arc<Resource>>,
    /// Workloads that DNS knows where they are.
    named: BTreeMap<ResourceKey, Arc<Resource>>,
    policies: Policies,
    /// What is carried out where calls arrive.
    inbound_policies: BTreeMap<ResourceKey, Arc<Resource>>,
    /// The keys that were fetched to prove tokens.
    keys: BTreeMap<KeySource, Vec<TokenKey>>,
    routes: BTreeMap<ResourceKey, Arc<Resource>>,
    grants: BTreeMap<ResourceKey, Arc<Resource>>,
    /// Which routes name a service as their parent.
    attached: ByNamespace<BTreeSet<ResourceKey>>,
    registrations: ByNamespace<Registration>,
    pods: ByNamespace<Pod>,
    /// Who is behind a service, where an orchestrator says so.
    backends: ByNamespace<Vec<Backend>>,
    /// Which services a pod is behind.
    backed: ByNamespace<BTreeSet<QualifiedName>>,
    /// Which workloads offer a service.
    offering: ByNamespace<BTreeSet<QualifiedName>>,
    allocated: BTreeMap<QualifiedName, Vec<IpAddr>>,
    /// Every address that is allocated, also to a service that is gone for now.
    reserved: BTreeSet<IpAddr>,
    /// Who has an address.
    holders: BTreeMap<IpAddr, Holders>,
}

/// Who has an address; normally one.
#[derive(Debug, Clone, Default)]
struct Holders {
    services: BTreeSet<QualifiedName>,
    workloads: BTreeSet<QualifiedName>,
}

/// Who answers at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder<'w> {
    /// A service.
    Service(&'w QualifiedName),
    /// A workload.
    Workload(&'w QualifiedName),
}

/// A workload: a pod, registered or documented.
#[derive(Debug, Clone, Copy)]
pub enum Member<'w> {
    /// It told us of itself.
    Registered(&'w Registration),
    /// An orchestrator tells of it.
    Pod(&'w Pod),
    /// A document tells of it.
    Documented(&'w Resource, &'w WorkloadSpec),
}

impl World {
    /// A world without anything in it, but with the virtual addresses that were given out before.
    pub fn new(defaults: Defaults, allocated: BTreeMap<QualifiedName, Vec<IpAddr>>) -> Self {
        Self {
            trust: Trust::new(defaults.trust_domain.clone(), Vec::new()),
            defaults,
            sources: BTreeMap::new(),
            resources: BTreeMap::new(),
            services: ByNamespace::default(),
            workloads: ByNamespace::default(),
            named: BTreeMap::new(),
            policies: Policies::default(),
            inbound_policies: BTreeMap::new(),
            keys: BTreeMap::new(),
            routes: BTreeMap::new(),
            grants: BTreeMap::new(),
            attached: ByNamespace::default(),
            registrations: ByNamespace::default(),
            pods: ByNamespace::default(),
            backends: ByNamespace::default(),
            backed: ByNamespace::default(),
            offering: ByNamespace::default(),
            reserved: allocated.values().flatten().copied().collect(),
            allocated,
            holders: BTreeMap::new(),
        }
    }

    /// What is fixed.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// Whom to believe.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Every resource in force, in the order of kind, namespace and name.
    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.resources.values().map(AsRef::as_ref)
    }

    /// The resource in force under a key.
    pub fn resource(&self, key: &ResourceKey) -> Option<&Resource> {
        self.resources.get(key).map(AsRef::as_ref)
    }

    /// What a source of documents holds.
    pub fn source(&self, source: &str) -> impl Iterator<Item = &Resource> {
        self.sources.get(source).into_iter().flat_map(BTreeMap::values).map(AsRef::as_ref)
    }

    /// The mesh's settings, as far as a document gives them.
    pub fn mesh_config(&self) -> Option<&MeshConfigSpec> {
        self.resources.values().find_map(|resource| match &resource.spec {
            Spec::MeshConfig(spec) => Some(spec),
            _ => None,
        })
    }

    /// Every registered workload, by name.
    pub fn registrations(&self) -> impl Iterator<Item = &Registration> {
        self.registrations.iter().map(|(_, registration)| registration)
    }

    /// A registered workload.
    pub fn registration(&self, name: &QualifiedName) -> Option<&Registration> {
        self.registrations.get(name)
    }

    /// Every service that a document names or a workload offers.
    pub fn service_names(&self) -> BTreeSet<QualifiedName> {
        let documented = self.services.iter().map(|(name, _)| name);
        documented.chain(self.offering.iter().map(|(name, _)| name)).collect()
    }

    /// Whether a document names the service or a workload offers it.
    pub fn has_service(&self, name: &QualifiedName) -> bool {
        self.services.contains(name) || self.offering.contains(name)
    }

    /// What a document says of a service.
    pub fn documented_service(&self, name: &QualifiedName) -> Option<&ServiceSpec> {
        self.services.get(name).and_then(|resource| service_spec(resource))
    }

    /// What a document says of a service outside the mesh.
    pub fn external_service(&self, name: &QualifiedName) -> Option<&ExternalServiceSpec> {
        match &self.services.get(name)?.spec {
            Spec::ExternalService(spec) => Some(spec),
            _ => None,
        }
    }

    /// Every service outside the mesh, by name.
    pub fn external_services(&self) -> impl Iterator<Item = (QualifiedName, &ExternalServiceSpec)> {
        self.services.iter().filter_map(|(name, resource)| match &resource.spec {
            Spec::ExternalService(spec) => Some((name, spec)),
            _ => None,
        })
    }

    /// Whether the mesh chooses the addresses of a service that no `v1 Service` names.
    fn is_addressed(&self, name: &QualifiedName) -> bool {
        self.offering.contains(name) || self.external_service(name).is_some_and(|spec| spec.host().is_some())
    }

    /// A service's virtual addresses.
    pub fn service_addresses(&self, name: &QualifiedName) -> &[IpAddr] {
        match self.documented_service(name).map(|spec| &spec.addresses) {
            Some(ServiceAddresses::Headless) => &[],
            Some(ServiceAddresses::Fixed(addresses)) => addresses,
            Some(ServiceAddresses::Chosen) => self.allocated.get(name).map_or(&[], Vec::as_slice),
            None if self.is_addressed(name) => self.allocated.get(name).map_or(&[], Vec::as_slice),
            None => &[],
        }
    }

    /// The workloads that offer a service, by name.
    pub fn offering(&self, service: &QualifiedName) -> impl Iterator<Item = &Registration> {
        let names = self.offering.get(service).into_iter().flatten();
        names.filter_map(|name| self.registrations.get(name))
    }

    /// The documents of workloads that DNS knows where they are.
    pub fn named_workloads(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.named.values()
    }

    /// The policies that are carried out where calls arrive: by kind, each by name.
    pub fn inbound_policies(&self) -> impl Iterator<Item = (QualifiedName, &PolicyTarget, &Spec)> {
        let policies = self.inbound_policies.values().map(AsRef::as_ref);
        policies
            .filter_map(|policy: &Resource| Some((policy.qualified_name()?, policy.target()?, &policy.spec)))
    }

    /// The keys that were fetched from a source; none: it was not reached yet.
    pub fn keys(&self, source: &KeySource) -> &[TokenKey] {
        self.keys.get(source).map_or(&[], Vec::as_slice)
    }

    /// Where keys are held of.
    pub fn held_key_sources(&self) -> impl Iterator<Item = &KeySource> {
        self.keys.keys()
    }

    /// Where policies say that keys are, and for which issuers.
    pub fn key_sources(&self) -> BTreeMap<KeySource, BTreeSet<String>> {
        let mut sources: BTreeMap<KeySource, BTreeSet<String>> = BTreeMap::new();
        for (_, _, spec) in self.inbound_policies() {
            let Spec::JwtAuthentication(spec) = spec else { continue };
            for (provider, source) in &spec.providers {
                if let Some(source) = source {
                    sources.entry(source.clone()).or_default().insert(provider.issuer.clone());
                }
            }
        }
        sources
    }

    /// How many sidecars count together what a policy's target is sent: those that take traffic.
    pub fn sharing(&self, target: &PolicyTarget) -> u32 {
        let targeted = self.targeted(target);
        let ready = targeted.iter().filter_map(|name| self.registration(name)).filter(|one| one.ready);
        u32::try_from(ready.count()).unwrap_or(u32::MAX)
    }

    /// The registered workloads that a policy's target comprises.
    fn targeted(&self, target: &PolicyTarget) -> Vec<QualifiedName> {
        let all = || self.registrations.iter().map(|(name, _)| name);
        match target {
            PolicyTarget::Mesh => all().collect(),
            PolicyTarget::Namespace(namespace) => all().filter(|name| name.namespace == *namespace).collect(),
            PolicyTarget::Service(service) => self.members(service).into_keys().collect(),
            PolicyTarget::Workload(name) => vec![name.clone()],
            PolicyTarget::HttpRoute(_) | PolicyTarget::GrpcRoute(_) => Vec::new(),
        }
    }

    /// Who answers at an address. Where several have it, services go before workloads, and the first by name
    /// before others.
    pub fn holder(&self, address: IpAddr) -> Option<Holder<'_>> {
        let holders = self.holders.get(&address)?;
        let service = holders.services.first().map(Holder::Service);
        service.or_else(|| holders.workloads.first().map(Holder::Workload))
    }

    /// Every address that someone answers at.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.holders.keys().copied()
    }
}

fn service_spec(resource: &Resource) -> Option<&ServiceSpec> {
    match &resource.spec {
        Spec::Service(spec) => Some(spec),
        _ => None,
    }
}
