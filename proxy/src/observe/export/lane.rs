//! One receiver of spans: a bounded queue that drops rather than waits, and a task that sends what is in it.

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
    export: Option<TraceExport>,
    form: Form,
    spans: mpsc::Sender<Bytes>,
    overflow: Counter,
    task: JoinHandle<()>,
}

impl Lane {
    /// Starts to send to a collector that the settings name, or to the control plane.
    pub(super) fn start(
        export: Option<TraceExport>,
        to: Destination,
        who: Who,
        shard: &Shard,
        finish: watch::Receiver<bool>,
    ) -> Self {
        let name = label(export.as_ref());
        let dropped = |reason| shard.series(&SPANS_DROPPED, &[name, reason]);
        let (spans, queue) = mpsc::channel(QUEUE);
        let form = to.form();
        let courier = Courier {
            queue,
            finish,
            to,
            who,
            exported: shard.series(&EXPORTED, &[name]),
            refused: dropped("refused"),
            unavailable: dropped("unavailable"),
            rng: fastrand::Rng::new(),
        };
        let overflow = dropped("queue-full");
        Self { export, form, spans, overflow, task: task::spawn("export-lane", courier.run()) }
    }

    /// Where it leads; none: to the control plane.
    pub(super) fn export(&self) -> Option<&TraceExport> {
        self.export.as_ref()
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

/// What metrics call a receiver: the host and port that the settings name.
fn label(export: Option<&TraceExport>) -> &str {
    match export {
        None => "control-plane",
        Some(TraceExport::Otlp(url) | TraceExport::Zipkin(url)) => {
            let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
            rest.split(['/', '?']).next().unwrap_or_default()
        }
    }
}
