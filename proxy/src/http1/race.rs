//! A request that one endpoint is slow to answer, asked of further ones: whoever says something first is heard, and the others'
//! connections are closed.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWriteExt as _;

use super::buffer::Buffer;
use super::journey::{Journey, Link, Next};
use super::transit::{Download, Heed};
use crate::failure::ErrorCode;
use crate::http::Exchange;
use crate::stream::Link as _;
use crate::upstream::http1::{self, Repeat};
use crate::upstream::{Further, InFlight};
use crate::worker::Worker;

/// Who has said something.
enum Heard {
    First,
    Other(Box<Link>),
    /// None of them, and nobody waits any longer.
    Gone,
}

/// An endpoint that is asked beside the first: ready with its first word.
type Asking<'a> = Pin<Box<dyn Future<Output = Result<Box<Link>, ErrorCode>> + 'a>>;

impl Journey<'_> {
    /// Asks further endpoints beside the one of `first`, to which all of the request has been sent.
    pub(super) async fn race(&mut self, mut first: Link) -> Next {
        self.attempts.beside(first.flight.upstream());
        let heard = self.hear(&mut first).await;
        if let Some(hedge) = &mut self.hedge {
            hedge.is_over();
        }
        match heard {
            Heard::First => Next::Link(Box::new(first)),
            Heard::Gone => Next::Gone,
            Heard::Other(mut other) => {
                first.server.stream.reset();
                self.exchange.overtaken_by(&mut other.flight);
                Next::Link(other)
            }
        }
    }

    /// Waits for the first word of any. Where one ends without any, the others are waited for alone.
    async fn hear(&mut self, first: &mut Link) -> Heard {
        let request = self.request.upload.whole().to_vec();
        let persists = self.may_persist();
        let Self { session, caller, cluster, exchange, attempts, patience, hedge, .. } = self;
        let Some(hedge) = hedge.as_deref_mut() else { return Heard::First };
        let (worker, cluster, exchange) = (&*session.worker, *cluster, *exchange);
        let mut further = Further::new(worker, cluster, attempts);
        // Who is not heard is cancelled by being dropped.
        let mut asking: Vec<Asking<'_>> = Vec::new();
        let mut first_ended = false;
        poll_fn(|cx| {
            if !first_ended && let Poll::Ready(read) = first.download.poll_first(cx, &mut first.server.stream)
            {
                match read {
                    Ok(1..) => return Poll::Ready(Heard::First),
                    Ok(0) | Err(_) => first_ended = true,
                }
            }
            while let Poll::Ready(flight) = further.poll_next(cx, hedge, exchange) {
                asking.push(Box::pin(ask(worker, exchange, &request, persists, flight)));
            }
            if let Some(other) = poll_any(cx, &mut asking) {
                return Poll::Ready(Heard::Other(other));
            }
            let none_is_left = first_ended && asking.is_empty() && !further.is_picking();
            // What has ended says so once more to whoever goes on with it; and so does what is late.
            if none_is_left || patience.poll(cx).is_ready() {
                return Poll::Ready(Heard::First);
            }
            caller.poll_gone(cx).map(|()| Heard::Gone)
        })
        .await
    }
}

/// The first that has said something; those that have failed are taken out.
fn poll_any(cx: &mut Context<'_>, asking: &mut Vec<Asking<'_>>) -> Option<Box<Link>> {
    let mut index = 0;
    while let Some(one) = asking.get_mut(index) {
        match one.as_mut().poll(cx) {
            Poll::Ready(Ok(link)) => return Some(link),
            Poll::Ready(Err(_)) => drop(asking.swap_remove(index)),
            Poll::Pending => index += 1,
        }
    }
    None
}

/// Sends a whole request to an endpoint, and waits for its first word.
async fn ask(
    worker: &Worker,
    exchange: &Exchange,
    request: &[u8],
    persists: bool,
    mut flight: InFlight,
) -> Result<Box<Link>, ErrorCode> {
    let taking = |cx: &mut Context<'_>| flight.upstream().http1.poll_take(cx, Repeat::Possible);
    let pooled = poll_fn(taking).await;
    let mut server = match pooled {
        Some(server) => server,
        None => match http1::connect(worker, &mut flight).await {
            Ok(server) => server,
            Err(code) => {
                flight.unreachable();
                return Err(code);
            }
        },
    };
    let before = server.sent;
    exchange.hedged();
    let sent = async {
        server.stream.write_all(request).await?;
        server.stream.flush().await
    };
    sent.await.map_err(|_| ErrorCode::UpstreamReset)?;
    server.sent += request.len() as u64;
    let mut received = Buffer::default();
    match poll_fn(|cx| received.poll_read(cx, &mut server.stream)).await {
        Ok(1..) => {
            let download = Download::of(received, persists);
            Ok(Box::new(Link { flight, server, before, download, heed: Heed::Answers }))
        }
        Ok(0) | Err(_) => Err(ErrorCode::UpstreamReset),
    }
}
