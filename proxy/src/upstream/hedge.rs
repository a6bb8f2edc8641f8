//! When further endpoints are asked for a request although the first may still answer, and what is learnt for the next.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};
use weft_core::retry::Twice;

use super::{Attempts, Cluster, InFlight};
use crate::failure::ErrorCode;
use crate::http::Exchange;
use crate::worker::Worker;

/// A request that further endpoints may be asked for, or of which is learnt how long answers take.
#[derive(Debug)]
pub struct Hedge {
    cluster: Rc<Cluster>,
    begun: Instant,
    /// None: it is asked of no further one.
    stagger: Option<Stagger>,
}

/// When the next one is asked, and how many are left.
#[derive(Debug)]
struct Stagger {
    wait: Duration,
    left: u32,
    timer: Pin<Box<Sleep>>,
}

impl Hedge {
    /// For a request that is sent now; none where no policy says so.
    pub fn of(exchange: &Exchange, cluster: &Rc<Cluster>) -> Option<Box<Self>> {
        let planned = exchange.plan()?;
        let hedging = planned.plan.hedging.as_ref()?;
        let wait = cluster.hedges_after(hedging).filter(|_| planned.twice == Twice::Harmless);
        let stagger = wait.map(|wait| Stagger { wait, left: hedging.max, timer: Box::pin(sleep(wait)) });
        Some(Box::new(Self { cluster: Rc::clone(cluster), begun: Instant::now(), stagger }))
    }

    /// Whether it is time for another one.
    pub fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        self.stagger.as_mut().is_some_and(|stagger| stagger.timer.as_mut().poll(cx).is_ready())
    }

    /// It is asked of no further one.
    pub fn is_over(&mut self) {
        self.stagger = None;
    }

    /// Another one is asked: the next is due when as long again has passed.
    fn asked(&mut self) {
        let Some(stagger) = &mut self.stagger else { return };
        stagger.left = stagger.left.saturating_sub(1);
        if stagger.left == 0 {
            self.stagger = None;
        } else {
            stagger.timer.as_mut().reset(Instant::now() + stagger.wait);
        }
    }

    /// An answer has come.
    pub fn answered(&self) {
        self.cluster.answered_after(self.begun.elapsed());
    }
}

/// An endpoint that is being found.
type Picking<'a> = Pin<Box<dyn Future<Output = (&'a mut Attempts, Result<InFlight, ErrorCode>)> + 'a>>;

/// Finds the endpoints that are asked beside the first, each in its time.
#[expect(missing_debug_implementations, reason = "a future has none")]
pub struct Further<'a> {
    worker: &'a Worker,
    cluster: &'a Cluster,
    /// None while one is being found.
    attempts: Option<&'a mut Attempts>,
    picking: Option<Picking<'a>>,
}

impl<'a> Further<'a> {
    /// Beside those that `attempts` has tried.
    pub fn new(worker: &'a Worker, cluster: &'a Cluster, attempts: &'a mut Attempts) -> Self {
        Self { worker, cluster, attempts: Some(attempts), picking: None }
    }

    /// Whether one is being found.
    pub fn is_picking(&self) -> bool {
        self.picking.is_some()
    }

    /// The next endpoint to ask, when it is time for it, as long as there is another one and budget for it.
    pub fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        hedge: &mut Hedge,
        exchange: &Exchange,
    ) -> Poll<InFlight> {
        if self.picking.is_none() {
            if !hedge.is_due(cx) {
                return Poll::Pending;
            }
            if !self.may_ask(exchange) {
                hedge.is_over();
                return Poll::Pending;
            }
            let Some(attempts) = self.attempts.take() else { return Poll::Pending };
            let (worker, cluster) = (self.worker, self.cluster);
            self.picking = Some(Box::pin(async move {
                let picked = attempts.pick(worker, cluster).await;
                (attempts, picked)
            }));
        }
        let Some(picking) = &mut self.picking else { return Poll::Pending };
        let (attempts, picked) = ready!(picking.as_mut().poll(cx));
        self.picking = None;
        let flight = picked.ok().filter(|flight| !attempts.has_tried(flight.upstream()));
        let Some(flight) = flight else {
            // Nobody else works.
            hedge.is_over();
            self.attempts = Some(attempts);
            return Poll::Pending;
        };
        attempts.beside(flight.upstream());
        self.attempts = Some(attempts);
        hedge.asked();
        Poll::Ready(flight)
    }

    /// Whether there is someone else, and budget for it. Asked before anyone is picked: a pick takes somebody's turn.
    fn may_ask(&self, exchange: &Exchange) -> bool {
        let is_alone = self.attempts.as_ref().is_none_or(|attempts| !attempts.has_others(self.cluster));
        if is_alone {
            return false;
        }
        let may = self.cluster.take_extra();
        if !may {
            exchange.over_budget();
        }
        may
    }
}
