//! Who is who: keys, certificates, and the TLS settings made from them.
//!
//! A sidecar makes a key and a request ([`KeyPair`], [`request`]), the control plane's [`Authority`] answers with a
//! short-lived X.509-SVID, and [`Credentials`] turns that into rustls settings which prove our identity and demand the
//! peer's. Pure: the time and the random source of every decision are arguments.

pub mod alpn;
mod csr;
mod error;
mod given;
mod issue;
mod key;
pub mod pem;
mod renew;
mod resume;
mod roots;
mod signature;
pub mod sni;
mod spiffe;
mod tls;
mod verify;

pub use csr::request;
pub use error::CertError;
pub use issue::{Authority, IssueParams, Issued, fingerprint};
pub use key::KeyPair;
pub use renew::{Proof, Schedule, renew_at};
pub use resume::{Attempt, ResumingClient, ResumingServer, Sessions};
pub use roots::{Phase, Progress, Role, Root, Roots, RotateError, SETTLING};
pub use signature::is_signed;
pub use spiffe::{PeerCertificate, end_of, peer_certificate, peer_identity, serial_of, trust_domain_of};
pub use tls::{ClientAuth, Credentials, anchored_client_config, is_anchor, outside_client_config};
