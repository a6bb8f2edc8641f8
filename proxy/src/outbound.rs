//! From the app: accept, find out who is called, detect, balance, forward.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use weft_core::model::{Name, OutboundMode, Protocol, QualifiedName, Ratio};

use crate::failure::ErrorCode;
use crate::forward::{self, Heard, LastStage};
use crate::http::head::Head;
use crate::http::{Exchange, Version, headers};
use crate::listen::{Accepted, OriginalDst};
use crate::observe::{Direction, Party, Refusal, Security, Spoken};
use crate::outside::{self, Outside, Speaks};
use crate::routing;
use crate::session::{Answer, Purpose, Session};
use crate::sniff;
use crate::state::{Known, Snapshot};
use crate::stream::{Link as _, Peeked, Stream};
use crate::tcp;
use crate::upstream::{Cluster, Source};
use crate::worker::Worker;

/// A fatal alert `access_denied` in a record of its own: what a server sends that speaks no further.
const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// How long a client may take to read it.
const LAST_WORD: Duration = Duration::from_secs(1);

/// A listener for one service's port, for use without interception.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explicit {
    /// Where it listens.
    pub address: SocketAddr,
    /// The service.
    pub service: Name,
    /// Its namespace; none: our own.
    pub namespace: Option<Name>,
    /// Its port.
    pub port: u16,
}

/// Who is called.
#[derive(Debug)]
enum Callee {
    /// Someone of the mesh.
    Mesh(Rc<Cluster>, Party),
    /// No one of the mesh; passed through.
    Stranger(SocketAddr),
    /// No one of the mesh; refused.
    Refused(SocketAddr),
    /// Perhaps someone of the mesh: the control plane has not said. Refused, for whoever it is would be called in plaintext.
    Unanswered(SocketAddr),
}

/// A connection that was redirected here on its way elsewhere.
pub async fn redirected(worker: Rc<Worker>, accepted: Accepted) {
    let beginning = Box::pin(begin_redirected(worker, accepted));
    beginning.await.await;
}

/// A connection to a listener that stands for one service's port.
pub async fn explicit(worker: Rc<Worker>, accepted: Accepted, explicit: Explicit) {
    let beginning = Box::pin(begin_explicit(worker, accepted, explicit));
    beginning.await.await;
}

async fn begin_redirected(worker: Rc<Worker>, accepted: Accepted) -> LastStage {
    let OriginalDst::Redirected(destination) = accepted.destination else {
        // Whoever calls the listener itself is going nowhere.
        return refuse(&worker, &accepted.io.into(), Refusal::UnknownDestination);
    };
    let callee = callee(&worker, destination).await;
    connection(worker, accepted, destination, callee).await
}

async fn begin_explicit(worker: Rc<Worker>, accepted: Accepted, explicit: Explicit) -> LastStage {
    let (OriginalDst::Redirected(local) | OriginalDst::Direct(local)) = accepted.destination;
    let Some(namespace) = explicit.namespace.or_else(|| worker.own_namespace()) else {
        return refuse(&worker, &accepted.io.into(), Refusal::UnknownDestination);
    };
    let name = QualifiedName::new(namespace, explicit.service);
    worker.discovery.lookup_service(&name).await;
    let cluster = worker.cluster(Source::Service(name.clone(), explicit.port), &worker.discovery.peek());
    connection(worker, accepted, local, Callee::Mesh(cluster, Party::Named(name))).await
}

async fn connection(
    worker: Rc<Worker>,
    accepted: Accepted,
    destination: SocketAddr,
    callee: Callee,
) -> LastStage {
    let mut client = Peeked::from(accepted.io);
    let (cluster, called) = match callee {
        Callee::Mesh(cluster, called) => (cluster, called),
        Callee::Stranger(address) | Callee::Refused(address) | Callee::Unanswered(address) => {
            if let Some(outside) = outside::find(&worker, &mut client, address.port()).await {
                return call_outside(worker, client, accepted.client, address, outside).await;
            }
            return match callee {
                Callee::Refused(_) => {
                    let why = (ErrorCode::NoRoute, Refusal::UnknownDestination);
                    turn_away(worker, client, accepted.client, address, why).await
                }
                Callee::Unanswered(_) => {
                    let why = (ErrorCode::ConnectTimeout, Refusal::Unanswered);
                    turn_away(worker, client, accepted.client, address, why).await
                }
                Callee::Stranger(_) | Callee::Mesh(..) => pass_through(&worker, client, address).await,
            };
        }
    };
    let own = worker.own_party(&worker.discovery.peek(), None);
    let flow = worker.observer.flow_to(own, called, cluster.port());
    let (cluster, scope) = match routing::by_weight(&worker, &cluster) {
        None => (cluster, Scope::Service),
        Some(Ok(backend)) => (backend, Scope::Backend),
        Some(Err(code)) => return unrouted(&worker, &client.into(), code),
    };
    let heard = match cluster.protocol() {
        Protocol::Tcp => Ok(Heard::Bytes(None)),
        Protocol::Tls => forward::listen_to_client(&mut client).await,
        Protocol::Http | Protocol::Http2 | Protocol::Grpc => forward::listen_for_http(&mut client).await,
        Protocol::Detect => forward::listen_to_both(&worker, &cluster, &mut client).await,
    };
    match heard {
        Ok(Heard::Http(version)) if cluster.protocol() != Protocol::Tls => {
            let security = cluster.security();
            let purpose = Purpose::Outbound(Requests { cluster, destination, scope });
            let session = Session {
                worker,
                version,
                flow,
                client: accepted.client,
                security,
                purpose,
                requests: Cell::default(),
            };
            Box::pin(session.serve(client.into()))
        }
        Ok(Heard::Tls(server_name, greeted)) => {
            worker.observer.tls_opened(server_name.as_deref());
            let named = match by_server_name(&worker, &cluster, &scope, server_name.as_deref()) {
                Ok(named) => named,
                Err(code) => return unrouted(&worker, &client.into(), code),
            };
            // Another server than the one that was listened to has said nothing yet.
            let greeted = greeted.filter(|_| Rc::ptr_eq(&named, &cluster));
            let plain = Security::Plaintext;
            forward::tunnel(&worker, &named, client.into(), greeted, &flow, Spoken::Tls, plain).await
        }
        Ok(Heard::Bytes(greeted)) => {
            let plain = Security::Plaintext;
            forward::tunnel(&worker, &cluster, client.into(), greeted, &flow, Spoken::Tcp, plain).await
        }
        Ok(Heard::Http(_)) => {
            let plain = Security::Plaintext;
            forward::tunnel(&worker, &cluster, client.into(), None, &flow, Spoken::Tcp, plain).await
        }
        Err(refusal) => refuse(&worker, &client.into(), refusal),
    }
}

/// Where the app's own TLS goes: where a route sends who asks for that name, and by its address where there is no such
/// route.
fn by_server_name(
    worker: &Worker,
    cluster: &Rc<Cluster>,
    scope: &Scope,
    server_name: Option<&str>,
) -> Result<Rc<Cluster>, ErrorCode> {
    let routed = match scope {
        Scope::Service => routing::by_server_name(worker, cluster, server_name),
        Scope::Backend | Scope::Hosts(_) => None,
    };
    routed.unwrap_or_else(|| Ok(Rc::clone(cluster)))
}

async fn callee(worker: &Worker, destination: SocketAddr) -> Callee {
    let Ok(snapshot) = worker.discovery.lookup_address(destination.ip()).await else {
        return Callee::Unanswered(destination);
    };
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
        Some(Known::Absent) if may_pass(&snapshot) => Callee::Stranger(destination),
        // There is no one to ask. Hosts outside are called as ever; of the mesh no one is called as a stranger.
        None if may_pass(&snapshot) && !snapshot.is_of_mesh(destination.ip()) => {
            Callee::Stranger(destination)
        }
        Some(Known::Absent) | None => Callee::Refused(destination),
    }
}

fn may_pass(snapshot: &Snapshot) -> bool {
    // Before the first configuration strangers are refused: it may say so.
    snapshot.mesh.as_ref().is_some_and(|mesh| mesh.outbound == OutboundMode::AllowAny)
}

async fn call_outside(
    worker: Rc<Worker>,
    client: Peeked,
    from: SocketAddr,
    destination: SocketAddr,
    outside: Outside,
) -> LastStage {
    let Outside { cluster, service, speaks } = outside;
    let own = worker.own_party(&worker.discovery.snapshot(), None);
    let flow = worker.observer.flow_to(own, Party::Named(service.clone()), destination.port());
    match speaks {
        Speaks::Tls(host) => {
            worker.observer.tls_opened(Some(&host));
            let plain = Security::Plaintext;
            forward::tunnel(&worker, &cluster, client.into(), None, &flow, Spoken::Tls, plain).await
        }
        Speaks::Http => {
            let purpose = Purpose::Outbound(Requests { cluster, destination, scope: Scope::Hosts(service) });
            let (version, security, requests) = (Version::Http1, Security::Plaintext, Cell::default());
            let session = Session { worker, version, flow, client: from, security, purpose, requests };
            Box::pin(session.serve(client.into()))
        }
    }
}

/// Carries a connection to where it was going, untouched. What name its TLS asks for is read on the way, where the
/// client says it before the server says anything.
async fn pass_through(worker: &Worker, mut client: Peeked, destination: SocketAddr) -> LastStage {
    let own = worker.own_party(&worker.discovery.peek(), None);
    let flow = worker.observer.flow(Direction::Outbound, own, Party::Unknown);
    let Ok(server) = worker.dialer.dial(&[destination]).await else {
        return refuse(worker, &client.into(), Refusal::Unreachable);
    };
    let hello = tokio::select! {
        biased;
        hello = sniff::client_hello(&mut client) => hello.ok().flatten(),
        _ = server.readable() => None,
    };
    let spoken = hello.as_ref().map_or(Spoken::Tcp, |_| Spoken::Tls);
    if let Some(hello) = hello {
        worker.observer.tls_opened(hello.server_name.as_deref());
    }
    let open = worker.observer.connection_opened(&flow, spoken, Security::Plaintext);
    forward::pump(client.into(), server.into(), open, None, || tcp::IDLE)
}

/// Refuses a connection to no one, in the words of what is spoken where that has some, else by a reset.
async fn turn_away(
    worker: Rc<Worker>,
    mut client: Peeked,
    from: SocketAddr,
    destination: SocketAddr,
    (code, refusal): (ErrorCode, Refusal),
) -> LastStage {
    match forward::listen_to_client(&mut client).await {
        Ok(Heard::Http(version)) => {
            let own = worker.own_party(&worker.discovery.peek(), None);
            let flow = worker.observer.flow(Direction::Outbound, own, Party::Unknown);
            tracing::info!(%destination, reason = refusal.as_str(), "refused");
            let (security, purpose) = (Security::Plaintext, Purpose::Nowhere(code));
            let session =
                Session { worker, version, flow, client: from, security, purpose, requests: Cell::default() };
            Box::pin(session.serve(client.into()))
        }
        Ok(Heard::Tls(server_name, _)) => {
            tracing::info!(%destination, server_name, reason = refusal.as_str(), "refused");
            worker.observer.tls_opened(server_name.as_deref());
            worker.observer.connection_refused(Direction::Outbound, refusal);
            Box::pin(deny_tls(client))
        }
        Ok(Heard::Bytes(_)) | Err(_) => {
            tracing::info!(%destination, reason = refusal.as_str(), "refused");
            refuse(&worker, &client.into(), refusal)
        }
    }
}

/// Says in TLS that policy is why (RFC 8446 section 6.2), and waits a little for the client to have read it.
async fn deny_tls(mut client: Peeked) {
    let farewell = async {
        client.write_all(&ACCESS_DENIED).await?;
        client.shutdown().await?;
        tokio::io::copy(&mut client, &mut tokio::io::sink()).await
    };
    // Whoever does not read it is closed all the same.
    let _ = timeout(LAST_WORD, farewell).await;
}

fn unrouted(worker: &Worker, client: &Stream, code: ErrorCode) -> LastStage {
    tracing::debug!(reason = code.as_str(), "a connection's route leads nowhere");
    refuse(worker, client, Refusal::NoRoute)
}

fn refuse(worker: &Worker, client: &Stream, refusal: Refusal) -> LastStage {
    worker.observer.connection_refused(Direction::Outbound, refusal);
    client.reset();
    forward::nothing_more()
}

/// Requests of the app for someone of the mesh.
#[derive(Debug)]
pub struct Requests {
    cluster: Rc<Cluster>,
    destination: SocketAddr,
    scope: Scope,
}

/// As what a cluster is called.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Scope {
    /// By the service's own address: its routes hold.
    Service,
    /// By a route: no other applies.
    Backend,
    /// By its host: each request may name another one of this service's.
    Hosts(QualifiedName),
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

    /// Says where a request goes, or what it is answered instead, and makes of its head what a route says.
    pub fn rule(
        &self,
        worker: &Worker,
        head: &mut impl Head,
        exchange: &mut Exchange,
    ) -> Result<Rc<Cluster>, Answer> {
        self.cluster.refresh(&worker.discovery.peek());
        // A fault strikes what was asked, not what a route makes of it.
        let mut injected = self.cluster.inject(None, head.fields(), worker);
        let cluster = match &self.scope {
            Scope::Service => {
                let (cluster, of_route) = routing::request(worker, &self.cluster, head, exchange)?;
                injected = of_route.or(injected);
                cluster
            }
            Scope::Backend => Rc::clone(&self.cluster),
            Scope::Hosts(service) => outside::of_request(worker, service, self.destination.port(), head)?,
        };
        if !Rc::ptr_eq(&cluster, &self.cluster) {
            let called = Some(&*self.cluster);
            injected = injected.or(cluster.inject(called, head.fields(), worker));
        }
        if let Some((delay, policy)) = injected.delay {
            exchange.note("weft.fault.policy", &policy);
            exchange.note("weft.fault.delay_ms", &delay.as_millis());
            exchange.held_up(Some(delay));
        }
        match injected.abort {
            None => Ok(cluster),
            Some((abort, policy)) => {
                exchange.note("weft.fault.policy", &policy);
                Err(Answer::Error(ErrorCode::FaultInjected(abort)))
            }
        }
    }

    /// Whether some policy says of how many of such requests there are traces.
    pub fn may_sample(&self, worker: &Worker) -> bool {
        self.cluster.refresh(&worker.discovery.peek());
        self.cluster.may_sample()
    }

    /// Of how many requests like this one there are traces: what is said of its route, else of the service.
    pub fn sampling(&self, exchange: &Exchange) -> Option<Ratio> {
        let of_route = exchange.route().and_then(|routed| routed.rule().traffic.as_ref()?.sampling);
        of_route.or_else(|| self.cluster.sampling())
    }
}
