//! One exchange on its way: the request to an endpoint and the response back, both at once, in the caller's task.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};
use weft_core::limits::Late;
use weft_core::retry::Failed;

use super::Malformed;
use super::buffer::Buffer;
use super::connection::Caller;
use super::framing::{Decoder, Framing};
use super::head::{ResponseHead, Terms, Wish, end_of_lines};
use super::outgoing::Outgoing;
use super::response::{self, Answer, Circumstances};
use super::upload::{Sending, Upload};
use super::way::Way;
use crate::failure::ErrorCode;
use crate::http::{Exchange, Patience, Vain, answered_in_vain};
use crate::observe::Security;
use crate::stream::Stream;
use crate::upstream::http1::Connection;
use crate::upstream::{Hedge, InFlight};

/// How long a caller may neither send nor take what is waited for.
const CALLER_IDLE: Duration = Duration::from_secs(5 * 60);

/// How an exchange went.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The whole response has been passed on.
    Answered {
        /// Whether the caller's connection will be used again.
        persists: bool,
        /// Whether the endpoint's may be.
        server_persists: bool,
    },
    /// Both connections become something else. Here is what the endpoint has said already.
    Switched(Buffer),
    /// The endpoint said nothing and ended the connection.
    Unanswered(End),
    /// There will be no response, and none has begun; what became of the try, where another may be hoped for.
    Failed(ErrorCode, Option<Failed>),
    /// It was answered with this status, and another answer may be hoped for. Nothing of it has been passed on.
    InVain(Vain, u16),
    /// All of the request has been sent, nothing has come, and it is time to ask another endpoint beside this one.
    Slow,
    /// The response broke off.
    Truncated,
    /// It took too long, and its response has begun.
    Late,
    /// The caller is gone, or what it sends is no body.
    CallerGone(Option<Malformed>),
}

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// In order.
    Clean,
    /// It broke.
    Broken,
}

/// One attempt of an exchange.
#[derive(Debug)]
pub(super) struct Transit<'a> {
    pub(super) terms: &'a Terms,
    pub(super) exchange: &'a Exchange,
    pub(super) caller: &'a mut Caller,
    pub(super) server: &'a mut Connection,
    pub(super) upload: &'a mut Upload,
    /// Which endpoint it is sent to.
    pub(super) flight: &'a mut InFlight,
    /// How long it may take.
    pub(super) patience: &'a mut Patience,
    /// When another endpoint is asked beside this one, where a policy says so.
    pub(super) hedge: Option<&'a mut Hedge>,
    /// What is looked at before it is passed on.
    pub(super) heed: Heed,
}

/// What is looked at before it is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heed {
    /// Whether another answer may be hoped for.
    Answers,
    /// Nothing any more.
    Nothing,
}

/// The response's way back.
#[derive(Debug)]
pub(super) struct Download {
    received: Buffer,
    way: Way,
    stage: Stage,
    /// How far a head was looked for.
    seen: usize,
    /// Whether the caller's connection is to be used again.
    persists: bool,
    server_persists: bool,
    waiting: Waiting,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing has come yet.
    Silent,
    /// A head is awaited, after interim ones.
    Head,
    Body,
    Ended,
    Switching,
}

/// Notices that a caller which is waited for does nothing. The timer exists only once there is such a wait, and is not
/// touched while bytes move.
#[derive(Debug, Default)]
struct Waiting {
    timer: Option<Pin<Box<Sleep>>>,
    for_caller: bool,
    moved: bool,
    /// The same, for what limits a request to have been told.
    moved_now: bool,
}

impl Transit<'_> {
    /// Passes both messages through, as far as they go.
    pub(super) async fn run(mut self, download: &mut Download) -> Outcome {
        poll_fn(|cx| self.poll(cx, download)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>, download: &mut Download) -> Poll<Outcome> {
        download.waiting.for_caller = false;
        if let Poll::Ready(Err(gone)) = self.poll_upload(cx, download) {
            return Poll::Ready(gone);
        }
        let outcome = self.poll_download(cx, download);
        if outcome.is_ready() {
            return outcome;
        }
        if self.poll_caller(cx).is_ready() || download.waiting.poll(cx).is_ready() {
            return Poll::Ready(Outcome::CallerGone(None));
        }
        if std::mem::take(&mut download.waiting.moved_now) {
            self.patience.moved(self.exchange);
        }
        if self.is_slow(cx, download) {
            return Poll::Ready(Outcome::Slow);
        }
        let late = ready!(self.patience.poll(cx));
        let is_silent = matches!(download.stage, Stage::Silent | Stage::Head);
        // Half an interim head stands in the way of the mesh's own answer.
        Poll::Ready(match is_silent && download.way.out.is_done(&download.received) {
            true => Outcome::Failed(ErrorCode::Timeout, (late == Late::Try).then_some(Failed::Late)),
            false => Outcome::Late,
        })
    }

    /// Ready once all has been sent, or nothing more can be.
    fn poll_upload(&mut self, cx: &mut Context<'_>, download: &mut Download) -> Poll<Result<(), Outcome>> {
        while self.upload.is_moving() {
            let (way, input) = (&mut self.upload.way, &mut self.caller.input);
            match way.fill(input, |_| {}) {
                Ok(moved) => self.exchange.request_moved(moved),
                Err(malformed) => return Poll::Ready(Err(Outcome::CallerGone(Some(malformed)))),
            }
            if self.upload.state == Sending::Dropping {
                way.out.discard(input);
                if way.decoder.has_ended() {
                    self.upload.state = Sending::Dropped;
                    continue;
                }
            } else {
                if !way.out.is_done(input) {
                    match ready!(way.out.poll_write(cx, &mut self.server.stream, input)) {
                        Ok(count) => {
                            self.server.sent += count as u64;
                            download.waiting.has_moved();
                        }
                        // Why, its response may still say.
                        Err(_) => self.upload.state = download.refused(),
                    }
                    continue;
                }
                let flushed = way.out.poll_flush(cx, &mut self.server.stream);
                if matches!(flushed, Poll::Ready(Err(_))) {
                    self.upload.state = download.refused();
                    continue;
                }
                if way.decoder.has_ended() {
                    drop(ready!(flushed));
                    self.upload.state = Sending::Sent;
                    continue;
                }
            }
            download.waiting.for_caller = true;
            match ready!(self.caller.poll_read(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(Err(Outcome::CallerGone(None))),
                Ok(_) => download.waiting.has_moved(),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_download(&mut self, cx: &mut Context<'_>, download: &mut Download) -> Poll<Outcome> {
        loop {
            let digested = self.digest(download);
            let Download { received, way, waiting, .. } = download;
            match digested {
                Ok(()) => {}
                // Half an interim head stands in the way of the mesh's own answer.
                Err(Outcome::Failed(..)) if !way.out.is_done(received) => {
                    return Poll::Ready(Outcome::Truncated);
                }
                Err(outcome) => return Poll::Ready(outcome),
            }
            if !way.out.is_done(received) {
                waiting.for_caller = true;
                match ready!(way.out.poll_write(cx, &mut self.caller.stream, received)) {
                    Ok(_) => waiting.has_moved(),
                    Err(_) => return Poll::Ready(Outcome::CallerGone(None)),
                }
                continue;
            }
            let flushed = way.out.poll_flush(cx, &mut self.caller.stream);
            if matches!(flushed, Poll::Ready(Err(_))) {
                return Poll::Ready(Outcome::CallerGone(None));
            }
            match download.stage {
                // It was answered before it had said all. As its connection will be used again, the rest is passed on first.
                Stage::Ended if download.persists && self.upload.is_moving() => {
                    drop(ready!(flushed));
                    return Poll::Pending;
                }
                Stage::Ended | Stage::Switching => {
                    drop(ready!(flushed));
                    return Poll::Ready(download.finish(self.upload));
                }
                Stage::Silent | Stage::Head | Stage::Body => {}
            }
            match ready!(download.received.poll_read(cx, &mut self.server.stream)) {
                Ok(count) if count > 0 => download.waiting.has_moved(),
                ended => {
                    if let Some(outcome) = download.ended(&ended) {
                        return Poll::Ready(outcome);
                    }
                }
            }
        }
    }

    /// Turns what was received into what is to be written.
    fn digest(&mut self, download: &mut Download) -> Result<(), Outcome> {
        while matches!(download.stage, Stage::Silent | Stage::Head) {
            if !self.digest_head(download)? {
                return Ok(());
            }
        }
        if download.stage == Stage::Body {
            let exchange = self.exchange;
            let filled = download.way.fill(&mut download.received, |trailers| exchange.trailers(trailers));
            exchange.response_moved(filled.map_err(|_| Outcome::Truncated)?);
            if download.way.decoder.has_ended() {
                download.stage = Stage::Ended;
                if !download.persists {
                    self.caller.stream.begin_last();
                }
            }
        }
        Ok(())
    }

    /// Whether there was a whole head.
    fn digest_head(&mut self, download: &mut Download) -> Result<bool, Outcome> {
        const NONSENSE: Outcome = Outcome::Failed(ErrorCode::ProtocolError, Some(Failed::Reset));
        let bytes = download.received.unseen();
        let Some(length) = end_of_lines(bytes, &mut download.seen).map_err(|_| NONSENSE)? else {
            return if download.received.is_full() { Err(NONSENSE) } else { Ok(false) };
        };
        let mut head = ResponseHead::parse(bytes.get(..length).unwrap_or_default()).map_err(|_| NONSENSE)?;
        let patience = head.patience();
        if let Some(vain) = self.is_vain(&head, &download.way, &download.received) {
            let status = head.status;
            download.seen = 0;
            return Err(Outcome::InVain(vain, status));
        }
        // What was held back for something else is no request.
        let holds_none = match self.terms.wish {
            Wish::None => true,
            Wish::Upgrade => self.caller.input.is_empty(),
            Wish::Tunnel => false,
        };
        let how = Circumstances {
            exchange: self.exchange,
            terms: self.terms,
            is_from_mesh: self.flight.security() == Some(Security::Mutual),
            persists: download.persists && holds_none && self.upload.state != Sending::Refused,
            request_ended: self.upload.is_sent(),
        };
        let answer = response::pass(&mut head, how, &mut download.way.out.bytes).map_err(|_| NONSENSE)?;
        download.stage = match answer {
            Answer::Interim => Stage::Head,
            // Half a request cannot become something else.
            Answer::Switch if !self.upload.way.decoder.has_ended() => return Err(NONSENSE),
            Answer::Switch => {
                self.exchange.responded(head.status, &head.fields);
                self.flight.becomes_something_else();
                Stage::Switching
            }
            Answer::Final { framing, encoding, persists, server_persists } => {
                self.exchange.responded(head.status, &head.fields);
                self.patience.answered();
                if let Some(hedge) = &self.hedge {
                    hedge.answered();
                }
                if head.status < 500 {
                    self.flight.answered();
                } else if self.exchange.is_shed() {
                    self.flight.has_enough();
                }
                if let Some(patience) = patience {
                    self.flight.upstream().http1.promised(patience);
                }
                download.way.decoder = Decoder::new(framing);
                download.way.encoding = encoding;
                (download.persists, download.server_persists) = (persists, server_persists);
                Stage::Body
            }
        };
        drop(head);
        download.received.skip(length);
        download.seen = 0;
        Ok(true)
    }

    /// Whether another answer may be hoped for than one that begins so. An interim one may be half written already, and
    /// stands in the way of others.
    fn is_vain(&self, head: &ResponseHead<'_>, way: &Way, received: &Buffer) -> Option<Vain> {
        let may_be = self.heed == Heed::Answers && head.status >= 400 && self.upload.is_kept();
        if !may_be || !way.out.is_done(received) {
            return None;
        }
        answered_in_vain(self.exchange, head.status, &head.fields, self.flight.security())
    }

    /// Whether it is time to ask another endpoint beside this one.
    fn is_slow(&mut self, cx: &mut Context<'_>, download: &Download) -> bool {
        let Some(hedge) = &mut self.hedge else { return false };
        let is_silent = download.stage == Stage::Silent && download.received.is_empty();
        hedge.is_due(cx) && is_silent && self.upload.is_sent() && self.upload.is_kept()
    }

    /// Ready when the caller is gone.
    fn poll_caller(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.upload.way.decoder.has_ended() { self.caller.poll_gone(cx) } else { Poll::Pending }
    }
}

impl Download {
    /// Nothing has come yet. Whether the caller's connection is to be used again is known.
    pub(super) fn new(persists: bool) -> Self {
        Self::of(Buffer::default(), persists)
    }

    /// This has come.
    pub(super) fn of(received: Buffer, persists: bool) -> Self {
        Self {
            received,
            way: Way::new(Outgoing::new(), Framing::Empty),
            stage: Stage::Silent,
            seen: 0,
            persists,
            server_persists: false,
            waiting: Waiting::default(),
        }
    }

    /// Reads the first of it.
    pub(super) fn poll_first(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<io::Result<usize>> {
        self.received.poll_read(cx, stream)
    }

    /// Whether an answer of which nothing was passed on has come whole, after a request that was sent whole, so that another
    /// one can be sent.
    pub(super) fn is_all_there(&self, upload: &Upload) -> bool {
        let bytes = self.received.unseen();
        let Ok(Some(length)) = end_of_lines(bytes, &mut 0) else { return false };
        let Ok(head) = ResponseHead::parse(bytes.get(..length).unwrap_or_default()) else { return false };
        let body = bytes.len().saturating_sub(length) as u64;
        upload.is_sent() && head.persists && head.framing == Some(Framing::Length(body))
    }

    /// The endpoint's connection has ended; nothing where that is the body's end, too.
    fn ended(&mut self, ended: &io::Result<usize>) -> Option<Outcome> {
        let end = if ended.is_ok() { End::Clean } else { End::Broken };
        match self.stage {
            Stage::Silent if self.received.is_empty() => Some(Outcome::Unanswered(end)),
            Stage::Silent | Stage::Head => {
                Some(Outcome::Failed(ErrorCode::UpstreamReset, Some(Failed::Reset)))
            }
            Stage::Body if end == End::Clean && self.way.decoder.ends_with_connection() => {
                self.way.end_with_connection();
                self.stage = Stage::Ended;
                None
            }
            Stage::Body | Stage::Ended | Stage::Switching => Some(Outcome::Truncated),
        }
    }

    /// What becomes of the rest of a request that the endpoint takes no more of.
    fn refused(&self) -> Sending {
        let is_announced = self.persists && matches!(self.stage, Stage::Body | Stage::Ended);
        if is_announced { Sending::Dropping } else { Sending::Refused }
    }

    fn finish(&mut self, upload: &Upload) -> Outcome {
        if self.stage == Stage::Switching {
            return Outcome::Switched(std::mem::take(&mut self.received));
        }
        Outcome::Answered {
            persists: self.persists && matches!(upload.state, Sending::Sent | Sending::Dropped),
            server_persists: self.server_persists && upload.is_sent() && self.received.is_empty(),
        }
    }
}

impl Waiting {
    fn has_moved(&mut self) {
        self.moved = true;
        self.moved_now = true;
    }

    /// Ready when the caller has done nothing for too long.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.for_caller {
            return Poll::Pending;
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(CALLER_IDLE)));
        while timer.as_mut().poll(cx).is_ready() {
            if !std::mem::take(&mut self.moved) {
                return Poll::Ready(());
            }
            timer.as_mut().reset(Instant::now() + CALLER_IDLE);
        }
        Poll::Pending
    }
}
