//! Our side of a connection to another sidecar: it must prove exactly the identity that its endpoint has.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_certs::peer_certificate;
use weft_core::model::{Origination, SpiffeId};

use super::handshake::handshake;
use super::{Carries, HANDSHAKE_LIMIT, OutsideError, PublicRoots, outside_config};
use crate::control::with_causes;
use crate::credentials::CredentialStore;
use crate::failure::ErrorCode;
use crate::stream::{Peeked, Stream};
use crate::ties::Ties;

/// Settings towards servers outside the mesh that a worker keeps.
const MOST_OUTSIDE: usize = 256;

/// One worker's TLS settings towards other sidecars, made once for each identity and protocol.
#[derive(Debug)]
pub struct TlsClient {
    credentials: CredentialStore,
    public: PublicRoots,
    made: RefCell<Made>,
    /// The same towards servers outside the mesh.
    outside: RefCell<HashMap<(Origination, Carries), Arc<ClientConfig>>>,
}

#[derive(Debug, Default)]
struct Made {
    generation: u64,
    configs: HashMap<(SpiffeId, Carries), Arc<ClientConfig>>,
}

impl TlsClient {
    /// Settings made from what is in force; `public` vouches for servers outside the mesh.
    pub fn new(credentials: CredentialStore, public: PublicRoots) -> Self {
        Self { credentials, public, made: RefCell::default(), outside: RefCell::default() }
    }

    /// Speaks TLS on `tcp` with a sidecar that must be `expected`; `server_name` says the app's port.
    pub async fn connect(
        &self,
        tcp: TcpStream,
        expected: &SpiffeId,
        server_name: ServerName<'static>,
        carries: Carries,
        ties: &Ties,
    ) -> Result<Stream, ErrorCode> {
        let config = self.config(expected, carries).ok_or(ErrorCode::TlsFailed)?;
        let session = UnbufferedClientConnection::new(config, server_name).map_err(|error| {
            tracing::warn!(%expected, %error, "the TLS settings are not usable");
            ErrorCode::TlsFailed
        })?;
        // Boxed, for it is over long before the connection is.
        match timeout(HANDSHAKE_LIMIT, Box::pin(handshake(session, Peeked::from(tcp)))).await {
            Ok(Ok(agreed)) => {
                let peer = agreed.certificate.and_then(|leaf| peer_certificate(&leaf).ok());
                Ok(Stream::from(agreed.stream).tied(ties.tie(peer, None)))
            }
            Ok(Err(error)) => {
                tracing::debug!(%expected, %error, "TLS handshake failed");
                Err(if is_of_transport(&error) { ErrorCode::ConnectFailed } else { ErrorCode::TlsFailed })
            }
            Err(_) => Err(ErrorCode::ConnectTimeout),
        }
    }

    /// Speaks TLS on `tcp` for an app that does not, with a server outside the mesh.
    pub async fn originate(
        &self,
        tcp: TcpStream,
        origination: &Origination,
        carries: Carries,
    ) -> Result<Stream, ErrorCode> {
        let host = origination.server_name.as_str();
        let failed = |error: &dyn fmt::Display| {
            tracing::warn!(host, %error, "TLS to a server outside the mesh failed");
            ErrorCode::TlsFailed
        };
        let config =
            self.outside_config(origination, carries).map_err(|error| failed(&with_causes(&error)))?;
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(&error))?;
        let session = UnbufferedClientConnection::new(config, name).map_err(|error| failed(&error))?;
        let agreed = match timeout(HANDSHAKE_LIMIT, Box::pin(handshake(session, Peeked::from(tcp)))).await {
            Ok(Ok(agreed)) => agreed,
            Ok(Err(error)) if is_of_transport(&error) => return Err(ErrorCode::ConnectFailed),
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(ErrorCode::ConnectTimeout),
        };
        // What it did not agree to it may not speak (RFC 9113 section 3.2).
        if carries == Carries::Http2 && agreed.alpn.as_deref() != Some(carries.alpn()) {
            return Err(failed(&"the server does not speak HTTP/2"));
        }
        Ok(agreed.stream.into())
    }

    fn outside_config(
        &self,
        origination: &Origination,
        carries: Carries,
    ) -> Result<Arc<ClientConfig>, OutsideError> {
        let key = (origination.clone(), carries);
        if let Some(config) = self.outside.borrow().get(&key) {
            return Ok(Arc::clone(config));
        }
        let config = outside_config(origination, carries, &self.public)?;
        let mut outside = self.outside.borrow_mut();
        if outside.len() >= MOST_OUTSIDE {
            outside.clear();
        }
        outside.insert(key, Arc::clone(&config));
        Ok(config)
    }

    fn config(&self, expected: &SpiffeId, carries: Carries) -> Option<Arc<ClientConfig>> {
        let (generation, current) = self.credentials.current()?;
        let mut made = self.made.borrow_mut();
        if made.generation != generation {
            *made = Made { generation, configs: HashMap::new() };
        }
        let key = (expected.clone(), carries);
        if let Some(config) = made.configs.get(&key) {
            return Some(Arc::clone(config));
        }
        match current.client_config(expected, &[carries.alpn()]) {
            Ok(config) => {
                made.configs.insert(key, Arc::clone(&config));
                Some(config)
            }
            Err(error) => {
                tracing::warn!(%expected, %error, "no TLS settings for this identity");
                None
            }
        }
    }
}

/// Whether the connection broke, rather than that the peer was refused or refused us.
fn is_of_transport(error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::InvalidData => false,
        _ => error.get_ref().is_none_or(|inner| !inner.is::<rustls::Error>()),
    }
}
