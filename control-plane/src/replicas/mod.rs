//! Several control planes over one store: each serves, one leads, and all follow what the others change.
//!
//! `in_etcd` (`office` is who leads, `presence` the lease that says that we are there) and `in_cluster` are one of them, by where the
//! store is; `others` is what the rest say of their sidecars. What is changed in the store is followed here.

mod in_cluster;
mod in_etcd;
mod office;
mod others;
mod presence;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::ca::{Ca, CaError, Keeper};
use crate::configuration::{Configuration, ConfigurationError};
use crate::etcd::EtcdError;
use crate::keys::Keys;
use crate::kubernetes::ApiError;
use crate::leader::Leadership;
use crate::source::registry::Registry;
use crate::store::{Allocation, Store, StoreError, Table, decode};
use crate::world::World;

pub(crate) use in_cluster::InCluster;
pub(crate) use in_etcd::InEtcd;
pub(crate) use others::Others;

/// What happened and was not followed yet; then the store waits.
const BACKLOG: usize = 64;
/// Until what failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Our place among them, by where the store is.
#[derive(Debug, Clone)]
pub(crate) enum Replica {
    Etcd(Arc<InEtcd>),
    Kubernetes(Arc<InCluster>),
}

/// What happened to a record of the store.
#[derive(Debug)]
struct Happened {
    table: Table,
    name: String,
    /// None: it is gone.
    value: Option<Vec<u8>>,
    /// When, as the store counts.
    at: i64,
    /// It is a registration that is gone because its control plane is, which says nothing of the workload.
    is_orphaned: bool,
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
    /// Where the others ask us.
    pub(crate) address: SocketAddr,
}

/// Why something cannot be followed.
#[derive(Debug, thiserror::Error)]
enum FollowError {
    #[error("the store cannot be followed")]
    Store(#[from] StoreError),
    #[error("the store cannot be followed")]
    Etcd(#[from] EtcdError),
    #[error("the store cannot be followed")]
    Kubernetes(#[from] ApiError),
    #[error("the authority cannot be followed")]
    Ca(#[from] CaError),
    #[error("the configuration cannot be followed")]
    Configuration(#[from] ConfigurationError),
}

impl Replica {
    /// Our name.
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Etcd(here) => &here.id,
            Self::Kubernetes(here) => here.id(),
        }
    }

    /// Whether we lead.
    pub(crate) fn leadership(&self) -> Leadership {
        match self {
            Self::Etcd(here) => here.leadership(),
            Self::Kubernetes(here) => here.leadership(),
        }
    }

    /// What the others say.
    pub(crate) fn others(&self) -> &Arc<Others> {
        match self {
            Self::Etcd(here) => &here.others,
            Self::Kubernetes(here) => here.others(),
        }
    }

    /// Follows what the others change, for ever.
    pub(crate) async fn follow(self, followers: Arc<Followers>) {
        match self {
            Self::Etcd(here) => here.follow(followers).await,
            Self::Kubernetes(here) => here.follow(followers).await,
        }
    }

    /// Is there, for ever.
    pub(crate) async fn attend(self, followers: Arc<Followers>) {
        match self {
            Self::Etcd(here) => here.attend(followers).await,
            Self::Kubernetes(here) => here.attend(followers).await,
        }
    }

    /// Leads, or waits for that, for ever.
    pub(crate) async fn lead(self) {
        match self {
            Self::Etcd(here) => here.lead().await,
            Self::Kubernetes(here) => here.lead().await,
        }
    }

    /// Leaves, so that others may do at once what we did.
    pub(crate) async fn leave(&self) {
        match self {
            Self::Etcd(here) => here.leave_office().await,
            Self::Kubernetes(here) => here.leave().await,
        }
    }
}

impl Followers {
    async fn take(&self, happened: Vec<Happened>) -> Result<(), FollowError> {
        let Self { ca, world, registry, configuration, keys, .. } = self;
        let (mut roots, mut revocations, mut revisions) = (false, false, false);
        for Happened { table, name, value, at, is_orphaned } in happened {
            let value = value.as_deref();
            match table {
                Table::Certificates => ca.follow_certificate(name, value)?,
                Table::Registrations if is_orphaned => registry.orphan(&name),
                Table::Registrations => registry.follow(&name, value, at)?,
                Table::Addresses => world.take_over(match value {
                    Some(value) => decode("an address", value)?,
                    None => Allocation { service: name, addresses: Vec::new() },
                }),
                Table::KeySets => {
                    if let Some(value) = value {
                        keys.take_over(&decode("keys", value)?);
                    }
                }
                Table::Secrets => roots = true,
                Table::Revocations => revocations = true,
                Table::Revisions => revisions = true,
                // Asked of the store each time, or read with what names them.
                Table::Tokens | Table::Contents | Table::Marks => {}
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

    async fn read_anew(&self) -> Result<(), FollowError> {
        let Self { store, ca, world, registry, configuration, keys, .. } = self;
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
        Ok(())
    }
}
