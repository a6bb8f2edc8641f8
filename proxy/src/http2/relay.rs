//! One request of a caller: ruled on, sent to an endpoint, and what the endpoint says passed back as it comes.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, Response, request, response};
use weft_core::limits::Late;

use super::limits::{MAX_FIELDS, MAX_HEADER_BYTES};
use super::passage::Passage;
use super::pump::{Broke, Moved, Pump};
use super::refuse::{answer, refuse, refuse_explained};
use crate::failure::ErrorCode;
use crate::http::patience::allowed;
use crate::http::{Exchange, Patience, headers};
use crate::observe::Security;
use crate::session::{Answer, Ruling, Session};
use crate::ties::Tie;
use crate::upstream::http2::{Place, Waits, find};
use crate::upstream::{Attempts, Cluster, Hedge};
use crate::worker::Worker;

/// Requests that live no longer than this before they are taken back are an attacker's.
const AT_ONCE: Duration = Duration::from_millis(20);

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It was answered, or taken back as soon as it was there.
    Done,
    /// Its caller lost patience.
    TakenBack,
}

/// What became of a request whose caller took it back.
pub(super) fn taken_back(exchange: &Exchange) -> Fate {
    if exchange.age() > AT_ONCE { Fate::TakenBack } else { Fate::Done }
}

/// Carries one request, from its head to the last byte of its answer.
pub(super) async fn relay(
    session: Rc<Session>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) -> Fate {
    let (mut head, body) = request.into_parts();
    let objection = objection(&head);
    let Ruling { verdict, exchange, grpc, tie } = session.rule(&mut head);
    let kept = exchange.retry().map_or(0, |retry| retry.max_body);
    let allowed = if grpc { allowed(&head.headers) } else { None };
    let mut call = Call {
        worker: &session.worker,
        patience: Patience::new(exchange.limits(), allowed, exchange.age()),
        exchange,
        grpc,
        respond,
        upload: Pump::repeatable(body, kept),
        is_tunnel: head.method == Method::CONNECT,
        hedge: None,
        tie,
    };
    match objection.map_or(verdict, |code| Err(Answer::Error(code))) {
        Ok(cluster) => call.forward(&cluster, head).await,
        Err(Answer::Error(code)) => call.refuse(code),
        Err(Answer::Explained(explained)) => {
            refuse_explained(&mut call.respond, &call.exchange, *explained, call.grpc);
            Fate::Done
        }
        Err(Answer::Plain(response)) => {
            answer(&mut call.respond, &call.exchange, *response);
            Fate::Done
        }
    }
}

/// What is wrong with a request that its fields alone tell, each crumb of its cookies counted.
fn objection(head: &request::Parts) -> Option<ErrorCode> {
    let size = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 32;
    let is_too_large =
        head.headers.len() > MAX_FIELDS || head.headers.iter().map(size).sum::<usize>() > MAX_HEADER_BYTES;
    is_too_large.then_some(ErrorCode::HeaderTooLarge)
}

/// A request that is being carried.
pub(super) struct Call<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) exchange: Exchange,
    pub(super) grpc: bool,
    pub(super) respond: SendResponse<Bytes>,
    pub(super) upload: Pump,
    pub(super) patience: Patience,
    /// Whether it asks for bytes both ways, which wait until that is granted.
    pub(super) is_tunnel: bool,
    /// When another endpoint is asked beside the first, where a policy says so.
    pub(super) hedge: Option<Box<Hedge>>,
    /// What they rest on.
    pub(super) tie: Option<Tie>,
}

/// What became of an attempt.
pub(super) enum Heard {
    Answer(Response<RecvStream>),
    TakenBack(Reason),
    Late(Late),
    /// All of it has been sent, and it is time to ask another endpoint beside this one.
    Slow,
    Failed(h2::Error),
}

/// An answer that has begun.
pub(super) struct Answered {
    pub(super) place: Place,
    pub(super) head: response::Parts,
    pub(super) download: Pump,
    /// The way of the request that it answers.
    pub(super) sender: SendStream<Bytes>,
}

impl Call<'_> {
    pub(super) fn refuse(&mut self, code: ErrorCode) -> Fate {
        refuse(&mut self.respond, &self.exchange, code, self.grpc);
        Fate::Done
    }

    /// A place on a connection; none where the caller has taken the request back.
    pub(super) async fn find(
        &mut self,
        cluster: &Cluster,
        attempts: &mut Attempts,
    ) -> Result<Option<Place>, ErrorCode> {
        let mut finding = pin!(find(self.worker, cluster, attempts));
        poll_fn(|cx| {
            if let Poll::Ready(found) = finding.as_mut().poll(cx) {
                return Poll::Ready(found.map(Some));
            }
            if self.respond.poll_reset(cx).is_ready() {
                return Poll::Ready(Ok(None));
            }
            self.patience.poll(cx).map(|_| Err(ErrorCode::Timeout))
        })
        .await
    }

    /// Sends the request's body and waits for the response's head; informational ones pass as they come.
    pub(super) async fn hear(
        &mut self,
        place: &Place,
        response: &mut ResponseFuture,
        sender: &mut SendStream<Bytes>,
    ) -> Heard {
        poll_fn(|cx| {
            if let Some(reason) = self.poll_upload(cx, place, sender) {
                return Poll::Ready(Heard::TakenBack(reason));
            }
            if let Poll::Ready(heard) = self.poll_response(cx, response) {
                return Poll::Ready(heard);
            }
            if let Poll::Ready(reset) = self.respond.poll_reset(cx) {
                return Poll::Ready(Heard::TakenBack(reset.unwrap_or(Reason::CANCEL)));
            }
            if self.is_slow(cx) {
                return Poll::Ready(Heard::Slow);
            }
            self.patience.poll(cx).map(Heard::Late)
        })
        .await
    }

    fn is_slow(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(hedge) = &mut self.hedge else { return false };
        hedge.is_due(cx) && self.upload.has_passed() && self.upload.is_kept()
    }

    /// Moves the request's body; says why where the caller broke it off.
    fn poll_upload(
        &mut self,
        cx: &mut Context<'_>,
        place: &Place,
        sender: &mut SendStream<Bytes>,
    ) -> Option<Reason> {
        if self.is_tunnel || self.upload.has_passed() {
            return None;
        }
        let (exchange, patience) = (&self.exchange, &mut self.patience);
        let polled = self.upload.poll(cx, sender, &mut |moved| {
            patience.moved(exchange);
            if let Moved::Data(bytes) = moved {
                exchange.request_moved(bytes as u64);
            }
        });
        place.wait(if self.upload.is_blocked() { Waits::Yes } else { Waits::No });
        match polled {
            Poll::Ready(Err(Broke::Source(error))) => return Some(error.reason().unwrap_or(Reason::CANCEL)),
            // Why, the response says.
            Poll::Ready(Err(Broke::Sink)) | Poll::Pending => {}
            Poll::Ready(Ok(())) => {}
        }
        None
    }

    pub(super) fn poll_response(
        &mut self,
        cx: &mut Context<'_>,
        response: &mut ResponseFuture,
    ) -> Poll<Heard> {
        loop {
            match response.poll_informational(cx) {
                Poll::Ready(Some(Ok(interim))) => {
                    // Fails only where the caller is gone, which is noticed where its resets are.
                    let _ = self.respond.send_informational(interim);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Heard::Failed(error)),
                Poll::Ready(None) => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Pin::new(response).poll(cx).map(|answer| answer.map_or_else(Heard::Failed, Heard::Answer))
    }

    /// Passes the response on, and what is left of the request.
    pub(super) async fn pass(mut self, answered: Answered) -> Fate {
        let Answered { mut place, mut head, download, sender } = answered;
        if !head.status.is_server_error() {
            place.answered();
        }
        if place.security() != Some(Security::Mutual) {
            headers::disown(&mut head.headers);
        }
        self.exchange.amend_response(&mut head.headers);
        self.exchange.responded(head.status.as_u16(), &head.headers);
        if self.exchange.is_shed() {
            place.has_enough();
        }
        self.upload.settle();
        self.patience.answered();
        self.patience.moved(&self.exchange);
        match self.is_tunnel {
            true if head.status.is_success() => self.patience.opened(),
            true => self.upload.stop(),
            false => {}
        }
        if download.has_passed() {
            self.exchange.response_ended();
        }
        match self.respond.send_response(Response::from_parts(head, ()), download.has_passed()) {
            Ok(caller) => {
                let Self { exchange, grpc, upload, patience, tie, .. } = self;
                let upstream = sender;
                let stalled = None;
                Passage { exchange, grpc, patience, place, upload, upstream, download, caller, stalled, tie }
                    .await
            }
            // The caller is gone; what is dropped here cancels the stream to the upstream.
            Err(_) => taken_back(&self.exchange),
        }
    }
}
