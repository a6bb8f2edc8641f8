//! Takes records from the queue, writes access log lines, and hands spans to whoever is to have them: the control plane and
//! the collectors that the mesh's settings name, each by a [`Lane`] of its own, so that none waits for another.

mod address;
mod courier;
mod lane;
mod otlp;
mod post;
mod zipkin;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::{oneshot, watch};
use tonic::transport::Channel;
use weft_core::model::{Name, TraceExport};
use weft_runtime::metrics::Shard;

use super::access_log;
use super::record::{BATCH, Record, RecordQueue};
use crate::config::otel::Collector;
use crate::state::Discovery;
use courier::Destination;
use lane::{Lane, Receiver, Whose};

/// How long a span waits for company.
const DELAY: Duration = Duration::from_secs(1);

/// How long the last batches may take when the sidecar ends.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// How long one try may take, where nothing else is said.
const TRY_LIMIT: Duration = Duration::from_secs(10);

/// Collectors that the mesh's settings name, at most.
const LANES: usize = 8;

/// Delivers what the workers record.
#[derive(Debug)]
pub struct Exporter<W> {
    /// What the workers record.
    pub queue: RecordQueue,
    /// The connection to the control plane, while there is one.
    pub collector: watch::Receiver<Option<Channel>>,
    /// Who we are, for the spans' resource, and where spans go.
    pub who: Who,
    /// Where spans are counted.
    pub shard: Shard,
    /// A collector that our own environment names.
    pub own: Option<Collector>,
    /// The mark that interception lets through.
    pub mark: Option<u32>,
    /// Where the access log goes.
    pub log: W,
}

/// Who reports spans.
#[derive(Debug, Clone)]
pub struct Who {
    /// What is known of the mesh, and of us.
    pub discovery: Discovery,
    /// This workload's name, where the configuration does not say better.
    pub workload: Name,
    /// What our environment says of us besides, or before, what is known.
    pub resource: Arc<[(String, String)]>,
}

/// Who gets spans.
struct Lanes {
    all: Vec<Lane>,
    finish: watch::Sender<bool>,
    buffer: BytesMut,
}

impl<W: AsyncWrite + Unpin> Exporter<W> {
    /// Works until `finish` fires or is dropped; then delivers what is left, as far as that is quick.
    pub async fn run(mut self, mut finish: oneshot::Receiver<()>) {
        let mut lanes = self.lanes();
        loop {
            let ended = tokio::select! {
                () = self.queue.gather(DELAY) => false,
                _ = &mut finish => true,
            };
            self.follow(&mut lanes);
            self.deliver(&mut lanes).await;
            if ended {
                return lanes.finish().await;
            }
        }
    }

    fn lanes(&self) -> Lanes {
        let to = Destination::ControlPlane(self.collector.clone());
        let finish = watch::Sender::new(false);
        let first = self.lane((Whose::Mesh, to, TRY_LIMIT), &finish);
        let own = self.own.as_ref().and_then(|own| match Destination::own(own, self.mark) {
            Ok(to) => Some(self.lane((Whose::Environment(own.export.clone()), to, own.timeout), &finish)),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "no spans go to the collector of the environment"
                );
                None
            }
        });
        Lanes { all: [first].into_iter().chain(own).collect(), finish, buffer: BytesMut::new() }
    }

    /// Makes the lanes what the settings say.
    fn follow(&self, lanes: &mut Lanes) {
        let snapshot = self.who.discovery.snapshot();
        let wanted = snapshot.mesh.as_ref().map_or(&[][..], |mesh| &mesh.tracing.export);
        lanes.all.retain(|lane| lane.of_settings().is_none_or(|export| wanted.contains(export)));
        for export in wanted {
            let mut known = lanes.all.iter().filter_map(Lane::of_settings);
            let is_new = known.clone().count() < LANES && !known.any(|known| known == export);
            if is_new {
                lanes.all.extend(self.lane_to(export, &lanes.finish));
            }
        }
    }

    fn lane_to(&self, export: &TraceExport, finish: &watch::Sender<bool>) -> Option<Lane> {
        match Destination::of(export, self.mark) {
            Ok(to) => Some(self.lane((Whose::Settings(export.clone()), to, TRY_LIMIT), finish)),
            Err(error) => {
                tracing::debug!(?export, %error, "no spans go there");
                None
            }
        }
    }

    fn lane(&self, to: Receiver, finish: &watch::Sender<bool>) -> Lane {
        Lane::start(to, self.who.clone(), &self.shard, finish.subscribe())
    }

    async fn deliver(&mut self, lanes: &mut Lanes) {
        loop {
            let records = self.queue.take();
            let full = records.len() == BATCH;
            let lines: String = records.iter().filter_map(access_log::line).map(|line| line + "\n").collect();
            if !lines.is_empty() {
                self.write(&lines).await;
            }
            for record in records.iter().filter(|record| record.trace.sampled) {
                lanes.offer(record, &self.who);
            }
            if !full {
                return;
            }
            // Who takes spans is to have a turn before there are more.
            tokio::task::yield_now().await;
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
}

impl Lanes {
    /// Encodes a record once for each form that is wanted.
    fn offer(&mut self, record: &Record, who: &Who) {
        let (mut otlp, mut zipkin) = (None, None);
        for lane in &self.all {
            let span = match lane.form() {
                courier::Form::Otlp => {
                    otlp.get_or_insert_with(|| super::span::encode(record, &mut self.buffer))
                }
                courier::Form::Zipkin => zipkin.get_or_insert_with(|| zipkin::encode(record, who)),
            };
            lane.offer(span.clone());
        }
    }

    async fn finish(self) {
        self.finish.send_replace(true);
        let all = async {
            for lane in self.all {
                lane.ended().await;
            }
        };
        if tokio::time::timeout(FLUSH_LIMIT, all).await.is_err() {
            tracing::debug!("spans could not be delivered in time");
        }
    }
}

impl Who {
    /// The service that the workload is of, or the workload itself, and its namespace where it is known; or what our
    /// environment says.
    fn service(&self) -> (String, Option<String>) {
        let said =
            |key: &str| self.resource.iter().find(|(said, _)| said == key).map(|(_, value)| value.clone());
        let snapshot = self.discovery.snapshot();
        let workload = snapshot.workload.as_deref();
        let service = workload.and_then(|workload| workload.ports.first()).map(|port| &port.service);
        let name = service.map_or(&self.workload, |service| &service.name);
        let namespace = workload.map(|workload| service.map_or(&workload.name.namespace, |it| &it.namespace));
        (
            said("service.name").unwrap_or_else(|| name.as_str().to_owned()),
            said("service.namespace").or_else(|| namespace.map(|name| name.as_str().to_owned())),
        )
    }
}

#[cfg(test)]
mod tests;
