//! Stage 8 for bytes towards an app: a request among them is not let through as bytes.
//!
//! What is passed as bytes is neither ruled on nor freed of what callers may not claim. A caller who sends `weft-client-id`
//! in lower-case HTTP, or waits within its first line until detection gives up, would else be whoever it says it is.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use weft_core::detect::{Disguise, disguise};

use crate::stream::Link;

/// A client's connection whose first line is watched.
#[derive(Debug)]
pub struct Screened<S> {
    stream: S,
    /// What it has said, until it is known to be something else than a request.
    said: Option<Vec<u8>>,
}

impl<S> Screened<S> {
    /// Watches a connection of which nothing was passed on yet.
    pub fn new(stream: S) -> Self {
        Self { stream, said: Some(Vec::new()) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Screened<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let Some(said) = &mut self.said else { return Poll::Ready(Ok(())) };
        said.extend_from_slice(buf.filled().get(before..).unwrap_or_default());
        match disguise(said) {
            Disguise::Perhaps => {}
            Disguise::None => self.said = None,
            Disguise::Request => {
                buf.set_filled(before);
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Screened<S> {
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

impl<S: Link> Link for Screened<S> {
    fn reset(&self) {
        self.stream.reset();
    }

    fn is_sealed(&self) -> bool {
        self.stream.is_sealed()
    }
}
