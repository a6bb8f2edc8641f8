//! Folds a change into the world, and finds out what it touches.
//!
//! What a change touches is judged twice, before and after it: a service that lost its last member is
//! touched as much as one that got its first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Change, Effects, Registration, World};
use crate::manifest::{Kind, Resource, ResourceKey, ServiceAddresses, Spec};
use crate::model::{KeySource, QualifiedName, ResourceName, TokenKey};
use crate::virtual_address;

/// How many allocations are kept before those of services that are gone are forgotten.
const MAX_ALLOCATED: usize = 65_536;

/// What a change has to do with.
#[derive(Debug, Default)]
struct Touched {
    services: BTreeSet<QualifiedName>,
    workloads: BTreeSet<QualifiedName>,
}

/// What a change is about.
enum Subject {
    Workload(QualifiedName),
    Service(QualifiedName),
    Documents(Vec<ResourceKey>),
}

impl World {
    /// Folds a change in.
    pub fn apply(&mut self, change: Change) -> Effects {
        match change {
            Change::Documents { source, resources } => self.replace_documents(source, resources),
            Change::Document { source, key, resource } => {
                self.replace_document(source, &key, resource.map(|resource| Arc::new(*resource)))
            }
            Change::Pod { name, pod } => {
                if self.pod(&name) == pod.as_ref() {
                    return Effects::default();
                }
                self.alter(&Subject::Workload(name.clone()), |world| world.put_pod(&name, pod))
            }
            Change::Backends { service, backends } => {
                if self.backends(&service) == backends.as_deref() {
                    return Effects::default();
                }
                self.alter(&Subject::Service(service.clone()), |world| world.put_backends(&service, backends))
            }
            Change::Registered(registration) => {
                if self.registrations.get(&registration.name) == Some(&registration) {
                    return Effects::default();
                }
                let subject = Subject::Workload(registration.name.clone());
                self.alter(&subject, |world| world.register(registration))
            }
            Change::Unregistered(name) => {
                let subject = Subject::Workload(name.clone());
                self.alter(&subject, |world| world.unregister(&name))
            }
            Change::Ready { workload, ready } => {
                let subject = Subject::Workload(workload.clone());
                self.alter(&subject, |world| {
                    if let Some(registration) = world.registrations.get_mut(&workload) {
                        registration.ready = ready;
                    }
                })
            }
            Change::Health { workload, unhealthy } => {
                let subject = Subject::Workload(workload.clone());
                self.alter(&subject, |world| {
                    if let Some(registration) = world.registrations.get_mut(&workload) {
                        registration.unhealthy = unhealthy;
                    }
                })
            }
            Change::Trust(trust) => {
                self.trust = trust;
                let affected = [ResourceName::Trust(self.defaults.trust_domain.clone())].into();
                Effects { affected, ..Effects::default() }
            }
            Change::Allocated { service, addresses } => {
                if self.allocated.get(&service).is_some_and(|allocated| *allocated == addresses) {
                    return Effects::default();
                }
                self.alter(&Subject::Service(service.clone()), |world| {
                    world.put_allocated(service, addresses)
                })
            }
            Change::Keys { source, keys } => self.replace_keys(source, keys),
        }
    }

    /// Alters what the subject is, and keeps addresses and their holders in step.
    fn alter(&mut self, subject: &Subject, alter: impl FnOnce(&mut Self)) -> Effects {
        let mut effects = Effects::default();
        let before = self.touched(subject);
        effects.affected.extend(self.sharing_with(subject));
        self.note_affected(&before, &mut effects.affected);
        self.release_addresses(&before);
        alter(self);
        let mut after = self.touched(subject);
        after.services.extend(before.services);
        after.workloads.extend(before.workloads);
        self.allocate_missing(&after.services, &mut effects.allocated);
        self.hold_addresses(&after);
        self.note_affected(&after, &mut effects.affected);
        effects.affected.extend(self.sharing_with(subject));
        effects
    }

    /// What the sidecars are told that count calls together with a workload: their shares depend on how many there are.
    fn sharing_with(&self, subject: &Subject) -> BTreeSet<ResourceName> {
        let Subject::Workload(name) = subject else { return BTreeSet::new() };
        let is_shared = |spec: &Spec| matches!(spec, Spec::RateLimit(spec) if spec.is_shared());
        let shared = self.inbound_policies().filter(|(_, _, spec)| is_shared(spec));
        let targeted = shared.map(|(_, target, _)| self.targeted(target));
        let sharing = targeted.filter(|targeted| targeted.contains(name)).flatten();
        sharing.map(ResourceName::Workload).collect()
    }

    fn replace_documents(&mut self, source: String, resources: Vec<Resource>) -> Effects {
        let resources: BTreeMap<_, _> = resources.into_iter().map(|r| (r.key(), Arc::new(r))).collect();
        if resources.is_empty() {
            self.sources.remove(&source);
        } else {
            self.sources.insert(source, resources);
        }
        let mut in_force = BTreeMap::new();
        for documents in self.sources.values().rev() {
            in_force.extend(documents.iter().map(|(key, resource)| (key.clone(), Arc::clone(resource))));
        }
        let keys: BTreeSet<_> = self.resources.keys().chain(in_force.keys()).cloned().collect();
        let changed = keys.into_iter().filter(|key| {
            let document = |resource: &Arc<Resource>| resource.document.clone();
            self.resources.get(key).map(document) != in_force.get(key).map(document)
        });
        let changed: Vec<_> = changed.collect();
        let effects = self.put_all_in_force(&changed, &in_force);
        // Also what stays as it was may now come from another file or line.
        self.resources = in_force;
        effects
    }

    /// The same for one resource, without a look at the others.
    fn replace_document(
        &mut self,
        source: String,
        key: &ResourceKey,
        resource: Option<Arc<Resource>>,
    ) -> Effects {
        let documents = self.sources.entry(source.clone()).or_default();
        match resource {
            Some(resource) => drop(documents.insert(key.clone(), resource)),
            None => drop(documents.remove(key)),
        }
        if documents.is_empty() {
            self.sources.remove(&source);
        }
        let in_force = self.sources.values().find_map(|documents| documents.get(key)).cloned();
        let document = |resource: &Arc<Resource>| resource.document.clone();
        let is_other = self.resources.get(key).map(document) != in_force.as_ref().map(document);
        let in_force: BTreeMap<_, _> = in_force.map(|resource| (key.clone(), resource)).into_iter().collect();
        let effects = match is_other {
            true => self.put_all_in_force(std::slice::from_ref(key), &in_force),
            false => Effects::default(),
        };
        self.resources.remove(key);
        self.resources.extend(in_force);
        effects
    }

    fn put_all_in_force(
        &mut self,
        changed: &[ResourceKey],
        in_force: &BTreeMap<ResourceKey, Arc<Resource>>,
    ) -> Effects {
        let governed = self.governed(changed);
        let mut effects = self.alter(&Subject::Documents(changed.to_vec()), |world| {
            for key in changed {
                world.put_in_force(key, in_force.get(key));
            }
        });
        let governed = governed.into_iter().chain(self.governed(changed));
        effects.affected.extend(governed);
        // Every sidecar knows the hosts outside the mesh.
        if changed.iter().any(|key| matches!(key.kind, Kind::MeshConfig | Kind::ExternalService)) {
            effects.affected.insert(ResourceName::Mesh);
        }
        effects
    }

    fn replace_keys(&mut self, source: KeySource, keys: Vec<TokenKey>) -> Effects {
        if self.keys(&source) == keys {
            return Effects::default();
        }
        let uses = |spec: &Spec| match spec {
            Spec::JwtAuthentication(spec) => {
                spec.providers.iter().any(|(_, own)| own.as_ref() == Some(&source))
            }
            _ => false,
        };
        let targets = self.inbound_policies().filter(|(_, _, spec)| uses(spec)).map(|(_, target, _)| target);
        let mut affected = BTreeSet::new();
        for target in targets {
            affected.extend(self.targeted(target).into_iter().map(ResourceName::Workload));
            affected.extend(self.asking_claims(target).into_iter().map(ResourceName::Service));
        }
        if keys.is_empty() {
            self.keys.remove(&source);
        } else {
            self.keys.insert(source, keys);
        }
        Effects { affected, ..Effects::default() }
    }

    fn put_in_force(&mut self, key: &ResourceKey, resource: Option<&Arc<Resource>>) {
        let index = match key.kind {
            Kind::Service | Kind::ExternalService => &mut self.services,
            Kind::Workload => {
                // Those that DNS knows are workloads only as its source finds them.
                let named = resource.filter(|resource| matches!(resource.spec, Spec::NamedWorkload(_)));
                match named {
                    Some(resource) => drop(self.named.insert(key.clone(), Arc::clone(resource))),
                    None => drop(self.named.remove(key)),
                }
                &mut self.workloads
            }
            Kind::TrafficPolicy | Kind::FaultInjection => return self.policies.put(key, resource),
            Kind::AuthorizationPolicy | Kind::RateLimit | Kind::JwtAuthentication => {
                match resource {
                    Some(resource) => self.inbound_policies.insert(key.clone(), Arc::clone(resource)),
                    None => self.inbound_policies.remove(key),
                };
                return;
            }
            Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute => {
                return self.put_route_in_force(key, resource);
            }
            Kind::ReferenceGrant => return self.put_grant_in_force(key, resource),
            Kind::Namespace | Kind::MeshConfig => return,
        };
        let Some(name) = qualified(key) else { return };
        match resource {
            Some(resource) => index.insert(name, Arc::clone(resource)),
            None => drop(index.remove(&name)),
        }
    }

    fn register(&mut self, registration: Registration) {
        self.unregister(&registration.name);
        for offer in &registration.offers {
            let mut offering = self.offering.remove(&offer.service).unwrap_or_default();
            offering.insert(registration.name.clone());
            self.offering.insert(offer.service.clone(), offering);
        }
        self.registrations.insert(registration.name.clone(), registration);
    }

    fn unregister(&mut self, name: &QualifiedName) {
        let Some(registration) = self.registrations.remove(name) else { return };
        for offer in &registration.offers {
            let Some(offering) = self.offering.get_mut(&offer.service) else { continue };
            offering.remove(name);
            if offering.is_empty() {
                self.offering.remove(&offer.service);
            }
        }
    }

    fn touched(&self, subject: &Subject) -> Touched {
        let mut touched = Touched::default();
        match subject {
            Subject::Workload(name) => self.touch_workload(name, &mut touched),
            Subject::Service(name) => {
                touched.workloads.extend(self.members(name).into_keys());
                touched.services.insert(name.clone());
            }
            Subject::Documents(keys) => {
                for key in keys {
                    let Some(name) = qualified(key) else { continue };
                    match key.kind {
                        Kind::Workload => self.touch_workload(&name, &mut touched),
                        Kind::Service | Kind::ExternalService => {
                            touched.workloads.extend(self.members(&name).into_keys());
                            touched.services.insert(name);
                        }
                        // They alter what is said of a service, not who is behind it.
                        Kind::TrafficPolicy | Kind::FaultInjection | Kind::Namespace | Kind::MeshConfig => {}
                        Kind::AuthorizationPolicy | Kind::RateLimit | Kind::JwtAuthentication => {
                            let target = self.inbound_policies.get(key).and_then(|policy| policy.target());
                            touched.workloads.extend(target.into_iter().flat_map(|of| self.targeted(of)));
                        }
                        // A route belongs to what is said of its services.
                        Kind::HttpRoute | Kind::GrpcRoute | Kind::TlsRoute | Kind::TcpRoute => {
                            touched.services.extend(self.parents(key));
                        }
                        // It may say something to any route.
                        Kind::ReferenceGrant => touched.services.extend(self.routed_services()),
                    }
                }
            }
        }
        touched
    }

    fn touch_workload(&self, name: &QualifiedName, touched: &mut Touched) {
        let offers = self.registrations.get(name).map(|registration| registration.offers.as_slice());
        touched.services.extend(offers.into_iter().flatten().map(|offer| offer.service.clone()));
        touched.services.extend(self.selecting(name));
        touched.workloads.insert(name.clone());
    }

    /// The resources that follow from what was touched.
    fn note_affected(&self, touched: &Touched, affected: &mut BTreeSet<ResourceName>) {
        for service in &touched.services {
            affected.insert(ResourceName::Service(service.clone()));
            affected.insert(ResourceName::Endpoints(service.clone()));
            affected.extend(self.service_addresses(service).iter().copied().map(ResourceName::Address));
        }
        for workload in &touched.workloads {
            affected.insert(ResourceName::Workload(workload.clone()));
            let addresses = self.member(workload);
            let addresses = addresses.iter().flat_map(|member| member.addresses().iter().copied());
            affected.extend(addresses.map(ResourceName::Address));
        }
    }

    fn release_addresses(&mut self, touched: &Touched) {
        for service in &touched.services {
            for address in self.service_addresses(service).to_vec() {
                self.release(address, |holders| holders.services.remove(service));
            }
        }
        for workload in &touched.workloads {
            let addresses = self.member(workload).map(|member| member.addresses().to_vec());
            for address in addresses.unwrap_or_default() {
                self.release(address, |holders| holders.workloads.remove(workload));
            }
        }
    }

    fn release(&mut self, address: IpAddr, remove: impl FnOnce(&mut super::Holders) -> bool) {
        let Some(holders) = self.holders.get_mut(&address) else { return };
        remove(holders);
        if holders.services.is_empty() && holders.workloads.is_empty() {
            self.holders.remove(&address);
        }
    }

    fn hold_addresses(&mut self, touched: &Touched) {
        for service in &touched.services {
            for address in self.service_addresses(service).to_vec() {
                self.holders.entry(address).or_default().services.insert(service.clone());
            }
        }
        for workload in &touched.workloads {
            let addresses = self.member(workload).map(|member| member.addresses().to_vec());
            for address in addresses.unwrap_or_default() {
                self.holders.entry(address).or_default().workloads.insert(workload.clone());
            }
        }
    }

    /// Gives an address of each range to every service that needs one and has none.
    fn allocate_missing(
        &mut self,
        services: &BTreeSet<QualifiedName>,
        allocated: &mut BTreeMap<QualifiedName, Vec<IpAddr>>,
    ) {
        for service in services {
            let needs = match self.documented_service(service).map(|spec| &spec.addresses) {
                Some(ServiceAddresses::Headless | ServiceAddresses::Fixed(_)) => false,
                Some(ServiceAddresses::Chosen) => true,
                None => self.is_addressed(service),
            };
            if !needs || self.allocated.contains_key(service) {
                continue;
            }
            if self.allocated.len() >= MAX_ALLOCATED {
                self.forget_absent(allocated);
            }
            let taken = |address| self.reserved.contains(&address) || self.holders.contains_key(&address);
            let ranges = self.defaults.service_cidrs.iter();
            let addresses: Vec<_> =
                ranges.filter_map(|range| virtual_address::allocate(service, range, &taken)).collect();
            self.reserved.extend(&addresses);
            self.allocated.insert(service.clone(), addresses.clone());
            allocated.insert(service.clone(), addresses);
        }
    }

    /// Takes over which addresses a service has. One that they were taken from and that is still there is given others.
    fn put_allocated(&mut self, service: QualifiedName, addresses: Vec<IpAddr>) {
        for address in self.allocated.remove(&service).unwrap_or_default() {
            // Until all is told, two may have the same one.
            if !self.allocated.values().flatten().any(|other| *other == address) {
                self.reserved.remove(&address);
            }
        }
        if !addresses.is_empty() {
            self.reserved.extend(&addresses);
            self.allocated.insert(service, addresses);
        }
    }

    fn forget_absent(&mut self, allocated: &mut BTreeMap<QualifiedName, Vec<IpAddr>>) {
        let absent: Vec<_> = self.allocated.keys().filter(|name| !self.has_service(name)).cloned().collect();
        for name in absent {
            for address in self.allocated.remove(&name).unwrap_or_default() {
                self.reserved.remove(&address);
            }
            allocated.insert(name, Vec::new());
        }
    }
}

fn qualified(key: &ResourceKey) -> Option<QualifiedName> {
    key.namespace.clone().map(|namespace| QualifiedName::new(namespace, key.name.clone()))
}
