//! Of how many requests there are traces that come without a decision: from callers without a sidecar, as from outside the mesh. What
//! policies say of a service and its routes holds for these here; for others it held where they were sent.

use std::cell::RefCell;
use std::sync::Arc;

use weft_core::model::{InboundSampling, Ratio};

use crate::http::head::Head;
use crate::routing::{self, Routing};
use crate::worker::Worker;

/// What is said of a port, its rules made ready for the requests of a connection.
#[derive(Debug, Default)]
pub(super) struct Sampled(RefCell<Option<(Arc<InboundSampling>, Routing)>>);

impl Sampled {
    /// Whether something is said of a port of the app.
    pub(super) fn may_be(worker: &Worker, port: u16) -> bool {
        let snapshot = worker.discovery.peek();
        snapshot.workload.as_ref().is_some_and(|workload| workload.sampling(port).is_some())
    }

    /// Of how many requests like this one there are traces: what is said of its route, else of the service.
    pub(super) fn ratio(&self, worker: &Worker, port: u16, head: &impl Head) -> Option<Ratio> {
        let snapshot = worker.discovery.peek();
        let (service, sampling) = snapshot.workload.as_ref()?.sampling(port)?;
        if sampling.routes.is_empty() {
            return sampling.service;
        }
        let mut ready = self.0.borrow_mut();
        // What is said may be another by now.
        let current = ready.take().filter(|(of, _)| Arc::ptr_eq(of, sampling));
        let now = || (Arc::clone(sampling), Routing::inbound(service, &sampling.routes));
        let (_, routing) = ready.insert(current.unwrap_or_else(now));
        routing::sampling(worker, routing, head).or(sampling.service)
    }
}
