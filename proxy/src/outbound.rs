//! From the app: accept, find out who is called, detect, balance, forward.

use std::net::SocketAddr;
use std::rc::Rc;

use weft_core::model::{OutboundMode, Protocol, QualifiedName};

use crate::failure::ErrorCode;
use crate::forward::{self, Heard};
use crate::http::head::Head;
use crate::http::{Version, headers};
use crate::listen::{Accepted, OriginalDst};
use crate::observe::{Direction, Party, Refusal, Security, Spoken};
use crate::session::{Purpose, Session};
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
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => forward::listen_for_http(&mut client).await,
        Protocol::Detect => forward::listen_to_both(&worker, &cluster, &mut client).await,
    };
    match heard {
        Ok(Heard::Http(version)) => {
            let security = cluster.security();
            let purpose = Purpose::Outbound(Requests { cluster, destination });
            let session = Session { worker, version, flow, client: accepted.client, security, purpose };
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
            let (security, purpose) = (Security::Plaintext, Purpose::Nowhere(ErrorCode::NoRoute));
            let session = Session { worker, version, flow, client: from, security, purpose };
            session.serve(client.into()).await;
        }
        Ok(Heard::Bytes(..)) | Err(_) => refuse(&worker, &client.into(), Refusal::UnknownDestination),
    }
}

fn refuse(worker: &Worker, client: &Stream, refusal: Refusal) {
    worker.observer.connection_refused(Direction::Outbound, refusal);
    client.reset();
}

/// Requests of the app for someone of the mesh.
#[derive(Debug)]
pub struct Requests {
    cluster: Rc<Cluster>,
    destination: SocketAddr,
}

impl Requests {
    /// Changes in a request's head what the mesh changes.
    pub fn amend(&self, worker: &Worker, head: &mut impl Head, version: Version) {
        let fields = head.fields_mut();
        headers::name_request(fields, &mut worker.rng.borrow_mut());
        if version == Version::Http1 {
            headers::ensure_host(fields, self.destination);
        }
    }

    /// Says where a request goes.
    pub fn rule(&self, worker: &Worker) -> Rc<Cluster> {
        self.cluster.refresh(&worker.discovery.snapshot());
        Rc::clone(&self.cluster)
    }
}
