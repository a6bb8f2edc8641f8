//! One request of a caller: ruled on, sent to an endpoint, and what the endpoint says passed back as it comes.
//!
//! What reached nobody is sent again: a stream above the last that a closing connection took (RFC 9113 section 6.8), or
//! one that was refused (section 8.7). A reset is passed on as the reset that it is, either way.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::ext::Protocol;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version, request};

use super::limits::{MAX_FIELDS, MAX_HEADER_BYTES};
use super::passage::Passage;
use super::pump::{Broke, Moved, Pump};
use super::refuse::{answer, refuse, refuse_as, refuse_explained};
use super::replica::Replica;
use super::saved::Saved;
use crate::failure::ErrorCode;
use crate::http::patience::allowed;
use crate::http::{Exchange, Patience, headers};
use crate::mirror::{Copying, Head};
use crate::observe::Security;
use crate::session::{Answer, Ruling, Session};
use crate::upstream::http2::{Place, Waits, find};
use crate::upstream::{Attempts, Cluster};
use crate::worker::Worker;

/// How often a request is sent again that reached nobody.
const REPEATS: u32 = 4;

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
    let Ruling { verdict, exchange, grpc } = session.rule(&mut head);
    let allowed = if grpc { allowed(&head.headers) } else { None };
    let mut call = Call {
        worker: &session.worker,
        patience: Patience::new(exchange.limits(), allowed, exchange.age()),
        exchange,
        grpc,
        respond,
        upload: Pump::repeatable(body),
        is_tunnel: head.method == Method::CONNECT,
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
struct Call<'a> {
    worker: &'a Rc<Worker>,
    exchange: Exchange,
    grpc: bool,
    respond: SendResponse<Bytes>,
    upload: Pump,
    patience: Patience,
    /// Whether it asks for bytes both ways, which wait until that is granted.
    is_tunnel: bool,
}

/// What became of an attempt.
enum Heard {
    Answer(Response<RecvStream>),
    TakenBack(Reason),
    Late,
    Failed(h2::Error),
}

/// What to do about a failed attempt.
enum Remedy {
    Repeat,
    Reset(Reason),
    Refuse(ErrorCode),
}

impl Call<'_> {
    fn refuse(&mut self, code: ErrorCode) -> Fate {
        refuse(&mut self.respond, &self.exchange, code, self.grpc);
        Fate::Done
    }

    /// Sends the request to one of `cluster`'s endpoints, until one has it.
    async fn forward(mut self, cluster: &Cluster, mut head: request::Parts) -> Fate {
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
        let (mut attempts, mut repeats) = (Attempts::of(&self.exchange), 0);
        loop {
            if self.grpc && !self.patience.tell(&mut head.headers) {
                return self.refuse(ErrorCode::Timeout);
            }
            let mut place = match self.find(cluster, &mut attempts).await {
                Ok(Some(place)) => place,
                Ok(None) => return taken_back(&self.exchange),
                Err(code) => return self.refuse(code),
            };
            place.tell(&self.exchange);
            self.patience.begin_try();
            if head.extensions.get::<Protocol>().is_some() && !place.takes_protocols().await {
                // What it asks for is not there (RFC 8441 section 3), and no fault of anyone's.
                let code = ErrorCode::ProtocolError;
                refuse_as(&mut self.respond, &self.exchange, StatusCode::NOT_IMPLEMENTED, code);
                return Fate::Done;
            }
            let error = match place.send(Request::from_parts(head, ()), self.upload.has_passed()) {
                Ok((mut response, mut sender)) => match self.hear(&place, &mut response, &mut sender).await {
                    Heard::Answer(answer) => return self.pass(place, answer, sender).await,
                    Heard::TakenBack(reason) => {
                        sender.send_reset(reason);
                        return taken_back(&self.exchange);
                    }
                    Heard::Late => {
                        sender.send_reset(Reason::CANCEL);
                        return self.refuse(ErrorCode::Timeout);
                    }
                    Heard::Failed(error) => error,
                },
                Err(error) => error,
            };
            tracing::debug!(%error, "a stream to an upstream failed");
            match self.remedy(&error, &place, saved.method(), repeats) {
                Remedy::Repeat => {
                    repeats += 1;
                    head = saved.restore();
                    attempts.avoid(place.into_flight());
                }
                Remedy::Reset(reason) => {
                    self.exchange.failed(ErrorCode::UpstreamReset);
                    self.respond.send_reset(reason);
                    return Fate::Done;
                }
                Remedy::Refuse(code) => return self.refuse(code),
            }
        }
    }

    /// A place on a connection; none where the caller has taken the request back.
    async fn find(&mut self, cluster: &Cluster, attempts: &mut Attempts) -> Result<Option<Place>, ErrorCode> {
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
    async fn hear(
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
            self.patience.poll(cx).map(|_| Heard::Late)
        })
        .await
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
            patience.moved();
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

    fn poll_response(&mut self, cx: &mut Context<'_>, response: &mut ResponseFuture) -> Poll<Heard> {
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

    fn remedy(&mut self, error: &h2::Error, place: &Place, method: &Method, repeats: u32) -> Remedy {
        let reason = error.reason();
        let is_refused = error.is_remote() && (error.is_go_away() || reason == Some(Reason::REFUSED_STREAM));
        if is_refused {
            place.refused();
            return match self.upload.rewind() && repeats < REPEATS {
                true => Remedy::Repeat,
                false => Remedy::Reset(Reason::REFUSED_STREAM),
            };
        }
        match reason {
            Some(reason) if error.is_reset() && error.is_remote() => Remedy::Reset(reason),
            Some(_) => Remedy::Refuse(ErrorCode::ProtocolError),
            // A connection that ended without a word may have been closed in the very moment that it was used; what may
            // have been seen is only repeated where that does no harm (RFC 9110 section 9.2.2).
            None if error.is_io() => {
                let is_repeatable = !place.is_new() && repeats == 0 && is_idempotent(method);
                match is_repeatable && self.upload.rewind() {
                    true => Remedy::Repeat,
                    false => Remedy::Refuse(ErrorCode::UpstreamReset),
                }
            }
            None => Remedy::Refuse(ErrorCode::BadRequest),
        }
    }

    /// Passes the response on, and what is left of the request.
    async fn pass(
        mut self,
        mut place: Place,
        answer: Response<RecvStream>,
        sender: SendStream<Bytes>,
    ) -> Fate {
        let (mut head, body) = answer.into_parts();
        if !head.status.is_server_error() {
            place.answered();
        }
        if place.security() != Some(Security::Mutual) {
            headers::disown(&mut head.headers);
        }
        self.exchange.amend_response(&mut head.headers);
        self.exchange.responded(head.status.as_u16(), &head.headers);
        self.upload.settle();
        self.patience.answered();
        self.patience.moved();
        match self.is_tunnel {
            true if head.status.is_success() => self.patience.opened(),
            true => self.upload.stop(),
            false => {}
        }
        let download = Pump::new(body);
        if download.has_passed() {
            self.exchange.response_ended();
        }
        match self.respond.send_response(Response::from_parts(head, ()), download.has_passed()) {
            Ok(caller) => {
                let Self { exchange, grpc, upload, patience, .. } = self;
                let upstream = sender;
                let stalled = None;
                Passage { exchange, grpc, patience, place, upload, upstream, download, caller, stalled }.await
            }
            // The caller is gone; what is dropped here cancels the stream to the upstream.
            Err(_) => taken_back(&self.exchange),
        }
    }
}

fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE].contains(method)
}
