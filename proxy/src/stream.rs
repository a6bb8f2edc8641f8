//! The bytes of one connection, whatever carries them: TCP alone or TLS on it, with what was read ahead put back.
//!
//! One type rather than one per transport: HTTP and TCP forwarding are compiled once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::ties::Tie;
use crate::tls::TlsStream;
use crate::upstream::Berth;

/// A connection.
#[derive(Debug)]
pub struct Stream {
    transport: Transport,
    /// Its place among those to a service, where these are limited.
    berth: Option<Box<Berth>>,
    /// What it rests on; none: nothing that could change.
    tie: Option<Tie>,
}

#[derive(Debug)]
enum Transport {
    Tcp(Peeked),
    Tls(Box<TlsStream>),
}

/// A TCP connection of which some bytes were read ahead; they are read again first.
#[derive(Debug)]
pub struct Peeked {
    pub(crate) ahead: BytesMut,
    pub(crate) tcp: TcpStream,
}

impl From<TcpStream> for Peeked {
    fn from(tcp: TcpStream) -> Self {
        Self { ahead: BytesMut::new(), tcp }
    }
}

impl From<Transport> for Stream {
    fn from(transport: Transport) -> Self {
        Self { transport, berth: None, tie: None }
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Transport::Tcp(tcp.into()).into()
    }
}

impl From<Peeked> for Stream {
    fn from(peeked: Peeked) -> Self {
        Transport::Tcp(peeked).into()
    }
}

impl From<TlsStream> for Stream {
    fn from(tls: TlsStream) -> Self {
        Transport::Tls(Box::new(tls)).into()
    }
}

impl Stream {
    /// The TCP connection underneath.
    pub fn tcp(&self) -> &TcpStream {
        match &self.transport {
            Transport::Tcp(peeked) => &peeked.tcp,
            Transport::Tls(tls) => tls.tcp(),
        }
    }

    /// What is written from now on is the last: where it does not fill a packet it leaves together with the end, which
    /// spares both sides a packet and its acknowledgement. The connection has to be ended soon.
    pub fn begin_last(&self) {
        // Without it nothing is lost but that packet.
        drop(SockRef::from(self.tcp()).set_tcp_cork(true));
    }

    /// The same, counted among the connections to its service for as long as it lives.
    pub fn in_berth(self, berth: Berth) -> Self {
        Self { berth: Some(Box::new(berth)), ..self }
    }

    /// Whether someone waits for it to be closed.
    pub fn is_wanted(&self) -> bool {
        self.berth.as_ref().is_some_and(|berth| berth.is_wanted())
    }

    /// What it rests on.
    pub fn tie(&self) -> Option<&Tie> {
        self.tie.as_ref()
    }

    /// The same connection, which ends with this tie.
    pub fn tied(mut self, tie: Tie) -> Self {
        self.tie = Some(tie);
        self
    }

    /// An error, and a reset, where the connection is to end.
    fn held(&self) -> io::Result<()> {
        match &self.tie {
            Some(tie) if tie.is_cut() => {
                self.reset();
                Err(io::ErrorKind::PermissionDenied.into())
            }
            _ => Ok(()),
        }
    }

    /// What waits for the other end is also to hear that the connection is to end.
    fn waits<T>(&self, cx: &Context<'_>, polled: Poll<T>) -> Poll<T> {
        if polled.is_pending()
            && let Some(tie) = &self.tie
        {
            tie.wake_at_cut(cx);
        }
        polled
    }
}

/// What bytes are carried on, beside reading and writing them.
pub trait Link {
    /// From now on closing is a reset rather than an end, so that the other end notices.
    fn reset(&self);

    /// Whether what is read comes in records of TLS.
    fn is_sealed(&self) -> bool;
}

impl Link for Stream {
    fn reset(&self) {
        reset(self.tcp());
    }

    fn is_sealed(&self) -> bool {
        matches!(self.transport, Transport::Tls(_))
    }
}

/// From now on closing `tcp` resets it.
pub fn reset(tcp: &TcpStream) {
    // Fails only where the connection is gone already.
    drop(SockRef::from(tcp).set_linger(Some(Duration::ZERO)));
}

impl Peeked {
    fn project(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        Pin::new(&mut self.get_mut().tcp)
    }
}

impl AsyncRead for Peeked {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            return Pin::new(&mut this.tcp).poll_read(cx, buf);
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
        match &mut $stream.transport {
            Transport::Tcp(io) => Pin::new(io).$method($($argument),*),
            Transport::Tls(io) => Pin::new(&mut **io).$method($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.held()?;
        let polled = delegate!(this, poll_read(cx, buf));
        this.waits(cx, polled)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.held()?;
        let polled = delegate!(this, poll_write(cx, buf));
        this.waits(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.held()?;
        let polled = delegate!(this, poll_write_vectored(cx, bufs));
        this.waits(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        delegate!(this, poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        delegate!(this, poll_shutdown(cx))
    }
}
