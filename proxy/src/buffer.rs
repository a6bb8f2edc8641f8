//! Buffers for bytes on the move: a connection has one only while it has bytes to move, and each worker keeps a few spare.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::tls::record::MAX_PLAIN;

/// What sealing adds to the records of a buffer, and some room for messages of TLS's own.
const SLACK: usize = 2 * 1024;

/// What a buffer has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Size {
    /// What most connections need: four full TLS records.
    #[default]
    Usual,
    /// Four times as much, for those on which bytes come faster than they are carried: a quarter of the system calls.
    Bulk,
}

impl Size {
    /// Plaintext of which the records fit in.
    pub(crate) const fn plain(self) -> usize {
        match self {
            Self::Usual => 4 * MAX_PLAIN,
            Self::Bulk => 16 * MAX_PLAIN,
        }
    }

    /// What the next read needs when the last one brought so many bytes.
    pub(crate) const fn after(read: usize) -> Self {
        if read < Self::Usual.plain() / 2 { Self::Usual } else { Self::Bulk }
    }

    const fn bytes(self) -> usize {
        self.plain() + SLACK
    }

    /// Free buffers that a worker keeps.
    const fn spare(self) -> usize {
        match self {
            Self::Usual => 16,
            Self::Bulk => 4,
        }
    }
}

/// As many a worker has of the large ones, free or not: those who do not read what is sent to them may hold them all, and others
/// get usual ones.
const MOST_LARGE: usize = 32;

/// The buffers of a worker.
struct Pool {
    usual: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
    large_in_use: usize,
}

thread_local! {
    static POOL: RefCell<Pool> =
        const { RefCell::new(Pool { usual: Vec::new(), large: Vec::new(), large_in_use: 0 }) };
}

impl Pool {
    const fn spare(&mut self, size: Size) -> &mut Vec<Box<[u8]>> {
        match size {
            Size::Usual => &mut self.usual,
            Size::Bulk => &mut self.large,
        }
    }

    /// One of this size, or of the usual one where there are no more.
    fn take(&mut self, wanted: Size) -> (Box<[u8]>, Size) {
        let size = if self.large_in_use < MOST_LARGE { wanted } else { Size::Usual };
        if size == Size::Bulk {
            self.large_in_use += 1;
        }
        let spare = self.spare(size).pop();
        (spare.unwrap_or_else(|| vec![0; size.bytes()].into_boxed_slice()), size)
    }

    fn take_back(&mut self, memory: Box<[u8]>, size: Size) {
        if size == Size::Bulk {
            self.large_in_use = self.large_in_use.saturating_sub(1);
        }
        let spare = self.spare(size);
        if spare.len() < size.spare() {
            spare.push(memory);
        }
    }
}

/// Bytes that were put in at the end and not yet taken from the start. Dropped, its memory goes back to the worker.
pub(crate) struct Buffer {
    memory: Box<[u8]>,
    size: Size,
    start: usize,
    end: usize,
}

impl Buffer {
    /// An empty one, of this size if there may be one more of it.
    pub(crate) fn take(wanted: Size) -> Self {
        let (memory, size) = POOL.with_borrow_mut(|pool| pool.take(wanted));
        Self { memory, size, start: 0, end: 0 }
    }

    /// How much it has room for in all.
    pub(crate) const fn size(&self) -> Size {
        self.size
    }

    /// The same bytes in a buffer of another size, if there may be one more of it and they fit in.
    pub(crate) fn resized(self, wanted: Size) -> Self {
        let mut other = Self::take(wanted);
        if other.size != self.size && other.append(self.filled()) { other } else { self }
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
        let _ = POOL.try_with(|pool| pool.borrow_mut().take_back(memory, self.size));
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
        let mut buffer = Buffer::take(Size::Usual);
        assert!(buffer.append(b"abcdef"));
        buffer.consume(4);
        assert_eq!(buffer.filled(), b"ef");
        buffer.compact();
        assert!(buffer.append(b"gh"));
        let mut buffer = buffer.resized(Size::Bulk);
        assert_eq!((buffer.filled(), buffer.size()), (&b"efgh"[..], Size::Bulk));
        buffer.consume(9);
        assert!(buffer.is_empty() && buffer.room().len() == Size::Bulk.bytes());
        assert!(!buffer.append(&[0; Size::Bulk.bytes() + 1]));
    }

    #[test]
    fn what_does_not_fit_stays_where_it_is() {
        let mut buffer = Buffer::take(Size::Bulk);
        assert!(buffer.append(&[7; Size::Usual.bytes() + 1]));
        let buffer = buffer.resized(Size::Usual);
        assert_eq!((buffer.filled().len(), buffer.size()), (Size::Usual.bytes() + 1, Size::Bulk));
    }

    #[test]
    fn no_more_than_a_few_spare_ones_are_kept() {
        for size in [Size::Usual, Size::Bulk] {
            drop((0..3 * size.spare()).map(|_| Buffer::take(size)).collect::<Vec<_>>());
            assert_eq!(POOL.with_borrow_mut(|pool| pool.spare(size).len()), size.spare());
        }
    }

    #[test]
    fn large_ones_are_few_and_who_gets_none_has_a_usual_one() {
        let held: Vec<_> = (0..MOST_LARGE).map(|_| Buffer::take(Size::Bulk)).collect();
        assert!(held.iter().all(|buffer| buffer.size() == Size::Bulk));
        let mut usual = Buffer::take(Size::Bulk);
        assert_eq!((usual.size(), usual.room().len()), (Size::Usual, Size::Usual.bytes()));
        drop(held);
        assert_eq!(usual.resized(Size::Bulk).size(), Size::Bulk);
    }
}
