//! The store in one redb file, private to its owner.
//!
//! Every access runs on a blocking thread, one writer at a time, and is durable when it returns.

mod records;
mod revisions;
mod seal;

use std::fmt;
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use super::StoreError;

pub(crate) use records::TokenUse;
pub(crate) use seal::{Custody, Passphrase};

/// Records by name.
type Records = TableDefinition<'static, &'static str, &'static [u8]>;

const SECRETS: Records = TableDefinition::new("secrets");

/// The page cache; everything hot is held in memory elsewhere.
const CACHE_BYTES: usize = 8 << 20;

/// The embedded store. Clones share it.
#[derive(Clone)]
pub(crate) struct Embedded {
    database: Arc<Database>,
    writer: Arc<Semaphore>,
    /// Of secrets, where they are sealed.
    seal: Option<Arc<seal::Seal>>,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

impl Embedded {
    /// The same with secrets in the clear.
    #[cfg(test)]
    pub(crate) fn open(directory: &Path) -> Result<Self, StoreError> {
        Self::open_in(directory, &Custody::Clear)
    }

    /// Opens the store in `directory`, or makes it: the file 0600, a new directory 0700.
    pub(crate) fn open_in(directory: &Path, custody: &Custody) -> Result<Self, StoreError> {
        let prepare = || {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            let path = directory.join("weft.redb");
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            Ok((path, file))
        };
        let (path, file) = prepare().map_err(|e| StoreError::Directory(directory.to_owned(), e))?;
        drop(file);
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(&path);
        let database = database.map_err(|e| StoreError::Open(path.clone(), Box::new(e.into())))?;
        make_tables(&database).map_err(|e| StoreError::Open(path, Box::new(e)))?;
        let seal =
            seal::take(&database, custody).map_err(|fault| fault.while_it_was_to("take its secrets"))?;
        let (database, writer) = (Arc::new(database), Arc::new(Semaphore::new(1)));
        Ok(Self { database, writer, seal: seal.map(Arc::new) })
    }

    /// The secret of this name.
    pub(crate) async fn secret(&self, name: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        let found = self.read("read a secret", move |txn| {
            Ok(txn.open_table(SECRETS)?.get(name)?.map(|value| value.value().to_vec()))
        });
        found.await?.map(|kept| self.opened(name, kept)).transpose()
    }

    /// Keeps a secret, unless there is one of this name; returns the one that stands.
    pub(crate) async fn keep_secret(
        &self,
        name: &'static str,
        value: Vec<u8>,
    ) -> Result<Vec<u8>, StoreError> {
        let value = self.closed(name, value)?;
        let kept = self.write("keep a secret", move |txn| {
            let mut table = txn.open_table(SECRETS)?;
            if let Some(present) = table.get(name)? {
                return Ok(present.value().to_vec());
            }
            table.insert(name, value.as_slice())?;
            Ok(value)
        });
        self.opened(name, kept.await?)
    }

    /// Puts another secret in the place of the one of this name.
    pub(crate) async fn replace_secret(&self, name: &'static str, value: Vec<u8>) -> Result<(), StoreError> {
        let value = self.closed(name, value)?;
        self.write("replace a secret", move |txn| {
            txn.open_table(SECRETS)?.insert(name, value.as_slice())?;
            Ok(())
        })
        .await
    }

    /// Forgets the secret of this name.
    pub(crate) async fn forget_secret(&self, name: &'static str) -> Result<(), StoreError> {
        self.write("forget a secret", move |txn| {
            txn.open_table(SECRETS)?.remove(name)?;
            Ok(())
        })
        .await
    }

    fn closed(&self, name: &str, secret: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        self.seal.as_ref().map_or_else(|| Ok(secret.clone()), |seal| seal.close(name, &secret))
    }

    fn opened(&self, name: &str, kept: Vec<u8>) -> Result<Vec<u8>, StoreError> {
        self.seal.as_ref().map_or_else(|| Ok(kept.clone()), |seal| seal.open(name, &kept))
    }

    async fn read<T, F>(&self, what: &'static str, access: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&ReadTransaction) -> Result<T, Fault> + Send + 'static,
    {
        let database = self.database.clone();
        let task = tokio::task::spawn_blocking(move || access(&database.begin_read()?));
        task.await.map_err(|_| StoreError::Thread(what))?.map_err(|fault| fault.while_it_was_to(what))
    }

    async fn write<T, F>(&self, what: &'static str, access: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&WriteTransaction) -> Result<T, Fault> + Send + 'static,
    {
        let permit = self.writer.clone().acquire_owned().await.map_err(|_| StoreError::Thread(what))?;
        let database = self.database.clone();
        let task = tokio::task::spawn_blocking(move || {
            // Held here, so that a caller that gives up does not let a second writer in.
            let _permit = permit;
            let txn = database.begin_write()?;
            let value = access(&txn)?;
            txn.commit()?;
            Ok(value)
        });
        task.await.map_err(|_| StoreError::Thread(what))?.map_err(|fault: Fault| fault.while_it_was_to(what))
    }
}

/// All tables exist from the first moment, so that readers find them.
fn make_tables(database: &Database) -> Result<(), redb::Error> {
    let txn = database.begin_write()?;
    txn.open_table(SECRETS)?;
    records::make_tables(&txn)?;
    revisions::make_tables(&txn)?;
    txn.commit()?;
    Ok(())
}

/// What went wrong within a transaction, which then changes nothing.
enum Fault {
    Database(redb::Error),
    Record(StoreError),
}

impl Fault {
    fn while_it_was_to(self, what: &'static str) -> StoreError {
        match self {
            Self::Database(error) => StoreError::Access(what, Box::new(error)),
            Self::Record(error) => error,
        }
    }
}

impl<E: Into<redb::Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Database(error.into())
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Record(error)
    }
}

/// Writes a record as it is stored.
fn encode<T: Serialize>(what: &'static str, record: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(|e| StoreError::Record(what, e))
}

/// Reads a stored record.
fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|e| StoreError::Record(what, e))
}

/// The values of a whole table.
fn values(txn: &ReadTransaction, table: Records) -> Result<Vec<Vec<u8>>, Fault> {
    let table = txn.open_table(table)?;
    let mut found = Vec::new();
    for entry in table.iter()? {
        found.push(entry?.1.value().to_vec());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_secret_is_kept_once_and_the_files_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("data");
        {
            let store = Embedded::open(&home).unwrap();
            assert_eq!(store.secret("key").await.unwrap(), None);
            assert_eq!(store.keep_secret("key", vec![1]).await.unwrap(), [1]);
            assert_eq!(store.keep_secret("key", vec![2]).await.unwrap(), [1]);
        }
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&home), mode(&home.join("weft.redb"))), (0o700, 0o600));
        let again = Embedded::open(&home).unwrap();
        assert_eq!(again.secret("key").await.unwrap(), Some(vec![1]));
    }
}
