//! etcd, version 3.4 or later: a client of our own on the gRPC that we have anyway.
//!
//! One member is spoken to at a time, the next one as soon as that one fails or is silent. What is asked is asked again, so
//! whoever changes something says what must stand there before.

mod access;
mod client;
mod lease;
#[cfg(test)]
mod tests;
mod watch;

pub use access::EtcdAddress;
pub(crate) use access::{Access, AccessSettings};
pub(crate) use client::{Client, Txn};
pub(crate) use lease::{KeptLease, grant, keep, revoke};
pub(crate) use watch::{Batch, Event, follow};

use std::path::PathBuf;

use tonic::{Code, Status};

/// What is wrong with etcd, or with the way there.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// A file of certificates, a key or a password.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// It holds something else.
    #[error("{0} holds no PEM of what it is named for")]
    Pem(PathBuf),
    /// Settings of which one is missing.
    #[error("{0} belong together")]
    Half(&'static str),
    /// TLS cannot be set up.
    #[error("the certificates for etcd cannot be used")]
    Tls(#[source] rustls::Error),
    /// The connection cannot be made.
    #[error("cannot speak to the etcd member {0}")]
    Connect(String, #[source] tonic::transport::Error),
    /// No member answers.
    #[error("no etcd member answers; {0} was the last")]
    Away(String, #[source] Status),
    /// etcd does not want to.
    #[error("etcd refuses")]
    Refused(#[source] Status),
    /// It answered something that it should not.
    #[error("what etcd answers is not what it should be: {0}")]
    Answer(&'static str),
}

impl EtcdError {
    /// Whether it says that there is no such lease, or no more.
    pub(crate) fn is_lease_lost(&self) -> bool {
        matches!(self, Self::Refused(status) if status.code() == Code::NotFound)
    }
}
