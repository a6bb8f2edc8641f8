//! A request and the attempts it is given: another endpoint where one cannot be reached, another connection where the one
//! it was sent on turns out to have been closed. What may have been seen is not sent again, except where that is harmless.

use std::future::poll_fn;
use std::task::Context;
use std::time::Duration;

use http::Response;
use tokio::io::AsyncWriteExt as _;

use super::buffer::Buffer;
use super::connection::{After, Caller};
use super::framing::Framing;
use super::head::{Terms, Wish};
use super::outgoing::Outgoing;
use super::refuse::{Plain, Refusal};
use super::transit::{End, Outcome, Transit, Upload};
use super::way::KEPT;
use crate::failure::ErrorCode;
use crate::http::{Exchange, Patience};
use crate::observe::Security;
use crate::session::{Answer, Ruling, Session};
use crate::stream::{Reset as _, Stream};
use crate::tcp;
use crate::upstream::http1::{self, Connection, Repeat};
use crate::upstream::{Attempts, Cluster, InFlight};

/// A request whose head has been read.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) terms: Terms,
    pub(super) upload: Upload,
    /// How long its head was waited for once it had begun.
    pub(super) waited: Duration,
}

impl Request {
    /// Whether it may be sent once more though someone may have seen it, and can be.
    fn may_repeat(&self) -> bool {
        let is_kept = match self.terms.framing {
            Framing::Empty => true,
            Framing::Length(length) => length.saturating_add(self.upload.way.out.bytes.len() as u64) <= KEPT,
            Framing::Chunked | Framing::UntilClose => false,
        };
        self.terms.is_idempotent && is_kept
    }
}

/// Two connections that have become something else.
#[derive(Debug)]
pub(super) struct Tunnel {
    server: Stream,
    greeting: Buffer,
    exchange: Exchange,
    _flight: Box<InFlight>,
}

/// Does with a request what is ruled of it.
pub(super) async fn forward(
    session: &Session,
    caller: &mut Caller,
    mut request: Request,
    ruling: Ruling,
) -> After {
    let Ruling { verdict, exchange, grpc } = ruling;
    let (code, fields) = match verdict {
        Ok(cluster) => match attempt(session, caller, &mut request, &exchange, &cluster).await {
            Ok(Passed::On(after)) => return after,
            Ok(Passed::Into(server, greeting, flight)) => {
                return After::Tunnel(Box::new(Tunnel { server, greeting, exchange, _flight: flight }));
            }
            Err(code) => (code, None),
        },
        Err(Answer::Error(code)) => (code, None),
        Err(Answer::Explained(explained)) => (explained.code, Some(explained.fields)),
        Err(Answer::Plain(response)) => return answer(session, caller, &request, &exchange, response).await,
    };
    exchange.refused(if grpc { 200 } else { code.status() }, code);
    let terms = Some(&request.terms);
    // What a malformed request's bytes mean is uncertain, and so is what follows them.
    let is_sound = !matches!(code, ErrorCode::BadRequest | ErrorCode::HeaderTooLarge);
    let persists = is_sound && may_persist(session, &request.terms) && ends_here(caller, &request);
    caller.say(Refusal { code, fields: fields.as_ref(), terms, grpc, persists }).await
}

/// Answers in the mesh's name where nothing is wrong.
async fn answer(
    session: &Session,
    caller: &mut Caller,
    request: &Request,
    exchange: &Exchange,
    mut response: Box<Response<()>>,
) -> After {
    exchange.amend_response(response.headers_mut());
    exchange.answered_by_mesh(response.status().as_u16());
    let persists = may_persist(session, &request.terms) && ends_here(caller, request);
    let mut out = Outgoing::new();
    Plain { response: &response, terms: &request.terms, persists }.write(&mut out.bytes);
    caller.answer(out, if persists { After::Next } else { After::Close }).await
}

enum Passed {
    On(After),
    Into(Stream, Buffer, Box<InFlight>),
}

/// Sends a request until an endpoint has answered it, or none will.
async fn attempt(
    session: &Session,
    caller: &mut Caller,
    request: &mut Request,
    exchange: &Exchange,
    cluster: &Cluster,
) -> Result<Passed, ErrorCode> {
    let worker = &*session.worker;
    let mut attempts = Attempts::of(exchange);
    let mut patience = Patience::new(exchange.limits(), None, exchange.age() + request.waited);
    let mut repeated = false;
    loop {
        let mut flight = patience.allows(attempts.pick(worker, cluster)).await?;
        let is_mutual = flight.security() == Some(Security::Mutual);
        let repeat = if is_mutual || request.may_repeat() { Repeat::Possible } else { Repeat::Impossible };
        let taking = |cx: &mut Context<'_>| flight.upstream().http1.poll_take(cx, repeat);
        let pooled = if repeated { None } else { poll_fn(taking).await };
        let mut server = match pooled {
            Some(server) => server,
            // Boxed, for every request's future would be as large as a handshake's, and most find a connection.
            None => match patience.allows(Box::pin(http1::connect(worker, &mut flight))).await {
                Ok(server) => server,
                Err(ErrorCode::Timeout) => return Err(ErrorCode::Timeout),
                Err(code) => {
                    attempts.failed(flight, code)?;
                    continue;
                }
            },
        };
        exchange.sent(&mut flight);
        patience.begin_try();
        let before = server.sent;
        let transit = Transit {
            terms: &request.terms,
            exchange,
            caller: &mut *caller,
            server: &mut server,
            upload: &mut request.upload,
            flight: &mut flight,
            patience: &mut patience,
            persists: may_persist(session, &request.terms),
        };
        let end = match transit.run().await {
            Outcome::Unanswered(end) => end,
            Outcome::Switched(greeting) => {
                return Ok(Passed::Into(server.stream, greeting, Box::new(flight)));
            }
            Outcome::Failed(code) => {
                server.stream.reset();
                return Err(code);
            }
            outcome => {
                return Ok(Passed::On(conclude(outcome, caller, &flight, server, exchange, request).await));
            }
        };
        let seen = server.sent > before && !saw_nothing(&server, before, is_mutual, end);
        flight.upstream().http1.closed_on(&server, flight.begun());
        let may_repeat = request.terms.is_idempotent && server.is_reused() && !repeated;
        tracing::debug!(?end, seen, reused = server.is_reused(), "an endpoint ended the connection unasked");
        if !request.upload.is_kept() || (seen && !may_repeat) {
            return Err(ErrorCode::UpstreamReset);
        }
        repeated |= seen;
        request.upload.again();
        // A pool of closed connections is emptied one by one; new ones that fail are counted.
        if server.is_reused() {
            exchange.unsent();
            attempts.avoid(flight);
        } else {
            attempts.failed(flight, ErrorCode::UpstreamReset)?;
        }
    }
}

/// Whether nobody can have seen what was sent on a connection that ended without an answer.
///
/// Our own sidecars end a connection in order only when they have not begun what came on it. Of others the kernel tells:
/// what theirs has not acknowledged has not reached the program.
fn saw_nothing(server: &Connection, before: u64, is_mutual: bool, end: End) -> bool {
    if is_mutual {
        return end == End::Clean;
    }
    // The kernel counts the opening of the connection as a byte.
    weft_sys::bytes_acked(server.stream.tcp()).is_ok_and(|acked| acked <= before + 1)
}

/// After an exchange that was begun to be answered, or whose caller is gone.
async fn conclude(
    outcome: Outcome,
    caller: &mut Caller,
    flight: &InFlight,
    server: Connection,
    exchange: &Exchange,
    request: &Request,
) -> After {
    match outcome {
        Outcome::Answered { persists, server_persists } => {
            exchange.response_ended();
            if server_persists {
                flight.upstream().http1.park(server);
            } else if !request.upload.is_sent() {
                // The request never ended, and must not look so.
                server.stream.reset();
            }
            if persists && !caller.has_ended {
                After::Next
            } else if caller.has_ended || ends_as_asked(caller, request) {
                After::End
            } else {
                After::Close
            }
        }
        Outcome::CallerGone(malformed) => {
            server.stream.reset();
            match malformed {
                Some(malformed) if !exchange.has_response() => {
                    exchange.refused(malformed.code().status(), malformed.code());
                    let terms = Some(&request.terms);
                    let code = malformed.code();
                    caller.say(Refusal { code, fields: None, terms, grpc: false, persists: false }).await
                }
                _ => After::Broken,
            }
        }
        Outcome::Truncated | Outcome::Late => {
            let late = matches!(outcome, Outcome::Late);
            exchange.failed(if late { ErrorCode::Timeout } else { ErrorCode::UpstreamReset });
            server.stream.reset();
            After::Broken
        }
        Outcome::Switched(_) | Outcome::Unanswered(_) | Outcome::Failed(_) => After::Broken,
    }
}

/// Whether the caller's connection is to be used again, as far as the request and we say.
fn may_persist(session: &Session, terms: &Terms) -> bool {
    let leaving = &session.worker.leaving;
    terms.persists
        && !session.is_spent()
        && !leaving.announced.is_draining()
        && !leaving.closing.is_draining()
}

/// Whether the client said that this request is its last, and has kept to it.
fn ends_as_asked(caller: &Caller, request: &Request) -> bool {
    !request.terms.persists && request.upload.is_sent() && caller.input.is_empty()
}

/// Whether nothing of a refused request is still to come.
fn ends_here(caller: &Caller, request: &Request) -> bool {
    request.upload.way.decoder.has_ended() && request.terms.wish == Wish::None && !caller.has_ended
}

impl Tunnel {
    /// Carries bytes both ways until both have ended.
    pub(super) async fn run(mut self, caller: Caller) {
        let Caller { mut stream, input, .. } = caller;
        let held = async {
            stream.write_all(self.greeting.unseen()).await?;
            stream.flush().await?;
            self.server.write_all(input.unseen()).await?;
            self.server.flush().await
        };
        if held.await.is_err() {
            stream.reset();
            return self.server.reset();
        }
        let exchange = &self.exchange;
        exchange.response_moved(self.greeting.unseen().len() as u64);
        exchange.request_moved(input.unseen().len() as u64);
        drop((self.greeting, input));
        let idle = exchange.limits().and_then(|limits| limits.idle).unwrap_or(tcp::IDLE);
        let copied = tcp::copy(
            stream,
            self.server,
            || idle,
            |moved| {
                exchange.request_moved(moved.forth);
                exchange.response_moved(moved.back);
            },
        );
        if let Err(error) = copied.await {
            tracing::debug!(%error, "an upgraded connection broke");
        }
    }
}
