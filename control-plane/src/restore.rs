//! Puts a backup in the place of a store that is not there (any more), of any kind.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::app::StartError;
use crate::config::{StoreAddress, StoreOptions};
use crate::etcd::{Access, Client};
use crate::kubernetes;
use crate::store::{Backup, Custody, FILE, RestoreError, Store, StoreError};

/// What was restored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// How many records.
    pub records: usize,
    /// When the backup was taken.
    pub taken: String,
}

/// Restores a backup into a data directory without a store, or into an etcd or a cluster that holds none: where a pod finds it, or a
/// kubeconfig in `KUBECONFIG` says.
pub async fn restore(backup: &[u8], options: &StoreOptions, data_dir: &Path) -> Result<Restored, StartError> {
    let backup = Backup::read(backup)?;
    let store = match options.etcd()? {
        None if options.store == StoreAddress::Kubernetes => {
            let file = env::var_os("KUBECONFIG").map(PathBuf::from);
            let client = Arc::new(kubernetes::Client::new(kubernetes::Access::find(file.as_deref())?));
            let place = format!("the Secrets of the namespace {}", client.namespace());
            match Store::open_in_cluster(client, &Custody::Clear).await {
                Ok(store) if store.is_empty().await? => store,
                // Nothing is empty that is sealed.
                Ok(_) | Err(StoreError::Sealed) => return Err(RestoreError::Occupied(place).into()),
                Err(error) => return Err(error.into()),
            }
        }
        None => {
            let file = data_dir.join(FILE);
            if file.exists() {
                return Err(RestoreError::Occupied(file.display().to_string()).into());
            }
            Store::open_in(data_dir, &Custody::Clear).await?
        }
        Some(settings) => {
            let store = match Store::open_at(Client::new(Access::new(&settings)?), &Custody::Clear).await {
                // Nothing is empty that is sealed.
                Err(StoreError::Sealed) => None,
                opened => Some(opened?),
            };
            match store {
                Some(store) if store.is_empty().await? => store,
                Some(_) | None => return Err(RestoreError::Occupied(settings.address.to_string()).into()),
            }
        }
    };
    let taken = backup.taken.clone();
    let records = store.take_over(backup).await?;
    Ok(Restored { records, taken })
}
