//! The other sidecar's side: it must prove an identity of the mesh, and says which port of the app it wants.

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::UnbufferedServerConnection;
use tokio::time::timeout;
use weft_certs::{ClientAuth, PeerCertificate, peer_certificate};

use super::handshake::{handshake, reason};
use super::{Carries, HANDSHAKE_LIMIT};
use crate::credentials::CredentialStore;
use crate::stream::{Peeked, Stream};

/// One worker's TLS settings for what other sidecars send us.
#[derive(Debug)]
pub struct TlsServer {
    credentials: CredentialStore,
    made: RefCell<Option<(u64, Arc<ServerConfig>)>>,
}

/// A connection from another sidecar.
#[derive(Debug)]
pub struct Secured {
    /// What it carries is read here.
    pub stream: Stream,
    /// Who it proved to be.
    pub peer: PeerCertificate,
    /// What it carries.
    pub carries: Carries,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// We cannot prove who we are yet.
    #[error("there is no certificate yet")]
    NoCertificate,
    /// No settings can be made from our credentials.
    #[error("our credentials make no TLS settings")]
    Credentials(#[source] weft_certs::CertError),
    /// The settings are not usable.
    #[error("the TLS settings are not usable")]
    Settings(#[source] rustls::Error),
    /// The handshake failed.
    #[error("the handshake failed")]
    Handshake(#[source] io::Error),
    /// The handshake took too long.
    #[error("the handshake took longer than {} s", HANDSHAKE_LIMIT.as_secs())]
    TimedOut,
    /// The peer's certificate names no one.
    #[error("the peer's certificate holds no identity")]
    NoIdentity,
}

impl AcceptError {
    /// In a word, for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate | Self::Credentials(_) | Self::Settings(_) => "not-ready",
            Self::Handshake(error) => reason(error),
            Self::TimedOut => "timeout",
            Self::NoIdentity => "identity",
        }
    }
}

impl TlsServer {
    /// Settings made from what is in force.
    pub fn new(credentials: CredentialStore) -> Self {
        Self { credentials, made: RefCell::default() }
    }

    /// Speaks TLS with a client whose ClientHello is ahead.
    pub async fn accept(&self, client: Peeked) -> Result<Secured, AcceptError> {
        let session = UnbufferedServerConnection::new(self.config()?).map_err(AcceptError::Settings)?;
        // Boxed, for it is over long before the connection is.
        let agreed = timeout(HANDSHAKE_LIMIT, Box::pin(handshake(session, client)))
            .await
            .map_err(|_| AcceptError::TimedOut)?
            .map_err(AcceptError::Handshake)?;
        let peer = agreed.certificate.and_then(|leaf| peer_certificate(&leaf).ok());
        let peer = peer.ok_or(AcceptError::NoIdentity)?;
        let carries = Carries::of_alpn(agreed.alpn.as_deref());
        Ok(Secured { stream: agreed.stream.into(), peer, carries })
    }

    fn config(&self) -> Result<Arc<ServerConfig>, AcceptError> {
        let (generation, current) = self.credentials.current().ok_or(AcceptError::NoCertificate)?;
        let mut made = self.made.borrow_mut();
        if let Some((of, config)) = &*made
            && *of == generation
        {
            return Ok(Arc::clone(config));
        }
        let protocols = [Carries::Http2.alpn(), Carries::Http1.alpn(), Carries::Tcp.alpn()];
        let config =
            current.server_config(&protocols, ClientAuth::Required).map_err(AcceptError::Credentials)?;
        *made = Some((generation, Arc::clone(&config)));
        Ok(config)
    }
}
