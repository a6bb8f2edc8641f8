//! Takes records from the queue, writes access log lines and sends spans to the control plane, in batches.
//!
//! While the control plane is away spans wait, as many as the queue holds; the oldest are dropped and counted.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceResponse;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{oneshot, watch};
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_prost::ProstCodec;
use weft_core::model::Name;

use super::record::{BATCH, QUEUE, RecordQueue};
use super::wire::{ExportRequest, ResourceSpans, ScopeSpans};
use super::{access_log, span};
use crate::state::Discovery;

/// OpenTelemetry's method that takes spans.
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// How long a span waits for company.
const DELAY: Duration = Duration::from_secs(1);

/// How long one batch may take.
const EXPORT_LIMIT: Duration = Duration::from_secs(10);

/// How long the last batches may take when the sidecar ends.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Delivers what the workers record.
#[derive(Debug)]
pub struct Exporter<W> {
    /// What the workers record.
    pub queue: RecordQueue,
    /// The connection to the control plane, while there is one.
    pub collector: watch::Receiver<Option<Channel>>,
    /// Who we are, for the spans' resource.
    pub discovery: Discovery,
    /// This workload's name, where the configuration does not say better.
    pub workload: Name,
    /// Where the access log goes.
    pub log: W,
}

impl<W: AsyncWrite + Unpin> Exporter<W> {
    /// Works until `finish` fires or is dropped; then delivers what is left, as far as that is quick.
    pub async fn run(mut self, mut finish: oneshot::Receiver<()>) {
        let mut waiting = Waiting::default();
        loop {
            let ended = tokio::select! {
                () = self.queue.gather(DELAY) => false,
                _ = &mut finish => true,
            };
            if ended {
                let flush = tokio::time::timeout(FLUSH_LIMIT, self.deliver(&mut waiting));
                if flush.await.is_err() {
                    tracing::debug!(spans = waiting.spans.len(), "spans could not be delivered in time");
                }
                return;
            }
            self.deliver(&mut waiting).await;
        }
    }

    async fn deliver(&mut self, waiting: &mut Waiting) {
        loop {
            let records = self.queue.take();
            let full = records.len() == BATCH;
            let lines: String = records.iter().filter_map(access_log::line).map(|line| line + "\n").collect();
            if !lines.is_empty() {
                self.write(&lines).await;
            }
            for record in records.iter().filter(|record| record.trace.sampled) {
                waiting.spans.push_back(span::encode(record, &mut waiting.buffer));
            }
            if let Some(surplus) = waiting.spans.len().checked_sub(QUEUE) {
                waiting.spans.drain(..surplus);
                self.queue.lost(surplus);
            }
            self.export(waiting).await;
            if !full {
                return;
            }
        }
    }

    async fn write(&mut self, lines: &str) {
        let written = async {
            self.log.write_all(lines.as_bytes()).await?;
            self.log.flush().await
        };
        if let Err(error) = written.await {
            tracing::debug!(%error, "cannot write the access log");
        }
    }

    /// Sends what waits; what cannot be sent now goes on waiting, what is refused is lost.
    async fn export(&mut self, waiting: &mut Waiting) {
        while !waiting.spans.is_empty() {
            let Some(channel) = self.collector.borrow().clone() else { return };
            let count = waiting.spans.len().min(BATCH);
            let batch = waiting.spans.iter().take(count).cloned().collect();
            match tokio::time::timeout(EXPORT_LIMIT, send(channel, self.request(batch))).await {
                Ok(Ok(())) => {}
                Ok(Err(status)) if is_temporary(status.code()) => {
                    tracing::debug!(%status, "spans wait for the control plane");
                    return;
                }
                Ok(Err(status)) => {
                    tracing::warn!(%status, spans = count, "the control plane refused spans");
                    self.queue.lost(count);
                }
                Err(_) => {
                    tracing::debug!("the control plane takes no spans");
                    return;
                }
            }
            waiting.spans.drain(..count);
        }
    }

    fn request(&self, spans: Vec<Bytes>) -> ExportRequest {
        let scope = InstrumentationScope {
            name: "weft-proxy".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let scope_spans = Some(ScopeSpans { scope: Some(scope), spans });
        let resource = Some(self.resource());
        ExportRequest { resource_spans: Some(ResourceSpans { resource, scope_spans }) }
    }

    fn resource(&self) -> Resource {
        let snapshot = self.discovery.snapshot();
        let workload = snapshot.workload.as_deref();
        let service = workload.and_then(|workload| workload.ports.first()).map(|port| &port.service);
        let name = service.map_or(&self.workload, |service| &service.name);
        let mut attributes =
            vec![text("service.name", name.as_str()), text("service.instance.id", self.workload.as_str())];
        if let Some(workload) = workload {
            let namespace = service.map_or(&workload.name.namespace, |service| &service.namespace);
            attributes.push(text("service.namespace", namespace.as_str()));
        }
        Resource { attributes, ..Resource::default() }
    }
}

/// Spans that wait to be sent, the oldest first, and where the next ones are written.
#[derive(Debug, Default)]
struct Waiting {
    spans: VecDeque<Bytes>,
    buffer: BytesMut,
}

async fn send(channel: Channel, request: ExportRequest) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = ProstCodec::<ExportRequest, ExportTraceServiceResponse>::default();
    client.unary(Request::new(request), PathAndQuery::from_static(EXPORT), codec).await.map(drop)
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value, ..KeyValue::default() }
}

/// Codes after which the OTLP specification wants the batch to be sent again.
fn is_temporary(code: tonic::Code) -> bool {
    use tonic::Code;
    matches!(
        code,
        Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss
            | Code::Unauthenticated
    )
}

#[cfg(test)]
mod tests {
    use weft_core::model::AccessLog;
    use weft_runtime::metrics::Registry;

    use super::super::{Direction, Observe, Party, tests::request};
    use super::*;
    use crate::state;

    #[tokio::test(start_paused = true)]
    async fn without_a_control_plane_spans_wait_within_bounds_and_lines_are_written() {
        let (observe, queue) = Observe::new(&Registry::new());
        observe.set_access_log(AccessLog::Json);
        let (discovery, _publisher, _asked) = state::channel(Vec::new());
        let (_keep, collector) = watch::channel(None);
        let mut exporter =
            Exporter { queue, collector, discovery, workload: "web".parse().unwrap(), log: Vec::new() };
        let observer = observe.observer();
        let flow = observer.flow(Direction::Outbound, Party::Unknown, Party::Unknown);
        let mut waiting = Waiting::default();
        for _ in 0..2 {
            for _ in 0..QUEUE {
                observer.request_ended(&request(&flow, true));
            }
            exporter.deliver(&mut waiting).await;
        }
        assert_eq!(waiting.spans.len(), QUEUE);
        assert_eq!(observe.records.dropped(), QUEUE as u64);
        assert_eq!(exporter.log.iter().filter(|byte| **byte == b'\n').count(), 2 * QUEUE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_batch_is_not_made_to_wait() {
        let (observe, queue) = Observe::new(&Registry::new());
        let observer = observe.observer();
        let flow = observer.flow(Direction::Outbound, Party::Unknown, Party::Unknown);
        let begun = tokio::time::Instant::now();
        for _ in 0..BATCH {
            observer.request_ended(&request(&flow, true));
        }
        queue.gather(DELAY).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
