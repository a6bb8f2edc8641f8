//! Buffers for bytes on the move: a connection has one only while it has bytes to move, and each worker keeps a few spare.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// The size of a buffer: four full TLS records with what sealing adds to them, and some room for messages of TLS's own.
const SIZE: usize = 66 * 1024;

/// Free buffers that a worker keeps.
const SPARE: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that were put in at the end and not yet taken from the start. Dropped, its memory goes back to the worker.
pub(crate) struct Buffer {
    memory: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty one.
    pub(crate) fn take() -> Self {
        let spare = POOL.with_borrow_mut(Vec::pop);
        let memory = spare.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice());
        Self { memory, start: 0, end: 0 }
    }

    /// The bytes in it.
    pub(crate) fn filled(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }

    /// The same, to be changed.
    pub(crate) fn filled_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.end).unwrap_or_default()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The room behind them.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.end..).unwrap_or_default()
    }

    /// `count` bytes of the room have been filled.
    pub(crate) fn fill(&mut self, count: usize) {
        self.end = self.memory.len().min(self.end + count);
    }

    /// The first `count` bytes are done with. When none are left all of the room is there again.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start = self.end.min(self.start + count);
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Moves what there is to the front, so that the room is as large as it gets.
    pub(crate) fn compact(&mut self) {
        if self.start > 0 {
            self.memory.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// Adds bytes from elsewhere; false where there is no room for them.
    #[must_use]
    pub(crate) fn append(&mut self, bytes: &[u8]) -> bool {
        let Some(room) = self.room().get_mut(..bytes.len()) else { return false };
        room.copy_from_slice(bytes);
        self.fill(bytes.len());
        true
    }

    /// Reads once, `most` bytes or as much as there is room for; how many bytes came.
    pub(crate) fn poll_read_from<R: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let room = self.room();
        let most = most.min(room.len());
        let mut read = ReadBuf::new(room.get_mut(..most).unwrap_or_default());
        ready!(Pin::new(from).poll_read(cx, &mut read))?;
        let count = read.filled().len();
        self.fill(count);
        Poll::Ready(Ok(count))
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        // While a worker ends there may be no pool any more.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < SPARE {
                pool.push(memory);
            }
        });
    }
}

impl fmt::Debug for Buffer {
    /// Without the bytes, which are the apps'.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.end - self.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_the_order_they_came() {
        let mut buffer = Buffer::take();
        assert!(buffer.append(b"abcdef"));
        buffer.consume(4);
        assert_eq!(buffer.filled(), b"ef");
        buffer.compact();
        assert!(buffer.append(b"gh"));
        assert_eq!(buffer.filled(), b"efgh");
        buffer.consume(9);
        assert!(buffer.is_empty() && buffer.room().len() == SIZE);
        assert!(!buffer.append(&[0; SIZE + 1]));
    }

    #[test]
    fn no_more_than_a_few_spare_ones_are_kept() {
        drop((0..3 * SPARE).map(|_| Buffer::take()).collect::<Vec<_>>());
        assert_eq!(POOL.with_borrow(Vec::len), SPARE);
    }
}
