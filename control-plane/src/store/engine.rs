//! What keeps records, whichever it is: names and bytes in tables, and changes that happen together or not at all.
//!
//! All that is written of records, revisions and secrets is written once, on top of this.

use super::StoreError;
use super::embedded::Embedded;
use super::etcd::Etcd;
use super::kubernetes::Kubernetes;

/// Kinds of records, each with names of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Table {
    /// Keys, sealed where there is a passphrase.
    Secrets,
    /// Tokens, by id.
    Tokens,
    /// Issued certificates, by serial number.
    Certificates,
    /// Workloads that announced themselves, by name.
    Registrations,
    /// Virtual addresses, by service.
    Addresses,
    /// Keys that prove tokens, by source.
    KeySets,
    /// Who is not believed, by identity or serial number.
    Revocations,
    /// Revisions, by number.
    Revisions,
    /// What revisions hold, by digest.
    Contents,
    /// What is to be known of the store itself.
    Marks,
}

impl Table {
    /// All of them.
    pub(crate) const ALL: [Self; 10] = [
        Self::Secrets,
        Self::Tokens,
        Self::Certificates,
        Self::Registrations,
        Self::Addresses,
        Self::KeySets,
        Self::Revocations,
        Self::Revisions,
        Self::Contents,
        Self::Marks,
    ];

    /// As it is called where records are kept.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Secrets => "secrets",
            Self::Tokens => "tokens",
            Self::Certificates => "certificates",
            Self::Registrations => "registrations",
            Self::Addresses => "addresses",
            Self::KeySets => "key-sets",
            Self::Revocations => "revocations",
            Self::Revisions => "history",
            Self::Contents => "contents",
            Self::Marks => "marks",
        }
    }

    /// The one that is called so.
    pub(crate) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|table| table.as_str() == name)
    }
}

/// One record to be there; none: to be gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Write {
    pub(crate) table: Table,
    pub(crate) name: String,
    pub(crate) value: Option<Vec<u8>>,
}

/// What is to stand there before.
pub(super) type Expected = Write;

/// Changes that happen together, where everything is as expected.
#[derive(Debug, Clone, Default)]
pub(super) struct Batch {
    pub(super) expected: Vec<Expected>,
    pub(super) writes: Vec<Write>,
}

impl Batch {
    pub(super) fn expecting(mut self, table: Table, name: impl Into<String>, value: Option<Vec<u8>>) -> Self {
        self.expected.push(Write { table, name: name.into(), value });
        self
    }

    pub(super) fn putting(mut self, table: Table, name: impl Into<String>, value: Vec<u8>) -> Self {
        self.writes.push(Write { table, name: name.into(), value: Some(value) });
        self
    }

    pub(super) fn deleting(mut self, table: Table, name: impl Into<String>) -> Self {
        self.writes.push(Write { table, name: name.into(), value: None });
        self
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It happened.
    Done,
    /// Something else stood there, and nothing happened.
    Conflict,
}

/// The engines.
#[derive(Debug, Clone)]
pub(super) enum Engine {
    Embedded(Embedded),
    Etcd(Etcd),
    Kubernetes(Kubernetes),
}

impl Engine {
    pub(super) async fn read(
        &self,
        what: &'static str,
        table: Table,
        name: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        match self {
            Self::Embedded(engine) => engine.read(what, table, name).await,
            Self::Etcd(engine) => engine.read(what, table, name).await,
            Self::Kubernetes(engine) => Box::pin(engine.read(what, table, name)).await,
        }
    }

    /// Several records of a table.
    pub(super) async fn read_all(
        &self,
        what: &'static str,
        table: Table,
        names: &[String],
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        match self {
            Self::Embedded(engine) => engine.read_all(what, table, names).await,
            Self::Etcd(engine) => engine.read_all(what, table, names).await,
            Self::Kubernetes(engine) => Box::pin(engine.read_all(what, table, names)).await,
        }
    }

    /// Every record of a table as they stood at one moment, in the order of their names.
    pub(super) async fn scan(
        &self,
        what: &'static str,
        table: Table,
    ) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        match self {
            Self::Embedded(engine) => engine.scan(what, table).await,
            Self::Etcd(engine) => engine.scan(what, table).await,
            Self::Kubernetes(engine) => Box::pin(engine.scan(what, table)).await,
        }
    }

    /// Their names alone.
    pub(super) async fn names(&self, what: &'static str, table: Table) -> Result<Vec<String>, StoreError> {
        match self {
            Self::Embedded(engine) => engine.names(what, table).await,
            Self::Etcd(engine) => engine.names(what, table).await,
            Self::Kubernetes(engine) => {
                let found = Box::pin(engine.scan(what, table)).await?;
                Ok(found.into_iter().map(|(name, _)| name).collect())
            }
        }
    }

    /// Every record of every table as they stood at one moment, in the order of tables and names.
    pub(super) async fn snapshot(&self, what: &'static str) -> Result<Vec<Write>, StoreError> {
        match self {
            Self::Embedded(engine) => engine.snapshot(what).await,
            Self::Etcd(engine) => engine.snapshot(what).await,
            Self::Kubernetes(engine) => Box::pin(engine.snapshot(what)).await,
        }
    }

    /// Whether others write there too.
    pub(super) const fn is_shared(&self) -> bool {
        !matches!(self, Self::Embedded(_))
    }

    /// A batch that is small: etcd takes at most 128 changes and 1.5 MiB together. What is expected is of tables that a cluster keeps in
    /// one object (`secrets::group`).
    pub(super) async fn commit(&self, what: &'static str, batch: Batch) -> Result<Outcome, StoreError> {
        match self {
            Self::Embedded(engine) => engine.commit(what, batch).await,
            Self::Etcd(engine) => engine.commit(what, batch).await,
            Self::Kubernetes(engine) => Box::pin(engine.commit(what, batch)).await,
        }
    }

    /// Batches of one change each, which are done or not each by itself; and when, as the store counts.
    pub(super) async fn each(
        &self,
        what: &'static str,
        batches: &[Batch],
    ) -> Result<Vec<(Outcome, i64)>, StoreError> {
        match self {
            Self::Embedded(engine) => {
                let mut outcomes = Vec::with_capacity(batches.len());
                for batch in batches {
                    outcomes.push((engine.commit(what, batch.clone()).await?, 0));
                }
                Ok(outcomes)
            }
            Self::Etcd(engine) => engine.each(what, batches).await,
            Self::Kubernetes(engine) => Box::pin(engine.each(what, batches)).await,
        }
    }

    /// Any number of changes, each for itself.
    pub(super) async fn write_all(&self, what: &'static str, writes: Vec<Write>) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        match self {
            Self::Embedded(engine) => {
                engine.commit(what, Batch { expected: Vec::new(), writes }).await.map(drop)
            }
            Self::Etcd(engine) => engine.write_all(what, writes).await,
            Self::Kubernetes(engine) => Box::pin(engine.write_all(what, writes)).await,
        }
    }
}
