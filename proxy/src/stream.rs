//! The bytes of one connection, whatever carries them: TCP alone or TLS on it, with what was read ahead put back.
//!
//! One type rather than one per transport: HTTP and TCP forwarding are compiled once.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{client, server};

/// A connection.
#[derive(Debug)]
pub struct Stream(Transport);

#[derive(Debug)]
enum Transport {
    Tcp(Peeked),
    ClientTls(Box<client::TlsStream<Peeked>>),
    ServerTls(Box<server::TlsStream<Peeked>>),
}

/// Bytes read ahead at once from a connection that has more to give than its reader takes.
const AHEAD: usize = 64 * 1024;

/// A TCP connection of which some bytes were read ahead; they are read again first.
#[derive(Debug)]
pub struct Peeked {
    pub(crate) ahead: BytesMut,
    pub(crate) tcp: TcpStream,
    /// Whether the last read gave all that was asked for, so that more is likely to be there. TLS asks for 4 KiB at a
    /// time, which would make each of its records five system calls.
    more: bool,
}

impl From<TcpStream> for Peeked {
    fn from(tcp: TcpStream) -> Self {
        Self { ahead: BytesMut::new(), tcp, more: false }
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self(Transport::Tcp(tcp.into()))
    }
}

impl From<Peeked> for Stream {
    fn from(peeked: Peeked) -> Self {
        Self(Transport::Tcp(peeked))
    }
}

impl From<client::TlsStream<Peeked>> for Stream {
    fn from(tls: client::TlsStream<Peeked>) -> Self {
        Self(Transport::ClientTls(Box::new(tls)))
    }
}

impl From<server::TlsStream<Peeked>> for Stream {
    fn from(tls: server::TlsStream<Peeked>) -> Self {
        Self(Transport::ServerTls(Box::new(tls)))
    }
}

impl Stream {
    /// The TCP connection underneath.
    pub fn tcp(&self) -> &TcpStream {
        match &self.0 {
            Transport::Tcp(peeked) => &peeked.tcp,
            Transport::ClientTls(tls) => &tls.get_ref().0.tcp,
            Transport::ServerTls(tls) => &tls.get_ref().0.tcp,
        }
    }
}

/// What can be broken off so that the other end notices: a reset rather than an end.
pub trait Reset {
    /// From now on closing resets.
    fn reset(&self);
}

impl Reset for Stream {
    fn reset(&self) {
        reset(self.tcp());
    }
}

/// From now on closing `tcp` resets it.
pub fn reset(tcp: &TcpStream) {
    // Fails only where the connection is gone already.
    drop(socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO)));
}

impl Peeked {
    fn project(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        Pin::new(&mut self.get_mut().tcp)
    }
}

impl AsyncRead for Peeked {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() && (!this.more || buf.remaining() >= AHEAD) {
            let room = buf.remaining();
            ready!(Pin::new(&mut this.tcp).poll_read(cx, buf))?;
            this.more = buf.remaining() == 0 && room > 0;
            return Poll::Ready(Ok(()));
        }
        if this.ahead.is_empty() {
            let mut ahead = BytesMut::with_capacity(AHEAD);
            let count = ready!(pin!(this.tcp.read_buf(&mut ahead)).poll(cx))?;
            this.more = count > buf.remaining();
            this.ahead = ahead;
        }
        let count = this.ahead.len().min(buf.remaining());
        buf.put_slice(this.ahead.get(..count).unwrap_or_default());
        this.ahead.advance(count);
        if this.ahead.is_empty() {
            this.ahead = BytesMut::new(); // an idle connection keeps no buffer
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Peeked {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.project().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.project().poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().poll_shutdown(cx)
    }
}

/// Calls the same method of whichever transport it is.
macro_rules! delegate {
    ($stream:expr, $method:ident ( $($argument:expr),* )) => {
        match &mut $stream.get_mut().0 {
            Transport::Tcp(io) => Pin::new(io).$method($($argument),*),
            Transport::ClientTls(io) => Pin::new(&mut **io).$method($($argument),*),
            Transport::ServerTls(io) => Pin::new(&mut **io).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, poll_shutdown(cx))
    }
}
