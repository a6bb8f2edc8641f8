//! What a control plane is made of.

use std::sync::Arc;
use std::time::Duration;

use weft_runtime::drain::DrainWatch;

use crate::api::AdminService;
use crate::ca::{Ca, Keeper};
use crate::configuration::Configuration;
use crate::discovery::Shared;
use crate::keys::Keys;
use crate::kubernetes::{Client, Lease};
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::push::Hub;
use crate::replicas::Replica;
use crate::source::kubernetes::Cluster;
use crate::source::registry::Registry;
use crate::status::Live;
use crate::store::Store;
use crate::telemetry::Telemetry;
use crate::together::Together;
use crate::world::World;

/// What is open before anything listens.
pub(super) struct Parts {
    pub(super) ca: Arc<Ca>,
    pub(super) keeper: Arc<Keeper>,
    pub(super) world: Arc<World>,
    pub(super) registry: Arc<Registry>,
    pub(super) configuration: Arc<Configuration>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) keys: Arc<Keys>,
    pub(super) hub: Arc<Hub>,
    pub(super) live: Arc<Live>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) store: Store,
    pub(super) kubernetes: Option<Kubernetes>,
    pub(super) leads: Leadership,
    pub(super) replica: Option<Replica>,
}

/// What there is in a cluster.
pub(super) struct Kubernetes {
    pub(super) client: Arc<Client>,
    pub(super) cluster: Arc<Cluster>,
    pub(super) lease: Arc<Lease>,
}

impl Parts {
    /// What we are called in the cluster, by sidecars and by the API server.
    pub(super) fn names(&self) -> Vec<String> {
        let Some(kubernetes) = &self.kubernetes else { return Vec::new() };
        let namespace = kubernetes.client.namespace();
        let of = |name: &str| [format!("{name}.{namespace}"), format!("{name}.{namespace}.svc")];
        ["weft-control-plane", "weft-injector"].iter().flat_map(|name| of(name)).collect()
    }

    pub(super) fn admin_service(&self, together: Arc<Together>) -> AdminService {
        AdminService {
            ca: self.ca.clone(),
            keeper: self.keeper.clone(),
            configuration: self.configuration.clone(),
            world: self.world.clone(),
            registry: self.registry.clone(),
            live: self.live.clone(),
            hub: self.hub.clone(),
            telemetry: self.telemetry.clone(),
            store: self.store.clone(),
            together,
        }
    }

    pub(super) fn shared(&self, drain: &DrainWatch, ack: Duration) -> Shared {
        Shared {
            ca: self.ca.clone(),
            hub: self.hub.clone(),
            keys: self.keys.clone(),
            world: self.world.clone(),
            registry: self.registry.clone(),
            live: self.live.clone(),
            telemetry: self.telemetry.clone(),
            metrics: self.metrics.clone(),
            trust_domain: self.ca.trust_domain(),
            drain: drain.clone(),
            ack,
            synced: self.kubernetes.as_ref().map(|kubernetes| kubernetes.cluster.synced()),
        }
    }
}
