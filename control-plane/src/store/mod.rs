//! What outlives the process: keys, revisions, tokens, certificates, registrations, addresses.
//!
//! The records here are what is written, as JSON; an `engine` keeps them: `embedded` in one file in the data directory, `etcd` or
//! `kubernetes` where several control planes share them.

mod backup;
#[cfg(test)]
mod corpus;
mod embedded;
mod engine;
mod etcd;
mod handle;
mod kubernetes;
mod records;
mod revisions;
#[cfg(test)]
pub(crate) mod samples;
mod seal;
mod secrets;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use weft_core::model::KeySource;

use crate::etcd::EtcdError;
use crate::kubernetes::ApiError;

pub(crate) use backup::Backup;
pub use backup::RestoreError;
pub(crate) use embedded::FILE;
pub(crate) use engine::Table;
pub(crate) use etcd::record;
pub(crate) use handle::{Stamp, Store};
pub(crate) use records::{Registering, TokenUse};
pub(crate) use seal::{Custody, Passphrase};
pub(crate) use secrets::{LABEL, Records, records, version};

/// What went wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The data directory cannot be made or made private.
    #[error("cannot prepare the data directory {0}")]
    Directory(PathBuf, #[source] std::io::Error),
    /// The database file cannot be opened.
    #[error("cannot open the store {0}")]
    Open(PathBuf, #[source] Box<redb::Error>),
    /// It is not what was written.
    #[error(
        "the store {0} is broken, and nothing is started over it: put it aside and restore a backup, \
         `weft restore FILE --data-dir DIR`; {1}"
    )]
    Corrupt(PathBuf, String),
    /// etcd.
    #[error("etcd cannot {0}")]
    Etcd(&'static str, #[source] EtcdError),
    /// The API server of a cluster.
    #[error("the store in Kubernetes cannot {0}")]
    Kubernetes(&'static str, #[source] ApiError),
    /// An object of the store has no room.
    #[error("the store in Kubernetes cannot {what}: the Secret {object} would be too large ({reason})")]
    Full {
        /// What was to be done.
        what: &'static str,
        /// Which object.
        object: String,
        /// What the API server says.
        reason: String,
    },
    /// Another control plane over the same store was quicker.
    #[error("somebody else has changed {0} at the same time: try again")]
    Changed(&'static str),
    /// A document of a revision is not there.
    #[error("a document of revision {0} is missing in the store")]
    Missing(u64),
    /// Reading or writing failed.
    #[error("cannot {0}")]
    Access(&'static str, #[source] Box<redb::Error>),
    /// A record is not what this version writes.
    #[error("the store's record of {0} cannot be read")]
    Record(&'static str, #[source] serde_json::Error),
    /// There is no passphrase where one is needed.
    #[error(
        "the keys in the data directory are sealed: name the file of their passphrase with --ca-passphrase-file"
    )]
    Sealed,
    /// There is another.
    #[error("the passphrase is not the one that the keys in the data directory are sealed with")]
    WrongPassphrase,
    /// Sealing or opening fails.
    #[error("the seal of the store's keys does not hold: {0}")]
    Seal(&'static str),
    /// The thread doing it ended early.
    #[error("the store's thread ended while it was to {0}")]
    Thread(&'static str),
}

/// What identifies a document.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct DocumentKey {
    /// `Service`, `MeshConfig`, ...
    pub kind: String,
    /// Empty for kinds that have none.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl std::fmt::Display for DocumentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// Who owns a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Origin {
    /// Someone applied it.
    Applied,
    /// It stands in this file of the configuration directory.
    ConfigDir(String),
    /// It was seen in the cluster, where it is changed.
    Kubernetes,
}

/// One document of a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Document {
    /// What it is.
    pub key: DocumentKey,
    /// Who owns it.
    pub origin: Origin,
    /// It, as JSON, as it was applied.
    pub json: String,
}

/// What changed the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RevisionSource {
    /// `weft apply`.
    Apply,
    /// `weft delete`.
    Delete,
    /// `weft rollback`.
    Rollback,
    /// A file in the configuration directory.
    ConfigDir,
    /// Somebody, in the cluster; it was only observed.
    Kubernetes,
}

impl RevisionSource {
    /// As `weft history` shows it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Delete => "delete",
            Self::Rollback => "rollback",
            Self::ConfigDir => "config-dir",
            Self::Kubernetes => "kubernetes",
        }
    }
}

/// A revision without its documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revision {
    /// Counts up from 1.
    pub number: u64,
    /// When.
    pub time: SystemTime,
    /// Who.
    pub author: String,
    /// How.
    pub source: RevisionSource,
    /// What, in a line.
    pub summary: String,
    /// The documents that it created, changed or deleted.
    pub touched: Vec<DocumentKey>,
}

/// What a holder may claim beyond its identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    /// The services it may offer, in its own namespace.
    pub services: BTreeSet<String>,
    /// Its labels, where they are pinned; empty: it may choose them.
    pub labels: BTreeMap<String, String>,
}

/// A join token, without its signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    /// Its `jti`.
    pub id: String,
    /// Whom its holder becomes.
    pub namespace: String,
    /// Whom its holder becomes.
    pub service_account: String,
    /// What its holder may offer.
    pub grant: Grant,
    /// Until when.
    pub expires: SystemTime,
    /// How often it may still be used; none: any number.
    pub uses_left: Option<u32>,
    /// Taken back.
    pub revoked: bool,
    /// What its holder may do at the control plane, instead of joining; it becomes nobody then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<Role>,
}

/// What someone may do at the control plane; who may more may less, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// Look.
    Viewer,
    /// Change.
    Operator,
}

impl Role {
    /// In a word.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        }
    }
}

/// An issued certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Certificate {
    /// Its serial number, in hexadecimal.
    pub serial: String,
    /// The holder's namespace.
    pub namespace: String,
    /// The holder's workload.
    pub workload: String,
    /// `spiffe://..`.
    pub spiffe_id: String,
    /// Who signed it.
    pub issuer: String,
    /// Valid from.
    pub not_before: SystemTime,
    /// Valid until.
    pub not_after: SystemTime,
    /// What its holder may claim.
    pub grant: Grant,
    /// The fingerprint of the root that it leads to; empty where an earlier version wrote it.
    #[serde(default)]
    pub root: String,
    /// The token that its holder joined with; empty where an earlier version wrote it.
    #[serde(default)]
    pub token: String,
    /// Its holder has said that it uses a later one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub replaced: bool,
}

/// Someone who is not believed any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Revocation {
    /// An identity or a serial number.
    pub what: String,
    /// Since when.
    pub since: SystemTime,
    /// Until when; none: until someone takes it back.
    pub until: Option<SystemTime>,
    /// Why, for people.
    pub reason: String,
}

/// What a workload serves of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Offer {
    /// The service, in the workload's namespace.
    pub service: String,
    /// One port of it; none: every port, as it is.
    pub port: Option<OfferedPort>,
}

/// A service port that a workload serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OfferedPort {
    /// The port callers use.
    pub port: u16,
    /// The port the app listens on.
    pub target_port: u16,
    /// `weft.v1.Protocol`'s number.
    pub protocol: i32,
}

/// A sidecar's workload, as it announced itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registration {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub workload: String,
    /// Made anew at each start of the sidecar.
    pub instance: String,
    /// `spiffe://..`.
    pub spiffe_id: String,
    /// The serial of the certificate it registered with.
    pub serial: String,
    /// Where others reach it.
    pub addresses: Vec<IpAddr>,
    /// The sidecar's port for mesh traffic.
    pub inbound_port: u16,
    /// What it serves.
    pub offers: Vec<Offer>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its locality.
    pub zone: String,
    /// The sidecar's version.
    pub version: String,
    /// The control plane that it is connected to, where several share the store.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub replica: String,
    /// Takes traffic.
    pub ready: bool,
    /// The services (`namespace/name`) as one behind which its app does not work.
    #[serde(default)]
    pub unhealthy: BTreeSet<String>,
}

/// The virtual addresses that a service keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Allocation {
    /// `namespace/name`.
    pub service: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Keys that were fetched to prove tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeySet {
    /// The address, or the issuer where it said so itself.
    pub from: String,
    /// Whether it is an issuer.
    pub is_issuer: bool,
    /// Who vouched for it, as PEM; empty: the public authorities.
    pub authorities: String,
    /// The keys, as they were fetched.
    pub text: String,
}

impl KeySet {
    /// What was fetched from a source.
    pub(crate) fn of(source: &KeySource, text: String) -> Self {
        let (from, authorities, is_issuer) = match source {
            KeySource::At { uri, authorities } => (uri, authorities, false),
            KeySource::Discovered { issuer, authorities } => (issuer, authorities, true),
        };
        Self { from: from.clone(), is_issuer, authorities: authorities.clone(), text }
    }

    /// Where it was fetched from.
    pub(crate) fn source(&self) -> KeySource {
        let authorities = self.authorities.clone();
        match self.is_issuer {
            true => KeySource::Discovered { issuer: self.from.clone(), authorities },
            false => KeySource::At { uri: self.from.clone(), authorities },
        }
    }

    /// What its record is found by.
    fn name(&self) -> String {
        format!("{} {} {}", self.is_issuer, self.from, self.authorities)
    }
}

/// Writes a record as it is stored.
pub(crate) fn encode<T: Serialize>(what: &'static str, record: &T) -> Result<Vec<u8>, StoreError> {
    serde_json::to_vec(record).map_err(|e| StoreError::Record(what, e))
}

/// Reads a stored record.
pub(crate) fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|e| StoreError::Record(what, e))
}
