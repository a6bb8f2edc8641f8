//! Several control planes over one store: each serves, one leads, and all follow what the others change.
//!
//! `office` is who leads, `presence` the lease that says that we are there, `others` what the rest say of their sidecars. What is
//! changed in the store is followed here.

mod office;
mod others;
mod presence;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep;
use weft_runtime::task;

use crate::ca::{Ca, CaError, Keeper};
use crate::configuration::{Configuration, ConfigurationError};
use crate::etcd::{Batch, Client, EtcdError, Event, follow};
use crate::keys::Keys;
use crate::leader::Leadership;
use crate::report::chain;
use crate::source::registry::Registry;
use crate::store::{Allocation, Store, StoreError, Table, decode, record};
use crate::world::World;

pub(crate) use others::Others;

/// What happened and was not followed yet; then etcd waits.
const BACKLOG: usize = 64;
/// Until what failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Our place among them.
#[derive(Debug)]
pub(crate) struct Replica {
    client: Client,
    id: String,
    /// Where in etcd's history everything that is followed was not read yet.
    begun: i64,
    leads: watch::Sender<bool>,
    /// The office may be free.
    vacant: Notify,
    others: Arc<Others>,
    /// When another one was last lost, as etcd counts.
    lost: AtomicI64,
}

/// What is kept in step with the store.
#[derive(Debug)]
pub(crate) struct Followers {
    pub(crate) store: Store,
    pub(crate) ca: Arc<Ca>,
    pub(crate) world: Arc<World>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) configuration: Arc<Configuration>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) keeper: Arc<Keeper>,
}

/// Why something cannot be followed.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error("the store cannot be followed")]
    Store(#[from] StoreError),
    #[error("the store cannot be followed")]
    Etcd(#[from] EtcdError),
    #[error("the authority cannot be followed")]
    Ca(#[from] CaError),
    #[error("the configuration cannot be followed")]
    Configuration(#[from] ConfigurationError),
}

impl Replica {
    /// One more, of this name; nothing of what is followed may have been read before.
    pub(crate) async fn join(client: Client, id: String) -> Result<Arc<Self>, EtcdError> {
        let (leads, others) = (watch::Sender::new(false), Arc::default());
        let mut replica =
            Self { client, id, begun: 0, leads, vacant: Notify::new(), others, lost: AtomicI64::new(0) };
        replica.begun = replica.client.value(replica.office()).await?.1;
        Ok(Arc::new(replica))
    }

    /// Our name.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Whether we lead.
    pub(crate) fn leadership(&self) -> Leadership {
        Leadership::told_by(&self.leads)
    }

    /// What the others say.
    pub(crate) fn others(&self) -> &Arc<Others> {
        &self.others
    }

    /// Follows what the others change, for ever.
    pub(crate) async fn follow(self: Arc<Self>, followers: Arc<Followers>) {
        let (told, mut batches) = mpsc::channel(BACKLOG);
        let prefix = format!("{}/", self.client.access().prefix()).into_bytes();
        let watching = follow(self.client.clone(), prefix, self.begun.saturating_add(1), told);
        let watching = task::spawn("etcd-watch", watching);
        // Since `join` others may have come, who will say nothing new.
        let mut all_anew = true;
        loop {
            if all_anew {
                match self.read_anew(&followers).await {
                    Ok(()) => all_anew = false,
                    Err(error) => {
                        tracing::warn!(reason = chain(&error), "cannot read anew what others have changed");
                        sleep(RETRY).await;
                        continue;
                    }
                }
            }
            let Some(batch) = batches.recv().await else { break };
            let followed = match batch {
                Batch::Events(events) => self.take(&followers, events).await,
                Batch::Gap => {
                    all_anew = true;
                    Ok(())
                }
            };
            if let Err(error) = followed {
                tracing::warn!(reason = chain(&error), "cannot follow what others change");
                all_anew = true;
            }
        }
        watching.abort();
    }

    async fn take(&self, followers: &Followers, events: Vec<Event>) -> Result<(), FollowError> {
        let Followers { ca, world, registry, configuration, keys, .. } = followers;
        let (mut roots, mut revocations, mut revisions) = (false, false, false);
        for Event { key, revision, value } in events {
            if key == self.office() {
                if value.is_none() {
                    self.vacant.notify_one();
                }
                continue;
            }
            if let Some(id) = self.other(&key) {
                if value.is_none() {
                    self.lost.store(revision, Ordering::Relaxed);
                }
                self.others.hear(id, value.as_deref());
                continue;
            }
            let value = value.as_deref();
            match record(self.client.access().prefix(), &key) {
                Some((Table::Certificates, serial)) => ca.follow_certificate(serial, value)?,
                // Its control plane is gone, which says nothing of the workload.
                Some((Table::Registrations, name))
                    if value.is_none() && revision == self.lost.load(Ordering::Relaxed) =>
                {
                    registry.orphan(&name);
                }
                Some((Table::Registrations, name)) => registry.follow(&name, value, revision)?,
                Some((Table::Addresses, service)) => world.take_over(match value {
                    Some(value) => decode("an address", value)?,
                    None => Allocation { service, addresses: Vec::new() },
                }),
                Some((Table::KeySets, _)) => {
                    if let Some(value) = value {
                        keys.take_over(&decode("keys", value)?);
                    }
                }
                Some((Table::Secrets, _)) => roots = true,
                Some((Table::Revocations, _)) => revocations = true,
                Some((Table::Revisions, _)) => revisions = true,
                // Asked of the store each time, or read with what names them.
                Some((Table::Tokens | Table::Contents | Table::Marks, _)) | None => {}
            }
        }
        if roots {
            ca.follow_roots(SystemTime::now()).await?;
        }
        if revocations {
            ca.follow_revocations().await?;
        }
        if revisions {
            configuration.follow().await?;
        }
        Ok(())
    }

    async fn read_anew(&self, followers: &Followers) -> Result<(), FollowError> {
        let Followers { store, ca, world, registry, configuration, keys, .. } = followers;
        ca.follow_roots(SystemTime::now()).await?;
        ca.follow_certificates().await?;
        ca.follow_revocations().await?;
        configuration.follow().await?;
        registry.follow_all().await?;
        for allocation in store.allocations().await? {
            world.take_over(allocation);
        }
        for set in store.key_sets().await? {
            keys.take_over(&set);
        }
        self.hear_others().await?;
        self.vacant.notify_one();
        Ok(())
    }

    fn key(&self, name: &str) -> Vec<u8> {
        format!("{}/{name}", self.client.access().prefix()).into_bytes()
    }
}
