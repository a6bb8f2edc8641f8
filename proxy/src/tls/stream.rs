//! A connection of TLS 1.3 after its handshake, as bytes: buffers only while bytes move, records opened straight into what
//! the reader hands in and sealed straight from what the writer does, several of them in one system call.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::{AlertDescription, ExtractedSecrets};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::handshake::Updates;
use super::message::{Answer, Message, Messages};
use super::record::{self, Content, Fault, HEADER, Key, MAX_PLAIN};
use crate::buffer::{Buffer, Size};

/// Records that the peer may send in a row without a byte for us in them: key updates, each of which costs more than what it
/// takes to ask for, and those that carry nothing.
const BARREN_IN_A_ROW: u32 = 32;

/// We take a new key (RFC 8446 section 4.6.3).
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// Levels and descriptions of alerts (RFC 8446 section 6).
const WARNING: u8 = 1;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;

/// A connection that has been secured.
pub struct TlsStream {
    tcp: TcpStream,
    reading: Reading,
    writing: Writing,
    updates: Updates,
}

struct Reading {
    key: Key,
    /// What was opened and not yet read, what ends that record, and then what is still sealed.
    buffer: Option<Buffer>,
    opened: usize,
    trailer: usize,
    /// What the next read needs.
    wanted: Size,
    state: State,
    /// What the peer says in TLS itself.
    messages: Messages,
    barren_in_a_row: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// The peer has said that nothing follows.
    Ended,
    Broken(Broken),
}

/// Why nothing more can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Broken {
    /// Someone may have cut it (RFC 8446 section 6.1), so that it must not look complete.
    #[error("the connection ended without a close_notify of TLS")]
    Cut,
    #[error(transparent)]
    Fault(#[from] Fault),
    #[error("the peer gave up with the TLS alert {:?}", AlertDescription::from(*.0))]
    Alert(u8),
}

struct Writing {
    key: Key,
    /// Sealed and not yet sent.
    buffer: Option<Buffer>,
    /// It was said that nothing follows.
    ended: bool,
    /// The peer has asked for a new key.
    update_wanted: bool,
}

/// What the next record came to.
enum Step {
    /// Something for the reader, or for TLS itself.
    Taken,
    /// It is not all there yet.
    More,
    /// Nothing follows.
    End,
}

/// What a record carried.
enum Opened {
    /// Bytes, which the reader has or can be given.
    Data { is_empty: bool },
    /// A message of TLS.
    Message(Content, Vec<u8>),
}

impl TlsStream {
    /// The connection over which a handshake was made; `ahead` is what was read beyond its end.
    pub(super) fn new(
        tcp: TcpStream,
        ahead: &[u8],
        secrets: &ExtractedSecrets,
        updates: Updates,
    ) -> Result<Self, Fault> {
        let mut reading = Reading::new(Key::new(secrets.rx.0, &secrets.rx.1)?);
        if !ahead.is_empty() && !reading.buffer.insert(Buffer::take(Size::Usual)).append(ahead) {
            return Err(Fault::Overflow);
        }
        let writing = Writing::new(Key::new(secrets.tx.0, &secrets.tx.1)?);
        Ok(Self { tcp, reading, writing, updates })
    }

    /// The connection underneath.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Takes the next record from what was read.
    fn step(&mut self, out: &mut ReadBuf<'_>) -> Result<Step, Broken> {
        if self.reading.give(out) {
            return Ok(Step::Taken);
        }
        match self.reading.state {
            State::Open => {}
            State::Ended => return Ok(Step::End),
            State::Broken(why) => return Err(why),
        }
        let goes_on = self.reading.messages.goes_on();
        let Some(opened) = self.reading.open(out)? else { return Ok(Step::More) };
        // RFC 8446 section 5.1: nothing comes between the parts of a message.
        if goes_on && !matches!(opened, Opened::Message(Content::Handshake, _)) {
            return Err(Fault::Unexpected.into());
        }
        self.reading.barren_in_a_row += 1;
        match opened {
            Opened::Data { is_empty: false } => self.reading.barren_in_a_row = 0,
            _ if self.reading.barren_in_a_row > BARREN_IN_A_ROW => return Err(Fault::Unexpected.into()),
            Opened::Data { is_empty: true } => {}
            Opened::Message(Content::Handshake, part) => self.handshake(&part)?,
            Opened::Message(_, alert) => return self.reading.alert(&alert),
        }
        Ok(Step::Taken)
    }

    /// Messages after the handshake: new keys, and tickets, which nobody here uses.
    fn handshake(&mut self, part: &[u8]) -> Result<(), Fault> {
        let Self { reading: Reading { messages, key, .. }, writing, updates, .. } = self;
        messages.add(part, |message| match message {
            Message::KeyUpdate(answer) => {
                *key = updates.received()?;
                writing.update_wanted |= answer == Answer::Wanted;
                Ok(())
            }
            Message::Ticket if updates.is_client() => Ok(()),
            Message::Ticket => Err(Fault::Unexpected),
        })
    }

    /// Reads what has arrived.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.reading.room().poll_read_from(cx, &mut self.tcp, usize::MAX) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(self.break_off(cx, Broken::Cut))),
            Poll::Ready(Ok(count)) => {
                self.reading.wanted = Size::after(count);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                self.reading.rest();
                Poll::Pending
            }
        }
    }

    /// Sends what is sealed, and first answers a peer that wants us to use a new key.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.writing.poll_send(cx, &mut self.tcp))?;
        if self.writing.update_wanted && !self.writing.ended {
            self.writing.update_key(&mut self.updates)?;
            return self.writing.poll_send(cx, &mut self.tcp);
        }
        Poll::Ready(Ok(()))
    }

    /// From now on reading fails; the peer is told why, where it can still be told.
    fn break_off(&mut self, cx: &mut Context<'_>, why: Broken) -> io::Error {
        let known = self.reading.state == State::Broken(why);
        self.reading.state = State::Broken(why);
        self.reading.rest();
        if let Broken::Fault(fault) = why
            && !known
            && self.writing.alert(FATAL, fault.alert()).is_ok()
        {
            let _ = self.writing.poll_send(cx, &mut self.tcp);
        }
        why.into()
    }
}

impl Reading {
    fn new(key: Key) -> Self {
        let (state, messages) = (State::Open, Messages::default());
        let (opened, trailer, wanted) = (0, 0, Size::Usual);
        Self { key, buffer: None, opened, trailer, wanted, state, messages, barren_in_a_row: 0 }
    }

    /// The buffer, with as much room behind what is still sealed as there can be.
    fn room(&mut self) -> &mut Buffer {
        let mut buffer = self.buffer.take().unwrap_or_else(|| Buffer::take(self.wanted));
        if self.wanted == Size::Bulk && buffer.size() == Size::Usual {
            buffer = buffer.resized(Size::Bulk);
        }
        buffer.compact();
        self.buffer.insert(buffer)
    }

    /// Hands on what is opened already; false where there is nothing.
    fn give(&mut self, out: &mut ReadBuf<'_>) -> bool {
        let Some(buffer) = self.buffer.as_mut().filter(|_| self.opened > 0) else { return false };
        let count = self.opened.min(out.remaining());
        out.put_slice(buffer.filled().get(..count).unwrap_or_default());
        buffer.consume(count);
        self.opened -= count;
        if self.opened == 0 {
            buffer.consume(std::mem::take(&mut self.trailer));
        }
        true
    }

    /// Opens the next record, into `out` where it fits there; none: it is not all there yet.
    fn open(&mut self, out: &mut ReadBuf<'_>) -> Result<Option<Opened>, Fault> {
        let Some(buffer) = &mut self.buffer else { return Ok(None) };
        let Some(length) = record::length(buffer.filled())? else { return Ok(None) };
        let Some(record) = buffer.filled_mut().get_mut(..length) else { return Ok(None) };
        let wanted = record::opened_length(length);
        if out.remaining() >= wanted {
            let opened = out.initialize_unfilled_to(wanted);
            let (content, size) = self.key.open(record, opened)?;
            let message = match content {
                Content::Data => None,
                Content::Alert | Content::Handshake => opened.get(..size).map(<[u8]>::to_vec),
            };
            buffer.consume(length);
            return Ok(Some(message.map_or_else(
                || {
                    out.advance(size);
                    Opened::Data { is_empty: size == 0 }
                },
                |message| Opened::Message(content, message),
            )));
        }
        let (content, size) = self.key.open_in_place(record)?;
        buffer.consume(HEADER);
        if content == Content::Data && size > 0 {
            (self.opened, self.trailer) = (size, length - HEADER - size);
            self.give(out);
            return Ok(Some(Opened::Data { is_empty: false }));
        }
        let message = buffer.filled().get(..size).unwrap_or_default().to_vec();
        buffer.consume(length - HEADER);
        Ok(Some(match content {
            Content::Data => Opened::Data { is_empty: true },
            Content::Alert | Content::Handshake => Opened::Message(content, message),
        }))
    }

    /// RFC 8446 section 6: the level counts for nothing any more.
    fn alert(&mut self, message: &[u8]) -> Result<Step, Broken> {
        match *message {
            [_, CLOSE_NOTIFY] => {
                self.state = State::Ended;
                Ok(Step::End)
            }
            [_, USER_CANCELED] => Ok(Step::Taken),
            [_, alert] => Err(Broken::Alert(alert)),
            _ => Err(Fault::Malformed.into()),
        }
    }

    /// Gives the buffer back where nothing is in it that will be read.
    fn rest(&mut self) {
        if self.state != State::Open && self.opened == 0 || self.buffer.as_ref().is_some_and(Buffer::is_empty)
        {
            self.buffer = None;
        }
    }
}

impl Writing {
    fn new(key: Key) -> Self {
        Self { key, buffer: None, ended: false, update_wanted: false }
    }

    /// Seals as much of `bufs` as goes at once; how much that is.
    fn seal(&mut self, bufs: &[IoSlice<'_>]) -> Result<usize, Fault> {
        let all = bufs.iter().map(|buf| buf.len()).sum::<usize>();
        let wanted = if all > Size::Usual.plain() { Size::Bulk } else { Size::Usual };
        let buffer = self.buffer.get_or_insert_with(|| Buffer::take(wanted));
        let total = all.min(buffer.size().plain());
        let mut slices = Slices { current: &[], rest: bufs.iter() };
        let mut left = total;
        while left > 0 {
            let length = left.min(MAX_PLAIN);
            let sealed = match slices.take(length) {
                Some(plain) => self.key.seal(Content::Data, plain, buffer.room())?,
                None => {
                    let room = buffer.room().get_mut(HEADER..HEADER + length).ok_or(Fault::Internal)?;
                    slices.gather(room);
                    self.key.seal_in_place(Content::Data, length, buffer.room())?
                }
            };
            buffer.fill(sealed);
            left -= length;
        }
        Ok(total)
    }

    fn message(&mut self, content: Content, message: &[u8]) -> Result<(), Fault> {
        let buffer = self.buffer.get_or_insert_with(|| Buffer::take(Size::Usual));
        let sealed = self.key.seal(content, message, buffer.room())?;
        buffer.fill(sealed);
        Ok(())
    }

    fn alert(&mut self, level: u8, alert: u8) -> Result<(), Fault> {
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        self.message(Content::Alert, &[level, alert])
    }

    /// Says that a new key follows, and takes it.
    fn update_key(&mut self, updates: &mut Updates) -> Result<(), Fault> {
        self.message(Content::Handshake, &KEY_UPDATE)?;
        self.key = updates.sent()?;
        self.update_wanted = false;
        Ok(())
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, tcp: &mut TcpStream) -> Poll<io::Result<()>> {
        while let Some(buffer) = self.buffer.as_mut().filter(|buffer| !buffer.is_empty()) {
            match ready!(Pin::new(&mut *tcp).poll_write(cx, buffer.filled()))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => buffer.consume(count),
            }
        }
        self.buffer = None;
        Poll::Ready(Ok(()))
    }
}

/// The rest of what is to be written.
struct Slices<'a> {
    current: &'a [u8],
    rest: std::slice::Iter<'a, IoSlice<'a>>,
}

impl<'a> Slices<'a> {
    /// The next `length` bytes where they lie in one piece.
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        while self.current.is_empty() {
            self.current = self.rest.next()?;
        }
        let (taken, rest) = self.current.split_at_checked(length)?;
        self.current = rest;
        Some(taken)
    }

    /// Copies the next bytes out of several pieces.
    fn gather(&mut self, mut out: &mut [u8]) {
        while !out.is_empty() {
            let length = self.current.len().min(out.len());
            let (Some(piece), Some((into, rest))) = (self.take(length), out.split_at_mut_checked(length))
            else {
                return;
            };
            into.copy_from_slice(piece);
            out = rest;
        }
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = out.filled().len();
        while out.remaining() > 0 {
            let has_some = out.filled().len() > before;
            match this.step(out) {
                Ok(Step::Taken) => {}
                Ok(Step::More) if !has_some => ready!(this.poll_fill(cx))?,
                Ok(Step::More | Step::End) => break,
                Err(why) => {
                    let error = this.break_off(cx, why);
                    // What came before it is read first.
                    return Poll::Ready(if has_some { Ok(()) } else { Err(error) });
                }
            }
        }
        this.reading.rest();
        if this.writing.update_wanted {
            // What cannot be sent now is sent with what is written next.
            let _ = this.poll_send(cx);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.writing.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        ready!(this.poll_send(cx))?;
        if this.writing.key.is_worn() {
            this.writing.update_key(&mut this.updates)?;
        }
        let count = this.writing.seal(bufs)?;
        // What does not leave now leaves with the next write or flush.
        match this.writing.poll_send(cx, &mut this.tcp) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(count)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        this.writing.alert(WARNING, CLOSE_NOTIFY)?;
        ready!(this.poll_send(cx))?;
        match ready!(Pin::new(&mut this.tcp).poll_shutdown(cx)) {
            // Whoever is gone has no need to be told.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            result => Poll::Ready(result),
        }
    }
}

impl fmt::Debug for TlsStream {
    /// Without keys and bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        Self::new(io::ErrorKind::InvalidData, fault)
    }
}

impl From<Broken> for io::Error {
    fn from(why: Broken) -> Self {
        let kind = match why {
            Broken::Cut => io::ErrorKind::UnexpectedEof,
            Broken::Fault(_) => io::ErrorKind::InvalidData,
            // What the peer did to the connection is what a reset does.
            Broken::Alert(_) => io::ErrorKind::ConnectionReset,
        };
        Self::new(kind, why)
    }
}

#[cfg(test)]
impl TlsStream {
    pub(super) fn wear_out(&mut self) {
        self.writing.key.wear_out();
    }

    pub(super) fn holds_no_buffer(&self) -> bool {
        self.reading.buffer.is_none() && self.writing.buffer.is_none()
    }

    pub(super) async fn send_empty_record(&mut self) {
        self.writing.message(Content::Data, &[]).unwrap();
        tokio::io::AsyncWriteExt::flush(self).await.unwrap();
    }
}
