//! `weft.v1.Discovery`: one stream per sidecar.
//!
//! The stream's identity is the connection's certificate; what it offers must be granted to that certificate.

mod allowance;
mod hello;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tokio_stream::adapters::Map;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use weft_core::model::TrustDomain;
use weft_proto::v1;
use weft_runtime::drain::DrainWatch;
use weft_runtime::task;

use crate::ca::{self, Ca, Claimant};
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::peer::{Connection, Peer};
use crate::push::Hub;
use crate::source::registry::Registry;
use crate::telemetry::Telemetry;
use crate::world::World;

use stream::Ended;

/// For the first message.
const HELLO: Duration = Duration::from_secs(10);
/// For a message to be taken from us.
const SEND: Duration = Duration::from_secs(10);
/// Messages that HTTP/2 has not taken up yet.
const BACKLOG: usize = 4;

/// What one sidecar is told next.
type Told = Result<v1::ControlMessage, Status>;
/// Sends that. Boxed, for a channel makes room for 32 at once.
type Sender = mpsc::Sender<Box<Told>>;

/// What every stream works with.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) ca: Arc<Ca>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) world: Arc<World>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) live: Arc<crate::status::Live>,
    pub(crate) telemetry: Arc<Telemetry>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) trust_domain: TrustDomain,
    pub(crate) drain: DrainWatch,
    /// For a push to be answered.
    pub(crate) ack: Duration,
    /// Whether all that the mesh is was read, where it is read from a cluster.
    pub(crate) synced: Option<watch::Receiver<bool>>,
}

/// Answers sidecars.
#[derive(Debug)]
pub(crate) struct DiscoveryService(Shared);

impl DiscoveryService {
    pub(crate) fn new(shared: Shared) -> Self {
        Self(shared)
    }
}

#[tonic::async_trait]
impl v1::discovery_server::Discovery for DiscoveryService {
    type SyncStream = Map<ReceiverStream<Box<Told>>, fn(Box<Told>) -> Told>;

    async fn sync(
        &self,
        request: Request<Streaming<v1::SidecarMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let from = Connection::of(&request).map(|c| c.address.to_string()).unwrap_or_default();
        let peer = Connection::of(&request).and_then(|connection| connection.peer.clone());
        let admitted = self.admit(peer).await.inspect_err(|status| refused(&self.0, &from, "?", status));
        let (peer, claimant) = admitted?;
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let inbound = request.into_inner();
        task::spawn("sidecar", serve(self.0.clone(), peer, claimant, inbound, sender, from));
        Ok(Response::new(ReceiverStream::new(receiver).map(|told| *told)))
    }
}

impl DiscoveryService {
    async fn admit(&self, peer: Option<Peer>) -> Result<(Peer, Claimant), Status> {
        if self.0.drain.is_draining() {
            return Err(Status::unavailable("the control plane is shutting down"));
        }
        if self.0.synced.as_ref().is_some_and(|synced| !*synced.borrow()) {
            return Err(Status::unavailable("the cluster has not been read yet"));
        }
        let peer = peer.ok_or_else(|| {
            Status::unauthenticated(
                "a sidecar shows its certificate; Identity.Sign issues one for a join token",
            )
        })?;
        let claimant = self.0.ca.known(&peer).await.map_err(|error| ca::status(&error))?;
        Ok((peer, claimant))
    }
}

/// One stream, from its first message to its end.
async fn serve(
    shared: Shared,
    peer: Peer,
    claimant: Claimant,
    mut inbound: Streaming<v1::SidecarMessage>,
    sender: Sender,
    from: String,
) {
    let workload;
    let status = match greet(&shared, &peer, &claimant, &mut inbound).await {
        Ok(announced) => {
            workload = announced.workload.to_string();
            let connected = Connected::start(&shared.metrics);
            let ended = stream::run(&shared, announced, peer, inbound, &sender).await;
            drop(connected);
            match ended {
                Ended::Clean | Ended::Lost => return,
                Ended::Draining => Status::unavailable("the control plane is shutting down"),
                Ended::Refused(status) | Ended::Revoked(status) => status,
            }
        }
        Err(status) => {
            workload = "?".to_owned();
            status
        }
    };
    if status.code() != tonic::Code::Unavailable {
        refused(&shared, &from, &workload, &status);
    }
    // The sidecar learns the reason, unless it is gone already.
    let _ = timeout(SEND, sender.send(Box::new(Err(status)))).await;
}

async fn greet(
    shared: &Shared,
    peer: &Peer,
    claimant: &Claimant,
    inbound: &mut Streaming<v1::SidecarMessage>,
) -> Result<hello::Announced, Status> {
    let first = timeout(HELLO, inbound.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no Hello within 10 s"))??;
    match first.and_then(|message| message.message) {
        Some(v1::sidecar_message::Message::Hello(hello)) => hello::read(shared, peer, claimant, hello),
        _ => Err(Status::invalid_argument("the first message must be Hello")),
    }
}

/// The other log is the sidecar's, which gets the same words.
fn refused(shared: &Shared, from: &str, workload: &str, status: &Status) {
    shared.metrics.streams_refused.increment();
    tracing::warn!(%from, workload, code = ?status.code(), reason = status.message(), "refused a sidecar");
}

/// Counts a sidecar while it is connected.
struct Connected(weft_runtime::metrics::Gauge);

impl Connected {
    fn start(metrics: &Metrics) -> Self {
        metrics.sidecars.increment();
        Self(metrics.sidecars.clone())
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.decrement();
    }
}
