//! A sidecar's connection: mutual TLS over loopback, its bytes counted as they are on the wire.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};
use weft_certs::{CertError, ResumingClient};

/// As `weft-proxy` has it.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// What sidecars were sent.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Bytes of TCP.
    pub(crate) received: AtomicU64,
    /// Bytes of gRPC messages.
    pub(crate) pushed: AtomicU64,
    /// Connections that had to be tried again.
    pub(crate) retried: AtomicU64,
}

/// The same, at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wire {
    /// Bytes of TCP.
    pub(crate) received: u64,
    /// Bytes of gRPC messages.
    pub(crate) pushed: u64,
    /// Connections that had to be tried again.
    pub(crate) retried: u64,
}

impl Counters {
    /// What was counted since the last time.
    pub(crate) fn take(&self) -> Wire {
        Wire {
            received: self.received.swap(0, Relaxed),
            pushed: self.pushed.swap(0, Relaxed),
            retried: self.retried.swap(0, Relaxed),
        }
    }
}

/// How a control plane is made sure of, as `weft-proxy` does it.
#[derive(Clone)]
pub(crate) enum Security {
    /// Each time anew.
    Anew(Arc<ClientConfig>),
    /// By what was agreed the last time.
    Again(Arc<ResumingClient>),
}

/// Connects, and makes a channel of it.
pub(crate) async fn connect(
    to: SocketAddr,
    security: Security,
    counters: Arc<Counters>,
) -> anyhow::Result<Channel> {
    let connector = tower::service_fn(move |_| {
        let (security, counters) = (security.clone(), counters.clone());
        async move { secure(to, &security, &counters).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://control-plane.weft.internal")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_with_connector(connector).await?)
}

/// Connects, and makes sure of who is there.
pub(crate) async fn secure(
    to: SocketAddr,
    security: &Security,
    counters: &Arc<Counters>,
) -> io::Result<TlsStream<Counted>> {
    let client = match security {
        Security::Anew(tls) => return shake(to, tls.clone(), counters).await,
        Security::Again(client) => client,
    };
    loop {
        let attempt = client.attempt();
        let stream = shake(to, attempt.config(), counters).await?;
        match attempt.check(stream.get_ref().1, SystemTime::now()) {
            Ok(()) => return Ok(stream),
            Err(CertError::NotResumed) => {}
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

async fn shake(
    to: SocketAddr,
    tls: Arc<ClientConfig>,
    counters: &Arc<Counters>,
) -> io::Result<TlsStream<Counted>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    TlsConnector::from(tls).connect(name, Counted { stream, counters: counters.clone() }).await
}

/// A connection whose bytes are counted.
pub(crate) struct Counted {
    stream: TcpStream,
    counters: Arc<Counters>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let bytes = u64::try_from(buffer.filled().len() - before).unwrap_or_default();
        self.counters.received.fetch_add(bytes, Relaxed);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
