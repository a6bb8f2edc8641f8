//! The store in etcd: each record a key, `PREFIX/TABLE/NAME`.
//!
//! What belongs to a sidecar that is connected goes with the lease of the control plane that it is connected to.

use std::sync::Arc;

use tokio::sync::watch;

use super::StoreError;
use super::engine::{Batch, Outcome, Table, Write};
use crate::etcd::{Client, EtcdError, KeptLease, Txn};

/// Changes of one transaction, of 128 that a member takes unless it was told otherwise.
const MOST: usize = 64;
/// Bytes of one transaction, of 1.5 MiB that a member takes unless it was told otherwise.
const LARGEST: usize = 1 << 20;

/// The store. Clones share its connection.
#[derive(Debug, Clone)]
pub(super) struct Etcd {
    client: Client,
    lease: Arc<watch::Sender<Option<KeptLease>>>,
}

impl Etcd {
    pub(super) fn new(client: Client) -> Self {
        Self { client, lease: Arc::new(watch::Sender::new(None)) }
    }

    /// The lease that registrations go with from now on.
    pub(super) fn lease_with(&self, lease: Option<KeptLease>) {
        self.lease.send_replace(lease);
    }

    pub(super) async fn read(
        &self,
        what: &'static str,
        table: Table,
        name: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.client.value(self.key(table, name)).await;
        found.map(|(value, _)| value).map_err(|error| StoreError::Etcd(what, error))
    }

    pub(super) async fn read_all(
        &self,
        what: &'static str,
        table: Table,
        names: &[String],
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let mut found = Vec::with_capacity(names.len());
        for some in names.chunks(MOST) {
            let keys = some.iter().map(|name| self.key(table, name)).collect();
            found.extend(self.client.values(keys).await.map_err(|error| StoreError::Etcd(what, error))?);
        }
        Ok(found)
    }

    pub(super) async fn scan(
        &self,
        what: &'static str,
        table: Table,
    ) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let prefix = self.key(table, "");
        let (found, _) =
            self.client.all(&prefix, false).await.map_err(|error| StoreError::Etcd(what, error))?;
        Ok(found.into_iter().map(|kv| (name_in(&prefix, &kv.key), kv.value)).collect())
    }

    pub(super) async fn names(&self, what: &'static str, table: Table) -> Result<Vec<String>, StoreError> {
        let prefix = self.key(table, "");
        let (found, _) =
            self.client.all(&prefix, true).await.map_err(|error| StoreError::Etcd(what, error))?;
        Ok(found.into_iter().map(|kv| name_in(&prefix, &kv.key)).collect())
    }

    /// Every record of every table at one moment.
    pub(super) async fn snapshot(&self, what: &'static str) -> Result<Vec<Write>, StoreError> {
        let prefix = self.client.access().prefix();
        let all = self.client.all(format!("{prefix}/").as_bytes(), false).await;
        let (found, _) = all.map_err(|error| StoreError::Etcd(what, error))?;
        let write = |kv: weft_proto::etcd::KeyValue| {
            let (table, name) = record(prefix, &kv.key)?;
            Some(Write { table, name, value: Some(kv.value) })
        };
        let mut writes: Vec<_> = found.into_iter().filter_map(write).collect();
        // In the order that every engine has them in.
        writes.sort_by(|a, b| (a.table, &a.name).cmp(&(b.table, &b.name)));
        Ok(writes)
    }

    pub(super) async fn commit(&self, what: &'static str, batch: Batch) -> Result<Outcome, StoreError> {
        let txn = self.txn(&batch);
        let tried = self.client.txn(txn).await.map_err(|error| StoreError::Etcd(what, error))?;
        match tried.succeeded.first() {
            Some(true) => Ok(Outcome::Done),
            // It may have been us: the answer to an earlier try was lost.
            _ if tried.repeated && self.stands(what, &batch.writes).await? => Ok(Outcome::Done),
            _ => Ok(Outcome::Conflict),
        }
    }

    /// Batches of one change each, which are done or not each by itself; and when.
    pub(super) async fn each(
        &self,
        what: &'static str,
        batches: &[Batch],
    ) -> Result<Vec<(Outcome, i64)>, StoreError> {
        let mut outcomes = Vec::with_capacity(batches.len());
        for some in batches.chunks(MOST) {
            let txns = some.iter().map(|batch| self.txn(batch)).collect();
            let tried = self.client.each(txns).await.map_err(|error| StoreError::Etcd(what, error))?;
            for (batch, &succeeded) in some.iter().zip(&tried.succeeded) {
                let stands = succeeded || (tried.repeated && self.stands(what, &batch.writes).await?);
                outcomes.push((if stands { Outcome::Done } else { Outcome::Conflict }, tried.revision));
            }
        }
        Ok(outcomes)
    }

    pub(super) async fn write_all(&self, what: &'static str, writes: Vec<Write>) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        for write in writes {
            let size = write.name.len() + write.value.as_ref().map_or(0, Vec::len);
            if batch.writes.len() == MOST || (bytes + size > LARGEST && !batch.writes.is_empty()) {
                self.commit(what, std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
            bytes += size;
            batch.writes.push(write);
        }
        self.commit(what, batch).await.map(drop)
    }

    /// Whether everything is as it was to be written.
    async fn stands(&self, what: &'static str, writes: &[Write]) -> Result<bool, StoreError> {
        for Write { table, name, value } in writes {
            if self.read(what, *table, name).await? != *value {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn txn(&self, batch: &Batch) -> Txn {
        let mut txn = Txn::default();
        for Write { table, name, value } in &batch.expected {
            txn.expect(self.key(*table, name), value.clone());
        }
        let lease = self.lease.borrow().map_or(0, |lease| lease.id);
        for Write { table, name, value } in &batch.writes {
            let key = self.key(*table, name);
            match value {
                Some(value) => {
                    txn.put(key, value.clone(), if *table == Table::Registrations { lease } else { 0 });
                }
                None => txn.delete(key),
            }
        }
        txn
    }

    fn key(&self, table: Table, name: &str) -> Vec<u8> {
        key_of(self.client.access().prefix(), table, name)
    }
}

/// Where a record stands.
pub(super) fn key_of(prefix: &str, table: Table, name: &str) -> Vec<u8> {
    format!("{prefix}/{}/{name}", table.as_str()).into_bytes()
}

/// Which record of which table a key is; none: it is not one of ours.
pub(crate) fn record(prefix: &str, key: &[u8]) -> Option<(Table, String)> {
    let rest = std::str::from_utf8(key).ok()?.strip_prefix(prefix)?.strip_prefix('/')?;
    let (table, name) = rest.split_once('/')?;
    Some((Table::of(table)?, name.to_owned()))
}

fn name_in(prefix: &[u8], key: &[u8]) -> String {
    String::from_utf8_lossy(key.strip_prefix(prefix).unwrap_or(key)).into_owned()
}

impl From<EtcdError> for StoreError {
    fn from(error: EtcdError) -> Self {
        Self::Etcd("be reached", error)
    }
}
