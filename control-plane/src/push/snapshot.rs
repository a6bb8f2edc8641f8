//! Everything that can be told, at one moment: encoded once, shared by all streams.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;
use prost::Message;
use weft_core::model::{Address, QualifiedName, Resource, ResourceName};
use weft_proto::convert::encode;
use weft_proto::v1;

/// How many earlier sets of endpoints are remembered per service, so that a delta can start from them.
const PAST_ENDPOINTS: usize = 16;

/// A resource as it goes onto the wire.
#[derive(Debug)]
pub(crate) struct Encoded {
    /// Its name.
    pub name: ResourceName,
    /// Of the body; never 0.
    pub hash: u64,
    /// The body, shared.
    pub body: Bytes,
    /// The service that an address brings along.
    pub brings: Option<QualifiedName>,
    endpoints: Option<Arc<[v1::Endpoint]>>,
    past: VecDeque<(u64, Arc<[v1::Endpoint]>)>,
}

/// Every resource there is.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// The configuration revision that it stands for.
    pub revision: u64,
    resources: HashMap<ResourceName, Arc<Encoded>>,
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
                if resources.remove(&name).is_some() {
                    changed.push(name);
                }
                continue;
            };
            let body = Bytes::from(encode(&resource));
            if before.is_none_or(|before| before.body != body) {
                let encoded = Encoded::new(name.clone(), &resource, body, before);
                resources.insert(name.clone(), Arc::new(encoded));
                changed.push(name);
            }
        }
        (Self { revision, resources }, changed)
    }

    /// The resource of this name.
    pub(crate) fn find(&self, name: &ResourceName) -> Option<&Arc<Encoded>> {
        self.resources.get(name)
    }
}

impl Encoded {
    fn new(name: ResourceName, resource: &Resource, body: Bytes, before: Option<&Arc<Self>>) -> Self {
        let endpoints = match resource {
            Resource::Endpoints(endpoints) => Some(endpoints.iter().map(Into::into).collect()),
            _ => None,
        };
        let brings = match resource {
            Resource::Address(Address::Service(service)) => Some(service.clone()),
            Resource::Address(Address::Workload { service, .. }) => service.clone(),
            _ => None,
        };
        let mut past = VecDeque::new();
        if let Some((before, endpoints)) = before.and_then(|b| Some((b, b.endpoints.clone()?))) {
            past = before.past.clone();
            past.push_back((before.hash, endpoints));
            if past.len() > PAST_ENDPOINTS {
                past.pop_front();
            }
        }
        Self { name, hash: hash(&body), body, brings, endpoints, past }
    }

    /// The whole resource, for a push.
    pub(crate) fn to_wire(&self) -> v1::Resource {
        v1::Resource { name: Some((&self.name).into()), hash: self.hash, body: self.body.clone() }
    }

    /// What became of the endpoints since the set with this hash, where that is known and shorter than all of them.
    pub(crate) fn since(&self, from_hash: u64) -> Option<v1::EndpointDelta> {
        let now = self.endpoints.as_deref()?;
        let (_, then) = self.past.iter().rev().find(|(hash, _)| *hash == from_hash)?;
        let by_workload = |endpoints: &[v1::Endpoint]| -> HashMap<String, v1::Endpoint> {
            endpoints.iter().map(|e| (e.workload.clone(), e.clone())).collect()
        };
        let (before, after) = (by_workload(then), by_workload(now));
        let differs = |e: &&v1::Endpoint| before.get(&e.workload) != Some(e);
        let upserts: Vec<_> = now.iter().filter(differs).cloned().collect();
        let gone = |e: &&v1::Endpoint| !after.contains_key(&e.workload);
        let removed: Vec<_> = then.iter().filter(gone).map(|e| e.workload.clone()).collect();
        let delta = v1::EndpointDelta {
            service: self.name.to_string(),
            from_hash,
            hash: self.hash,
            upserts,
            removed,
        };
        (delta.encoded_len() < self.body.len()).then_some(delta)
    }
}

/// The first 8 bytes of the body's SHA-256; never 0, which says "absent".
fn hash(body: &[u8]) -> u64 {
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
            weight: *weight,
            ports: Vec::new(),
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
