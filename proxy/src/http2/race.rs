//! A request that one endpoint is slow to answer, asked of further ones: whoever answers first is heard, and the others' streams
//! are reset.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, SendStream};
use http::Request;

use super::journey::Journey;
use super::relay::{Call, Heard};
use super::saved::Saved;
use crate::failure::ErrorCode;
use crate::upstream::Further;
use crate::upstream::http2::{Place, reach};

/// A request that is with an endpoint.
pub(super) struct Running {
    pub(super) place: Place,
    pub(super) response: ResponseFuture,
    pub(super) sender: SendStream<Bytes>,
}

/// An endpoint to which a connection is found.
type Reaching<'a> = Pin<Box<dyn Future<Output = Result<Place, ErrorCode>> + 'a>>;

/// Those that are asked beside the first.
#[derive(Default)]
struct Others<'a> {
    reaching: Vec<Reaching<'a>>,
    running: Vec<Running>,
}

/// Whose the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    First,
    /// That of the others' at this index.
    Other(usize),
}

impl Call<'_> {
    /// Asks further endpoints beside the one of `first`, to which all of the request has been sent: whom to go on with, and
    /// what was heard.
    pub(super) async fn race(&mut self, journey: &mut Journey<'_>, mut first: Running) -> (Running, Heard) {
        journey.attempts.beside(first.place.upstream());
        let mut others = Others::default();
        let (whose, heard) = self.hear_any(journey, &mut first, &mut others).await;
        if let Some(hedge) = &mut self.hedge {
            hedge.is_over();
        }
        let winner = match whose {
            Whose::Other(index) if index < others.running.len() => Some(others.running.swap_remove(index)),
            Whose::First | Whose::Other(_) => None,
        };
        for other in &mut others.running {
            other.sender.send_reset(Reason::CANCEL);
        }
        match winner {
            Some(mut winner) => {
                first.sender.send_reset(Reason::CANCEL);
                winner.place.take_over(&self.exchange);
                (winner, heard)
            }
            None => (first, heard),
        }
    }

    /// Waits for the answer of any. Where one fails, the others are waited for alone.
    async fn hear_any<'a>(
        &mut self,
        journey: &'a mut Journey<'_>,
        first: &mut Running,
        others: &mut Others<'a>,
    ) -> (Whose, Heard)
    where
        Self: 'a,
    {
        let Journey { cluster, attempts, saved, .. } = journey;
        let worker = self.worker;
        let mut further = Further::new(worker, cluster, attempts);
        let mut failed = None;
        poll_fn(|cx| {
            if failed.is_none() {
                match self.poll_response(cx, &mut first.response) {
                    Poll::Ready(Heard::Failed(error)) => failed = Some(error),
                    Poll::Ready(heard) => return Poll::Ready((Whose::First, heard)),
                    Poll::Pending => {}
                }
            }
            if let Some(hedge) = &mut self.hedge {
                while let Poll::Ready(flight) = further.poll_next(cx, hedge, &self.exchange) {
                    others.reaching.push(Box::pin(reach(worker, flight)));
                }
            }
            if let Some((index, heard)) = self.poll_others(cx, others, saved) {
                return Poll::Ready((Whose::Other(index), heard));
            }
            if others.are_none()
                && !further.is_picking()
                && let Some(error) = failed.take()
            {
                return Poll::Ready((Whose::First, Heard::Failed(error)));
            }
            if let Poll::Ready(reset) = self.respond.poll_reset(cx) {
                return Poll::Ready((Whose::First, Heard::TakenBack(reset.unwrap_or(Reason::CANCEL))));
            }
            self.patience.poll(cx).map(|late| (Whose::First, Heard::Late(late)))
        })
        .await
    }

    /// Sends the request to those that have been reached; the first of the others that has answered, and what.
    fn poll_others(
        &mut self,
        cx: &mut Context<'_>,
        others: &mut Others<'_>,
        saved: &Saved,
    ) -> Option<(usize, Heard)> {
        let Others { reaching, running } = others;
        let mut index = 0;
        while let Some(one) = reaching.get_mut(index) {
            match one.as_mut().poll(cx) {
                Poll::Ready(place) => {
                    drop(reaching.swap_remove(index));
                    running.extend(place.ok().and_then(|place| self.send_beside(place, saved)));
                }
                Poll::Pending => index += 1,
            }
        }
        let mut index = 0;
        while let Some(one) = running.get_mut(index) {
            match self.poll_response(cx, &mut one.response) {
                Poll::Ready(Heard::Failed(_)) => drop(running.swap_remove(index)),
                Poll::Ready(heard) => return Some((index, heard)),
                Poll::Pending => index += 1,
            }
        }
        None
    }

    fn send_beside(&mut self, place: Place, saved: &Saved) -> Option<Running> {
        let mut head = saved.restore();
        if self.grpc {
            // Where nothing is left that is noticed while it is waited for.
            self.patience.tell(&mut head.headers);
        }
        let head = Request::from_parts(head, ());
        let (response, mut sender) = place.send(head, !self.upload.has_repeatable()).ok()?;
        self.upload.repeat(&mut sender).ok()?;
        self.exchange.hedged();
        Some(Running { place, response, sender })
    }
}

impl Others<'_> {
    fn are_none(&self) -> bool {
        self.reaching.is_empty() && self.running.is_empty()
    }
}
