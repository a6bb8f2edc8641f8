//! What no protocol rule forbids and no honest peer does: floods of frames that cost their sender nothing and us work.
//!
//! The guard sees the bytes of an HTTP/2 connection pass, both ways, and reads no more than the nine bytes that each
//! frame begins with. Frames that carry no message are paid for out of a budget, which grows with time and with the
//! messages that pass: a peer that talks much may also ask much. Without I/O; every input is fine ([`Guard::received`]
//! is fuzzed as it is).

use std::time::{Duration, Instant};

/// Bytes of a frame's head (RFC 9113 section 4.1).
const HEAD: usize = 9;

/// What a client's connection begins with (RFC 9113 section 3.4).
const PREFACE: u32 = 24;

/// What may be spent at once.
const BURST: u32 = 4000;

/// What a second adds.
const PER_SECOND: u128 = 1000;

/// What frames cost that carry no message. A reset undoes a request that we have already begun to serve; settings must
/// be applied to every stream.
mod cost {
    pub(super) const RESET: u32 = 4;
    pub(super) const SETTINGS: u32 = 20;
    pub(super) const PING: u32 = 2;
    pub(super) const GO_AWAY: u32 = 20;
    pub(super) const WINDOW_UPDATE: u32 = 1;
    pub(super) const CONTINUATION: u32 = 4;
    pub(super) const EMPTY_DATA: u32 = 20;
    pub(super) const ACKNOWLEDGEMENT: u32 = 1;
    pub(super) const OTHER: u32 = 2;
}

/// What messages add. Each piece of a body that we send may be answered by two window updates and a ping.
mod credit {
    pub(super) const DATA_RECEIVED: u32 = 1;
    pub(super) const DATA_SENT: u32 = 4;
    pub(super) const HEADERS_SENT: u32 = 8;
}

/// Frame types (RFC 9113 section 6).
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const PING: u8 = 6;
    pub(super) const GO_AWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

/// END_STREAM of DATA and HEADERS; ACK of SETTINGS and PING.
const FLAG_END_STREAM_OR_ACK: u8 = 0x1;

/// END_HEADERS of HEADERS, PUSH_PROMISE and CONTINUATION.
const FLAG_END_HEADERS: u8 = 0x4;

/// Which end of the connection we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Our peer opened it, and sends the preface.
    Server,
    /// We opened it.
    Client,
}

/// Watches one connection.
#[derive(Debug)]
pub struct Guard {
    received: Frames,
    sent: Frames,
    budget: Budget,
    is_flooded: bool,
    has_settings: bool,
    /// The blocks of headers that have begun.
    blocks: u64,
    block: Block,
}

/// Where the peer is in what must come without anything else in between (RFC 9113 section 6.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    /// Nowhere, or at the end of the frame that is read.
    Ends,
    /// Further frames are to come.
    GoesOn,
}

impl Guard {
    /// A guard for a connection that begins now.
    pub fn new(role: Role, now: Instant) -> Self {
        let (received, sent) = match role {
            Role::Server => (PREFACE, 0),
            Role::Client => (0, PREFACE),
        };
        Self {
            received: Frames::after(received),
            sent: Frames::after(sent),
            budget: Budget { left: BURST, grown: now },
            is_flooded: false,
            has_settings: false,
            blocks: 0,
            block: Block::Ends,
        }
    }

    /// Looks at bytes that were received. The clock is read where the budget is used up.
    pub fn received(&mut self, mut bytes: &[u8], clock: impl Fn() -> Instant) {
        while let Some(frame) = self.received.next(&mut bytes) {
            self.follow_block(frame);
            if frame.kind == kind::SETTINGS {
                self.has_settings = true;
            }
            match frame.price() {
                Price::Cost(cost) => self.is_flooded |= !self.budget.spend(cost, &clock),
                Price::Credit(credit) => self.budget.add(credit),
            }
        }
    }

    /// Looks at bytes that were sent.
    pub fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(frame) = self.sent.next(&mut bytes) {
            match frame.kind {
                kind::DATA => self.budget.add(credit::DATA_SENT),
                kind::HEADERS => self.budget.add(credit::HEADERS_SENT),
                _ => {}
            }
        }
    }

    /// One of the resets that were received took back a request after a while, as callers do whose patience ends: it is
    /// those that take back at once what they have just asked for who mean harm.
    pub fn forgive_reset(&mut self) {
        self.budget.add(cost::RESET);
    }

    /// Whether the peer has used up its budget: it is to be cut off.
    pub fn is_flooded(&self) -> bool {
        self.is_flooded
    }

    /// Whether the peer has said its settings.
    pub fn has_settings(&self) -> bool {
        self.has_settings
    }

    /// The number of the block of headers that has begun and not ended.
    pub fn open_block(&self) -> Option<u64> {
        let is_open = self.block == Block::GoesOn || (self.received.is_of_block && self.received.skip > 0);
        is_open.then_some(self.blocks)
    }

    fn follow_block(&mut self, frame: FrameHead) {
        self.received.is_of_block =
            matches!(frame.kind, kind::HEADERS | kind::PUSH_PROMISE | kind::CONTINUATION);
        if self.received.is_of_block {
            self.blocks += u64::from(frame.kind != kind::CONTINUATION);
            self.block = if frame.flags & FLAG_END_HEADERS == 0 { Block::GoesOn } else { Block::Ends };
        }
    }
}

/// What a frame begins with.
#[derive(Debug, Clone, Copy)]
struct FrameHead {
    length: u32,
    kind: u8,
    flags: u8,
}

enum Price {
    Cost(u32),
    Credit(u32),
}

impl FrameHead {
    fn price(self) -> Price {
        let is_flagged = self.flags & FLAG_END_STREAM_OR_ACK != 0;
        Price::Cost(match self.kind {
            kind::DATA if self.length > 0 => return Price::Credit(credit::DATA_RECEIVED),
            kind::DATA if is_flagged => 0,
            kind::DATA => cost::EMPTY_DATA,
            kind::HEADERS => 0,
            kind::RST_STREAM => cost::RESET,
            kind::SETTINGS | kind::PING if is_flagged => cost::ACKNOWLEDGEMENT,
            kind::SETTINGS => cost::SETTINGS,
            kind::PING => cost::PING,
            kind::GO_AWAY => cost::GO_AWAY,
            kind::WINDOW_UPDATE => cost::WINDOW_UPDATE,
            kind::CONTINUATION => cost::CONTINUATION,
            _ => cost::OTHER,
        })
    }
}

/// Cuts a stream of bytes into frames.
#[derive(Debug)]
struct Frames {
    /// Bytes to pass over until the next frame begins.
    skip: u32,
    head: [u8; HEAD],
    /// Bytes of the head that are there.
    filled: usize,
    /// Whether the frame that is read belongs to a block of headers.
    is_of_block: bool,
}

impl Frames {
    /// Frames that begin after `skip` bytes.
    fn after(skip: u32) -> Self {
        Self { skip, head: [0; HEAD], filled: 0, is_of_block: false }
    }

    /// The next frame whose head is complete; takes what it has seen off `bytes`.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<FrameHead> {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        self.skip -= u32::try_from(skipped).unwrap_or(self.skip);
        *bytes = bytes.get(skipped..)?;
        let missing = HEAD.saturating_sub(self.filled).min(bytes.len());
        let (seen, rest) = bytes.split_at_checked(missing)?;
        self.head.get_mut(self.filled..)?.get_mut(..missing)?.copy_from_slice(seen);
        self.filled += missing;
        *bytes = rest;
        if self.filled < HEAD {
            return None;
        }
        self.filled = 0;
        let [high, middle, low, kind, flags, ..] = self.head;
        self.skip = u32::from_be_bytes([0, high, middle, low]);
        Some(FrameHead { length: self.skip, kind, flags })
    }
}

/// What a peer may still spend.
#[derive(Debug)]
struct Budget {
    left: u32,
    grown: Instant,
}

impl Budget {
    /// Whether there was enough.
    fn spend(&mut self, cost: u32, clock: impl Fn() -> Instant) -> bool {
        if self.left < cost {
            self.grow(clock());
        }
        let left = self.left.checked_sub(cost);
        self.left = left.unwrap_or(0);
        left.is_some()
    }

    fn grow(&mut self, now: Instant) {
        let elapsed: Duration = now.saturating_duration_since(self.grown);
        let grown = elapsed.as_micros() * PER_SECOND / 1_000_000;
        if grown > 0 {
            self.grown = now;
            self.add(u32::try_from(grown).unwrap_or(BURST));
        }
    }

    fn add(&mut self, credit: u32) {
        self.left = self.left.saturating_add(credit).min(BURST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(length: usize, kind: u8, flags: u8) -> Vec<u8> {
        let mut bytes = u32::try_from(length).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags, 0, 0, 0, 1]);
        bytes.resize(HEAD + length, 0xaa);
        bytes
    }

    fn guard() -> (Guard, Instant) {
        let now = Instant::now();
        (Guard::new(Role::Client, now), now)
    }

    /// How many of `bytes` are taken at once.
    fn taken(bytes: &[u8]) -> u32 {
        let (mut guard, now) = guard();
        for count in 0..10_000 {
            guard.received(bytes, || now);
            if guard.is_flooded() {
                return count;
            }
        }
        u32::MAX
    }

    #[test]
    fn frames_that_carry_nothing_are_counted() {
        for (what, bytes, expected) in [
            ("pings", frame(8, kind::PING, 0), BURST / 2),
            ("settings", frame(6, kind::SETTINGS, 0), BURST / 20),
            ("acknowledgements", frame(0, kind::SETTINGS, 1), BURST),
            ("priorities", frame(5, 2, 0), BURST / 2),
            ("resets", frame(4, kind::RST_STREAM, 0), BURST / 4),
            ("window updates", frame(4, kind::WINDOW_UPDATE, 0), BURST),
            ("empty data", frame(0, kind::DATA, 0), BURST / 20),
            ("continuations", frame(0, kind::CONTINUATION, 0), BURST / 4),
            ("going away", frame(8, kind::GO_AWAY, 0), BURST / 20),
            ("of unknown types", frame(0, 0xfe, 0), BURST / 2),
            ("messages", frame(100, kind::DATA, 0), u32::MAX),
            ("ends of messages", frame(0, kind::DATA, 1), u32::MAX),
            ("requests", frame(20, kind::HEADERS, 5), u32::MAX),
            (
                "requests taken back",
                [frame(20, kind::HEADERS, 5), frame(4, kind::RST_STREAM, 0)].concat(),
                BURST / 4,
            ),
            ("pings with messages", [frame(100, kind::DATA, 0), frame(8, kind::PING, 1)].concat(), u32::MAX),
        ] {
            assert_eq!(taken(&bytes), expected, "{what}");
        }
    }

    #[test]
    fn what_we_send_may_be_acknowledged() {
        let (mut guard, now) = guard();
        guard.sent(&[0; PREFACE as usize]);
        let update = frame(4, kind::WINDOW_UPDATE, 0);
        for _ in 0..10_000 {
            guard.sent(&frame(1, kind::DATA, 0));
            guard.received(&[update.clone(), update.clone(), frame(8, kind::PING, 0)].concat(), || now);
        }
        assert!(!guard.is_flooded());
    }

    #[test]
    fn requests_that_are_taken_back_late_are_forgiven() {
        let (mut guard, now) = guard();
        let reset = frame(4, kind::RST_STREAM, 0);
        for _ in 0..BURST {
            guard.received(&reset, || now);
            guard.forgive_reset();
        }
        assert!(!guard.is_flooded());
    }

    #[test]
    fn the_budget_grows_with_time() {
        let (mut guard, mut now) = guard();
        let ping = frame(8, kind::PING, 0);
        for _ in 0..10_000 {
            now += Duration::from_millis(2); // 500 a second
            guard.received(&ping, || now);
        }
        assert!(!guard.is_flooded());
        for _ in 0..2 * BURST {
            now += Duration::from_millis(1);
            guard.received(&ping, || now);
        }
        assert!(guard.is_flooded());
    }

    #[test]
    fn bytes_mean_the_same_however_they_are_cut() {
        let stream = [
            vec![b'P'; PREFACE as usize],
            frame(18, kind::SETTINGS, 0),
            frame(300, kind::HEADERS, 0),
            frame(0, kind::CONTINUATION, 0),
            frame(70, kind::CONTINUATION, FLAG_END_HEADERS),
            frame(20_000, kind::DATA, 1),
            frame(8, kind::PING, 0),
        ]
        .concat();
        let now = Instant::now();
        let watch = |pieces: &mut dyn Iterator<Item = &[u8]>| {
            let mut guard = Guard::new(Role::Server, now);
            pieces.for_each(|piece| guard.received(piece, || now));
            assert!(guard.has_settings() && guard.open_block().is_none() && !guard.is_flooded());
            guard.budget.left
        };
        let whole = watch(&mut std::iter::once(&stream[..]));
        assert_eq!(whole, BURST - 20 - 4 - 4 + 1 - 2);
        for size in [1, 2, 7, 9, 10, 64, 4096] {
            assert_eq!(watch(&mut stream.chunks(size)), whole, "{size}");
        }
    }

    #[test]
    fn a_block_of_headers_is_open_until_its_last_byte() {
        let (mut guard, now) = guard();
        let last = frame(3, kind::CONTINUATION, FLAG_END_HEADERS);
        for (bytes, expected) in [
            (&frame(3, kind::HEADERS, 0)[..], Some(1)),
            (&frame(3, kind::CONTINUATION, 0), Some(1)),
            (&last[..11], Some(1)),
            (&last[11..], None),
            (&frame(300, kind::DATA, 0)[..20], None),
            (&[0; 289], None),
            (&frame(3, kind::HEADERS, FLAG_END_HEADERS)[..9], Some(2)),
            (&[0; 3], None),
        ] {
            guard.received(bytes, || now);
            assert_eq!(guard.open_block(), expected, "{bytes:?}");
        }
    }
}
