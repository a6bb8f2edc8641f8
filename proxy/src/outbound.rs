//! From the app: accept, find out who is called, detect, balance, forward.

use std::net::SocketAddr;
use std::rc::Rc;

use http::{Request, Response};
use hyper::body::Incoming;
use weft_core::model::{OutboundMode, Protocol, QualifiedName};

use crate::failure::ErrorCode;
use crate::forward::{self, Heard};
use crate::http::{Body, Exchange, Facts, Version, headers, is_grpc, relay, serve};
use crate::listen::{Accepted, OriginalDst};
use crate::observe::{Direction, Flow, Party, Refusal, Security, Spoken};
use crate::state::{Known, Snapshot};
use crate::stream::{Peeked, Reset, Stream};
use crate::upstream::{Cluster, Source};
use crate::worker::{Explicit, Worker};

/// Who is called.
#[derive(Debug)]
enum Callee {
    /// Someone of the mesh.
    Mesh(Rc<Cluster>, Party),
    /// No one of the mesh; passed through.
    Stranger(SocketAddr),
    /// No one of the mesh; refused.
    Refused(SocketAddr),
}

/// A connection that was redirected here on its way elsewhere.
pub async fn redirected(worker: Rc<Worker>, accepted: Accepted) {
    let OriginalDst::Redirected(destination) = accepted.destination else {
        // Whoever calls the listener itself is going nowhere.
        return refuse(&worker, &accepted.io.into(), Refusal::UnknownDestination);
    };
    let callee = callee(&worker, destination).await;
    connection(worker, accepted, destination, callee).await;
}

/// A connection to a listener that stands for one service's port.
pub async fn explicit(worker: Rc<Worker>, accepted: Accepted, explicit: Explicit) {
    let (OriginalDst::Redirected(local) | OriginalDst::Direct(local)) = accepted.destination;
    let Some(namespace) = explicit.namespace.or_else(|| worker.own_namespace()) else {
        return refuse(&worker, &accepted.io.into(), Refusal::UnknownDestination);
    };
    let name = QualifiedName::new(namespace, explicit.service);
    worker.discovery.lookup_service(&name).await;
    let cluster = worker.cluster(Source::Service(name.clone(), explicit.port), &worker.discovery.snapshot());
    connection(worker, accepted, local, Callee::Mesh(cluster, Party::Named(name))).await;
}

async fn connection(worker: Rc<Worker>, accepted: Accepted, destination: SocketAddr, callee: Callee) {
    let mut client = Peeked::from(accepted.io);
    let (cluster, called) = match callee {
        Callee::Mesh(cluster, called) => (cluster, called),
        Callee::Stranger(address) => return pass_through(&worker, client, address).await,
        Callee::Refused(address) => return turn_away(worker, client, accepted.client, address).await,
    };
    let own = worker.own_party(&worker.discovery.snapshot(), None);
    let flow = worker.observer.flow(Direction::Outbound, own, called);
    let heard = match cluster.protocol() {
        Protocol::Tcp | Protocol::Tls => Ok(Heard::Bytes(Spoken::Tcp, None)),
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => forward::listen_to_client(&mut client).await,
        Protocol::Detect => forward::listen_to_both(&worker, &cluster, &mut client).await,
    };
    match heard {
        Ok(Heard::Http(version)) => {
            let (client_address, security) = (accepted.client, cluster.security());
            let session =
                Session { worker, cluster, flow, client: client_address, destination, version, security };
            session.serve(client.into()).await;
        }
        Ok(Heard::Bytes(spoken, opened)) => {
            forward::tunnel(&worker, &cluster, client.into(), opened, &flow, spoken, Security::Plaintext)
                .await;
        }
        Err(refusal) => refuse(&worker, &client.into(), refusal),
    }
}

async fn callee(worker: &Worker, destination: SocketAddr) -> Callee {
    let snapshot = worker.discovery.lookup_address(destination.ip()).await;
    let port = destination.port();
    match snapshot.addresses.get(&destination.ip()) {
        Some(Known::Service(name)) => match snapshot.services.get(name) {
            Some(known) if known.service.takes(port) => {
                let cluster = worker.cluster(Source::Service(name.clone(), port), &snapshot);
                Callee::Mesh(cluster, Party::Named(name.clone()))
            }
            // The address is virtual: behind a port that no one declared there is no one to pass it to.
            Some(_) | None => Callee::Refused(destination),
        },
        Some(Known::Workload(known)) => {
            let cluster = worker.cluster(Source::Workload(destination.ip(), port), &snapshot);
            let name = known.service.as_ref().unwrap_or(&known.endpoint.workload);
            Callee::Mesh(cluster, Party::Named(name.clone()))
        }
        Some(Known::Absent) | None if may_pass(&snapshot) => Callee::Stranger(destination),
        Some(Known::Absent) | None => Callee::Refused(destination),
    }
}

fn may_pass(snapshot: &Snapshot) -> bool {
    // Before the first configuration strangers are refused: it may say so.
    snapshot.mesh.as_ref().is_some_and(|mesh| mesh.outbound == OutboundMode::AllowAny)
}

/// Carries a connection to where it was going, untouched.
async fn pass_through(worker: &Worker, client: Peeked, destination: SocketAddr) {
    let own = worker.own_party(&worker.discovery.snapshot(), None);
    let flow = worker.observer.flow(Direction::Outbound, own, Party::Unknown);
    let client = Stream::from(client);
    match worker.dialer.dial(&[destination]).await {
        Ok(server) => {
            let open = worker.observer.connection_opened(&flow, Spoken::Tcp, Security::Plaintext);
            forward::pump(client, server.into(), &open).await;
        }
        Err(_) => refuse(worker, &client, Refusal::Unreachable),
    }
}

/// Refuses a connection to no one: in HTTP where that is spoken, else by a reset.
async fn turn_away(worker: Rc<Worker>, mut client: Peeked, from: SocketAddr, destination: SocketAddr) {
    match forward::listen_to_client(&mut client).await {
        Ok(Heard::Http(version)) => {
            let own = worker.own_party(&worker.discovery.snapshot(), None);
            let flow = worker.observer.flow(Direction::Outbound, own, Party::Unknown);
            tracing::debug!(%destination, "no one of the mesh is there");
            forward::refuse_all(worker, client.into(), version, flow, from, ErrorCode::NoRoute).await;
        }
        Ok(Heard::Bytes(..)) | Err(_) => refuse(&worker, &client.into(), Refusal::UnknownDestination),
    }
}

fn refuse(worker: &Worker, client: &Stream, refusal: Refusal) {
    worker.observer.connection_refused(Direction::Outbound, refusal);
    client.reset();
}

/// A connection of the app that carries HTTP to someone of the mesh.
#[derive(Debug)]
struct Session {
    worker: Rc<Worker>,
    cluster: Rc<Cluster>,
    flow: Flow,
    client: SocketAddr,
    destination: SocketAddr,
    version: Version,
    security: Security,
}

impl Session {
    async fn serve(self, client: Stream) {
        let (version, closing) = (self.version, self.worker.leaving.closing.clone());
        let spoken = forward::spoken(version, false);
        let _open = self.worker.observer.connection_opened(&self.flow, spoken, self.security);
        let session = Rc::new(self);
        serve(client, version, closing, move |request| {
            let session = Rc::clone(&session);
            let request = Box::new(request);
            async move { session.request(request).await }
        })
        .await;
    }

    async fn request(&self, mut request: Box<Request<Incoming>>) -> Response<Body> {
        let worker = &*self.worker;
        self.cluster.refresh(&worker.discovery.snapshot());
        let grpc = is_grpc(request.headers());
        let headers = request.headers_mut();
        let span = forward::trace(worker, headers);
        headers::name_request(headers, &mut worker.rng.borrow_mut());
        if self.version == Version::Http1 {
            headers::ensure_host(headers, self.destination);
        }
        let facts = Facts {
            flow: self.flow.clone(),
            protocol: forward::spoken(self.version, grpc),
            security: self.security,
            client: self.client,
            trace: span.own,
            parent: span.parent,
        };
        let exchange = Exchange::begin(&worker.observer, &request, facts);
        relay(worker, &self.cluster, self.version, request, exchange, grpc).await
    }
}
