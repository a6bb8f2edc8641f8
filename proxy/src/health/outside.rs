//! Where hosts outside the mesh are that are asked how they are: each is looked up again as often as its names change.

use std::collections::HashMap;
use std::net::IpAddr;

use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;
use weft_core::model::{Endpoint, HostName, QualifiedName};
use weft_runtime::task;

use crate::state::Snapshot;
use crate::upstream::{Names, endpoints_at};

/// The hosts that are looked up, by the service outside the mesh that they stand for.
#[derive(Debug, Default)]
pub(super) struct Lookups(HashMap<QualifiedName, Lookup>);

/// What was found of a service's host.
pub(super) type Answer = (QualifiedName, Vec<IpAddr>);

#[derive(Debug)]
struct Lookup {
    host: HostName,
    found: Vec<Endpoint>,
    task: JoinHandle<()>,
}

impl Drop for Lookup {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lookups {
    /// Starts and ends look-ups until those run that should.
    pub(super) fn reconcile(&mut self, snapshot: &Snapshot, names: &Names, answers: &Sender<Answer>) {
        let host_of = |service: &QualifiedName| {
            let service = &snapshot.services.get(service)?.service;
            service.traffic.health_check.as_ref()?;
            service.external.as_ref()?.host.clone()
        };
        self.0.retain(|service, lookup| host_of(service).as_ref() == Some(&lookup.host));
        for service in snapshot.services.keys() {
            if self.0.contains_key(service) {
                continue;
            }
            let Some(host) = host_of(service) else { continue };
            let looking = look_up(service.clone(), host.clone(), names.clone(), answers.clone());
            let task = task::spawn("health-lookup", looking);
            self.0.insert(service.clone(), Lookup { host, found: Vec::new(), task });
        }
    }

    /// Takes over what was found.
    pub(super) fn heed(&mut self, (service, addresses): Answer) {
        if let Some(lookup) = self.0.get_mut(&service) {
            lookup.found = endpoints_at(&service, &addresses);
        }
    }

    /// The places of a service outside the mesh.
    pub(super) fn of(&self, service: &QualifiedName) -> &[Endpoint] {
        self.0.get(service).map_or(&[], |lookup| &lookup.found)
    }
}

/// Works until nobody hears it any more. What was found holds until something else is.
async fn look_up(service: QualifiedName, host: HostName, names: Names, answers: Sender<Answer>) {
    let mut before = Vec::new();
    loop {
        let (answer, holds) = names.addresses(host.as_str()).await;
        if let Some(addresses) = answer.filter(|addresses| *addresses != before) {
            before.clone_from(&addresses);
            if answers.send((service.clone(), addresses)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(holds).await;
    }
}
