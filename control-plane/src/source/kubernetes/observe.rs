//! What becomes of the configuration that lies in the cluster, for the history: observed by whoever leads, written down as revisions.

use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use super::Cluster;
use crate::configuration::Configuration;
use crate::leader::Leadership;
use crate::report::chain;

/// How long changes gather: what somebody applies as one is written object by object.
const GATHER: Duration = Duration::from_secs(1);
/// Until what could not be written down is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// The loop, and what it looks at.
pub(crate) struct Observe {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) configuration: Arc<Configuration>,
    /// Who leads writes.
    pub(crate) leads: Leadership,
}

impl fmt::Debug for Observe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observe").finish_non_exhaustive()
    }
}

impl Observe {
    /// Observes, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let (mut synced, mut configured) = (self.cluster.synced(), self.cluster.configured.subscribe());
        let mut leads = self.leads.clone();
        // Its sender lives in what we hold.
        let _ = synced.wait_for(|synced| *synced).await;
        loop {
            leads.begins().await;
            configured.mark_unchanged();
            if let Err(error) = self.configuration.observe(&self.authors()).await {
                tracing::warn!(reason = chain(&error), "cannot write down what has changed in the cluster");
                sleep(RETRY).await;
                continue;
            }
            let mut led = leads.clone();
            tokio::select! {
                _ = configured.changed() => sleep(GATHER).await,
                () = led.ends() => {}
            }
        }
    }

    /// Those whose writing is known; what is known of it stays, since it may have to be told again.
    fn authors(&self) -> crate::configuration::Authors {
        self.cluster.authors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
