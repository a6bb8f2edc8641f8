//! A request that one endpoint is slow to answer, asked of a second one: whoever says something first is heard, and the other's
//! connection is closed.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll};

use tokio::io::AsyncWriteExt as _;

use super::buffer::Buffer;
use super::journey::{Journey, Link, Next};
use super::transit::{Download, Heed};
use crate::failure::ErrorCode;
use crate::stream::Reset as _;
use crate::upstream::http1::{self, Repeat};

/// Who has said something.
enum Heard {
    First,
    Second(Box<Link>),
    /// Neither, and nobody waits any longer.
    Gone,
}

impl Journey<'_> {
    /// Asks a second endpoint beside the one of `first`, to which all of the request has been sent.
    pub(super) async fn race(&mut self, mut first: Link) -> Next {
        if let Some(hedge) = &mut self.hedge {
            hedge.is_over();
        }
        if !self.cluster.take_extra() {
            self.exchange.over_budget();
            return Next::Link(Box::new(first));
        }
        self.attempts.beside(first.flight.upstream());
        match self.hear(&mut first).await {
            Heard::First => Next::Link(Box::new(first)),
            Heard::Gone => Next::Gone,
            Heard::Second(mut second) => {
                first.server.stream.reset();
                self.exchange.overtaken_by(&mut second.flight);
                Next::Link(second)
            }
        }
    }

    /// Waits for the first word of either. Where one ends without any, the other is waited for alone.
    async fn hear(&mut self, first: &mut Link) -> Heard {
        let request = self.request.upload.whole().to_vec();
        let persists = self.may_persist();
        let Self { session, caller, cluster, exchange, attempts, patience, .. } = self;
        let asking = async {
            let mut flight = attempts.pick(&session.worker, cluster).await?;
            let taking = |cx: &mut Context<'_>| flight.upstream().http1.poll_take(cx, Repeat::Possible);
            let pooled = poll_fn(taking).await;
            let mut server = match pooled {
                Some(server) => server,
                None => http1::connect(&session.worker, &mut flight).await?,
            };
            let before = server.sent;
            exchange.hedged();
            let sent = async {
                server.stream.write_all(&request).await?;
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
        };
        let mut asking = pin!(asking);
        let (mut first_ended, mut second_failed) = (false, false);
        poll_fn(|cx| {
            if !first_ended && let Poll::Ready(read) = first.download.poll_first(cx, &mut first.server.stream)
            {
                match read {
                    Ok(1..) => return Poll::Ready(Heard::First),
                    Ok(0) | Err(_) => first_ended = true,
                }
            }
            if !second_failed && let Poll::Ready(second) = asking.as_mut().poll(cx) {
                match second {
                    Ok(second) => return Poll::Ready(Heard::Second(second)),
                    Err(_) => second_failed = true,
                }
            }
            // What has ended says so once more to whoever goes on with it; and so does what is late.
            if (first_ended && second_failed) || patience.poll(cx).is_ready() {
                return Poll::Ready(Heard::First);
            }
            caller.poll_gone(cx).map(|()| Heard::Gone)
        })
        .await
    }
}
