//! Why a key, a request, a certificate or a peer is refused.

use std::sync::Arc;
use std::time::Duration;

use rustls::{CertificateError, OtherError};
use weft_core::model::{IdentityError, SpiffeId, TrustDomain};

/// Why a key, a request, a certificate or a peer is refused.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    /// The system gave no random bytes.
    #[error("the system's random source failed")]
    Random,
    /// A key could not be made or read.
    #[error("cannot use this private key: not an unencrypted PKCS#8 ECDSA P-256 key")]
    Key(#[source] rcgen::Error),
    /// The key of an issuing certificate that others made.
    #[error("cannot use the issuing key: not an unencrypted PKCS#8, PKCS#1 or SEC1 key")]
    IssuingKey(#[source] rcgen::Error),
    /// A certificate or request could not be written.
    #[error("cannot write the {0}")]
    Write(&'static str, #[source] rcgen::Error),
    /// The text is not PEM.
    #[error("cannot read PEM")]
    Pem(#[source] ::pem::PemError),
    /// The PEM text lacks a section.
    #[error("the PEM text holds no {0}")]
    PemMissing(&'static str),
    /// The bytes are not the DER of what they should be.
    #[error("the {0} is not valid DER")]
    Malformed(&'static str),

    /// The request is not signed by the key it carries.
    #[error("the certificate request is not signed by the key in it")]
    RequestSignature,
    /// The request's key is of a kind that is not issued for.
    #[error("the certificate request carries {0}; only ECDSA P-256 keys are certified")]
    RequestKey(String),
    /// The request asks for something that is the authority's to decide.
    #[error("the certificate request asks for {asked}; it may name {allowed} or nothing")]
    RequestAsks {
        /// What it asks for.
        asked: String,
        /// The one name it may ask for.
        allowed: SpiffeId,
    },
    /// An identity of another trust domain was to be certified.
    #[error("{identity} is not of the trust domain {domain}")]
    ForeignIdentity {
        /// The identity.
        identity: SpiffeId,
        /// The trust domain of the authority, or of the credentials.
        domain: TrustDomain,
    },
    /// A name that no certificate can carry.
    #[error("{0:?} is not a DNS name")]
    DnsName(String),
    /// A life that is too short or too long.
    #[error("a certificate cannot live {0:?}; one second is the least")]
    Lifetime(Duration),
    /// A time that X.509 cannot write.
    #[error("the time is outside of what X.509 can write (years 1970 to 9999)")]
    Time,
    /// The issuing certificate has no life left to give.
    #[error("the issuing certificate has expired")]
    IssuerExpired,
    /// Certificates and keys of an authority that do not belong together.
    #[error("the authority's {0}")]
    Authority(&'static str),

    /// A root that speaks for nobody, or for others.
    #[error(
        "the root {name:?} does not name the trust domain: its URI names must hold spiffe://{domain}; where it cannot be made anew, give an intermediate certificate that does in its place"
    )]
    RootDomain {
        /// The root's name.
        name: String,
        /// The trust domain.
        domain: TrustDomain,
    },

    /// Not exactly one URI among the subject's alternative names (X509-SVID 2).
    #[error("the certificate has {0} URI names; an X.509-SVID has exactly one")]
    UriNames(usize),
    /// The URI is no SPIFFE identity of a workload.
    #[error("the certificate's URI name is not a workload's SPIFFE identity")]
    Identity(#[source] IdentityError),
    /// An extension breaks the rules of X509-SVID section 4.
    #[error("the certificate is not an X.509-SVID: {0}")]
    NotSvid(&'static str),
    /// The peer is of a trust domain that we hold no anchors for.
    #[error("{0} is of a trust domain without anchors here")]
    UnknownTrustDomain(SpiffeId),
    /// The peer is somebody else.
    #[error("the peer is {found}, expected {expected}")]
    WrongPeer {
        /// Whom we meant to reach.
        expected: SpiffeId,
        /// Who answered.
        found: SpiffeId,
    },
    /// The peer was believed once.
    #[error("{0} is revoked")]
    Revoked(SpiffeId),
    /// No path from the certificate to an anchor holds.
    #[error("the certificate is not valid here")]
    Path(#[source] webpki::Error),
    /// The server knew nothing of the session that was to be gone on with.
    #[error("the handshake was a whole one where one was to be resumed")]
    NotResumed,
    /// There is nothing to trust.
    #[error("there are no trust anchors")]
    NoAnchors,
    /// An anchor is not a certificate that can be trusted.
    #[error("a trust anchor is not usable")]
    Anchor(#[source] webpki::Error),
    /// There is no certificate.
    #[error("the certificate chain is empty")]
    EmptyChain,
    /// TLS settings could not be made from the certificate and the key.
    #[error("cannot make TLS settings")]
    Tls(#[source] rustls::Error),
}

impl CertError {
    /// The same, as rustls reports it: what has an alert of its own in TLS (RFC 8446 section 6.2) keeps it.
    pub(crate) fn into_tls(self) -> rustls::Error {
        let error = match self {
            Self::Malformed(_) | Self::Path(webpki::Error::BadDer | webpki::Error::BadDerTime) => {
                CertificateError::BadEncoding
            }
            Self::Path(webpki::Error::CertExpired { time, not_after }) => {
                CertificateError::ExpiredContext { time, not_after }
            }
            Self::Path(webpki::Error::CertNotValidYet { time, not_before }) => {
                CertificateError::NotValidYetContext { time, not_before }
            }
            Self::Revoked(_) => CertificateError::Revoked,
            Self::Path(webpki::Error::UnknownIssuer) => CertificateError::UnknownIssuer,
            Self::Path(webpki::Error::InvalidSignatureForPublicKey) => CertificateError::BadSignature,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        };
        rustls::Error::InvalidCertificate(error)
    }
}
