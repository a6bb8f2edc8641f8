//! Why the configuration could not be changed.

use weft_core::manifest::ResourceKey;

use crate::store::StoreError;

/// Why the configuration could not be changed at all.
#[derive(Debug, thiserror::Error)]
pub enum ConfigurationError {
    /// The store does not answer.
    #[error("the configuration's store does not answer")]
    Store(#[from] StoreError),
    /// No such document.
    #[error("{0} does not exist")]
    Absent(ResourceKey),
    /// Not ours to delete.
    #[error("{key} stands in the configuration directory, in {file}: take it out there")]
    InConfigDir {
        /// What was to be deleted.
        key: ResourceKey,
        /// Where it stands.
        file: String,
    },
    /// Not ours to change.
    #[error("the configuration of this mesh is in Kubernetes, and is changed there: {0}")]
    InKubernetes(String),
    /// Nobody knows yet whose it is to change.
    #[error("the cluster has not been read yet, and the configuration may be there: try again")]
    NotReadYet,
    /// No such revision.
    #[error("there is no revision {0}; `weft history` lists those that there are")]
    NoRevision(u64),
    /// A document of an old revision that this version cannot read.
    #[error("revision {revision} cannot be restored: {problem}")]
    Unreadable {
        /// The revision.
        revision: u64,
        /// What is wrong.
        problem: String,
    },
    /// Somebody else was faster.
    #[error(
        "{what} at revision {revision}, by {author}: look at it with `weft diff {revision}`, then say --if-revision {revision}"
    )]
    Outdated {
        /// What became of what.
        what: String,
        /// The revision that did it.
        revision: u64,
        /// Who.
        author: String,
    },
    /// What has changed since is not known.
    #[error("revision {0} is not remembered any more: look at the newest with `weft history`")]
    Forgotten(u64),
}
