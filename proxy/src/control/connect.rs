//! Connections to the control plane: our own TLS, which demands the control plane's SPIFFE identity whatever the host
//! is called, and our own sockets, which carry the mark that interception lets through.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_resolver::TokioResolver;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;
use weft_certs::{CertError, ResumingClient};
use weft_core::model::{IdentityError, SpiffeId, TrustDomain};

use crate::config::ControlPlane;

/// How long a connection may take to be made, names and handshake included.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A silent connection is asked for a sign of life after this.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Why the control plane cannot be reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The trust domain makes no identity.
    #[error("the trust domain names no control plane")]
    Identity(#[source] IdentityError),
    /// No TLS settings.
    #[error("cannot make TLS settings")]
    Tls(#[source] CertError),
    /// No connection.
    #[error("cannot connect to {0}")]
    Connect(String, #[source] tonic::transport::Error),
}

/// How a control plane is made sure of.
#[derive(Debug, Clone)]
pub(super) enum Security {
    /// Each time anew.
    Anew(Arc<ClientConfig>),
    /// By what was agreed the last time.
    Again(Arc<ResumingClient>),
}

/// The identity that a control plane must prove.
pub(super) fn control_plane_identity(domain: &TrustDomain) -> Result<SpiffeId, ConnectError> {
    format!("spiffe://{domain}/ns/weft/sa/control-plane").parse().map_err(ConnectError::Identity)
}

/// A connection to this control plane; it is made before this returns.
pub(super) async fn connect(
    target: &ControlPlane,
    security: Security,
    mark: Option<u32>,
) -> Result<Channel, ConnectError> {
    let connector = service_fn({
        let target = target.clone();
        move |_| {
            let (target, security) = (target.clone(), security.clone());
            async move { secure(&target, &security, mark).await.map(TokioIo::new) }
        }
    });
    // TLS is the connector's business, so to tonic the address is plain.
    let endpoint = Endpoint::from_static("http://control-plane.weft.internal")
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE / 2)
        .keep_alive_while_idle(true);
    let channel = endpoint.connect_with_connector(connector).await;
    channel.map_err(|error| ConnectError::Connect(target.to_string(), error))
}

/// A TCP socket towards an address, with the mark where interception goes by marks.
pub(crate) fn tcp_socket(to: IpAddr, mark: Option<u32>) -> io::Result<TcpSocket> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(mark) = mark {
        socket2::SockRef::from(&socket).set_mark(mark)?;
    }
    Ok(socket)
}

/// A connection with TLS, by what was agreed the last time where that is known there.
pub(super) async fn secure(
    target: &ControlPlane,
    security: &Security,
    mark: Option<u32>,
) -> io::Result<TlsStream<TcpStream>> {
    let client = match security {
        Security::Anew(tls) => return shake(target, Arc::clone(tls), mark).await,
        Security::Again(client) => client,
    };
    loop {
        let attempt = client.attempt();
        let stream = shake(target, attempt.config(), mark).await?;
        match attempt.check(stream.get_ref().1, SystemTime::now()) {
            Ok(()) => return Ok(stream),
            // Once at most: the next attempt does not rely on it.
            Err(CertError::NotResumed) => {}
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

async fn shake(
    target: &ControlPlane,
    tls: Arc<ClientConfig>,
    mark: Option<u32>,
) -> io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(target.host.clone())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the host is no DNS name"))?;
    let stream = dial(&target.host, target.port, mark).await?;
    TlsConnector::from(tls).connect(name, stream).await
}

/// A connection to the first of a host's addresses that takes one. The host is looked up where the pod looks others up.
pub(crate) async fn dial(host: &str, port: u16, mark: Option<u32>) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in addresses(host).await? {
        match tcp_socket(address, mark)?.connect(SocketAddr::new(address, port)).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// The resolver lives no longer than the question: it is rare, and the memory is wanted elsewhere.
async fn addresses(host: &str) -> io::Result<Vec<IpAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let resolver = TokioResolver::builder_tokio().and_then(hickory_resolver::ResolverBuilder::build);
    let resolver = resolver.map_err(io::Error::other)?;
    let found = resolver.lookup_ip(host).await.map_err(io::Error::other)?;
    Ok(found.iter().collect())
}
