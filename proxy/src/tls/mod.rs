//! Stages 3 and 7: mutual TLS with the other sidecars, who proved to be whom, and what their connections carry.

mod accept;
mod connect;
mod handshake;
pub mod message;
mod outside;
mod public_roots;
pub mod record;
mod stream;
#[cfg(test)]
mod tests;

use std::time::Duration;

use weft_certs::alpn;

pub use accept::{AcceptError, Secured, TlsServer};
pub use connect::TlsClient;
pub use outside::{OutsideError, outside_config};
pub use public_roots::{PublicRoots, RootsError};
pub use stream::TlsStream;

/// How long a handshake may take, either way.
pub const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// What a connection between two sidecars carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carries {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Bytes.
    Tcp,
}

impl Carries {
    /// As ALPN spells it.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 => alpn::HTTP1,
            Self::Http2 => alpn::H2,
            Self::Tcp => alpn::TCP,
        }
    }

    /// What the negotiated protocol means; where none was, bytes.
    fn of_alpn(negotiated: Option<&[u8]>) -> Self {
        match negotiated {
            Some(alpn::HTTP1) => Self::Http1,
            Some(alpn::H2) => Self::Http2,
            _ => Self::Tcp,
        }
    }
}
