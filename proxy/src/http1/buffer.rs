//! What was read from a connection and not passed on yet. Memory is held only while there are bytes in it, and comes from
//! what other connections of the worker have given back.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// What a head and a small body fit in.
const SMALL: usize = 16 * 1024;

/// What bulk is read in.
const LARGE: usize = 64 * 1024;

/// Free memory that a worker keeps, in pieces of each size.
const SPARE: usize = 16;

thread_local! {
    static SPARES: RefCell<Spares> = const { RefCell::new(Spares { small: Vec::new(), large: Vec::new() }) };
}

struct Spares {
    small: Vec<Box<[u8]>>,
    large: Vec<Box<[u8]>>,
}

/// Bytes in three parts: passed on already, cleared to be passed on as they are, and not looked at yet.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    memory: Box<[u8]>,
    start: usize,
    cleared: usize,
    end: usize,
    /// Whether a read has filled all the room there was: the next ones get more.
    bulk: bool,
}

impl Buffer {
    /// Whether nothing is left to pass on.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether no more can be read before something is passed on.
    pub(super) fn is_full(&self) -> bool {
        self.end - self.start >= LARGE
    }

    /// What is cleared and not passed on yet.
    pub(super) fn cleared(&self) -> &[u8] {
        self.memory.get(self.start..self.cleared).unwrap_or_default()
    }

    /// What was not looked at yet.
    pub(super) fn unseen(&self) -> &[u8] {
        self.memory.get(self.cleared..self.end).unwrap_or_default()
    }

    /// The next `count` bytes may be passed on as they are.
    pub(super) fn clear(&mut self, count: usize) {
        self.cleared = self.end.min(self.cleared + count);
    }

    /// The first `count` bytes have been passed on.
    pub(super) fn passed(&mut self, count: usize) {
        self.start = self.cleared.min(self.start + count);
    }

    /// The next `count` bytes are not passed on from here; nothing may be cleared.
    pub(super) fn skip(&mut self, count: usize) {
        self.clear(count);
        self.start = self.cleared;
    }

    /// Reads once: how many bytes, none at the end. Of a full buffer nothing may be asked.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<usize>> {
        self.make_room();
        let mut read = ReadBuf::new(self.memory.get_mut(self.end..).unwrap_or_default());
        let room = read.remaining();
        let polled = Pin::new(stream).poll_read(cx, &mut read);
        let count = read.filled().len();
        if polled.is_pending() || count == 0 {
            self.give_back_if_empty();
        }
        ready!(polled)?;
        self.end += count;
        self.bulk = count == room;
        Poll::Ready(Ok(count))
    }

    /// Gives its memory to others, if nothing is in it.
    pub(super) fn give_back_if_empty(&mut self) {
        if self.is_empty() && !self.memory.is_empty() {
            give_back(std::mem::take(&mut self.memory));
            (self.start, self.cleared, self.end) = (0, 0, 0);
        }
    }

    fn make_room(&mut self) {
        if self.is_empty() {
            (self.start, self.cleared, self.end) = (0, 0, 0);
            let size = if self.bulk { LARGE } else { SMALL };
            if self.memory.len() < size {
                give_back(std::mem::replace(&mut self.memory, take(size)));
            }
        } else if self.end == self.memory.len() {
            if self.memory.len() < LARGE && self.start < SMALL / 2 {
                let mut larger = take(LARGE);
                let bytes = self.memory.get(self.start..self.end).unwrap_or_default();
                if let Some(place) = larger.get_mut(..bytes.len()) {
                    place.copy_from_slice(bytes);
                }
                give_back(std::mem::replace(&mut self.memory, larger));
            } else {
                self.memory.copy_within(self.start..self.end, 0);
            }
            self.end -= self.start;
            self.cleared -= self.start;
            self.start = 0;
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.memory));
    }
}

fn take(size: usize) -> Box<[u8]> {
    let spare = SPARES.with_borrow_mut(|spares| spares.of(size).and_then(Vec::pop));
    spare.unwrap_or_else(|| vec![0; size].into_boxed_slice())
}

fn give_back(memory: Box<[u8]>) {
    // At the thread's end there may be nothing left to give it to.
    let _ = SPARES.try_with(|spares| {
        if let Some(spares) = spares.borrow_mut().of(memory.len())
            && spares.len() < SPARE
        {
            spares.push(memory);
        }
    });
}

impl Spares {
    fn of(&mut self, size: usize) -> Option<&mut Vec<Box<[u8]>>> {
        match size {
            SMALL => Some(&mut self.small),
            LARGE => Some(&mut self.large),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn read(buffer: &mut Buffer, mut bytes: &[u8]) -> usize {
        match buffer.poll_read(&mut Context::from_waker(Waker::noop()), &mut bytes) {
            Poll::Ready(count) => count.unwrap(),
            Poll::Pending => panic!("a slice is always ready"),
        }
    }

    #[test]
    fn bytes_are_cleared_passed_and_skipped() {
        let mut buffer = Buffer::default();
        assert_eq!(read(&mut buffer, b"head|body|next"), 14);
        buffer.skip(5);
        buffer.clear(4);
        assert_eq!((buffer.cleared(), buffer.unseen()), (&b"body"[..], &b"|next"[..]));
        buffer.passed(2);
        assert_eq!(buffer.cleared(), b"dy");
        buffer.passed(2);
        buffer.skip(1);
        assert_eq!(buffer.unseen(), b"next");
        assert!(!buffer.is_empty());
        buffer.skip(4);
        assert!(buffer.is_empty());
    }

    #[test]
    fn it_grows_for_what_does_not_fit_and_keeps_the_bytes() {
        let mut buffer = Buffer::default();
        let bytes: Vec<u8> = (0..LARGE).map(|n| n.to_le_bytes()[0]).collect();
        let mut count = 0;
        while !buffer.is_full() {
            count += read(&mut buffer, &bytes[count..]);
        }
        assert_eq!(buffer.unseen(), &bytes[..]);
        buffer.skip(LARGE / 2);
        assert_eq!(read(&mut buffer, &bytes), LARGE / 2);
        assert_eq!(buffer.unseen()[..LARGE / 2], bytes[LARGE / 2..]);
        assert_eq!(buffer.unseen()[LARGE / 2..], bytes[..LARGE / 2]);
    }

    #[test]
    fn memory_is_held_only_while_there_are_bytes() {
        let mut buffer = Buffer::default();
        assert_eq!(read(&mut buffer, b""), 0);
        assert!(buffer.memory.is_empty());
        read(&mut buffer, b"x");
        buffer.give_back_if_empty();
        assert_eq!(buffer.memory.len(), SMALL);
        buffer.skip(1);
        buffer.give_back_if_empty();
        assert!(buffer.memory.is_empty());
    }
}
