//! Why there is no certificate.

use weft_certs::{CertError, RotateError};
use weft_core::model::{Revoked, RevokedError, SpiffeId};

use super::{FilesError, KubernetesError};
use crate::store::StoreError;
use crate::tokens::TokenError;

/// Why a certificate was not issued. Both sides log it.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Neither a token nor a certificate.
    #[error("no proof of identity: neither a join token nor a client certificate")]
    NoProof,
    /// The token is not good.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The service-account token is not good.
    #[error(transparent)]
    Account(#[from] KubernetesError),
    /// A service account is proved anew with each certificate.
    #[error("a service account's certificate is renewed by its token: present that")]
    ProveAgain,
    /// The caller's certificate is none that we remember.
    #[error("certificate {0} was not issued here, or is forgotten: present a join token")]
    UnknownCertificate(String),
    /// An identity that names no service account.
    #[error("{0} is not the identity of a service account")]
    NotServiceAccount(SpiffeId),
    /// Names in a record that are none.
    #[error("the name {0:?} in the token is not valid")]
    Name(String),
    /// Too many requests for one workload.
    #[error("too many certificate requests for {0}; try again later")]
    TooMany(String),
    /// The request is not acceptable.
    #[error("the certificate request is refused")]
    Refused(#[source] CertError),
    /// Whoever asks is not believed any more.
    #[error("{0} is revoked")]
    Revoked(Revoked),
    /// What is to be revoked cannot be.
    #[error("{0} cannot be revoked: {1}")]
    Irrevocable(String, &'static str),
    /// What is to be revoked, or restored, is not there.
    #[error("there is no {0}")]
    Absent(String),
    /// What is to be revoked is neither an identity nor a serial number.
    #[error("this names nothing that can be revoked")]
    RevokedName(#[source] RevokedError),
    /// No move to another root begins.
    #[error("the root stays")]
    Rotate(#[source] RotateError),
    /// The files of the authority.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The authority was in files, and is to be here now.
    #[error(
        "the authority of this data directory is in files: name them with --ca-cert, --ca-key and --ca-roots (an authority of our own is another mesh: another --data-dir)"
    )]
    WasGiven,
    /// The authority itself does not work.
    #[error("the certificate authority does not work")]
    Authority(#[source] CertError),
    /// The store does not answer.
    #[error("the certificate authority's store does not answer")]
    Store(#[from] StoreError),
}
