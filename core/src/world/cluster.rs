//! What an orchestrator tells: its pods, and who is behind each of its services.
//!
//! Where it says who is behind a service, it alone decides who is called: its word on what is ready is newer than ours.
//! Whom policies of a service are about is decided by labels too, so that they hold from a pod's first moment.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use super::{Member, World};
use crate::model::{Name, QualifiedName};

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: QualifiedName,
    /// The service account it runs as.
    pub service_account: Name,
    /// What selectors see.
    pub labels: BTreeMap<String, String>,
    /// Its own addresses; none: it has the node's, or none yet.
    pub addresses: Vec<IpAddr>,
    /// The ports of its app that have names.
    pub ports: BTreeMap<String, u16>,
    /// The ports that carry bytes, whatever they look like.
    pub opaque: Vec<RangeInclusive<u16>>,
    /// Whether a sidecar beside it takes mesh traffic.
    pub has_sidecar: bool,
    /// The node that it runs on; empty: none yet.
    pub node: Arc<str>,
    /// Whether it was told to end: this is known before its app is, and before any service says that it is not ready.
    pub is_leaving: bool,
}

/// One of those behind a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// The pod; none: only addresses are told.
    pub pod: Option<QualifiedName>,
    /// Where it is reached.
    pub addresses: Vec<IpAddr>,
    /// The app's ports, by the names of the service's.
    pub ports: BTreeMap<String, u16>,
    /// Whether it takes traffic.
    pub readiness: Readiness,
    /// Its locality; empty: unknown.
    pub zone: String,
    /// The node that it runs on; empty: unknown.
    pub node: Arc<str>,
}

/// Whether someone behind a service takes traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Readiness {
    /// No.
    Not,
    /// It is on its way out, and is called only where nobody else is there (KEP-1669).
    Leaving,
    /// Yes.
    Ready,
}

impl Pod {
    /// Whether a port carries bytes, whatever they look like.
    pub fn is_opaque(&self, port: u16) -> bool {
        self.opaque.iter().any(|ports| ports.contains(&port))
    }
}

impl World {
    /// A pod.
    pub fn pod(&self, name: &QualifiedName) -> Option<&Pod> {
        self.pods.get(name)
    }

    /// Every pod, by name.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.iter().map(|(_, pod)| pod)
    }

    /// Who is behind a service, where an orchestrator says so.
    pub fn backends(&self, service: &QualifiedName) -> Option<&[Backend]> {
        self.backends.get(service).map(Vec::as_slice)
    }

    /// The pods that an orchestrator says are behind a service.
    pub(super) fn backing(
        &self,
        service: &QualifiedName,
    ) -> impl Iterator<Item = (QualifiedName, Member<'_>)> {
        let backends = self.backends.get(service).into_iter().flatten();
        let pods = backends.filter_map(|backend| self.pods.get(backend.pod.as_ref()?));
        pods.map(|pod| (pod.name.clone(), Member::Pod(pod)))
    }

    /// The services that an orchestrator says a pod is behind.
    pub(super) fn backed(&self, pod: &QualifiedName) -> BTreeSet<QualifiedName> {
        self.backed.get(pod).cloned().unwrap_or_default()
    }

    pub(super) fn put_pod(&mut self, name: &QualifiedName, pod: Option<Pod>) {
        match pod {
            Some(pod) => self.pods.insert(name.clone(), pod),
            None => drop(self.pods.remove(name)),
        }
    }

    pub(super) fn put_backends(&mut self, service: &QualifiedName, backends: Option<Vec<Backend>>) {
        for backend in self.backends.remove(service).unwrap_or_default() {
            let Some(pod) = backend.pod else { continue };
            let Some(services) = self.backed.get_mut(&pod) else { continue };
            services.remove(service);
            if services.is_empty() {
                self.backed.remove(&pod);
            }
        }
        let Some(backends) = backends else { return };
        for pod in backends.iter().filter_map(|backend| backend.pod.as_ref()) {
            let mut services = self.backed.remove(pod).unwrap_or_default();
            services.insert(service.clone());
            self.backed.insert(pod.clone(), services);
        }
        self.backends.insert(service.clone(), backends);
    }
}
