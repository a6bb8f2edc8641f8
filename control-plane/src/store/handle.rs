//! The store as everything else sees it: an engine, and the seal of its secrets.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::StoreError;
use super::embedded::Embedded;
use super::engine::{Batch, Engine, Outcome, Table};
use super::etcd::Etcd;
use super::kubernetes::Kubernetes;
use super::revisions::KnownContents;
use super::seal::{self, Custody, Seal};
use crate::etcd::{Client, KeptLease};
use crate::kubernetes;

/// The store. Clones share it.
#[derive(Clone)]
pub(crate) struct Store {
    pub(super) engine: Engine,
    /// Of secrets, where they are sealed.
    seal: Option<Arc<Seal>>,
    pub(super) known: Arc<Mutex<KnownContents>>,
}

/// A secret as it stood in the store: what may be replaced by another, unless somebody else was quicker.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Stamp(Option<Vec<u8>>);

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Store").field(&self.engine).finish()
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stamp")
    }
}

impl Store {
    /// The embedded store in a directory, with secrets in the clear.
    #[cfg(test)]
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        Embedded::open(directory).map(|engine| Self::over(Engine::Embedded(engine), None))
    }

    /// The embedded store in a directory.
    pub(crate) async fn open_in(directory: &Path, custody: &Custody) -> Result<Self, StoreError> {
        Self::taken(Engine::Embedded(Embedded::open(directory)?), custody).await
    }

    /// The store in etcd.
    pub(crate) async fn open_at(client: Client, custody: &Custody) -> Result<Self, StoreError> {
        Self::taken(Engine::Etcd(Etcd::new(client)), custody).await
    }

    /// The store in a cluster.
    pub(crate) async fn open_in_cluster(
        client: Arc<kubernetes::Client>,
        custody: &Custody,
    ) -> Result<Self, StoreError> {
        Self::taken(Engine::Kubernetes(Kubernetes::new(client)), custody).await
    }

    async fn taken(engine: Engine, custody: &Custody) -> Result<Self, StoreError> {
        let seal = seal::take(&engine, custody).await?;
        Ok(Self::over(engine, seal))
    }

    fn over(engine: Engine, seal: Option<Seal>) -> Self {
        Self { engine, seal: seal.map(Arc::new), known: Arc::default() }
    }

    /// Whether others write here too.
    pub(crate) fn is_shared(&self) -> bool {
        self.engine.is_shared()
    }

    /// What it is, for people.
    pub(crate) fn place(&self) -> &'static str {
        match &self.engine {
            Engine::Embedded(_) => "the data directory",
            Engine::Etcd(_) => "etcd",
            Engine::Kubernetes(_) => "Kubernetes",
        }
    }

    /// The lease that registrations go with from now on, where they do.
    pub(crate) fn lease_with(&self, lease: Option<KeptLease>) {
        match &self.engine {
            Engine::Embedded(_) | Engine::Kubernetes(_) => {}
            Engine::Etcd(engine) => engine.lease_with(lease),
        }
    }

    /// The secret of this name.
    pub(crate) async fn secret(&self, name: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        self.stamped_secret(name).await.map(|(secret, _)| secret)
    }

    /// The secret of this name, and what it takes to replace it.
    pub(crate) async fn stamped_secret(
        &self,
        name: &'static str,
    ) -> Result<(Option<Vec<u8>>, Stamp), StoreError> {
        let kept = self.engine.read("read a secret", Table::Secrets, name).await?;
        let opened = kept.as_ref().map(|kept| self.opened(name, kept)).transpose()?;
        Ok((opened, Stamp(kept)))
    }

    /// Keeps a secret, unless there is one of this name; returns the one that stands.
    pub(crate) async fn keep_secret(
        &self,
        name: &'static str,
        value: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        if let Some(present) = self.secret(name).await? {
            return Ok(present);
        }
        match self.swap_secret(name, &Stamp::default(), value.clone()).await {
            Ok(_) => Ok(value),
            Err(StoreError::Changed(what)) => self.secret(name).await?.ok_or(StoreError::Changed(what)),
            Err(error) => Err(error),
        }
    }

    /// Puts another secret in the place of the one of this name.
    pub(crate) async fn replace_secret(&self, name: &'static str, value: Vec<u8>) -> Result<(), StoreError> {
        let batch = Batch::default().putting(Table::Secrets, name, self.closed(name, value)?);
        self.engine.commit("replace a secret", batch).await.map(drop)
    }

    /// The same, if nobody else has done so since; and what it takes then to replace it again.
    pub(crate) async fn swap_secret(
        &self,
        name: &'static str,
        before: &Stamp,
        value: Vec<u8>,
    ) -> Result<Stamp, StoreError> {
        let kept = self.closed(name, value)?;
        let batch = Batch::default().expecting(Table::Secrets, name, before.0.clone()).putting(
            Table::Secrets,
            name,
            kept.clone(),
        );
        match self.engine.commit("replace a secret", batch).await? {
            Outcome::Done => Ok(Stamp(Some(kept))),
            Outcome::Conflict => Err(StoreError::Changed("a secret")),
        }
    }

    /// Forgets the secret of this name.
    pub(crate) async fn forget_secret(&self, name: &'static str) -> Result<(), StoreError> {
        let batch = Batch::default().deleting(Table::Secrets, name);
        self.engine.commit("forget a secret", batch).await.map(drop)
    }

    fn closed(&self, name: &str, secret: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        self.seal.as_ref().map_or_else(|| Ok(secret.clone()), |seal| seal.close(name, &secret))
    }

    fn opened(&self, name: &str, kept: &[u8]) -> Result<Vec<u8>, StoreError> {
        self.seal.as_ref().map_or_else(|| Ok(kept.to_vec()), |seal| seal.open(name, kept))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_secret_is_kept_once_and_the_files_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("data");
        {
            let store = Store::open(&home).unwrap();
            assert_eq!(store.secret("key").await.unwrap(), None);
            assert_eq!(store.keep_secret("key", vec![1]).await.unwrap(), [1]);
            assert_eq!(store.keep_secret("key", vec![2]).await.unwrap(), [1]);
        }
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&home), mode(&home.join("weft.redb"))), (0o700, 0o600));
        let again = Store::open(&home).unwrap();
        assert_eq!(again.secret("key").await.unwrap(), Some(vec![1]));
    }

    #[tokio::test]
    async fn a_secret_is_replaced_by_whoever_has_seen_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let first = store.swap_secret("key", &Stamp::default(), vec![1]).await.unwrap();
        let second = store.swap_secret("key", &first, vec![2]).await.unwrap();
        let late = store.swap_secret("key", &first, vec![3]).await;
        assert!(matches!(late, Err(StoreError::Changed(_))));
        assert_eq!(store.stamped_secret("key").await.unwrap(), (Some(vec![2]), second));
    }
}
