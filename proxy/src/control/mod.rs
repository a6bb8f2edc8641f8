//! The control plane's side of the sidecar: who we are, what we know, and both on disk.

mod acquaintance;
mod asks;
mod backoff;
mod cache;
mod connect;
mod identity;
mod plaintext;
mod sync;
mod table;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tonic::transport::Channel;
use weft_runtime::task;

use crate::admin::Admin;
use crate::config::Settings;
use crate::credentials::CredentialStore;
use crate::health::Thoughts;
use crate::observe::Observe;
use crate::state::{Publisher, Wanted};
use acquaintance::Acquaintance;
use cache::Cache;
use identity::IdentityLoop;
use sync::SyncLoop;
use table::Table;

pub(crate) use connect::{dial, tcp_socket};
pub(crate) use table::with_causes;

/// What the control loops work on.
#[derive(Debug)]
pub struct Control {
    /// The settings.
    pub settings: Arc<Settings>,
    /// Where others reach the pod.
    pub addresses: Vec<IpAddr>,
    /// Where new certificates go.
    pub store: CredentialStore,
    /// Where new snapshots go.
    pub publisher: Publisher,
    /// What workers ask for.
    pub asked: mpsc::Receiver<Wanted>,
    /// Whether traffic may come.
    pub ready: watch::Receiver<bool>,
    /// What is thought of the apps that are asked how they are.
    pub health: watch::Receiver<Thoughts>,
    /// What the configuration's access log setting acts on.
    pub observe: Observe,
    /// What answers administrators.
    pub admin: Arc<Admin>,
}

impl Control {
    /// Starts the loops; returns the connection to the control plane, for as long as there is one.
    pub fn start(self) -> watch::Receiver<Option<Channel>> {
        let cache = self.settings.cache_dir.as_ref().and_then(|dir| {
            let cache = Cache::open(dir, &self.settings.workload);
            cache
                .map_err(|error| tracing::warn!(dir = %dir.display(), %error, "nothing is kept on disk"))
                .ok()
        });
        let (trust, pushed) = watch::channel(None);
        let refused = Arc::new(Notify::new());
        let (collector, channel) = watch::channel(None);
        let mut rng = fastrand::Rng::new();
        let identity = IdentityLoop {
            settings: Arc::clone(&self.settings),
            store: self.store.clone(),
            cache: cache.clone(),
            trust: pushed,
            refused: Arc::clone(&refused),
            alarm: None,
            rng: rng.fork(),
        };
        let sync = SyncLoop {
            settings: self.settings,
            addresses: self.addresses,
            store: self.store,
            acquaintance: Acquaintance::default(),
            cache,
            table: Table::default(),
            plaintext: Default::default(),
            publisher: self.publisher,
            asked: self.asked,
            ready: self.ready,
            health: self.health,
            was_ready: false,
            trust,
            refused,
            collector,
            golden: self.observe.golden(),
            tapped: self.observe.tapped(),
            observe: self.observe,
            admin: self.admin,
            instance: format!("{:032x}", rng.u128(..)),
            rng,
        };
        task::spawn("identity", identity.run());
        task::spawn("discovery", sync.run());
        channel
    }
}
