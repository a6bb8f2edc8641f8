//! The way to another control plane: its port for the mesh, where each proves to the other that it is a control plane of this mesh.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use weft_certs::alpn;
use weft_proto::v1::replica_client::ReplicaClient;

use crate::ca::{Ca, OwnCertificate};
use crate::peer::Connection;

/// For a connection, handshake included.
const CONNECT: Duration = Duration::from_secs(2);
/// A silent connection is asked for a sign of life after this, and ended after as long again.
const SILENCE: Duration = Duration::from_secs(2);
/// The most that one answer may hold: a trace of ten thousand spans.
const ANSWER: usize = 64 << 20;
/// Who is asked, by the name that it has in the store: an address may be another one's by now.
const REPLICA: &str = "weft-replica";

/// Asks another control plane.
pub(crate) type Client = ReplicaClient<InterceptedService<Channel, Named>>;

/// Says who is asked.
#[derive(Debug, Clone)]
pub(crate) struct Named(MetadataValue<Ascii>);

/// A connection to one of them, made when it is first needed and again when it is lost.
#[derive(Debug)]
pub(super) struct Line {
    address: SocketAddr,
    client: Client,
}

/// Lets only those ask who have proved to be control planes of this mesh, and mean us.
#[derive(Debug, Clone)]
pub(crate) struct ReplicaGate {
    pub(crate) ca: Arc<Ca>,
    pub(crate) id: Arc<str>,
}

impl Line {
    /// To the one of this name at this address; none where such a name cannot be.
    pub(super) fn new(id: &str, address: SocketAddr, own: Arc<OwnCertificate>) -> Option<Self> {
        let named = Named(id.parse().ok()?);
        let connector = tower::service_fn(move |_| {
            let own = own.clone();
            async move { secure(address, &own).await.map(TokioIo::new) }
        });
        // TLS is the connector's business, so to tonic the address is plain.
        let endpoint = Endpoint::from_static("http://control-plane.weft.internal")
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(SILENCE)
            .keep_alive_timeout(SILENCE);
        let channel = endpoint.connect_with_connector_lazy(connector);
        let client = ReplicaClient::with_interceptor(channel, named).max_decoding_message_size(ANSWER);
        Some(Self { address, client })
    }

    pub(super) fn leads_to(&self, address: SocketAddr) -> bool {
        self.address == address
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }
}

async fn secure(address: SocketAddr, own: &OwnCertificate) -> io::Result<TlsStream<TcpStream>> {
    let settings = own.client_settings(alpn::H2).map_err(io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    // What is demanded is the identity, whatever it is called.
    let name = ServerName::IpAddress(address.ip().into());
    TlsConnector::from(settings).connect(name, stream).await
}

impl Interceptor for Named {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(REPLICA, self.0.clone());
        Ok(request)
    }
}

impl Interceptor for ReplicaGate {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let peer = Connection::of(&request).and_then(|connection| connection.peer.as_ref());
        if !peer.is_some_and(|peer| self.ca.is_own(&peer.identity) && self.ca.revoked(peer).is_none()) {
            return Err(Status::permission_denied("only control planes of this mesh ask one another"));
        }
        match request.metadata().get(REPLICA) {
            Some(named) if named.as_bytes() == self.id.as_bytes() => Ok(request),
            _ => Err(Status::failed_precondition(format!("this is control plane {:?}", self.id))),
        }
    }
}
