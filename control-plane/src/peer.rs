//! Who is at the other end of a connection, as far as TLS has proved it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use tonic::{Request, Status};
use weft_core::model::SpiffeId;

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
#[derive(Debug, Clone, Copy)]
pub(crate) struct MeshGate;

impl tonic::service::Interceptor for MeshGate {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        match Connection::of(&request).and_then(|connection| connection.peer.as_ref()) {
            Some(_) => Ok(request),
            None => Err(Status::unauthenticated("on this port, only the mesh's own sidecars send traces")),
        }
    }
}

/// An accepted connection, its TLS handshake done. It counts against the limit until it is dropped.
pub(crate) struct Io {
    stream: Box<dyn Stream>,
    connection: Connection,
    _permit: OwnedSemaphorePermit,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Io {
    /// A connection without TLS, of anybody.
    pub(crate) fn plain(stream: TcpStream, address: SocketAddr, permit: OwnedSemaphorePermit) -> Self {
        Self { stream: Box::new(stream), connection: Connection { address, peer: None }, _permit: permit }
    }

    /// A connection with TLS, of whom the client's certificate says, if it showed one.
    pub(crate) fn tls(
        stream: TlsStream<TcpStream>,
        address: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, weft_certs::CertError> {
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let identify = |leaf: &rustls::pki_types::CertificateDer<'_>| {
            Ok(Peer { identity: weft_certs::peer_identity(leaf)?, serial: weft_certs::serial_of(leaf)? })
        };
        let peer = leaf.map(identify).transpose()?;
        Ok(Self { stream: Box::new(stream), connection: Connection { address, peer }, _permit: permit })
    }
}

impl Connected for Io {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        self.connection.clone()
    }
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
