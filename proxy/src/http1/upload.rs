//! A request's way to an endpoint, from its head on: what of it has been sent, and whether it can be sent once more.

use weft_core::trace::SpanId;

use super::framing::Framing;
use super::outgoing::Outgoing;
use super::way::{KEPT, Way};

/// The request's way to an endpoint. It outlives an attempt.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) way: Way,
    pub(super) state: Sending,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    UnderWay,
    /// All of it has been sent.
    Sent,
    /// The endpoint takes no more.
    Refused,
    /// Nor does it here, but the caller was told that its connection goes on: the rest is read and goes to no one.
    Dropping,
    /// There is no more of that.
    Dropped,
}

impl Upload {
    /// Of a request whose head is in `out`, and of whose body as much is to be kept.
    pub(super) fn new(mut out: Outgoing, framing: Framing, kept: usize) -> Self {
        out.keep();
        let kept = KEPT.max(out.bytes.len().saturating_add(kept) as u64);
        Self { way: Way { kept, ..Way::new(out, framing) }, state: Sending::UnderWay }
    }

    /// Whether all of it has been sent.
    pub(super) fn is_sent(&self) -> bool {
        self.state == Sending::Sent
    }

    /// Whether more of it is to come from the caller, for the endpoint or for no one.
    pub(super) fn is_moving(&self) -> bool {
        matches!(self.state, Sending::UnderWay | Sending::Dropping)
    }

    /// Whether it can be sent once more.
    pub(super) fn is_kept(&self) -> bool {
        self.way.out.is_kept()
    }

    /// All of it, where it is kept and all of it has come.
    pub(super) fn whole(&self) -> &[u8] {
        &self.way.out.bytes
    }

    /// Names another span of ours in the head than it did.
    pub(super) fn rename(&mut self, (before, now): (SpanId, SpanId)) {
        if before != now {
            let head = memchr::memmem::find(&self.way.out.bytes, b"\r\n\r\n").unwrap_or(0);
            before.replace(now, self.way.out.bytes.get_mut(..head).unwrap_or_default());
        }
    }

    /// Sends it once more, on another connection.
    pub(super) fn again(&mut self) {
        self.way.out.again();
        self.state = Sending::UnderWay;
    }
}
