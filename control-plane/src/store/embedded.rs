//! The store in one redb file, private to its owner.
//!
//! Every access runs on a blocking thread, one writer at a time, and is durable when it returns.

use std::fmt;
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableHandle,
    WriteTransaction,
};
use tokio::sync::Semaphore;

use super::StoreError;
use super::engine::{Batch, Outcome, Table, Write};
use super::revisions;

/// Records by name.
type Records = TableDefinition<'static, &'static str, &'static [u8]>;

/// As revisions were kept before: by number, with the digests of their documents.
const FORMER_REVISIONS: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("revisions");
const FORMER_DOCUMENTS: TableDefinition<'static, &'static [u8], &'static [u8]> =
    TableDefinition::new("documents");

/// The page cache; everything hot is held in memory elsewhere.
const CACHE_BYTES: usize = 8 << 20;
/// The file's name in the data directory.
pub(crate) const FILE: &str = "weft.redb";

/// The embedded store. Clones share it.
#[derive(Clone)]
pub(super) struct Embedded {
    kept: Arc<Kept>,
    writer: Arc<Semaphore>,
}

/// The database; none: it was closed after an error of the disk, and is to be opened anew.
struct Kept {
    path: PathBuf,
    database: RwLock<Option<Database>>,
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens the store in `directory`, or makes it: the file 0600, a new directory 0700.
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        let prepare = || {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            let path = directory.join(FILE);
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
        let database = whole(&path)?;
        make_tables(&database).map_err(|fault| match fault {
            Fault::Database(error) => unusable(&path, error),
            Fault::Record(error) => error,
        })?;
        let kept = Arc::new(Kept { path, database: RwLock::new(Some(database)) });
        Ok(Self { kept, writer: Arc::new(Semaphore::new(1)) })
    }

    pub(super) async fn read(
        &self,
        what: &'static str,
        table: Table,
        name: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let name = name.to_owned();
        self.look(what, move |txn| {
            Ok(txn.open_table(records(table))?.get(name.as_str())?.map(|value| value.value().to_vec()))
        })
        .await
    }

    pub(super) async fn read_all(
        &self,
        what: &'static str,
        table: Table,
        names: &[String],
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let names = names.to_vec();
        self.look(what, move |txn| {
            let table = txn.open_table(records(table))?;
            let mut found = Vec::with_capacity(names.len());
            for name in &names {
                found.push(table.get(name.as_str())?.map(|value| value.value().to_vec()));
            }
            Ok(found)
        })
        .await
    }

    pub(super) async fn scan(
        &self,
        what: &'static str,
        table: Table,
    ) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        self.look(what, move |txn| {
            let table = txn.open_table(records(table))?;
            let mut found = Vec::new();
            for entry in table.iter()? {
                let (name, value) = entry?;
                found.push((name.value().to_owned(), value.value().to_vec()));
            }
            Ok(found)
        })
        .await
    }

    pub(super) async fn names(&self, what: &'static str, table: Table) -> Result<Vec<String>, StoreError> {
        self.look(what, move |txn| {
            let table = txn.open_table(records(table))?;
            let mut found = Vec::new();
            for entry in table.iter()? {
                found.push(entry?.0.value().to_owned());
            }
            Ok(found)
        })
        .await
    }

    /// Every record of every table at one moment.
    pub(super) async fn snapshot(&self, what: &'static str) -> Result<Vec<Write>, StoreError> {
        self.look(what, move |txn| {
            let mut found = Vec::new();
            for table in Table::ALL {
                for entry in txn.open_table(records(table))?.iter()? {
                    let (name, value) = entry?;
                    let (name, value) = (name.value().to_owned(), Some(value.value().to_vec()));
                    found.push(Write { table, name, value });
                }
            }
            Ok(found)
        })
        .await
    }

    pub(super) async fn commit(&self, what: &'static str, batch: Batch) -> Result<Outcome, StoreError> {
        let permit = self.writer.clone().acquire_owned().await.map_err(|_| StoreError::Thread(what))?;
        let kept = self.kept.clone();
        let task = tokio::task::spawn_blocking(move || {
            // Held here, so that a caller that gives up does not let a second writer in.
            let _permit = permit;
            kept.access(|database| commit(database, &batch))
        });
        task.await.map_err(|_| StoreError::Thread(what))?.map_err(|fault: Fault| fault.while_it_was_to(what))
    }

    async fn look<T, F>(&self, what: &'static str, access: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce(&ReadTransaction) -> Result<T, Fault> + Send + 'static,
    {
        let kept = self.kept.clone();
        let task =
            tokio::task::spawn_blocking(move || kept.access(|database| access(&database.begin_read()?)));
        task.await.map_err(|_| StoreError::Thread(what))?.map_err(|fault| fault.while_it_was_to(what))
    }
}

impl Kept {
    /// Does something with the database. After an error of the disk (it is full, say) redb wants to be opened anew, from what is
    /// whole in the file: that is done for the next one.
    fn access<T>(&self, access: impl FnOnce(&Database) -> Result<T, Fault>) -> Result<T, Fault> {
        self.reopen()?;
        let done = {
            let open = self.database.read().unwrap_or_else(PoisonError::into_inner);
            match open.as_ref() {
                Some(database) => access(database),
                None => Err(Fault::Database(redb::Error::PreviousIo)),
            }
        };
        if let Err(Fault::Database(redb::Error::Io(_) | redb::Error::PreviousIo)) = &done {
            drop(self.database.write().unwrap_or_else(PoisonError::into_inner).take());
        }
        done
    }

    fn reopen(&self) -> Result<(), Fault> {
        if self.database.read().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let mut open = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if open.is_none() {
            *open = Some(Database::builder().set_cache_size(CACHE_BYTES).create(&self.path)?);
            tracing::info!(path = %self.path.display(), "the store was opened anew after an error of the disk");
        }
        Ok(())
    }
}

fn commit(database: &Database, batch: &Batch) -> Result<Outcome, Fault> {
    let txn = database.begin_write()?;
    for Write { table, name, value } in &batch.expected {
        let table = txn.open_table(records(*table))?;
        let found = table.get(name.as_str())?.map(|found| found.value().to_vec());
        if found != *value {
            return Ok(Outcome::Conflict);
        }
    }
    for Write { table, name, value } in &batch.writes {
        let mut table = txn.open_table(records(*table))?;
        match value {
            Some(value) => drop(table.insert(name.as_str(), value.as_slice())?),
            None => drop(table.remove(name.as_str())?),
        }
    }
    txn.commit()?;
    Ok(Outcome::Done)
}

/// The database, every page of it checked against its sum: what is broken is found now, and not by whoever needs it.
fn whole(path: &Path) -> Result<Database, StoreError> {
    let opened = Database::builder().set_cache_size(CACHE_BYTES).create(path);
    let mut database = opened.map_err(|error| unusable(path, error.into()))?;
    match database.check_integrity() {
        Ok(true) => {}
        Ok(false) => {
            tracing::warn!(path = %path.display(), "the store was left unfinished, and is whole again")
        }
        Err(error) => return Err(unusable(path, error.into())),
    }
    Ok(database)
}

/// What cannot be opened because it is broken is told apart from what somebody else has open, or has no room.
fn unusable(path: &Path, error: redb::Error) -> StoreError {
    let path = PathBuf::from(path);
    match error {
        redb::Error::Corrupted(reason) => StoreError::Corrupt(path, reason),
        redb::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => {
            StoreError::Corrupt(path, error.to_string())
        }
        error => StoreError::Open(path, Box::new(error)),
    }
}

fn records(table: Table) -> Records {
    TableDefinition::new(table.as_str())
}

/// All tables exist from the first moment, so that readers find them.
fn make_tables(database: &Database) -> Result<(), Fault> {
    let txn = database.begin_write()?;
    for table in Table::ALL {
        txn.open_table(records(table))?;
    }
    take_over_former(&txn)?;
    txn.commit()?;
    Ok(())
}

/// Takes over revisions that an earlier version wrote.
fn take_over_former(txn: &WriteTransaction) -> Result<(), Fault> {
    let names: Vec<_> = txn.list_tables()?.map(|table| table.name().to_owned()).collect();
    if !names.iter().any(|name| name == FORMER_REVISIONS.name()) {
        return Ok(());
    }
    let mut writes = Vec::new();
    for entry in txn.open_table(FORMER_REVISIONS)?.iter()? {
        writes.extend(revisions::of_former(entry?.1.value())?);
    }
    for entry in txn.open_table(FORMER_DOCUMENTS)?.iter()? {
        let (digest, document) = entry?;
        let (name, value) = (revisions::hex_of(digest.value()), Some(document.value().to_vec()));
        writes.push(Write { table: Table::Contents, name, value });
    }
    for Write { table, name, value } in writes {
        txn.open_table(records(table))?.insert(name.as_str(), value.unwrap_or_default().as_slice())?;
    }
    txn.delete_table(FORMER_REVISIONS)?;
    txn.delete_table(FORMER_DOCUMENTS)?;
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
