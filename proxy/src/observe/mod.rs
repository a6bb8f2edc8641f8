//! Stage 9, observe: one event per happening in; metric, access log line and span out.
//!
//! Every worker has its own [`Observer`]. What costs time is done elsewhere: a request counts in its
//! worker's own cells, and its record goes through a bounded queue that drops rather than waits.

mod event;
mod record;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use event::{Direction, Party, Refusal, RequestEnded, Security, Spoken};
pub use record::{Record, RecordQueue, Records};

/// What all workers' observers share.
#[derive(Debug, Clone)]
pub struct Observe {
    records: Records,
    access_log: Arc<AtomicBool>,
}

/// One worker's view: what it saw is told to this. Cheap to clone within the worker.
#[derive(Debug, Clone)]
pub struct Observer(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    records: Records,
    access_log: Arc<AtomicBool>,
    flows: RefCell<HashMap<(Direction, Party, Party), Flow>>,
}

/// Who calls whom, in one direction: looked up once a connection, so that a request looks up nothing.
#[derive(Clone)]
pub struct Flow(Rc<FlowInner>);

struct FlowInner {
    direction: Direction,
    source: Arc<str>,
    destination: Arc<str>,
}

/// A connection that carries something. Dropping it says that it was closed.
#[derive(Debug)]
#[must_use = "the connection counts as open for as long as this lives"]
pub struct OpenConnection {
    flow: Flow,
}

impl Observe {
    /// Makes the shared part, and the end of the queue that the exporter reads.
    pub fn new() -> (Self, RecordQueue) {
        let (records, queue) = record::queue();
        (Self { records, access_log: Arc::default() }, queue)
    }

    /// An observer for the worker that calls.
    pub fn observer(&self) -> Observer {
        Observer(Rc::new(Inner {
            records: self.records.clone(),
            access_log: Arc::clone(&self.access_log),
            flows: RefCell::default(),
        }))
    }

    /// Turns the access log on or off.
    pub fn set_access_log(&self, on: bool) {
        self.access_log.store(on, Ordering::Relaxed);
    }
}

impl Observer {
    /// The flow from one party to another; ask once a connection and keep it.
    pub fn flow(&self, direction: Direction, source: Party, destination: Party) -> Flow {
        let mut flows = self.0.flows.borrow_mut();
        let key = (direction, source, destination);
        if let Some(flow) = flows.get(&key) {
            return flow.clone();
        }
        let flow = Flow(Rc::new(FlowInner { direction, source: key.1.label(), destination: key.2.label() }));
        flows.insert(key, flow.clone());
        flow
    }

    /// A request was answered, failed or given up.
    pub fn request_ended(&self, event: &RequestEnded<'_>) {
        let logged = self.0.access_log.load(Ordering::Relaxed);
        if logged || event.trace.sampled {
            self.0.records.offer(Record::of(event, logged));
        }
    }

    /// A connection begins to carry something.
    pub fn connection_opened(&self, flow: &Flow, protocol: Spoken, security: Security) -> OpenConnection {
        tracing::trace!(?flow, ?protocol, ?security, "connection opened");
        OpenConnection { flow: flow.clone() }
    }

    /// A connection was closed before it could carry anything.
    pub fn connection_refused(&self, direction: Direction, refusal: Refusal) {
        tracing::debug!(direction = direction.as_str(), reason = refusal.as_str(), "connection refused");
    }

    /// A TLS handshake failed; the reason goes to the log alone.
    pub fn handshake_failed(&self, direction: Direction, reason: &dyn fmt::Display) {
        tracing::debug!(direction = direction.as_str(), %reason, "TLS handshake failed");
    }
}

impl OpenConnection {
    /// Bytes of a connection that carries no HTTP, from the caller and to the caller; tell them as they pass.
    pub fn moved(&self, from_caller: u64, to_caller: u64) {
        tracing::trace!(flow = ?self.flow, from_caller, to_caller, "bytes moved");
    }
}

impl Flow {
    /// Which way.
    pub fn direction(&self) -> Direction {
        self.0.direction
    }

    /// Who calls, as labels spell it.
    pub fn source(&self) -> &Arc<str> {
        &self.0.source
    }

    /// Who is called, as labels spell it.
    pub fn destination(&self) -> &Arc<str> {
        &self.0.destination
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.0.direction.as_str(), self.0.source, self.0.destination)
    }
}

impl Party {
    fn label(&self) -> Arc<str> {
        match self {
            Self::Named(name) => name.to_string().into(),
            Self::Unknown => "unknown".into(),
        }
    }
}
