//! The tries that a request is given: another endpoint where one cannot be reached, another connection where the one it was
//! sent on turns out to have been closed, and what a policy has tried again. What may have been seen is not sent again, except
//! where that is harmless.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::sleep;
use weft_core::retry::Failed;

use super::Malformed;
use super::buffer::Buffer;
use super::connection::{After, Caller};
use super::forward::{Request, may_persist};
use super::refuse::Refusal;
use super::transit::{Download, End, Heed, Outcome, Transit};
use crate::failure::ErrorCode;
use crate::http::{Exchange, Patience, Vain};
use crate::observe::Security;
use crate::session::Session;
use crate::stream::{Link as _, Stream};
use crate::upstream::http1::{self, Connection, Repeat};
use crate::upstream::{Attempts, Cluster, Hedge, InFlight};

/// What came of a request.
pub(super) enum Passed {
    /// It was carried to an end.
    On(After),
    /// Its connections have become something else.
    Into(Stream, Buffer, Box<InFlight>),
}

/// A request on its way.
pub(super) struct Journey<'a> {
    pub(super) session: &'a Session,
    pub(super) caller: &'a mut Caller,
    pub(super) request: &'a mut Request,
    pub(super) exchange: &'a Exchange,
    pub(super) cluster: &'a Cluster,
    pub(super) attempts: Attempts,
    pub(super) patience: Patience,
    /// Whether it was sent again though it may have been seen.
    repeated: bool,
    /// When another endpoint is asked beside the first, where a policy says so.
    pub(super) hedge: Option<Box<Hedge>>,
}

/// A connection to an endpoint, and what has come of it.
pub(super) struct Link {
    pub(super) flight: InFlight,
    pub(super) server: Connection,
    /// Bytes that had been sent on it before.
    pub(super) before: u64,
    pub(super) download: Download,
    pub(super) heed: Heed,
}

/// How it goes on after a try.
pub(super) enum Next {
    Link(Box<Link>),
    /// The caller has gone.
    Gone,
}

impl<'a> Journey<'a> {
    pub(super) fn new(
        session: &'a Session,
        caller: &'a mut Caller,
        request: &'a mut Request,
        exchange: &'a Exchange,
        cluster: &'a Rc<Cluster>,
    ) -> Self {
        let attempts = Attempts::of(exchange);
        let patience = match exchange.limits() {
            None => Patience::default(),
            limits => Patience::new(limits, None, exchange.age() + request.waited),
        };
        let (repeated, hedge) = (false, Hedge::of(exchange, cluster));
        Self { session, caller, request, exchange, cluster, attempts, patience, repeated, hedge }
    }

    /// Sends the request until an endpoint has answered it, or none will.
    pub(super) async fn run(&mut self) -> Result<Passed, ErrorCode> {
        let mut link = self.link().await?;
        loop {
            let next = match self.transit(&mut link).await {
                // Boxed, for every request's future would have room for what few need.
                Outcome::Unanswered(end) => Box::pin(self.unanswered(link, end)).await?,
                Outcome::Switched(greeting) => {
                    return Ok(Passed::Into(link.server.stream, greeting, Box::new(link.flight)));
                }
                Outcome::Failed(code, failed) => {
                    link.server.stream.reset();
                    self.attempts.avoid(&mut link.flight);
                    Box::pin(self.replace(failed.map(Vain::from))).await.ok_or(code)?
                }
                Outcome::Slow => Box::pin(self.race(link)).await,
                Outcome::InVain(vain, status) => Box::pin(self.in_vain(link, vain, status)).await,
                outcome => {
                    return Ok(Passed::On(match self.conclude(outcome, link) {
                        Concluded::With(after) => after,
                        Concluded::Malformed(malformed) => self.turn_away(malformed).await,
                    }));
                }
            };
            match next {
                Next::Link(next) => link = *next,
                Next::Gone => return Ok(Passed::On(After::Broken)),
            }
        }
    }

    /// A connection to one of the endpoints.
    async fn link(&mut self) -> Result<Link, ErrorCode> {
        let worker = &*self.session.worker;
        self.patience.end_try();
        loop {
            let mut flight = self.patience.allows(self.attempts.pick(worker, self.cluster)).await?;
            let is_mutual = flight.security() == Some(Security::Mutual);
            let repeat = match is_mutual || self.request.may_repeat() {
                true => Repeat::Possible,
                false => Repeat::Impossible,
            };
            let taking = |cx: &mut Context<'_>| flight.upstream().http1.poll_take(cx, repeat);
            let pooled = if self.repeated { None } else { poll_fn(taking).await };
            let server = match pooled {
                Some(server) => server,
                // Boxed, for every request's future would be as large as a handshake's, and most find a connection.
                None => match self.patience.allows(Box::pin(http1::connect(worker, &mut flight))).await {
                    Ok(server) => server,
                    Err(ErrorCode::Timeout) => return Err(ErrorCode::Timeout),
                    Err(code) => {
                        self.attempts.failed(flight, code)?;
                        continue;
                    }
                },
            };
            self.exchange.sent(&mut flight);
            self.patience.begin_try();
            let (before, download) = (server.sent, Download::new(self.may_persist()));
            return Ok(Link { flight, server, before, download, heed: Heed::Answers });
        }
    }

    async fn transit(&mut self, link: &mut Link) -> Outcome {
        let transit = Transit {
            terms: &self.request.terms,
            exchange: self.exchange,
            caller: &mut *self.caller,
            server: &mut link.server,
            upload: &mut self.request.upload,
            flight: &mut link.flight,
            patience: &mut self.patience,
            hedge: self.hedge.as_deref_mut(),
            heed: link.heed,
        };
        transit.run(&mut link.download).await
    }

    pub(super) fn may_persist(&self) -> bool {
        may_persist(self.session, &self.request.terms)
    }

    /// The endpoint said nothing and ended the connection.
    async fn unanswered(&mut self, mut link: Link, end: End) -> Result<Next, ErrorCode> {
        let Link { server, before, .. } = &link;
        let is_mutual = link.flight.security() == Some(Security::Mutual);
        let seen = server.sent > *before && !saw_nothing(server, *before, is_mutual, end);
        link.flight.upstream().http1.closed_on(server, link.flight.begun());
        let may_repeat = self.request.terms.is_idempotent && server.is_reused() && !self.repeated;
        tracing::debug!(?end, seen, reused = server.is_reused(), "an endpoint ended the connection unasked");
        if !self.request.upload.is_kept() {
            return Err(ErrorCode::UpstreamReset);
        }
        if seen && !may_repeat {
            self.attempts.avoid(&mut link.flight);
            drop(link);
            return self.replace(Some(Failed::Reset.into())).await.ok_or(ErrorCode::UpstreamReset);
        }
        self.repeated |= seen;
        self.request.upload.again();
        // A pool of closed connections is emptied one by one; new ones that fail are counted.
        if link.server.is_reused() {
            self.exchange.unsent();
            self.attempts.avoid(&mut link.flight);
            drop(link);
        } else {
            self.attempts.failed(link.flight, ErrorCode::UpstreamReset)?;
        }
        let link = self.link().await?;
        self.request.upload.rename(self.exchange.spans());
        Ok(Next::Link(Box::new(link)))
    }

    /// Another answer is hoped for than the one that has come; where there will be none, it is what the caller gets.
    async fn in_vain(&mut self, mut link: Link, vain: Vain, status: u16) -> Next {
        self.exchange.answered_in_vain(status, None);
        let is_hopeless = vain == Vain::Unreached && !self.cluster.has_another(link.flight.upstream());
        self.attempts.avoid(&mut link.flight);
        let whole = link.download.is_all_there(&self.request.upload);
        let next = if is_hopeless { None } else { self.replace(Some(vain)).await };
        match next {
            None => Next::Link(Box::new(Link { heed: Heed::Nothing, ..link })),
            Some(next) => {
                if whole {
                    link.flight.upstream().http1.park(link.server);
                }
                next
            }
        }
    }

    /// Another connection after what came of the last, where it is to be sent again and one is found.
    async fn replace(&mut self, vain: Option<Vain>) -> Option<Next> {
        let vain = vain.filter(|_| self.request.upload.is_kept())?;
        let (worker, left) = (&*self.session.worker, self.patience.remaining());
        let pause = self.attempts.again(worker, self.cluster, self.exchange, vain, left)?;
        if !pause.is_zero() && self.is_left_during(pause).await {
            return Some(Next::Gone);
        }
        self.patience.moved(self.exchange);
        let link = self.link().await.ok()?;
        self.request.upload.rename(self.exchange.spans());
        self.request.upload.again();
        Some(Next::Link(Box::new(link)))
    }

    /// Waits; whether the caller has gone meanwhile.
    async fn is_left_during(&mut self, pause: Duration) -> bool {
        let mut over = pin!(sleep(pause));
        let has_ended = self.request.upload.way.decoder.has_ended();
        poll_fn(|cx| match over.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(false),
            Poll::Pending if has_ended => self.caller.poll_gone(cx).map(|()| true),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// After an exchange that was begun to be answered, or whose caller is gone. Not a future of its own: what it is given
    /// would be moved into it.
    fn conclude(&mut self, outcome: Outcome, link: Link) -> Concluded {
        let Self { caller, request, exchange, .. } = self;
        let Link { flight, server, .. } = link;
        Concluded::With(match outcome {
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
                    Some(malformed) if !exchange.has_response() => return Concluded::Malformed(malformed),
                    _ => After::Broken,
                }
            }
            Outcome::Truncated | Outcome::Late => {
                let is_late = matches!(outcome, Outcome::Late);
                exchange.failed(if is_late { ErrorCode::Timeout } else { ErrorCode::UpstreamReset });
                server.stream.reset();
                After::Broken
            }
            Outcome::Switched(_)
            | Outcome::Unanswered(_)
            | Outcome::Failed(..)
            | Outcome::InVain(..)
            | Outcome::Slow => After::Broken,
        })
    }

    /// What the caller sends is no body.
    async fn turn_away(&mut self, malformed: Malformed) -> After {
        let code = malformed.code();
        self.exchange.refused(code.status(), code);
        let terms = Some(&self.request.terms);
        self.caller.say(Refusal { code, fields: None, terms, grpc: false, persists: false }).await
    }
}

/// How an exchange ended.
enum Concluded {
    With(After),
    /// In what is to be refused.
    Malformed(Malformed),
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

/// Whether the client said that this request is its last, and has kept to it.
fn ends_as_asked(caller: &Caller, request: &Request) -> bool {
    !request.terms.persists && request.upload.is_sent() && caller.input.is_empty()
}
