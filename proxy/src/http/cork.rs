//! What an HTTP/2 connection writes in one turn leaves as one piece.
//!
//! Each frame with a body would otherwise be a system call and a TLS record of its own: h2 flushes after every one. Here
//! a flush holds back, and whoever polls the connection lets go of all that its turn wrote.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are held back at most: what one TLS record takes.
const LIMIT: usize = 16 * 1024;

/// A connection that is written to in pieces. Clones are the same connection.
#[derive(Debug)]
pub struct Cork<S>(Rc<Corked<S>>);

#[derive(Debug)]
struct Corked<S> {
    stream: RefCell<S>,
    held: RefCell<BytesMut>,
    /// Counts writes, so that whoever made one is known.
    writes: Cell<u64>,
    is_abandoned: Cell<bool>,
}

pin_project! {
    /// What [`Cork::releasing`] returns. Of several on one connection only those that write wait for it to take bytes:
    /// it can wake only one.
    #[derive(Debug)]
    pub struct Releasing<S, F: Future> {
        cork: Cork<S>,
        #[pin]
        future: F,
        owes: bool,
        output: Option<F::Output>,
    }
}

impl<S> Clone for Cork<S> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Cork<S> {
    /// Holds back what is written to `stream` until [`releasing`](Self::releasing) lets it go.
    pub fn new(stream: S) -> Self {
        Self(Rc::new(Corked {
            stream: RefCell::new(stream),
            held: RefCell::default(),
            writes: Cell::default(),
            is_abandoned: Cell::default(),
        }))
    }

    /// Runs a future that may write to the connection; what a poll of it wrote leaves when the poll is over.
    pub fn releasing<F: Future>(self, future: F) -> Releasing<S, F> {
        Releasing { cork: self, future, owes: false, output: None }
    }

    /// What has not left yet need not: the peer does not take it.
    pub fn abandon(&self) {
        self.0.is_abandoned.set(true);
    }

    fn poll_release(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.is_abandoned.get() {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_drain(cx))?;
        self.with_stream(|stream| stream.poll_flush(cx))
    }

    fn poll_drain(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.0.held.borrow_mut();
        while !held.is_empty() {
            match ready!(self.with_stream(|stream| stream.poll_write(cx, &held)))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => held.advance(written),
            }
        }
        *held = BytesMut::new(); // an idle connection keeps no buffer
        Poll::Ready(Ok(()))
    }

    fn with_stream<T>(&self, act: impl FnOnce(Pin<&mut S>) -> T) -> T {
        act(Pin::new(&mut *self.0.stream.borrow_mut()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, F: Future> Future for Releasing<S, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        if this.output.is_none() {
            let before = this.cork.0.writes.get();
            if let Poll::Ready(output) = this.future.poll(cx) {
                *this.output = Some(output);
            }
            *this.owes |= this.cork.0.writes.get() != before;
        }
        // An error is seen by the connection's own next read or write.
        *this.owes = *this.owes && this.cork.poll_release(cx).is_pending();
        if *this.owes {
            return Poll::Pending;
        }
        this.output.take().map_or(Poll::Pending, Poll::Ready)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cork<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.stream.borrow_mut()).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Cork<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.writes.set(self.0.writes.get().wrapping_add(1));
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if self.0.held.borrow().len() + length > LIMIT {
            ready!(self.poll_drain(cx))?;
        }
        if length > LIMIT {
            return self.with_stream(|stream| stream.poll_write_vectored(cx, bufs));
        }
        let mut held = self.0.held.borrow_mut();
        if held.capacity() < length {
            held.reserve(LIMIT);
        }
        for buf in bufs {
            held.extend_from_slice(buf);
        }
        Poll::Ready(Ok(length))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_release(cx))?;
        self.with_stream(|stream| stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    async fn read(peer: &mut DuplexStream) -> Vec<u8> {
        let mut buffer = vec![0; 2 * LIMIT];
        let count = peer.read(&mut buffer).await.unwrap();
        buffer.truncate(count);
        buffer
    }

    #[tokio::test]
    async fn what_one_turn_writes_leaves_together_when_it_is_over() {
        let (stream, mut peer) = duplex(2 * LIMIT);
        let cork = Cork::new(stream);
        let mut writer = cork.clone();
        let turn = cork.clone().releasing(async {
            writer.write_all(b"one ").await.unwrap();
            writer.flush().await.unwrap();
            writer.write_all(b"piece").await.unwrap();
            assert_eq!(cork.0.held.borrow().len(), 9);
        });
        turn.await;
        assert_eq!(read(&mut peer).await, b"one piece");
        assert_eq!(cork.0.held.borrow().capacity(), 0);
    }

    #[tokio::test]
    async fn more_than_is_held_back_keeps_its_order_and_waits_for_the_reader() {
        let (stream, mut peer) = duplex(100);
        let cork = Cork::new(stream);
        let mut writer = cork.clone();
        let sent: Vec<u8> = (0..3 * LIMIT).map(|n| n.to_le_bytes()[0]).collect();
        let write = cork.releasing(async {
            for piece in [&sent[..10], &sent[10..LIMIT], &sent[LIMIT..LIMIT + 10], &sent[LIMIT + 10..]] {
                writer.write_all(piece).await.unwrap();
            }
        });
        let mut received = vec![0; sent.len()];
        let (_, ()) = tokio::join!(peer.read_exact(&mut received), write);
        assert_eq!(received, sent);
    }

    #[tokio::test]
    async fn what_is_abandoned_is_waited_for_no_longer() {
        let (stream, _peer) = duplex(1);
        let cork = Cork::new(stream);
        let mut writer = cork.clone();
        let write = cork.clone().releasing(async {
            writer.write_all(b"more than the peer takes").await.unwrap();
            cork.abandon();
        });
        write.await;
    }

    #[tokio::test]
    async fn nothing_is_left_behind_at_the_end() {
        let (stream, mut peer) = duplex(100);
        let mut cork = Cork::new(stream);
        cork.write_all(b"last words").await.unwrap();
        cork.shutdown().await.unwrap();
        assert_eq!(read(&mut peer).await, b"last words");
        assert_eq!(read(&mut peer).await, b"");
    }
}
