//! Who is at the other end of a connection, as far as TLS has proved it.

use std::net::SocketAddr;
use std::sync::Arc;

use tonic::{Request, Status};
use weft_core::model::SpiffeId;

use crate::ca::Ca;

/// A sidecar, proved by the certificate it showed.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Who it is.
    pub identity: SpiffeId,
    /// The certificate's serial number.
    pub serial: String,
}

/// What is known of a connection; every request on it carries this among its extensions.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    /// Where it comes from.
    pub address: SocketAddr,
    /// Who it is; none: it showed no certificate.
    pub peer: Option<Peer>,
}

impl Connection {
    /// The connection that a request came on.
    pub(crate) fn of<T>(request: &Request<T>) -> Option<&Self> {
        request.extensions().get()
    }
}

/// Lets only those pass who showed a certificate of the mesh.
#[derive(Debug, Clone)]
pub(crate) struct MeshGate(pub(crate) Arc<Ca>);

impl tonic::service::Interceptor for MeshGate {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        match Connection::of(&request).and_then(|connection| connection.peer.as_ref()) {
            Some(peer) => match self.0.revoked(peer) {
                Some(revoked) => Err(Status::permission_denied(format!("{revoked} is revoked"))),
                None => Ok(request),
            },
            None => Err(Status::unauthenticated("on this port, only the mesh's own sidecars send traces")),
        }
    }
}
