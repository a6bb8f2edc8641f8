//! The attempts that a request or a connection is given: another endpoint where one cannot be reached.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::sleep;
use weft_core::breaker::Verdict;
use weft_core::retry::{Attempt, Stop};

use super::{Cluster, InFlight, Slot, Upstream};
use crate::failure::ErrorCode;
use crate::http::{Exchange, Vain};
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
    /// How often it was sent again for what became of it.
    again: u32,
    /// Whom it was sent to in vain.
    tried: Vec<Rc<Upstream>>,
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
        if let Some(egress) = cluster.egress() {
            // Boxed, for most requests stay in the mesh.
            Box::pin(egress.look_up(worker)).await;
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
            cluster.pick(&mut worker.rng.borrow_mut(), &self.tried, self.key, self.stays_with)?;
        flight.slot = self.slot.take();
        flight.admission = admission;
        Ok(flight)
    }

    /// An endpoint did not do what was hoped for: rather another is tried next, in its place.
    pub fn avoid(&mut self, flight: &mut InFlight) {
        self.slot = flight.slot.take();
        if !self.has_tried(&flight.upstream) {
            self.tried.push(Rc::clone(&flight.upstream));
        }
    }

    /// It is asked of another endpoint beside this one.
    pub fn beside(&mut self, upstream: &Rc<Upstream>) {
        self.tried.push(Rc::clone(upstream));
    }

    /// Whether there is someone to whom it was not sent yet.
    pub(super) fn has_others(&self, cluster: &Cluster) -> bool {
        cluster.has_others(&self.tried)
    }

    /// Whether it was sent there already.
    pub fn has_tried(&self, upstream: &Rc<Upstream>) -> bool {
        self.tried.iter().any(|tried| Rc::ptr_eq(tried, upstream))
    }

    /// What has come of it is not what was hoped for: after how long it is to be sent again, where it is. The caller sees to
    /// it that all of it is still there.
    pub fn again(
        &mut self,
        worker: &Worker,
        cluster: &Cluster,
        exchange: &Exchange,
        vain: Vain,
        left: Option<Duration>,
    ) -> Option<Duration> {
        let (failed, pushback) = match vain {
            Vain::Unreached => {
                // The app has seen nothing of it: for another endpoint no leave is needed.
                self.failed += 1;
                return (self.failed <= OTHERS).then_some(Duration::ZERO);
            }
            Vain::Failed(failed, pushback) => (failed, pushback),
        };
        let planned = exchange.plan()?;
        let attempt = Attempt { failed, twice: planned.twice, before: self.again, pushback, left };
        let retry = planned.plan.retry.as_ref()?;
        if exchange.request_bytes() > retry.max_body as u64 {
            return None;
        }
        match retry.decide(&attempt, || cluster.take_extra(), &mut worker.rng.borrow_mut()) {
            Ok(pause) => {
                self.again += 1;
                Some(pause)
            }
            Err(Stop::Budget) => {
                exchange.over_budget();
                None
            }
            Err(Stop::Unwanted | Stop::Attempts | Stop::Time) => None,
        }
    }

    /// An endpoint could not be reached; the error where there were enough of those.
    pub fn failed(&mut self, mut flight: InFlight, code: ErrorCode) -> Result<(), ErrorCode> {
        if code == ErrorCode::QueueFull {
            // It was not asked, and no other could be.
            return Err(code);
        }
        flight.unreachable();
        self.failed += 1;
        self.avoid(&mut flight);
        if self.failed > OTHERS { Err(code) } else { Ok(()) }
    }
}
