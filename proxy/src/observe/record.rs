//! A request that ended, kept beyond its end: what the access log and the span exporter work from, away from
//! the workers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc};
use weft_core::model::AccessLog;
use weft_core::trace::{SpanId, TraceContext};
use weft_runtime::metrics::Counter;

use super::event::{Direction, Note, RequestEnded, Requested, Security, Spoken};
use crate::failure::ErrorCode;

/// Records that may wait; further ones are dropped and counted.
pub(super) const QUEUE: usize = 2048;

/// Records that are worth waking the exporter for before its time.
pub(super) const BATCH: usize = 512;

/// A request that ended.
#[derive(Debug, Clone)]
pub struct Record {
    /// Which way.
    pub direction: Direction,
    /// Who called.
    pub source: Arc<str>,
    /// Who was called.
    pub destination: Arc<str>,
    /// The route that was taken.
    pub route: Option<Arc<str>>,
    /// What was spoken.
    pub protocol: Spoken,
    /// How the hop between the pods was protected.
    pub security: Security,
    /// The response's status.
    pub status: Option<u16>,
    /// The `grpc-status`.
    pub grpc_status: Option<u8>,
    /// Why the mesh answered instead of the app.
    pub error: Option<ErrorCode>,
    /// When it began.
    pub started: SystemTime,
    /// How long it took.
    pub duration: Duration,
    /// When its last try began, and how long that took.
    pub tried: (SystemTime, Duration),
    /// The method.
    pub method: http::Method,
    /// `:authority` or `Host`.
    pub authority: Box<str>,
    /// The path without its query.
    pub path: Box<str>,
    /// The query, its values withheld.
    pub query: Option<Box<str>>,
    /// `User-Agent`.
    pub agent: Option<Box<str>>,
    /// What else its span says.
    pub notes: Vec<Note>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// Who connected to the sidecar.
    pub client: Option<SocketAddr>,
    /// Where it was sent.
    pub upstream: Option<SocketAddr>,
    /// Sends after the first.
    pub retries: u32,
    /// Of these, those that were made while another one was under way.
    pub hedges: u32,
    /// The trace, and this sidecar's own span in it.
    pub trace: TraceContext,
    /// The span that ours is a child of.
    pub parent: Option<SpanId>,
    /// How it is written to the access log.
    pub log: AccessLog,
}

impl Record {
    /// Keeps what must outlive the event.
    pub fn of(event: &RequestEnded<'_>, target: Requested<'_>, log: AccessLog) -> Self {
        Self {
            direction: event.flow.direction(),
            source: Arc::clone(event.flow.source()),
            destination: Arc::clone(event.flow.destination()),
            route: event.route.cloned(),
            protocol: event.protocol,
            security: event.security,
            status: event.status,
            grpc_status: event.grpc_status,
            error: event.error,
            started: target.started,
            duration: event.duration,
            tried: event.tried.unwrap_or((target.started, event.duration)),
            method: target.method.clone(),
            authority: target.authority.into(),
            path: target.path.into(),
            query: target.query.map(Box::from),
            agent: target.agent.map(Box::from),
            notes: target.notes.to_vec(),
            bytes_in: event.bytes_in,
            bytes_out: event.bytes_out,
            client: event.client,
            upstream: event.upstream,
            retries: event.retries,
            hedges: event.hedges,
            trace: event.trace,
            parent: event.parent,
            log,
        }
    }
}

/// The workers' end of the queue. Nothing here ever waits.
#[derive(Debug, Clone)]
pub struct Records {
    queue: mpsc::Sender<Record>,
    shared: Arc<Shared>,
}

/// The exporter's end of the queue.
#[derive(Debug)]
pub struct RecordQueue {
    queue: mpsc::Receiver<Record>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    full_batch: Notify,
    dropped: Counter,
}

/// Makes both ends; `dropped` counts what does not fit.
pub(super) fn queue(dropped: Counter) -> (Records, RecordQueue) {
    let (send, receive) = mpsc::channel(QUEUE);
    let shared = Arc::new(Shared { full_batch: Notify::new(), dropped });
    (Records { queue: send, shared: Arc::clone(&shared) }, RecordQueue { queue: receive, shared })
}

impl Records {
    /// Hands a record over, or drops and counts it where the exporter does not keep up.
    pub fn offer(&self, record: Record) {
        if self.queue.try_send(record).is_err() {
            self.shared.dropped.increment();
        }
        // The exporter sleeps between batches, so that a request costs no wake-up of another thread.
        if QUEUE - self.queue.capacity() == BATCH {
            self.shared.full_batch.notify_one();
        }
    }
}

impl RecordQueue {
    /// Waits until a batch is full or `delay` is over.
    pub async fn gather(&self, delay: Duration) {
        if self.queue.len() >= BATCH {
            return;
        }
        drop(tokio::time::timeout(delay, self.shared.full_batch.notified()).await);
    }

    /// The next at most [`BATCH`] records; fewer, or none, where no more are there.
    pub fn take(&mut self) -> Vec<Record> {
        let mut taken = Vec::new();
        while taken.len() < BATCH
            && let Ok(record) = self.queue.try_recv()
        {
            taken.push(record);
        }
        taken
    }
}
