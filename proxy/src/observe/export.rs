//! Takes records from the queue, writes access log lines and sends spans to the control plane, in batches.
//!
//! While the control plane is away spans wait, as many as the queue holds; the oldest are dropped and counted.

use std::collections::VecDeque;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{oneshot, watch};
use tonic::transport::Channel;
use weft_core::model::Name;

use super::record::{BATCH, QUEUE, RecordQueue};
use super::{access_log, span};
use crate::state::Discovery;

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
        let mut waiting = VecDeque::new();
        loop {
            let ended = tokio::select! {
                () = self.queue.gather(DELAY) => false,
                _ = &mut finish => true,
            };
            if ended {
                let flush = tokio::time::timeout(FLUSH_LIMIT, self.deliver(&mut waiting));
                if flush.await.is_err() {
                    tracing::debug!(spans = waiting.len(), "spans could not be delivered in time");
                }
                return;
            }
            self.deliver(&mut waiting).await;
        }
    }

    async fn deliver(&mut self, waiting: &mut VecDeque<Span>) {
        loop {
            let records = self.queue.take();
            let full = records.len() == BATCH;
            let lines: String = records.iter().filter_map(access_log::line).map(|line| line + "\n").collect();
            if !lines.is_empty() {
                self.write(&lines).await;
            }
            waiting.extend(records.iter().filter(|record| record.trace.sampled).map(span::of));
            if waiting.len() > QUEUE {
                let surplus = waiting.len() - QUEUE;
                waiting.drain(..surplus);
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
    async fn export(&mut self, waiting: &mut VecDeque<Span>) {
        while !waiting.is_empty() {
            let Some(channel) = self.collector.borrow().clone() else { return };
            let count = waiting.len().min(BATCH);
            let batch: Vec<Span> = waiting.iter().take(count).cloned().collect();
            let mut client = TraceServiceClient::new(channel);
            match tokio::time::timeout(EXPORT_LIMIT, client.export(self.request(batch))).await {
                Ok(Ok(_)) => {}
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
            waiting.drain(..count);
        }
    }

    fn request(&self, spans: Vec<Span>) -> ExportTraceServiceRequest {
        let scope = InstrumentationScope {
            name: "weft-proxy".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let resource_spans = ResourceSpans {
            resource: Some(self.resource()),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        };
        ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
    }

    fn resource(&self) -> Resource {
        let snapshot = self.discovery.snapshot();
        let workload = snapshot.workload.as_deref();
        let service = workload.and_then(|workload| workload.ports.first()).map(|port| &port.service);
        let name = service.map_or(&self.workload, |service| &service.name);
        let mut attributes = vec![
            span::text("service.name", name.as_str()),
            span::text("service.instance.id", self.workload.as_str()),
        ];
        if let Some(workload) = workload {
            let namespace = service.map_or(&workload.name.namespace, |service| &service.namespace);
            attributes.push(span::text("service.namespace", namespace.as_str()));
        }
        Resource { attributes, ..Resource::default() }
    }
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
        let mut waiting = VecDeque::new();
        for _ in 0..2 {
            for _ in 0..QUEUE {
                observer.request_ended(&request(&flow, &http::Method::GET, true));
            }
            exporter.deliver(&mut waiting).await;
        }
        assert_eq!(waiting.len(), QUEUE);
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
            observer.request_ended(&request(&flow, &http::Method::GET, true));
        }
        queue.gather(DELAY).await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
