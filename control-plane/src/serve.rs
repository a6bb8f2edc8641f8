//! gRPC on 7443 (TLS: sidecars, the `weft` command) and on 4317 (plaintext: anybody's spans).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::TraceServiceServer;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::transport::server::Router;
use weft_proto::v1::admin_server::AdminServer;
use weft_proto::v1::discovery_server::DiscoveryServer;
use weft_proto::v1::identity_server::IdentityServer;
use weft_proto::v1::replica_server::ReplicaServer;
use weft_runtime::drain::DrainWatch;
use weft_runtime::task;

use crate::api::{AdminGate, AdminService};
use crate::ca::IdentityService;
use crate::discovery::{DiscoveryService, Shared};
use crate::io::Io;
use crate::listen::{self, Security, Settings};
use crate::metrics::Metrics;
use crate::peer::MeshGate;
use crate::report::chain;
use crate::telemetry::{OtlpService, Telemetry};
use crate::together::{ReplicaGate, ReplicaService};

/// How often a connection is tried, and how long it may stay silent: a crash is noticed within 5 s, and a machine whose
/// disk or cores are busy for two seconds loses no one.
const PING: Duration = Duration::from_secs(1);
const PONG: Duration = Duration::from_millis(2500);
/// Calls at once on one connection.
const STREAMS: u32 = 128;
/// What may be applied at once, after the admin token was checked.
const CONFIGURATION_BYTES: usize = 32 << 20;

/// What is served beside sidecars' streams and certificates.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) admin: AdminService,
    pub(crate) gate: AdminGate,
    /// Our name among several control planes; none: we are alone.
    pub(crate) replica: Option<Arc<str>>,
    pub(crate) telemetry: Arc<Telemetry>,
}

/// Serves the mesh until the drain.
pub(crate) fn mesh(listener: TcpListener, settings: Settings, shared: Shared, served: Served) {
    let Served { admin, gate, replica, telemetry } = served;
    let (metrics, drain) = (shared.metrics.clone(), shared.drain.clone());
    let identity = IdentityService::new(shared.ca.clone(), metrics.clone());
    let mesh_gate = MeshGate(shared.ca.clone());
    let replica = replica.map(|id| {
        let gate = ReplicaGate { ca: shared.ca.clone(), id };
        ReplicaServer::with_interceptor(ReplicaService(admin.clone()), gate)
    });
    let admin = AdminServer::new(admin).max_decoding_message_size(CONFIGURATION_BYTES);
    let mut router = server()
        .add_service(DiscoveryServer::new(DiscoveryService::new(shared)))
        .add_service(IdentityServer::new(identity))
        .add_service(InterceptedService::new(admin, gate))
        .add_service(TraceServiceServer::with_interceptor(OtlpService::new(telemetry), mesh_gate));
    if let Some(replica) = replica {
        router = router.add_service(replica);
    }
    let incoming = listen::accept(listener, Security::Tls(settings), metrics, drain.clone());
    task::spawn("grpc", serve(router, incoming, drain));
}

/// Takes anybody's spans until the drain.
pub(crate) fn otlp(
    listener: TcpListener,
    telemetry: Arc<Telemetry>,
    metrics: Arc<Metrics>,
    drain: &DrainWatch,
) {
    let service = TraceServiceServer::new(OtlpService::new(telemetry));
    let router = server().add_service(service.accept_compressed(CompressionEncoding::Gzip));
    let incoming = listen::accept(listener, Security::Plain, metrics, drain.clone());
    task::spawn("otlp", serve(router, incoming, drain.clone()));
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PONG))
        .max_concurrent_streams(STREAMS)
}

async fn serve(router: Router, incoming: mpsc::Receiver<io::Result<Io>>, mut watch: DrainWatch) {
    let mut drain = watch.clone();
    let incoming = ReceiverStream::new(incoming);
    let serving = router.serve_with_incoming_shutdown(incoming, async move { drain.draining().await });
    tokio::select! {
        served = serving => if let Err(error) = served {
            tracing::error!(reason = chain(&error), "gRPC ended");
        },
        () = watch.stopped() => {}
    }
}
