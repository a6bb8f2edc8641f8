//! A sidecar's connection: mutual TLS over loopback, its bytes counted as they are on the wire.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// As `weft-proxy` has it.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// What sidecars were sent.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Bytes of TCP.
    pub(crate) received: AtomicU64,
    /// Bytes of gRPC messages.
    pub(crate) pushed: AtomicU64,
}

/// The same, at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wire {
    /// Bytes of TCP.
    pub(crate) received: u64,
    /// Bytes of gRPC messages.
    pub(crate) pushed: u64,
}

impl Counters {
    /// What was counted since the last time.
    pub(crate) fn take(&self) -> Wire {
        Wire { received: self.received.swap(0, Relaxed), pushed: self.pushed.swap(0, Relaxed) }
    }
}

/// Connects, and makes a channel of it.
pub(crate) async fn connect(
    to: SocketAddr,
    tls: Arc<ClientConfig>,
    counters: Arc<Counters>,
) -> anyhow::Result<Channel> {
    let connector = tower::service_fn(move |_| {
        let (tls, counters) = (tls.clone(), counters.clone());
        async move {
            let stream = TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
            let stream = TlsConnector::from(tls).connect(name, Counted { stream, counters }).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    let endpoint = Endpoint::from_static("http://control-plane.weft.internal")
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_with_connector(connector).await?)
}

struct Counted {
    stream: TcpStream,
    counters: Arc<Counters>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let bytes = u64::try_from(buffer.filled().len() - before).unwrap_or_default();
        self.counters.received.fetch_add(bytes, Relaxed);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
