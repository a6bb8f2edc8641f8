//! Everything that can be told, at one moment: encoded once, shared by all streams.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;
use weft_core::model::{Address, BackendTarget, QualifiedName, Resource, ResourceName};
use weft_proto::convert::encode;
use weft_proto::v1;

use super::history::History;

/// A resource as it goes onto the wire.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// Its name.
    pub name: ResourceName,
    /// Of the body; never 0.
    pub hash: u64,
    /// The body, shared.
    pub body: Bytes,
    /// The services that it brings along: an address the one it belongs to, a service those that its routes lead to.
    pub brings: Vec<QualifiedName>,
    endpoints: Option<Vec<v1::Endpoint>>,
    history: History,
}

/// Every resource there is.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// The configuration revision that it stands for.
    pub revision: u64,
    resources: Shards,
}

/// Of so many parts a snapshot is made, so that the next one copies those alone in which something differs.
const SHARDS: usize = 256;

#[derive(Debug, Clone)]
struct Shards {
    by: RandomState,
    parts: Vec<Arc<HashMap<ResourceName, Arc<Encoded>>>>,
}

impl Default for Shards {
    fn default() -> Self {
        Self { by: RandomState::new(), parts: vec![Arc::default(); SHARDS] }
    }
}

impl Shards {
    fn get(&self, name: &ResourceName) -> Option<&Arc<Encoded>> {
        self.parts.get(self.place(name))?.get(name)
    }

    fn part(&mut self, name: &ResourceName) -> Option<&mut HashMap<ResourceName, Arc<Encoded>>> {
        let place = self.place(name);
        self.parts.get_mut(place).map(Arc::make_mut)
    }

    fn place(&self, name: &ResourceName) -> usize {
        // What is cut off here says as much as what is left.
        let hash = self.by.hash_one(name).to_le_bytes();
        usize::from(hash.first().copied().unwrap_or_default()) % SHARDS
    }
}

impl Snapshot {
    /// The snapshot that follows on this one with these resources replaced, or gone; and which of them differ.
    pub(crate) fn next(
        &self,
        revision: u64,
        changes: impl IntoIterator<Item = (ResourceName, Option<Resource>)>,
    ) -> (Self, Vec<ResourceName>) {
        let mut resources = self.resources.clone();
        let mut changed = Vec::new();
        for (name, resource) in changes {
            let before = resources.get(&name);
            let Some(resource) = resource else {
                if before.is_some() {
                    resources.part(&name).and_then(|part| part.remove(&name));
                    changed.push(name);
                }
                continue;
            };
            let body = Bytes::from(encode(&resource));
            if before.is_none_or(|before| before.body != body) {
                let encoded = Encoded::new(name.clone(), &resource, body, before);
                let encoded = Arc::new(encoded);
                resources.part(&name).and_then(|part| part.insert(name.clone(), encoded));
                changed.push(name);
            }
        }
        (Self { revision, resources }, changed)
    }

    /// The hash of exactly this resource, where it is the one that is published.
    pub(crate) fn hash_of(&self, name: &ResourceName, resource: &Resource) -> Option<u64> {
        let published = self.find(name)?;
        (published.body == encode(resource)).then_some(published.hash)
    }

    /// The resource of this name.
    pub(crate) fn find(&self, name: &ResourceName) -> Option<&Arc<Encoded>> {
        self.resources.get(name)
    }
}

impl Encoded {
    fn new(name: ResourceName, resource: &Resource, body: Bytes, before: Option<&Arc<Self>>) -> Self {
        let endpoints: Option<Vec<v1::Endpoint>> = match resource {
            Resource::Endpoints(endpoints) => Some(endpoints.iter().map(Into::into).collect()),
            _ => None,
        };
        let brings = match resource {
            Resource::Address(Address::Service(service)) => vec![service.clone()],
            Resource::Address(Address::Workload { service, .. }) => service.iter().cloned().collect(),
            Resource::Service(service) => {
                let targets = service.routes.iter().flat_map(|route| route.rules.targets());
                let named = targets.filter_map(|target| match target {
                    BackendTarget::Service(name, _) if *name != service.name => Some(name.clone()),
                    BackendTarget::Service(..) | BackendTarget::OtherKind | BackendTarget::NotPermitted => {
                        None
                    }
                });
                named.collect::<BTreeSet<_>>().into_iter().collect()
            }
            _ => Vec::new(),
        };
        let history = before.zip(endpoints.as_deref()).and_then(|(before, now)| {
            Some(before.history.next(before.endpoints.as_deref()?, before.hash, now))
        });
        Self { name, hash: hash(&body), body, brings, endpoints, history: history.unwrap_or_default() }
    }

    /// The whole resource, for a push.
    pub(crate) fn to_wire(&self) -> v1::Resource {
        v1::Resource { name: Some((&self.name).into()), hash: self.hash, body: self.body.clone() }
    }

    /// What became of the endpoints since the set with this hash, where that is known and shorter than all of them.
    pub(crate) fn since(&self, from_hash: u64) -> Option<v1::EndpointDelta> {
        let now = self.endpoints.as_deref()?;
        self.history.since(from_hash, (&self.name, now, self.hash), self.body.len())
    }
}

/// The first 8 bytes of the body's SHA-256; never 0, which says "absent".
pub(super) fn hash(body: &[u8]) -> u64 {
    let digest = digest::digest(&digest::SHA256, body);
    let first = digest.as_ref().iter().take(8).fold(0_u64, |hash, byte| hash << 8 | u64::from(*byte));
    first.max(1)
}

#[cfg(test)]
mod tests {
    use weft_core::model::Endpoint;

    use super::*;

    fn name() -> ResourceName {
        ResourceName::Endpoints("default/orders".parse().unwrap())
    }

    fn endpoints(workloads: &[(&str, u32)]) -> [(ResourceName, Option<Resource>); 1] {
        let endpoint = |(name, weight): &(&str, u32)| Endpoint {
            workload: format!("default/{name}").parse().unwrap(),
            addresses: vec!["10.0.0.1".parse().unwrap()],
            identity: Some("spiffe://mesh.local/ns/default/sa/orders".parse().unwrap()),
            inbound_port: Some(4143),
            zone: String::new(),
            node: Arc::default(),
            weight: *weight,
            ports: Vec::new(),
            healthy: true,
            fits: weft_core::model::Fits::default(),
        };
        [(name(), Some(Resource::Endpoints(workloads.iter().map(endpoint).collect())))]
    }

    #[test]
    fn what_did_not_change_is_shared() {
        let (first, changed) = Snapshot::default().next(1, endpoints(&[("a", 1)]));
        assert_eq!(changed, [name()]);
        let (second, changed) = first.next(2, endpoints(&[("a", 1)]));
        assert_eq!(changed, []);
        assert!(Arc::ptr_eq(first.find(&name()).unwrap(), second.find(&name()).unwrap()));
        let (third, changed) = second.next(3, [(name(), None)]);
        assert_eq!(changed, [name()]);
        assert!(third.find(&name()).is_none());
    }

    #[test]
    fn a_delta_names_only_the_workloads_that_differ() {
        let (first, _) = Snapshot::default().next(1, endpoints(&[("a", 1), ("b", 1), ("c", 1)]));
        let old = first.find(&name()).unwrap().hash;
        let (second, _) = first.next(1, endpoints(&[("a", 1), ("b", 2), ("d", 1)]));
        let (third, _) = second.next(1, endpoints(&[("a", 1), ("b", 2)]));
        let delta = third.find(&name()).unwrap().since(old).unwrap();
        assert_eq!(delta.upserts.iter().map(|e| e.workload.as_str()).collect::<Vec<_>>(), ["default/b"]);
        assert_eq!(delta.removed, ["default/c"]);
        assert_eq!(delta.hash, third.find(&name()).unwrap().hash);
        assert_eq!(third.find(&name()).unwrap().since(7), None);
    }
}
