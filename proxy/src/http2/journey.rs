//! The tries that a request is given.
//!
//! What reached nobody is sent again: a stream above the last that a closing connection took (RFC 9113 section 6.8), or
//! one that was refused (section 8.7). A reset is passed on as the reset that it is, either way; and whatever a policy has
//! tried again is, before.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use h2::ext::Protocol;
use h2::{Reason, RecvStream};
use http::{Method, Request, Response, StatusCode, Version, request};
use tokio::time::sleep;
use weft_core::classify;
use weft_core::limits::Late;
use weft_core::retry::{Failed, Twice};

use super::pump::Pump;
use super::race::Running;
use super::refuse::refuse_as;
use super::relay::{Answered, Call, Fate, Heard, taken_back};
use super::replica::Replica;
use super::saved::Saved;
use crate::failure::ErrorCode;
use crate::http::{Vain, answered_in_vain, trace};
use crate::mirror::{Copying, Head};
use crate::upstream::http2::Place;
use crate::upstream::{Attempts, Cluster, Hedge};

/// How often a request is sent again that reached nobody.
const REPEATS: u32 = 4;

/// How long the head of a call's answer is held back where its status may still be a reason to try again.
const HOLD: Duration = Duration::from_secs(1);

/// Where a request has been.
pub(super) struct Journey<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) attempts: Attempts,
    pub(super) saved: Saved,
    /// How often it was sent again for it had reached nobody.
    repeats: u32,
    /// An answer that another one is hoped for instead of.
    spare: Option<Answered>,
}

/// What to do about a failed attempt.
enum Remedy {
    Repeat,
    Reset(Reason),
    Refuse(ErrorCode),
}

/// What to do after a try whose answer is not passed on.
enum Next {
    Try,
    Ended(Fate),
}

impl Call<'_> {
    /// Sends the request to one of `cluster`'s endpoints, until one has answered it or none will.
    pub(super) async fn forward(mut self, cluster: &Rc<Cluster>, mut head: request::Parts) -> Fate {
        if head.uri.scheme().is_none() {
            // The h2 crate writes a request without `:authority` only where it came by another version.
            head.version = Version::HTTP_11;
        }
        let saved = Saved::of(&head);
        let mirrors = self.exchange.take_mirrors();
        if !mirrors.is_empty() && !self.is_tunnel {
            let head = Head::Http2(Replica::of(&head));
            self.upload.copy(Copying::begin(self.worker, mirrors, head));
        }
        let attempts = Attempts::of(&self.exchange);
        if !self.is_tunnel {
            self.hedge = Hedge::of(&self.exchange, cluster);
        }
        let mut journey = Journey { cluster, attempts, saved, repeats: 0, spare: None };
        loop {
            match self.attempt(&mut journey, head).await {
                Ok(answered) => return self.pass(answered).await,
                Err(Next::Try) => head = journey.saved.restore(),
                Err(Next::Ended(fate)) => return fate,
            }
        }
    }

    /// Sends it once; the answer that is to be passed on.
    async fn attempt(
        &mut self,
        journey: &mut Journey<'_>,
        mut head: request::Parts,
    ) -> Result<Answered, Next> {
        self.patience.end_try();
        if self.grpc && !self.patience.tell(&mut head.headers) {
            return self.give_up(journey, ErrorCode::Timeout);
        }
        let mut place = match self.find(journey.cluster, &mut journey.attempts).await {
            Ok(Some(place)) => place,
            Ok(None) => return Err(Next::Ended(taken_back(&self.exchange))),
            Err(code) => return self.give_up(journey, code),
        };
        if journey.spare.take().is_some() {
            self.upload.rewind();
        }
        place.tell(&self.exchange);
        // What was kept has the first one's span.
        let (first, (_, now)) = (self.exchange.first_span(), self.exchange.spans());
        if first != now {
            trace::rename(&mut head.headers, first, now);
        }
        self.patience.begin_try();
        if head.extensions.get::<Protocol>().is_some() && !place.takes_protocols().await {
            // What it asks for is not there (RFC 8441 section 3), and no fault of anyone's.
            let code = ErrorCode::ProtocolError;
            refuse_as(&mut self.respond, &self.exchange, StatusCode::NOT_IMPLEMENTED, code);
            return Err(Next::Ended(Fate::Done));
        }
        let error = match place.send(Request::from_parts(head, ()), self.upload.has_passed()) {
            Ok((response, sender)) => {
                let mut running = Running { place, response, sender };
                let mut heard = self.hear(&running.place, &mut running.response, &mut running.sender).await;
                if matches!(heard, Heard::Slow) {
                    // Boxed, for every request's future would have room for what few need.
                    (running, heard) = Box::pin(self.race(journey, running)).await;
                }
                let Running { sender, .. } = &mut running;
                match heard {
                    Heard::Answer(answer) => return self.answered(journey, running, answer).await,
                    Heard::TakenBack(reason) => {
                        sender.send_reset(reason);
                        return Err(Next::Ended(taken_back(&self.exchange)));
                    }
                    Heard::Late(late) => {
                        sender.send_reset(Reason::CANCEL);
                        let vain = (late == Late::Try).then(|| Failed::Late.into());
                        let instead = Remedy::Refuse(ErrorCode::Timeout);
                        return Err(Box::pin(self.replace(journey, running.place, vain, instead)).await);
                    }
                    // It is said once.
                    Heard::Slow => return Err(Next::Ended(self.refuse(ErrorCode::Timeout))),
                    Heard::Failed(error) => {
                        place = running.place;
                        error
                    }
                }
            }
            Err(error) => error,
        };
        tracing::debug!(%error, "a stream to an upstream failed");
        match self.remedy(&error, &place, journey.saved.method(), journey.repeats) {
            Remedy::Repeat => {
                journey.repeats += 1;
                place.give_way(&mut journey.attempts);
                Err(Next::Try)
            }
            Remedy::Refuse(ErrorCode::BadRequest) => Err(Next::Ended(self.refuse(ErrorCode::BadRequest))),
            remedy => {
                let vain = Some(Failed::Reset.into());
                Err(Box::pin(self.replace(journey, place, vain, remedy)).await)
            }
        }
    }

    /// No endpoint is found. Where one has answered, that is what the caller gets.
    fn give_up(&mut self, journey: &mut Journey<'_>, code: ErrorCode) -> Result<Answered, Next> {
        match journey.spare.take() {
            Some(answered) => Ok(answered),
            None => Err(Next::Ended(self.refuse(code))),
        }
    }

    /// Another try after one that was not answered, or what is to be done instead.
    async fn replace(
        &mut self,
        journey: &mut Journey<'_>,
        mut place: Place,
        vain: Option<Vain>,
        instead: Remedy,
    ) -> Next {
        place.give_way(&mut journey.attempts);
        drop(place);
        if let Some(vain) = vain
            && let Some(pause) = self.again(journey, vain)
        {
            if self.is_left_during(pause).await {
                return Next::Ended(taken_back(&self.exchange));
            }
            self.upload.rewind();
            return Next::Try;
        }
        match instead {
            Remedy::Reset(reason) => {
                self.exchange.failed(ErrorCode::UpstreamReset);
                self.respond.send_reset(reason);
                Next::Ended(Fate::Done)
            }
            Remedy::Refuse(code) => Next::Ended(self.refuse(code)),
            Remedy::Repeat => Next::Try,
        }
    }

    /// An answer has begun: it is passed on, unless another one is hoped for.
    async fn answered(
        &mut self,
        journey: &mut Journey<'_>,
        running: Running,
        answer: Response<RecvStream>,
    ) -> Result<Answered, Next> {
        if let Some(hedge) = &self.hedge {
            hedge.answered();
        }
        let Running { place, sender, .. } = running;
        let (head, body) = answer.into_parts();
        let mut answered = Answered { place, head, download: Pump::new(body), sender };
        if self.may_hold(&answered) && Box::pin(self.is_left_before_first(&mut answered)).await {
            return Err(Next::Ended(taken_back(&self.exchange)));
        }
        let Some(vain) = self.is_vain(&answered) else { return Ok(answered) };
        let is_hopeless = vain == Vain::Unreached && !journey.cluster.has_another(answered.place.upstream());
        if is_hopeless {
            return Ok(answered);
        }
        let Some(pause) = self.again(journey, vain) else { return Ok(answered) };
        self.exchange.answered_in_vain(answered.head.status.as_u16(), grpc_status(&answered));
        answered.place.give_way(&mut journey.attempts);
        journey.spare = Some(answered);
        if Box::pin(self.is_left_during(pause)).await {
            return Err(Next::Ended(taken_back(&self.exchange)));
        }
        Err(Next::Try)
    }

    /// Whether another answer may be hoped for.
    fn is_vain(&self, answered: &Answered) -> Option<Vain> {
        let Answered { head, place, download, .. } = answered;
        if !self.upload.is_kept() || (head.status.is_success() && !self.grpc) {
            return None;
        }
        let fields = download.only_trailers().unwrap_or(&head.headers);
        answered_in_vain(&self.exchange, head.status.as_u16(), fields, place.security())
    }

    fn again(&mut self, journey: &mut Journey<'_>, vain: Vain) -> Option<Duration> {
        if !self.upload.is_kept() {
            return None;
        }
        let left = self.patience.remaining();
        journey.attempts.again(self.worker, journey.cluster, &self.exchange, vain, left)
    }

    /// Whether a call's status may still come, and be a reason to try again. While its caller has not said everything it may
    /// wait for this head to go on; it is then not held back.
    fn may_hold(&self, answered: &Answered) -> bool {
        self.grpc
            && self.exchange.retry().is_some_and(|retry| retry.heeds_grpc())
            && self.upload.has_passed()
            && !answered.download.has_passed()
    }

    /// Waits for the first of an answer after its head; whether the caller has gone meanwhile.
    async fn is_left_before_first(&mut self, answered: &mut Answered) -> bool {
        let mut held = pin!(sleep(HOLD));
        poll_fn(|cx| {
            let is_late = self.patience.poll(cx).is_ready() || held.as_mut().poll(cx).is_ready();
            if answered.download.poll_first(cx).is_ready() || is_late {
                return Poll::Ready(false);
            }
            self.respond.poll_reset(cx).map(|_| true)
        })
        .await
    }

    /// Waits; whether the caller has gone meanwhile.
    async fn is_left_during(&mut self, pause: Duration) -> bool {
        if pause.is_zero() {
            return false;
        }
        let mut over = pin!(sleep(pause));
        let left = poll_fn(|cx| match over.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(false),
            Poll::Pending => self.respond.poll_reset(cx).map(|_| true),
        })
        .await;
        self.patience.moved(&self.exchange);
        left
    }

    fn remedy(&mut self, error: &h2::Error, place: &Place, method: &Method, repeats: u32) -> Remedy {
        let reason = error.reason();
        let is_refused = error.is_remote() && (error.is_go_away() || reason == Some(Reason::REFUSED_STREAM));
        if is_refused {
            place.refused();
            return match repeats < REPEATS && self.upload.rewind() {
                true => Remedy::Repeat,
                false => Remedy::Reset(Reason::REFUSED_STREAM),
            };
        }
        match reason {
            Some(reason) if error.is_reset() && error.is_remote() => Remedy::Reset(reason),
            Some(_) => Remedy::Refuse(ErrorCode::ProtocolError),
            // A connection that ended without a word may have been closed in the very moment that it was used; what may
            // have been seen is only repeated where that does no harm.
            None if error.is_io() => {
                let is_harmless = Twice::of(method.as_str()) == Twice::Harmless;
                let is_repeatable = !place.is_new() && repeats == 0 && is_harmless;
                match is_repeatable && self.upload.rewind() {
                    true => Remedy::Repeat,
                    false => Remedy::Refuse(ErrorCode::UpstreamReset),
                }
            }
            None => Remedy::Refuse(ErrorCode::BadRequest),
        }
    }
}

/// The status of gRPC that an answer has told so far.
fn grpc_status(answered: &Answered) -> Option<u8> {
    let fields = answered.download.only_trailers().unwrap_or(&answered.head.headers);
    classify::grpc_status(fields.get("grpc-status")?.as_bytes())
}
