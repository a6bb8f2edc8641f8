//! One receiver of spans: a bounded queue that drops rather than waits, and a task that sends what is in it.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use weft_core::model::TraceExport;
use weft_runtime::metrics::{Counter, Shard};
use weft_runtime::task;

use super::Who;
use super::courier::{Courier, Destination, Form};
use crate::observe::metrics::{EXPORTED, SPANS_DROPPED};
use crate::observe::record::QUEUE;

/// A way to one receiver. Where it is dropped, what is under way is still sent, once.
#[derive(Debug)]
pub(super) struct Lane {
    whose: Whose,
    form: Form,
    spans: mpsc::Sender<Bytes>,
    overflow: Counter,
    task: JoinHandle<()>,
}

/// Whose a receiver is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// It is the control plane.
    Mesh,
    /// The mesh's settings name it.
    Settings(TraceExport),
    /// Our own environment names it.
    Environment(TraceExport),
}

/// A receiver, and how long one try may take.
pub(super) type Receiver = (Whose, Destination, Duration);

impl Lane {
    /// Starts to send to a receiver.
    pub(super) fn start(
        (whose, to, limit): Receiver,
        who: Who,
        shard: &Shard,
        finish: watch::Receiver<bool>,
    ) -> Self {
        let name = label(&whose);
        let dropped = |reason| shard.series(&SPANS_DROPPED, &[name, reason]);
        let (spans, queue) = mpsc::channel(QUEUE);
        let form = to.form();
        let courier = Courier {
            queue,
            finish,
            to,
            limit,
            who,
            exported: shard.series(&EXPORTED, &[name]),
            refused: dropped("refused"),
            unavailable: dropped("unavailable"),
            rng: fastrand::Rng::new(),
        };
        let overflow = dropped("queue-full");
        let task = task::spawn("export-lane", courier.run());
        Self { whose, form, spans, overflow, task }
    }

    /// Where it leads, where the mesh's settings say that there is one.
    pub(super) fn of_settings(&self) -> Option<&TraceExport> {
        match &self.whose {
            Whose::Settings(export) => Some(export),
            Whose::Mesh | Whose::Environment(_) => None,
        }
    }

    /// How its spans are written.
    pub(super) fn form(&self) -> Form {
        self.form
    }

    /// Sends a span on its way, or drops and counts it where the receiver does not keep up.
    pub(super) fn offer(&self, span: Bytes) {
        if self.spans.try_send(span).is_err() {
            self.overflow.increment();
        }
    }

    /// Waits until what is in it was sent or given up.
    pub(super) async fn ended(self) {
        drop(self.spans);
        // A panic was counted and logged.
        let _ = self.task.await;
    }
}

/// What metrics call a receiver: the host and port of its address.
fn label(whose: &Whose) -> &str {
    match whose {
        Whose::Mesh => "control-plane",
        Whose::Settings(TraceExport::Otlp(url) | TraceExport::Zipkin(url))
        | Whose::Environment(TraceExport::Otlp(url) | TraceExport::Zipkin(url)) => {
            let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
            rest.split(['/', '?']).next().unwrap_or_default()
        }
    }
}
