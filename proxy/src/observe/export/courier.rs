//! Sends batches of spans to one receiver, and again where the OTLP specification wants that.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::Channel;
use weft_core::model::TraceExport;
use weft_runtime::metrics::Counter;

use super::Who;
use super::address::{Address, AddressError, Site};
use super::otlp::{self, Calls};
use super::post::{Post, Posted};
use super::zipkin;
use crate::config::otel::{Collector, Compression, Protocol};
use crate::observe::record::BATCH;

/// What bodies are.
const PROTOBUF: &str = "application/x-protobuf";
const JSON: &str = "application/json";

/// How long a batch is tried.
const BATCH_LIMIT: Duration = Duration::from_secs(300);

/// Pauses between tries double from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(16);

/// How long a receiver may ask to be left alone.
const LONGEST_WISH: Duration = Duration::from_secs(120);

/// How spans are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// OpenTelemetry's protobuf.
    Otlp,
    /// Zipkin's JSON, version 2.
    Zipkin,
}

/// What a collector is told with each batch, and how batches are compressed.
#[derive(Debug, Clone, Default)]
pub(super) struct Terms {
    pub(super) headers: HeaderMap,
    /// None: as is usual, which is by gzip over HTTP, and not at all over gRPC.
    pub(super) compression: Option<Compression>,
}

impl Terms {
    fn of(collector: &Collector) -> Self {
        Self { headers: collector.headers.clone(), compression: collector.compression }
    }
}

/// Who gets spans.
#[derive(Debug)]
pub(super) enum Destination {
    /// The control plane, while it is there.
    ControlPlane(watch::Receiver<Option<Channel>>),
    /// OTLP over gRPC.
    Grpc(Box<Calls>),
    /// OTLP over HTTP.
    Http(Post),
    /// Zipkin.
    Zipkin(Post),
}

/// What became of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was taken, but for so many spans that the receiver does not want.
    Taken { refused: u64 },
    /// It will never be.
    Refused(String),
    /// It may be later: after so long, if the receiver says so.
    Later { after: Option<Duration>, why: String },
}

/// Sends what comes out of a queue.
#[derive(Debug)]
pub(super) struct Courier {
    pub(super) queue: mpsc::Receiver<Bytes>,
    /// Whether the sidecar ends, and every batch is tried once.
    pub(super) finish: watch::Receiver<bool>,
    pub(super) to: Destination,
    /// How long one try may take.
    pub(super) limit: Duration,
    pub(super) who: Who,
    pub(super) exported: Counter,
    pub(super) refused: Counter,
    pub(super) unavailable: Counter,
    pub(super) rng: fastrand::Rng,
}

impl Courier {
    /// Works until the queue ends.
    pub(super) async fn run(mut self) {
        let mut batch = Vec::new();
        // One line a trouble, not one a try.
        let mut is_well = true;
        while self.queue.recv_many(&mut batch, BATCH).await > 0 {
            let trouble = self.deliver(&batch).await;
            if let Some(trouble) = &trouble
                && is_well
            {
                tracing::warn!(trouble, "spans are lost");
            }
            is_well = trouble.is_none();
            batch.clear();
        }
    }

    /// Sends a batch until it is taken or there is no use; says why it was lost.
    async fn deliver(&mut self, batch: &[Bytes]) -> Option<String> {
        let (begun, mut pause, spans) = (Instant::now(), FIRST_PAUSE, batch.len() as u64);
        loop {
            let sent = timeout(self.limit, self.to.send(batch, &self.who)).await;
            let late = |_| Outcome::Later { after: None, why: "no answer in time".to_owned() };
            match sent.unwrap_or_else(late) {
                Outcome::Taken { refused } => {
                    let refused = refused.min(spans);
                    self.exported.add(spans - refused);
                    self.refused.add(refused);
                    return (refused > 0).then(|| format!("{refused} spans are not wanted"));
                }
                Outcome::Refused(why) => {
                    self.refused.add(spans);
                    return Some(why);
                }
                Outcome::Later { after, why } => {
                    if *self.finish.borrow() || begun.elapsed() > BATCH_LIMIT {
                        self.unavailable.add(spans);
                        return Some(why);
                    }
                    tracing::debug!(why, "spans wait");
                    let own = jittered(pause, &mut self.rng);
                    self.rest(after.unwrap_or(own)).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
            }
        }
    }

    /// Waits, but not when there is news.
    async fn rest(&mut self, pause: Duration) {
        tokio::select! {
            () = sleep(pause.min(LONGEST_WISH)) => {}
            () = self.to.changed() => {}
            _ = self.finish.wait_for(|finish| *finish) => {}
        }
    }
}

impl Destination {
    /// A collector that the mesh's settings name.
    pub(super) fn of(export: &TraceExport, mark: Option<u32>) -> Result<Self, AddressError> {
        let site = Site { mark, ..Site::default() };
        Ok(match export {
            TraceExport::Otlp(url) => {
                let address = Address::otlp(url, &site)?;
                match address.path {
                    None => Self::Grpc(Box::new(Calls::new(address, Terms::default())?)),
                    Some(_) => Self::Http(Post::new(address, PROTOBUF, Terms::default())),
                }
            }
            TraceExport::Zipkin(url) => {
                Self::Zipkin(Post::new(Address::zipkin(url, &site)?, JSON, Terms::default()))
            }
        })
    }

    /// The collector that our own environment names.
    pub(super) fn own(collector: &Collector, mark: Option<u32>) -> Result<Self, AddressError> {
        let anchors = match &collector.certificate {
            None => Vec::new(),
            Some(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(|error| AddressError::Certificate(path.clone(), error))?;
                weft_certs::pem::certificates(&text)?
            }
        };
        let (site, terms) = (Site { mark, anchors }, Terms::of(collector));
        Ok(match (&collector.export, collector.protocol) {
            (TraceExport::Zipkin(url), _) => {
                Self::Zipkin(Post::new(Address::zipkin(url, &site)?, JSON, terms))
            }
            (TraceExport::Otlp(url), Some(Protocol::Http)) => {
                Self::Http(Post::new(Address::http(url, &site)?, PROTOBUF, terms))
            }
            (TraceExport::Otlp(url), Some(Protocol::Grpc) | None) => {
                Self::Grpc(Box::new(Calls::new(Address::grpc(url, &site)?, terms)?))
            }
        })
    }

    /// How its spans are written.
    pub(super) fn form(&self) -> Form {
        match self {
            Self::ControlPlane(_) | Self::Grpc(_) | Self::Http(_) => Form::Otlp,
            Self::Zipkin(_) => Form::Zipkin,
        }
    }

    async fn send(&mut self, batch: &[Bytes], who: &Who) -> Outcome {
        match self {
            Self::ControlPlane(channel) => {
                let channel = channel.borrow_and_update().clone();
                let Some(channel) = channel else {
                    return Outcome::Later { after: None, why: "there is no control plane".to_owned() };
                };
                match otlp::call(channel, otlp::request(batch, who), &Terms::default()).await {
                    Ok(outcome) => outcome,
                    // Until the certificate is renewed, which the sidecar sees to.
                    Err(status) if status.code() == tonic::Code::Unauthenticated => {
                        Outcome::Later { after: None, why: status.to_string() }
                    }
                    Err(status) => otlp::failed(&status),
                }
            }
            Self::Grpc(calls) => match calls.send(otlp::request(batch, who)).await {
                Ok(outcome) => outcome,
                Err(status) => otlp::failed(&status),
            },
            Self::Http(post) => {
                let request = prost::Message::encode_to_vec(&otlp::request(batch, who));
                match post.send(&request).await {
                    Posted::Taken(answer) => Outcome::Taken { refused: otlp::refused(answer) },
                    Posted::Not(outcome) => outcome,
                }
            }
            Self::Zipkin(post) => match post.send(&zipkin::join(batch)).await {
                Posted::Taken(_) => Outcome::Taken { refused: 0 },
                Posted::Not(outcome) => outcome,
            },
        }
    }

    /// Returns when it is another than when it was last sent to.
    async fn changed(&mut self) {
        match self {
            Self::ControlPlane(channel) => {
                if channel.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            Self::Grpc(_) | Self::Http(_) | Self::Zipkin(_) => std::future::pending().await,
        }
    }
}

/// Between half of it and all, so that those who failed together do not try together.
fn jittered(pause: Duration, rng: &mut fastrand::Rng) -> Duration {
    pause.mul_f64(0.5 + rng.f64() / 2.0)
}
