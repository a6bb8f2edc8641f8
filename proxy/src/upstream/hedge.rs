//! When a second endpoint is asked for a request although the first may still answer, and what is learnt for the next.

use std::future::Future as _;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;

use tokio::time::{Instant, Sleep, sleep};
use weft_core::retry::Twice;

use super::Cluster;
use crate::http::Exchange;

/// A request that may be asked a second endpoint, or of which is learnt how long answers take.
#[derive(Debug)]
pub struct Hedge {
    cluster: Rc<Cluster>,
    begun: Instant,
    /// None: it is asked of no second one.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Hedge {
    /// For a request that is sent now; none where no policy says so.
    pub fn of(exchange: &Exchange, cluster: &Rc<Cluster>) -> Option<Box<Self>> {
        let planned = exchange.plan()?;
        let hedging = planned.plan.hedging.as_ref()?;
        let wait = cluster.hedges_after(hedging).filter(|_| planned.twice == Twice::Harmless);
        let timer = wait.map(|wait| Box::pin(sleep(wait)));
        Some(Box::new(Self { cluster: Rc::clone(cluster), begun: Instant::now(), timer }))
    }

    /// Whether it is time for a second one.
    pub fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready())
    }

    /// It is asked of no further one.
    pub fn is_over(&mut self) {
        self.timer = None;
    }

    /// An answer has come.
    pub fn answered(&self) {
        self.cluster.answered_after(self.begun.elapsed());
    }
}
