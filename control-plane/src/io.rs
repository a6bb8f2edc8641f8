//! An accepted connection as gRPC gets it: it knows its peer, counts against the limit, and must begin to speak.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use weft_certs::CertError;

use crate::peer::{Connection, Peer};

/// For the client's half of HTTP/2's greeting; once it is there, pings watch over the connection.
const GREETING: Duration = Duration::from_secs(10);
/// The client's connection preface (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;

/// An accepted connection, its TLS handshake done.
pub(crate) struct Io {
    stream: Box<dyn Stream>,
    connection: Connection,
    greeting: Option<Greeting>,
    _permit: OwnedSemaphorePermit,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What is still missing of the greeting, and until when.
struct Greeting {
    missing: usize,
    over: Pin<Box<Sleep>>,
}

impl Io {
    /// A connection without TLS, of anybody.
    pub(crate) fn plain(stream: TcpStream, address: SocketAddr, permit: OwnedSemaphorePermit) -> Self {
        Self::new(Box::new(stream), Connection { address, peer: None }, permit)
    }

    /// A connection with TLS, of whom the client's certificate says, if it showed one.
    pub(crate) fn tls(
        stream: TlsStream<TcpStream>,
        address: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, CertError> {
        let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let identify = |leaf: &rustls::pki_types::CertificateDer<'_>| {
            Ok(Peer { identity: weft_certs::peer_identity(leaf)?, serial: weft_certs::serial_of(leaf)? })
        };
        let peer = leaf.map(identify).transpose()?;
        Ok(Self::new(Box::new(stream), Connection { address, peer }, permit))
    }

    fn new(stream: Box<dyn Stream>, connection: Connection, permit: OwnedSemaphorePermit) -> Self {
        let greeting = Greeting { missing: PREFACE_BYTES, over: Box::pin(sleep(GREETING)) };
        Self { stream, connection, greeting: Some(greeting), _permit: permit }
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
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some(greeting) = &mut self.greeting else { return read };
        greeting.missing = greeting.missing.saturating_sub(buffer.filled().len() - before);
        if greeting.missing == 0 {
            self.greeting = None;
        } else if read.is_pending() && greeting.over.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::sync::Semaphore;
    use tokio::time::Instant;

    use super::*;

    fn accepted() -> (DuplexStream, Io) {
        let (client, server) = duplex(1024);
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let connection = Connection { address: "127.0.0.1:1".parse().unwrap(), peer: None };
        (client, Io::new(Box::new(server), connection, permit))
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_greet_in_time_is_gone() {
        let (mut client, mut io) = accepted();
        let begun = Instant::now();
        client.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
        let error = io.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, GREETING));
    }

    #[tokio::test(start_paused = true)]
    async fn who_greeted_may_be_silent() {
        let (mut client, mut io) = accepted();
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut buffer = [0; 24];
        io.read_exact(&mut buffer).await.unwrap();
        let silent = tokio::time::timeout(10 * GREETING, io.read(&mut buffer)).await;
        assert!(silent.is_err());
    }
}
