//! Traces: spans in by OTLP, kept within bounds in memory, and on disk so that a restart does not lose them.

mod otlp;
mod segments;
mod span;
mod traces;

use std::path::Path;
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use crate::metrics::Metrics;

pub(crate) use otlp::OtlpService;
pub(crate) use segments::{SegmentError, Task};
pub(crate) use span::{Span, SpanId, SpanKind, TraceId};
pub(crate) use traces::{Errors, Filter, Summary, Traces};

/// All the traces there are.
#[derive(Debug)]
pub(crate) struct Telemetry {
    traces: Traces,
    segments: segments::Writer,
    metrics: Arc<Metrics>,
}

impl Telemetry {
    /// The traces that were kept in `directory`; new ones go there as well, until the returned task is told to end
    /// by dropping this.
    pub(crate) async fn open(
        directory: &Path,
        metrics: Arc<Metrics>,
    ) -> Result<(Arc<Self>, Task), SegmentError> {
        let traces = Traces::default();
        for batch in segments::read(directory).await? {
            // A batch that cannot be read was cut off by a crash, or is of another version.
            if let Ok(batch) = ExportTraceServiceRequest::decode(batch) {
                let (spans, _) = span::read(&batch);
                traces.insert(spans);
            }
        }
        let (segments, task) = segments::writer(directory, metrics.clone());
        let telemetry = Arc::new(Self { traces, segments, metrics });
        let held = Arc::downgrade(&telemetry);
        let spans = move || held.upgrade().map_or(0, |telemetry| telemetry.traces.spans());
        telemetry.metrics.show_spans(spans);
        Ok((telemetry, task))
    }

    /// Takes a batch in; returns how many of its spans are none.
    pub(crate) fn take(&self, batch: &ExportTraceServiceRequest) -> u64 {
        let (spans, invalid) = span::read(batch);
        self.metrics.spans_invalid.add(invalid);
        if spans.is_empty() {
            return invalid;
        }
        let count = spans.len() as u64;
        let taken = self.traces.insert(spans);
        self.metrics.spans_stored.add(taken.stored);
        self.metrics.spans_evicted.add(taken.evicted);
        if !self.segments.append(batch.encode_to_vec().into()) {
            self.metrics.spans_unwritten.add(count);
        }
        invalid
    }

    /// What was kept.
    pub(crate) fn traces(&self) -> &Traces {
        &self.traces
    }
}
