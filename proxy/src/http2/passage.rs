//! A request whose response has begun: bytes both ways until both have ended, one breaks, or nobody takes them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::{Reason, SendStream};
use tokio::time::{Sleep, sleep};

use super::pump::{Broke, Moved, Pump};
use super::refuse::cut_short;
use super::relay::{Fate, taken_back};
use crate::failure::ErrorCode;
use crate::http::{Exchange, Patience};
use crate::ties::Tie;
use crate::upstream::http2::{Place, Waits};

/// How long a caller may leave its window full before its response is given up.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// What passes between a caller and an upstream.
pub(super) struct Passage {
    pub(super) exchange: Exchange,
    pub(super) grpc: bool,
    pub(super) patience: Patience,
    pub(super) place: Place,
    pub(super) upload: Pump,
    pub(super) upstream: SendStream<Bytes>,
    pub(super) download: Pump,
    pub(super) caller: SendStream<Bytes>,
    /// Runs while the caller takes nothing.
    pub(super) stalled: Option<Pin<Box<Sleep>>>,
    /// What it rests on, where it carries bytes for as long as it is let in.
    pub(super) tie: Option<Tie>,
}

/// How it ended.
enum Ended {
    Whole,
    CallerGone(Reason),
    UpstreamGone(Reason),
    Late,
    Cut,
}

impl Future for Passage {
    type Output = Fate;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Fate> {
        let this = self.get_mut();
        this.poll_ended(cx).map(|ended| match ended {
            Ended::Whole => Fate::Done,
            Ended::CallerGone(reason) => {
                this.upstream.send_reset(reason);
                taken_back(&this.exchange)
            }
            Ended::UpstreamGone(reason) => {
                this.exchange.failed(ErrorCode::UpstreamReset);
                this.caller.send_reset(reason);
                Fate::Done
            }
            Ended::Cut => {
                this.upstream.send_reset(Reason::CANCEL);
                this.exchange.failed(ErrorCode::Denied);
                this.caller.send_reset(Reason::CANCEL);
                Fate::Done
            }
            Ended::Late => {
                this.upstream.send_reset(Reason::CANCEL);
                if this.grpc {
                    cut_short(&mut this.caller, &this.exchange, ErrorCode::Timeout);
                } else {
                    // The status has gone: that the answer is not whole can only be told so.
                    this.exchange.failed(ErrorCode::Timeout);
                    this.caller.send_reset(Reason::INTERNAL_ERROR);
                }
                Fate::Done
            }
        })
    }
}

impl Passage {
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.tie.as_ref().is_some_and(|tie| tie.poll_cut(cx).is_ready()) {
            return Poll::Ready(Ended::Cut);
        }
        if let Some(ended) = self.poll_upload(cx) {
            return Poll::Ready(ended);
        }
        if let Some(ended) = self.poll_download(cx) {
            return Poll::Ready(ended);
        }
        if self.download.has_passed() && self.upload.has_passed() {
            return Poll::Ready(Ended::Whole);
        }
        if let Poll::Ready(reset) = self.caller.poll_reset(cx) {
            return Poll::Ready(Ended::CallerGone(reset.unwrap_or(Reason::CANCEL)));
        }
        if let Poll::Ready(ended) = self.poll_upstream_reset(cx) {
            return Poll::Ready(ended);
        }
        if self.patience.poll(cx).is_ready() {
            return Poll::Ready(Ended::Late);
        }
        self.poll_stalled(cx)
    }

    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Option<Ended> {
        if self.upload.has_passed() {
            return None;
        }
        let (exchange, patience) = (&self.exchange, &mut self.patience);
        let polled = self.upload.poll(cx, &mut self.upstream, &mut |moved| {
            patience.moved(exchange);
            if let Moved::Data(bytes) = moved {
                exchange.request_moved(bytes as u64);
            }
        });
        self.place.wait(if self.upload.is_blocked() { Waits::Yes } else { Waits::No });
        match polled {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(Broke::Source(error))) => {
                return Some(Ended::CallerGone(error.reason().unwrap_or(Reason::CANCEL)));
            }
            // Why, the upstream's reset says.
            Poll::Ready(Err(Broke::Sink)) => self.upload.stop(),
            Poll::Pending => {}
        }
        None
    }

    fn poll_download(&mut self, cx: &mut Context<'_>) -> Option<Ended> {
        if self.download.has_passed() {
            return None;
        }
        let exchange = &self.exchange;
        let mut has_moved = false;
        let polled = self.download.poll(cx, &mut self.caller, &mut |moved| {
            has_moved = true;
            match moved {
                Moved::Data(bytes) => exchange.response_moved(bytes as u64),
                Moved::Trailers(trailers) => exchange.trailers(trailers),
            }
        });
        if has_moved {
            self.stalled = None;
            self.patience.moved(&self.exchange);
        }
        match polled {
            Poll::Ready(Ok(())) => self.exchange.response_ended(),
            Poll::Ready(Err(Broke::Source(error))) => return Some(upstream_gone(&error)),
            Poll::Ready(Err(Broke::Sink)) => {
                let reset = self.caller.poll_reset(cx);
                let reason = if let Poll::Ready(Ok(reason)) = reset { reason } else { Reason::CANCEL };
                return Some(Ended::CallerGone(reason));
            }
            Poll::Pending => {}
        }
        None
    }

    /// Hears of a reset also where nothing is read, for the caller takes nothing.
    fn poll_upstream_reset(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if self.upstream.poll_reset(cx).is_pending() {
            return Poll::Pending;
        }
        // It takes no more of the request. Whether the response was whole before is known when all that came is read
        // (RFC 9113 section 8.1: a server may answer first and then refuse the rest).
        self.upload.stop();
        if let Err(error) = self.download.gather(cx) {
            return Poll::Ready(upstream_gone(&error));
        }
        if self.download.has_passed() { Poll::Ready(Ended::Whole) } else { Poll::Pending }
    }

    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if !self.download.is_blocked() {
            return Poll::Pending;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        stalled.as_mut().poll(cx).map(|()| {
            self.upstream.send_reset(Reason::CANCEL);
            Ended::UpstreamGone(Reason::CANCEL)
        })
    }
}

/// A reset is passed on as it is; where the connection broke, nobody chose a code.
fn upstream_gone(error: &h2::Error) -> Ended {
    let chosen = error.reason().filter(|_| error.is_reset() && error.is_remote());
    Ended::UpstreamGone(chosen.unwrap_or(Reason::INTERNAL_ERROR))
}
