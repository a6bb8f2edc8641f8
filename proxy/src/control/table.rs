//! What the control plane told us, resource by resource: pushes in, snapshots out. No I/O.
//!
//! A push is applied whole. A resource in it that cannot be read is refused by name and its last good value stays.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use weft_core::model::{Address, AppCheck, Endpoint, Name, QualifiedName, Resource, ResourceName, Service};
use weft_proto::v1::sidecar_message::Message;
use weft_proto::{convert, v1};

use crate::rates::Rates;
use crate::routing::Routing;
use crate::state::{Known, KnownService, KnownWorkload, Snapshot, Wanted};

/// Names that may be remembered as asked for without a positive answer; beyond, the oldest are forgotten.
const UNANSWERED_LIMIT: usize = 1024;

/// Everything subscribed to, and what is held of it.
#[derive(Debug, Default)]
pub(super) struct Table {
    revision: u64,
    held: HashMap<ResourceName, Held>,
    unanswered: VecDeque<ResourceName>,
    generation: u64,
    changed: HashSet<QualifiedName>,
    /// Workloads without a sidecar that do not work as one behind a service, as we found ourselves.
    failing: BTreeSet<(QualifiedName, QualifiedName)>,
}

#[derive(Debug)]
enum Held {
    Here { hash: u64, resource: Box<Resource> },
    Absent,
    Asked,
}

impl Held {
    fn resource(&self) -> Option<&Resource> {
        match self {
            Self::Here { resource, .. } => Some(resource),
            Self::Absent | Self::Asked => None,
        }
    }
}

impl Table {
    /// What to send so that `wanted` gets answered; nothing where it has been asked for already.
    pub(super) fn want(&mut self, wanted: &Wanted) -> Option<Message> {
        let name = match wanted {
            Wanted::Address(address) => ResourceName::Address(*address),
            Wanted::Service(service) => ResourceName::Service(service.clone()),
            Wanted::Keys(issuer) => {
                return Some(Message::UnknownKey(v1::UnknownKey { issuer: issuer.to_string() }));
            }
            // Nothing is asked.
            Wanted::Plaintext(_) => return None,
        };
        if self.held.contains_key(&name) {
            return None;
        }
        let add = vec![(&name).into()];
        self.held.insert(name.clone(), Held::Asked);
        Some(Message::Subscribe(v1::Subscribe { add, remove: self.remember_unanswered(name) }))
    }

    /// Every subscription, for the greeting of a new stream.
    pub(super) fn held(&self) -> Vec<v1::Held> {
        let hash = |held: &Held| match held {
            Held::Here { hash, .. } => *hash,
            Held::Absent | Held::Asked => 0,
        };
        self.held.iter().map(|(name, held)| v1::Held { name: Some(name.into()), hash: hash(held) }).collect()
    }

    /// The checks that our own app is to be asked by.
    pub(super) fn checks(&self) -> &[AppCheck] {
        let workload = self.held.values().find_map(|held| match held.resource() {
            Some(Resource::Workload(workload)) => Some(workload),
            _ => None,
        });
        workload.map_or(&[], |workload| &workload.checks)
    }

    /// Takes over which workloads do not work as one behind a service; whether anything is another now.
    pub(super) fn find_failing(&mut self, failing: BTreeSet<(QualifiedName, QualifiedName)>) -> bool {
        let differ = self.failing.symmetric_difference(&failing);
        let services: Vec<_> = differ.map(|(service, _)| service.clone()).collect();
        let any = !services.is_empty();
        self.changed.extend(services);
        self.failing = failing;
        any
    }

    /// Applies a push; what was refused is returned.
    pub(super) fn apply(&mut self, push: v1::Push) -> Vec<v1::Rejection> {
        let mut rejected = Vec::new();
        for resource in push.upserts {
            let name = resource.name.clone();
            if let Err(reason) = self.upsert(resource) {
                rejected.push(v1::Rejection { name, reason });
            }
        }
        for name in &push.removed {
            match ResourceName::try_from(name) {
                Ok(name) => self.remove(name),
                Err(error) => {
                    rejected.push(v1::Rejection { name: Some(name.clone()), reason: with_causes(&error) })
                }
            }
        }
        for delta in push.endpoint_deltas {
            let service = delta.service.clone();
            if let Err(reason) = self.change_endpoints(delta) {
                let name = v1::ResourceName { kind: v1::Kind::Endpoints.into(), name: service };
                rejected.push(v1::Rejection { name: Some(name), reason });
            }
        }
        self.revision = self.revision.max(push.revision);
        rejected
    }

    /// The push that would bring an empty table here: how the last good state is kept on disk.
    pub(super) fn as_push(&self) -> v1::Push {
        let mut push = v1::Push { revision: self.revision, ..v1::Push::default() };
        for (name, held) in &self.held {
            match held {
                Held::Here { hash, resource } => push.upserts.push(v1::Resource {
                    name: Some(name.into()),
                    hash: *hash,
                    body: convert::encode(resource).into(),
                }),
                Held::Absent => push.removed.push(name.into()),
                Held::Asked => {}
            }
        }
        push
    }

    /// Takes over what was on disk. Where another version wrote it, its hashes do not count: this version may read
    /// more out of the same bytes.
    pub(super) fn restore(&mut self, push: v1::Push, same_version: bool) {
        for name in &push.removed {
            if let Ok(name) = ResourceName::try_from(name) {
                self.held.insert(name.clone(), Held::Asked);
                self.remember_unanswered(name);
            }
        }
        for rejection in self.apply(push) {
            tracing::warn!(reason = rejection.reason, "part of the cached configuration is not usable");
        }
        if !same_version {
            for held in self.held.values_mut() {
                if let Held::Here { hash, .. } = held {
                    *hash = 0;
                }
            }
        }
    }

    /// What is known now. What did not change since `before` is shared with it.
    pub(super) fn snapshot(&mut self, before: &Snapshot) -> Snapshot {
        let changed = std::mem::take(&mut self.changed);
        let mut next = Snapshot { revision: self.revision, ..Snapshot::default() };
        let (mut explicit, mut absent) = (Vec::new(), Vec::new());
        let namespace = self.namespace();
        // Which routes hold for us depends on where we are.
        let moved = before.workload.as_ref().map(|workload| &workload.name.namespace) != namespace.as_ref();
        for (name, held) in &self.held {
            match (name, held.resource()) {
                (_, Some(Resource::Mesh(mesh))) => next.mesh = Some(shared(before.mesh.as_ref(), mesh)),
                (_, Some(Resource::Trust(trust))) => next.trust = Some(shared(before.trust.as_ref(), trust)),
                (_, Some(Resource::Workload(workload))) => {
                    next.workload = Some(shared(before.workload.as_ref(), workload));
                    next.rates = Rates::renew(&workload.limits, before);
                }
                (ResourceName::Service(name), Some(Resource::Service(service))) => {
                    let known = match before.services.get(name).filter(|_| !moved && !changed.contains(name))
                    {
                        Some(known) => Arc::clone(known),
                        None => {
                            self.generation += 1;
                            let endpoints = self.endpoints(name, before.services.get(name));
                            let generation = self.generation;
                            let routing = match before.services.get(name) {
                                Some(known) if known.service == *service && !moved => known.routing.clone(),
                                _ => Routing::compile(service, namespace.as_ref()),
                            };
                            let (service, failing) = (service.clone(), self.failing_outside(service));
                            Arc::new(KnownService { service, endpoints, failing, routing, generation })
                        }
                    };
                    let addresses = service.addresses.iter();
                    next.addresses.extend(addresses.map(|address| (*address, Known::Service(name.clone()))));
                    next.services.insert(name.clone(), known);
                }
                (ResourceName::Address(address), Some(Resource::Address(known))) => {
                    explicit.push((*address, known_at(known, before.addresses.get(address))));
                }
                (ResourceName::Service(name), None) if matches!(held, Held::Absent) => {
                    next.absent_services.insert(name.clone());
                }
                (ResourceName::Address(address), None) if matches!(held, Held::Absent) => {
                    absent.push(*address);
                }
                _ => {}
            }
        }
        // What was said of an address itself goes before what follows from a service's list.
        next.addresses.extend(explicit);
        for address in absent {
            next.addresses.entry(address).or_insert(Known::Absent);
        }
        next
    }

    /// The namespace that we are in, as soon as we have been told.
    fn namespace(&self) -> Option<Name> {
        self.held.values().find_map(|held| match held.resource() {
            Some(Resource::Workload(workload)) => Some(workload.name.namespace.clone()),
            _ => None,
        })
    }

    fn upsert(&mut self, wire: v1::Resource) -> Result<(), String> {
        let name = wire.name.as_ref().ok_or("the resource has no name")?;
        let kind =
            v1::Kind::try_from(name.kind).map_err(|_| format!("unknown kind of resource: {}", name.kind))?;
        let name = ResourceName::try_from(name).map_err(|error| with_causes(&error))?;
        let resource = convert::decode(kind, &wire.body).map_err(|error| with_causes(&error))?;
        match (&name, &resource) {
            (ResourceName::Service(name), Resource::Service(service)) if *name != service.name => {
                return Err(format!("the body is of the service {}", service.name));
            }
            (ResourceName::Workload(name), Resource::Workload(workload)) if *name != workload.name => {
                return Err(format!("the body is of the workload {}", workload.name));
            }
            (ResourceName::Service(name) | ResourceName::Endpoints(name), _) => {
                self.changed.insert(name.clone());
            }
            (ResourceName::Workload(_), _) => {
                // There is one; an earlier name of it is not to be kept.
                self.held.retain(|name, _| !matches!(name, ResourceName::Workload(_)));
            }
            _ => {}
        }
        self.held.insert(name, Held::Here { hash: wire.hash, resource: Box::new(resource) });
        Ok(())
    }

    fn remove(&mut self, name: ResourceName) {
        match &name {
            // These are replaced, never taken away: without them nothing could be decided.
            ResourceName::Mesh | ResourceName::Trust(_) => return,
            ResourceName::Endpoints(service) => {
                self.changed.insert(service.clone());
                self.held.remove(&name);
                return;
            }
            ResourceName::Workload(_) => {
                self.held.remove(&name);
                return;
            }
            ResourceName::Service(service) => {
                self.changed.insert(service.clone());
                self.held.remove(&ResourceName::Endpoints(service.clone()));
            }
            ResourceName::Address(_) => {}
        }
        // An answer to what was forgotten meanwhile is not kept.
        if let Some(held) = self.held.get_mut(&name) {
            let was_here = matches!(held, Held::Here { .. });
            *held = Held::Absent;
            if was_here {
                self.remember_unanswered(name);
            }
        }
    }

    fn change_endpoints(&mut self, delta: v1::EndpointDelta) -> Result<(), String> {
        let service: QualifiedName = delta.service.parse().map_err(|error| with_causes(&error))?;
        let upserts = delta.upserts.into_iter().map(Endpoint::try_from).collect::<Result<Vec<_>, _>>();
        let upserts = upserts.map_err(|error| with_causes(&error))?;
        let held = self.held.get_mut(&ResourceName::Endpoints(service.clone()));
        let Some(Held::Here { hash, resource }) = held else { return Err("no endpoints are held".into()) };
        if *hash != delta.from_hash {
            // The control plane answers a refused delta with the whole set.
            return Err(format!("the delta starts from {:016x}, held is {hash:016x}", delta.from_hash));
        }
        let Resource::Endpoints(endpoints) = &mut **resource else {
            return Err("what is held is no set of endpoints".into());
        };
        endpoints.retain(|endpoint| {
            let workload = &endpoint.workload;
            !delta.removed.iter().any(|removed| *removed == workload.to_string())
                && !upserts.iter().any(|upsert| upsert.workload == *workload)
        });
        endpoints.extend(upserts);
        endpoints.sort_by(|a, b| a.workload.cmp(&b.workload));
        *hash = delta.hash;
        self.changed.insert(service);
        Ok(())
    }

    /// Which addresses of a service outside the mesh do not work.
    fn failing_outside(&self, service: &Service) -> Arc<[QualifiedName]> {
        if service.external.is_none() {
            return Arc::from([]);
        }
        let of_it = self.failing.iter().filter(|(of, _)| *of == service.name);
        of_it.map(|(_, place)| place.clone()).collect()
    }

    fn endpoints(&self, service: &QualifiedName, before: Option<&Arc<KnownService>>) -> Arc<[Arc<Endpoint>]> {
        let held = self.held.get(&ResourceName::Endpoints(service.clone()));
        let Some(Resource::Endpoints(endpoints)) = held.and_then(Held::resource) else {
            return Arc::from([]);
        };
        let earlier: HashMap<_, _> = before
            .iter()
            .flat_map(|known| known.endpoints.iter())
            .map(|endpoint| (&endpoint.workload, endpoint))
            .collect();
        let one = |endpoint: &Endpoint| {
            let before = earlier.get(&endpoint.workload).copied();
            if self.failing.contains(&(service.clone(), endpoint.workload.clone())) {
                return shared(before, &Endpoint { healthy: false, ..endpoint.clone() });
            }
            shared(before, endpoint)
        };
        endpoints.iter().map(one).collect()
    }

    /// Remembers a name that has no positive answer; returns the subscriptions that had to go for it.
    fn remember_unanswered(&mut self, name: ResourceName) -> Vec<v1::ResourceName> {
        self.unanswered.push_back(name);
        let mut gone = Vec::new();
        while self.unanswered.len() > UNANSWERED_LIMIT
            && let Some(oldest) = self.unanswered.pop_front()
        {
            if matches!(self.held.get(&oldest), Some(Held::Absent | Held::Asked)) {
                self.held.remove(&oldest);
                gone.push((&oldest).into());
            }
        }
        gone
    }
}

fn shared<T: Clone + PartialEq>(before: Option<&Arc<T>>, now: &T) -> Arc<T> {
    match before {
        Some(before) if **before == *now => Arc::clone(before),
        _ => Arc::new(now.clone()),
    }
}

fn known_at(address: &Address, before: Option<&Known>) -> Known {
    match address {
        Address::Service(name) => Known::Service(name.clone()),
        Address::Workload { endpoint, service, target_ports } => match before {
            Some(Known::Workload(known))
                if *known.endpoint == *endpoint
                    && known.service == *service
                    && known.target_ports == *target_ports =>
            {
                Known::Workload(Arc::clone(known))
            }
            _ => Known::Workload(Arc::new(KnownWorkload {
                endpoint: Arc::new(endpoint.clone()),
                service: service.clone(),
                target_ports: target_ports.clone(),
            })),
        },
    }
}

/// An error with its causes, on one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let reason = error.to_string();
        // Some libraries repeat their source.
        if !text.ends_with(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use weft_core::model::{Mesh, Service};

    use super::*;

    fn name(text: &str) -> QualifiedName {
        text.parse().unwrap()
    }

    fn endpoint(workload: &str, weight: u32) -> Endpoint {
        Endpoint {
            workload: name(workload),
            addresses: vec![[10, 0, 0, 1].into()],
            identity: None,
            inbound_port: None,
            zone: String::new(),
            node: Arc::default(),
            weight,
            ports: Vec::new(),
            healthy: true,
            fits: weft_core::model::Fits::default(),
        }
    }

    fn resource(name: &ResourceName, hash: u64, resource: &Resource) -> v1::Resource {
        v1::Resource { name: Some(name.into()), hash, body: convert::encode(resource).into() }
    }

    fn orders() -> v1::Push {
        let vip: IpAddr = [240, 64, 0, 7].into();
        let service = Service {
            name: name("default/orders"),
            addresses: vec![vip],
            ports: Vec::new(),
            traffic: Default::default(),
            routes: Vec::new(),
            external: None,
            tokens: None,
        };
        let endpoints = vec![endpoint("default/a", 1), endpoint("default/b", 1)];
        let mesh = Mesh::with_defaults("mesh.local".parse().unwrap(), Vec::new());
        v1::Push {
            epoch: 1,
            revision: 4,
            upserts: vec![
                resource(&ResourceName::Mesh, 1, &Resource::Mesh(mesh)),
                resource(&ResourceName::Service(name("default/orders")), 2, &Resource::Service(service)),
                resource(
                    &ResourceName::Endpoints(name("default/orders")),
                    3,
                    &Resource::Endpoints(endpoints),
                ),
            ],
            ..v1::Push::default()
        }
    }

    fn workloads(snapshot: &Snapshot) -> Vec<(String, u32)> {
        let orders = &snapshot.services[&name("default/orders")];
        orders.endpoints.iter().map(|endpoint| (endpoint.workload.to_string(), endpoint.weight)).collect()
    }

    fn subscribe(message: Option<Message>) -> v1::Subscribe {
        let Some(Message::Subscribe(subscribe)) = message else { panic!("{message:?}") };
        subscribe
    }

    #[test]
    fn a_service_makes_its_addresses_known() {
        let mut table = Table::default();
        assert_eq!(table.apply(orders()), []);
        let snapshot = table.snapshot(&Snapshot::default());
        assert_eq!(snapshot.revision, 4);
        assert!(snapshot.mesh.is_some());
        assert_eq!(snapshot.service_at([240, 64, 0, 7].into()).unwrap().endpoints.len(), 2);
    }

    #[test]
    fn a_delta_changes_its_endpoints_and_no_others() {
        let mut table = Table::default();
        table.apply(orders());
        let before = table.snapshot(&Snapshot::default());
        let delta = v1::EndpointDelta {
            service: "default/orders".into(),
            from_hash: 3,
            hash: 5,
            upserts: vec![(&endpoint("default/c", 1)).into(), (&endpoint("default/b", 7)).into()],
            removed: vec![],
        };
        table.apply(v1::Push { endpoint_deltas: vec![delta], ..v1::Push::default() });
        let after = table.snapshot(&before);
        let expected = [("default/a", 1), ("default/b", 7), ("default/c", 1)];
        assert_eq!(workloads(&after), expected.map(|(workload, weight)| (workload.to_owned(), weight)));
        let (old, new) =
            (&before.services[&name("default/orders")], &after.services[&name("default/orders")]);
        assert!(Arc::ptr_eq(&old.endpoints[0], &new.endpoints[0]));
        assert_ne!(old.generation, new.generation);
        assert!(Arc::ptr_eq(
            &after.services[&name("default/orders")],
            &table.snapshot(&after).services[&name("default/orders")]
        ));
    }

    #[test]
    fn a_delta_from_another_state_is_refused_and_changes_nothing() {
        let mut table = Table::default();
        table.apply(orders());
        let delta = v1::EndpointDelta {
            service: "default/orders".into(),
            from_hash: 9,
            removed: vec!["default/a".into()],
            ..v1::EndpointDelta::default()
        };
        let rejected = table.apply(v1::Push { endpoint_deltas: vec![delta], ..v1::Push::default() });
        let endpoints: v1::ResourceName = (&ResourceName::Endpoints(name("default/orders"))).into();
        assert_eq!(rejected[0].name.as_ref(), Some(&endpoints));
        assert_eq!(workloads(&table.snapshot(&Snapshot::default())).len(), 2);
    }

    #[test]
    fn a_resource_that_cannot_be_read_is_refused_and_its_last_value_stays() {
        let mut table = Table::default();
        table.apply(orders());
        let mut bad = orders();
        bad.upserts[1].body = vec![0xff].into();
        bad.upserts[2].hash = 33;
        let rejected = table.apply(bad);
        assert_eq!(rejected.len(), 1);
        assert!(rejected[0].reason.contains("not a Service message"), "{}", rejected[0].reason);
        assert_eq!(table.snapshot(&Snapshot::default()).services.len(), 1);
        let mut misnamed = orders();
        misnamed.upserts[1].name = Some((&ResourceName::Service(name("default/other"))).into());
        assert!(table.apply(misnamed)[0].reason.contains("default/orders"));
    }

    #[test]
    fn absence_is_remembered_and_ends_when_the_service_comes() {
        let mut table = Table::default();
        let wanted = Wanted::Service(name("default/orders"));
        let subscribe = subscribe(table.want(&wanted));
        assert_eq!(subscribe.add.len(), 1);
        assert!(table.want(&wanted).is_none(), "asked once is enough");
        table.apply(v1::Push { removed: subscribe.add, ..v1::Push::default() });
        let snapshot = table.snapshot(&Snapshot::default());
        assert!(snapshot.absent_services.contains(&name("default/orders")));
        table.apply(orders());
        let snapshot = table.snapshot(&snapshot);
        assert!(snapshot.absent_services.is_empty() && snapshot.services.len() == 1);
    }

    #[test]
    fn what_is_unanswered_is_bounded() {
        let mut table = Table::default();
        let mut removed = 0;
        for i in 0..u32::try_from(UNANSWERED_LIMIT).unwrap() + 10 {
            let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + i).into();
            removed += subscribe(table.want(&Wanted::Address(address))).remove.len();
        }
        assert_eq!((removed, table.held().len()), (10, UNANSWERED_LIMIT));
    }

    #[test]
    fn the_table_survives_the_disk() {
        let mut table = Table::default();
        table.apply(orders());
        table.want(&Wanted::Address([10, 9, 9, 9].into()));
        let absent = (&ResourceName::Address([10, 9, 9, 9].into())).into();
        table.apply(v1::Push { removed: vec![absent], ..v1::Push::default() });
        for (same_version, hash) in [(true, 2), (false, 0)] {
            let mut again = Table::default();
            again.restore(table.as_push(), same_version);
            let snapshot = again.snapshot(&Snapshot::default());
            assert_eq!(snapshot.services.len(), 1);
            assert!(matches!(snapshot.addresses[&IpAddr::from([10, 9, 9, 9])], Known::Absent));
            let service: v1::ResourceName = (&ResourceName::Service(name("default/orders"))).into();
            let held = again.held().into_iter().find(|held| held.name.as_ref() == Some(&service)).unwrap();
            assert_eq!(held.hash, hash);
        }
    }
}
