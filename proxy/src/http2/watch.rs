//! The bytes of an HTTP/2 connection on their way past its [`Guard`].

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::guard::{Guard, Role};
use crate::stream::Stream;

/// A connection whose guard sees what passes.
#[derive(Debug)]
pub struct Watched {
    stream: Stream,
    guard: Rc<RefCell<Guard>>,
}

impl Watched {
    /// `stream`, and its guard.
    pub fn new(stream: Stream, role: Role) -> (Self, Rc<RefCell<Guard>>) {
        let guard = Rc::new(RefCell::new(Guard::new(role, Instant::now())));
        (Self { stream, guard: Rc::clone(&guard) }, guard)
    }

    fn written(&self, mut count: usize, bufs: &[io::IoSlice<'_>]) {
        let mut guard = self.guard.borrow_mut();
        for buf in bufs {
            let written = buf.get(..count).unwrap_or(buf);
            guard.sent(written);
            count -= written.len();
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.guard.borrow().is_flooded() {
            // Nothing more is taken; whoever drives the connection closes it.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.guard.borrow_mut().received(buf.filled().get(before..).unwrap_or_default(), Instant::now);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.stream).poll_write_vectored(cx, bufs))?;
        this.written(count, bufs);
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
