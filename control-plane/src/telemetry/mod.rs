//! What sidecars tell of requests: spans in by OTLP, kept within bounds in memory, and on disk so that a restart does not
//! lose them; what they count, in memory; what passes, for who looks at it now.

mod golden;
mod otlp;
mod segments;
mod span;
mod tally;
mod traces;

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use prost::Message;

use crate::metrics::Metrics;
use crate::taps::Taps;

pub(crate) use golden::{By, Counted, Golden, Of, Query};
pub(crate) use otlp::OtlpService;
pub(crate) use segments::{SegmentError, Task};
pub(crate) use span::{Span, SpanId, SpanKind, TraceId};
pub(crate) use tally::Tally;
pub(crate) use traces::{Errors, Filter, Summary, Traces};

/// All that is told of requests.
#[derive(Debug)]
pub(crate) struct Telemetry {
    traces: Traces,
    golden: Golden,
    taps: Arc<Taps>,
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
        let now = SystemTime::now();
        for batch in segments::read(directory).await? {
            // A batch that cannot be read was cut off by a crash, or is of another version.
            if let Ok(batch) = ExportTraceServiceRequest::decode(batch) {
                let (spans, _) = span::read(&batch);
                let newest = spans.iter().map(Span::end).max().unwrap_or(now);
                traces.insert(spans, newest.min(now));
            }
        }
        let (segments, task) = segments::writer(directory, metrics.clone());
        let telemetry =
            Arc::new(Self { traces, golden: Golden::default(), taps: Arc::default(), segments, metrics });
        let held = Arc::downgrade(&telemetry);
        let spans = move || held.upgrade().map_or(0, |telemetry| telemetry.traces.spans());
        telemetry.metrics.show_spans(spans);
        let taps = Arc::downgrade(&telemetry.taps);
        telemetry.metrics.show_taps(move || taps.upgrade().map_or(0, |taps| taps.looking()));
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
        let taken = self.traces.insert(spans, SystemTime::now());
        self.metrics.spans_stored.add(taken.stored);
        self.metrics.spans_evicted.add(taken.evicted);
        if !self.segments.append(batch.encode_to_vec().into()) {
            self.metrics.spans_unwritten.add(count);
        }
        invalid
    }

    /// What was counted.
    pub(crate) fn golden(&self) -> &Golden {
        &self.golden
    }

    /// Who looks at requests now.
    pub(crate) fn taps(&self) -> &Arc<Taps> {
        &self.taps
    }

    /// What was kept.
    pub(crate) fn traces(&self) -> &Traces {
        &self.traces
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
    use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span as WireSpan};

    use super::*;

    /// As sidecars report them: a span has some 16 attributes.
    fn batch(number: u64) -> ExportTraceServiceRequest {
        let attribute = |n: usize| KeyValue {
            key: format!("attribute.of.a.span.{n}"),
            value: Some(AnyValue { value: Some(Value::StringValue("default/orders".into())) }),
            ..Default::default()
        };
        let span = |n: u64| {
            let id = number * 500 + n + 1;
            WireSpan {
                // Four spans are a trace.
                trace_id: [u64::MAX.to_be_bytes(), (id / 4).to_be_bytes()].concat(),
                span_id: id.to_be_bytes().to_vec(),
                name: "GET".into(),
                start_time_unix_nano: id * 1_000_000,
                end_time_unix_nano: id * 1_000_000 + 5_000,
                attributes: (0..16).map(attribute).collect(),
                ..Default::default()
            }
        };
        let spans = (0..500).map(span).collect();
        let scope_spans = vec![ScopeSpans { spans, ..Default::default() }];
        ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans { scope_spans, ..Default::default() }],
        }
    }

    /// What this thread has used of a processor.
    fn processor_time() -> std::time::Duration {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        std::time::Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    }

    #[tokio::test]
    async fn ten_thousand_spans_take_less_than_a_second_of_one_core() {
        let dir = tempfile::tempdir().unwrap();
        let (telemetry, _writer) = Telemetry::open(dir.path(), Metrics::new()).await.unwrap();
        let batches: Vec<_> = (0..20).map(|number| batch(number).encode_to_vec()).collect();
        let begun = processor_time();
        for batch in batches {
            let batch = ExportTraceServiceRequest::decode(batch.as_slice()).unwrap();
            assert_eq!(telemetry.take(&batch), 0);
        }
        let took = processor_time() - begun;
        eprintln!("10,000 spans: {took:?} of one core");
        assert_eq!(telemetry.traces().spans(), 10_000);
        assert!(took < std::time::Duration::from_secs(1), "{took:?}");
    }
}
