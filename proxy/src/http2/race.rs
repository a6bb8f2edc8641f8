//! A request that one endpoint is slow to answer, asked of a second one: whoever answers first is heard, and the other's stream
//! is reset.

use std::future::{Future as _, poll_fn};
use std::task::Poll;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, SendStream};
use http::Request;

use super::journey::Journey;
use super::relay::{Call, Heard};
use crate::upstream::http2::{Place, find};

/// A request that is with an endpoint.
pub(super) struct Running {
    pub(super) place: Place,
    pub(super) response: ResponseFuture,
    pub(super) sender: SendStream<Bytes>,
}

impl Call<'_> {
    /// Asks a second endpoint beside the one of `first`, to which all of the request has been sent: whom to go on with, and
    /// what was heard.
    pub(super) async fn race(&mut self, journey: &mut Journey<'_>, mut first: Running) -> (Running, Heard) {
        if let Some(hedge) = &mut self.hedge {
            hedge.is_over();
        }
        if !journey.cluster.take_extra() {
            self.exchange.over_budget();
            let heard = self.hear(&first.place, &mut first.response, &mut first.sender).await;
            return (first, heard);
        }
        journey.attempts.beside(first.place.upstream());
        let mut second = None;
        let (first_was, heard) = self.hear_either(journey, &mut first, &mut second).await;
        match second {
            Some(mut second) if first_was == Turn::Over => {
                first.sender.send_reset(Reason::CANCEL);
                second.place.take_over(&self.exchange);
                (second, heard)
            }
            Some(mut second) => {
                second.sender.send_reset(Reason::CANCEL);
                (first, heard)
            }
            None => (first, heard),
        }
    }

    /// Waits for the answer of either, and says whether it is not the first one's. Where one fails, the other is waited for
    /// alone.
    async fn hear_either(
        &mut self,
        journey: &mut Journey<'_>,
        first: &mut Running,
        second: &mut Option<Running>,
    ) -> (Turn, Heard) {
        let mut head = journey.saved.restore();
        if self.grpc {
            // Where nothing is left that is noticed below.
            self.patience.tell(&mut head.headers);
        }
        let mut head = Some(head);
        let mut finding = Box::pin(find(self.worker, journey.cluster, &mut journey.attempts));
        let mut failed = None;
        poll_fn(|cx| {
            if failed.is_none() {
                match self.poll_response(cx, &mut first.response) {
                    Poll::Ready(Heard::Failed(error)) => failed = Some(error),
                    Poll::Ready(heard) => return Poll::Ready((Turn::First, heard)),
                    Poll::Pending => {}
                }
            }
            if head.is_some()
                && let Poll::Ready(found) = finding.as_mut().poll(cx)
                && let (Ok(place), Some(head)) = (found, head.take())
            {
                *second = self.send_beside(place, Request::from_parts(head, ()));
            }
            if let Some(running) = second {
                match self.poll_response(cx, &mut running.response) {
                    Poll::Ready(Heard::Failed(_)) => *second = None,
                    Poll::Ready(heard) => return Poll::Ready((Turn::Over, heard)),
                    Poll::Pending => {}
                }
            }
            if second.is_none()
                && head.is_none()
                && let Some(error) = failed.take()
            {
                return Poll::Ready((Turn::First, Heard::Failed(error)));
            }
            if let Poll::Ready(reset) = self.respond.poll_reset(cx) {
                return Poll::Ready((Turn::First, Heard::TakenBack(reset.unwrap_or(Reason::CANCEL))));
            }
            self.patience.poll(cx).map(|late| (Turn::First, Heard::Late(late)))
        })
        .await
    }

    fn send_beside(&mut self, place: Place, head: Request<()>) -> Option<Running> {
        let (response, mut sender) = place.send(head, !self.upload.has_repeatable()).ok()?;
        self.upload.repeat(&mut sender).ok()?;
        self.exchange.hedged();
        Some(Running { place, response, sender })
    }
}

/// Whose the answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    First,
    /// The second one's: the first one's time is over.
    Over,
}
