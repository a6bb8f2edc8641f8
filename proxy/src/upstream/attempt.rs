//! The attempts that a request or a connection is given: another endpoint where one cannot be reached.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;
use weft_core::breaker::Verdict;

use super::{Cluster, InFlight, Slot, Upstream};
use crate::failure::ErrorCode;
use crate::http::Exchange;
use crate::stream::Stream;
use crate::tls::Carries;
use crate::worker::Worker;

/// Endpoints that are tried after the first could not be reached.
const OTHERS: u32 = 2;

/// A connection that carries bytes, and the upstream that is busy with it.
#[derive(Debug)]
pub struct Opened {
    /// The connection.
    pub stream: Stream,
    /// Where to.
    pub flight: InFlight,
}

/// Opens a connection for bytes to one of `cluster`'s endpoints.
pub async fn open(worker: &Worker, cluster: &Cluster) -> Result<Opened, ErrorCode> {
    let mut attempts = Attempts::default();
    loop {
        let mut flight = attempts.pick(worker, cluster).await?;
        match flight.upstream.connect(worker, Carries::Tcp).await {
            Ok(stream) => {
                flight.answered();
                // Of bytes nothing more can be told than that they may be sent.
                if let Some(ticket) = flight.take_ticket() {
                    ticket.judge(Verdict::Worked);
                }
                return Ok(Opened { stream, flight });
            }
            Err(code) => attempts.failed(flight, code)?,
        }
    }
}

/// The endpoints that were tried.
#[derive(Debug, Default)]
pub struct Attempts {
    failed: u32,
    last: Option<Rc<Upstream>>,
    /// What decides on the endpoint where equal requests are to go to the same one.
    key: Option<u64>,
    /// How long it is held up on purpose before it is sent.
    delay: Option<Duration>,
    /// The request's place among the service's, while no endpoint has it.
    slot: Option<Slot>,
    /// The endpoint that it is to stay with.
    stays_with: Option<u64>,
    /// Whether it may be refused because the app has enough to do.
    may_be_shed: bool,
}

impl Attempts {
    /// For a request.
    pub fn of(exchange: &Exchange) -> Self {
        Self {
            key: exchange.key(),
            delay: exchange.delay(),
            stays_with: exchange.stays_with(),
            may_be_shed: !exchange.is_vital(),
            ..Self::default()
        }
    }

    /// The next endpoint to try; waits where the service has as many requests as it may.
    pub async fn pick(&mut self, worker: &Worker, cluster: &Cluster) -> Result<InFlight, ErrorCode> {
        if let Some(delay) = self.delay.take() {
            Box::pin(sleep(delay)).await;
        }
        if self.slot.is_none()
            && let Some(room) = cluster.room()
        {
            let slot = match room.try_enter() {
                Some(slot) => slot,
                // Boxed, for every request's future would have room for it, and most need not wait.
                None => Box::pin(room.enter()).await?,
            };
            self.slot = Some(slot);
        }
        let limiter = if self.may_be_shed { cluster.limiter() } else { None };
        let admission = limiter.map(|limiter| limiter.try_enter()).transpose()?;
        let mut flight =
            cluster.pick(&mut worker.rng.borrow_mut(), self.last.as_ref(), self.key, self.stays_with)?;
        flight.slot = self.slot.take();
        flight.admission = admission;
        Ok(flight)
    }

    /// An endpoint did not take the request, for no fault of its own; rather another is tried next.
    pub fn avoid(&mut self, mut flight: InFlight) {
        self.slot = flight.slot.take();
        self.last = Some(Rc::clone(&flight.upstream));
    }

    /// An endpoint could not be reached; the error where there were enough of those.
    pub fn failed(&mut self, mut flight: InFlight, code: ErrorCode) -> Result<(), ErrorCode> {
        if code == ErrorCode::QueueFull {
            // It was not asked, and no other could be.
            return Err(code);
        }
        flight.unreachable();
        self.failed += 1;
        self.slot = flight.slot.take();
        self.last = Some(Rc::clone(&flight.upstream));
        if self.failed > OTHERS { Err(code) } else { Ok(()) }
    }
}
