//! What the engine itself has to say: heads, trailers, and bodies that are kept or framed anew.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::buffer::Buffer;

/// Free memory that a worker keeps: so many pieces, none larger than this.
const SPARE: usize = 32;
const LARGEST: usize = 16 * 1024;

/// So few bytes are copied rather than handed over apart.
const FEW: usize = 4 * 1024;

thread_local! {
    static SPARES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that are to be written, and how many of them have been.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    written: usize,
    /// Whether written bytes are kept, to be written once more.
    keeps: bool,
    flushed: bool,
}

impl Outgoing {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        let spare = SPARES.with_borrow_mut(Vec::pop).unwrap_or_default();
        Self { bytes: spare, written: 0, keeps: false, flushed: true }
    }

    /// Keeps what is written, so that [`again`](Self::again) can write it once more.
    pub(super) fn keep(&mut self) {
        self.keeps = true;
    }

    /// Keeps it no longer.
    pub(super) fn forget(&mut self) {
        self.keeps = false;
        self.clear_if_written();
    }

    /// Whether everything that was ever to be written is kept.
    pub(super) fn is_kept(&self) -> bool {
        self.keeps
    }

    /// Lets go of all that is here and cleared in `buffer`, unwritten.
    pub(super) fn discard(&mut self, buffer: &mut Buffer) {
        self.keeps = false;
        self.written = self.bytes.len();
        self.clear_if_written();
        buffer.passed(buffer.cleared().len());
    }

    /// Writes everything once more.
    pub(super) fn again(&mut self) {
        self.written = 0;
    }

    /// Whether there is nothing to write, here or cleared in `buffer`.
    pub(super) fn is_done(&self, buffer: &Buffer) -> bool {
        self.written == self.bytes.len() && buffer.cleared().is_empty()
    }

    /// Writes what is here, then what is cleared in `buffer`, at once where the connection takes both: how many bytes.
    pub(super) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        buffer: &mut Buffer,
    ) -> Poll<io::Result<usize>> {
        let few = buffer.cleared().len();
        if !self.bytes.is_empty() && few > 0 && few <= FEW {
            self.bytes.extend_from_slice(buffer.cleared());
            buffer.passed(few);
        }
        let own = self.bytes.get(self.written..).unwrap_or_default();
        let stream = Pin::new(stream);
        let count = match (own, buffer.cleared()) {
            (own, []) => ready!(stream.poll_write(cx, own)),
            ([], cleared) => ready!(stream.poll_write(cx, cleared)),
            (own, cleared) => {
                ready!(stream.poll_write_vectored(cx, &[IoSlice::new(own), IoSlice::new(cleared)]))
            }
        }?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let of_own = count.min(own.len());
        self.written += of_own;
        buffer.passed(count - of_own);
        self.clear_if_written();
        self.flushed = false;
        Poll::Ready(Ok(count))
    }

    fn clear_if_written(&mut self) {
        if self.written == self.bytes.len() && !self.keeps {
            self.bytes.clear();
            self.written = 0;
        }
    }

    /// Lets go of what the connection holds back.
    pub(super) fn poll_flush<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<()>> {
        if !self.flushed {
            ready!(Pin::new(stream).poll_flush(cx))?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        if bytes.capacity() > LARGEST {
            return;
        }
        bytes.clear();
        // At the thread's end there may be nothing left to give it to.
        let _ = SPARES.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() < SPARE {
                spares.push(bytes);
            }
        });
    }
}
