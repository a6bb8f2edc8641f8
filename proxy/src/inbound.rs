//! To the app: accept, detect, prove who calls, authorise, forward.

mod sampled;

use std::cell::{Cell, OnceCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use http::header::{UPGRADE, USER_AGENT};
use http::{HeaderName, Method};
use tokio::time::timeout;
use weft_certs::{PeerCertificate, sni};
use weft_core::authorize::{Asked, Call, Decision, Denial, OutsideProbes, Peer, Permit, authorize};
use weft_core::detect::{ClientHello, Sniffed};
use weft_core::health;
use weft_core::host::Host;
use weft_core::jwt::Claims;
use weft_core::model::{AccessPolicy, AppCheck, MtlsMode, Probe, QualifiedName, Ratio};
use weft_core::path::Path;
use weft_pods::intercept;

use crate::failure::ErrorCode;
use crate::forward::{self, Heard, LastStage};
use crate::http::head::{Fields, Head};
use crate::http::headers::ClientFields;
use crate::http::{Exchange, Version, headers};
use crate::listen::{Accepted, OriginalDst};
use crate::observe::{Direction, Flow, Party, Refusal, Security, Spoken};
use crate::rates;
use crate::session::{Answer, Purpose, Session};
use crate::sniff::{self, First};
use crate::stream::{Link as _, Peeked, Stream};
use crate::ties::{self, LetIn, Tie};
use crate::tls::Carries;
use crate::tokens;
use crate::upstream::{Cluster, Source};
use crate::worker::Worker;
use sampled::Sampled;

/// How long a peer that connects to the inbound port itself may take to begin its handshake.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// How a kubelet's agent begins.
const KUBELET: &[u8] = b"kube-probe/";

/// A connection to the pod: from another sidecar, or redirected here on its way to the app.
pub async fn connection(worker: Rc<Worker>, accepted: Accepted) {
    let beginning = Box::pin(begin(worker, accepted));
    beginning.await.await;
}

async fn begin(worker: Rc<Worker>, accepted: Accepted) -> LastStage {
    let mut client = Peeked::from(accepted.io);
    match accepted.destination {
        OriginalDst::Direct(local) => match timeout(FIRST_WORD, sniff::sniff(&mut client)).await {
            Ok(Ok(First::Spoke(Sniffed::Tls(hello)))) => {
                from_mesh(worker, client, accepted.client, local, wanted(&hello)).await
            }
            Ok(Ok(First::Closed)) => forward::nothing_more(),
            Ok(Ok(First::Spoke(_)) | Err(_)) | Err(_) => refuse(&worker, &client.into(), Refusal::Garbage),
        },
        OriginalDst::Redirected(app) => match sniff::sniff_briefly(&mut client).await {
            Ok(Some(First::Spoke(Sniffed::Tls(hello)))) if wanted(&hello).is_some() => {
                from_mesh(worker, client, accepted.client, app, wanted(&hello)).await
            }
            Ok(_) => from_stranger(worker, client, accepted.client, app).await,
            Err(_) => refuse(&worker, &client.into(), Refusal::Garbage),
        },
    }
}

/// The app's port that another sidecar asks for in the clear. The handshake that follows covers it.
fn wanted(hello: &ClientHello) -> Option<u16> {
    hello.server_name.as_deref().and_then(sni::port_of)
}

/// A connection from another sidecar: it proves who it is, and is let in to the port it wants or not.
async fn from_mesh(
    worker: Rc<Worker>,
    client: Peeked,
    from: SocketAddr,
    at: SocketAddr,
    wanted: Option<u16>,
) -> LastStage {
    let secured = match worker.tls_server.accept(client).await {
        Ok(secured) => secured,
        Err(error) => {
            worker.observer.handshake_failed(Direction::Inbound, error.reason(), &Chain(&error));
            return forward::nothing_more();
        }
    };
    let tie = worker.ties.tie(Some(secured.peer.clone()), None);
    let stream = secured.stream.tied(tie);
    let port = wanted.filter(|port| !worker.own_ports.contains(port));
    let Some(port) = port else { return refuse(&worker, &stream, Refusal::UnknownDestination) };
    let peer = Peer::Known(secured.peer.identity);
    let app = SocketAddr::new(at.ip(), port);
    match secured.carries {
        Carries::Tcp => to_app(worker, stream, peer, from, app).await,
        Carries::Http1 => serve(worker, stream, peer, from, app, Version::Http1),
        Carries::Http2 => serve(worker, stream, peer, from, app, Version::Http2),
    }
}

/// A connection from outside the mesh, on its way to the app.
async fn from_stranger(
    worker: Rc<Worker>,
    mut client: Peeked,
    from: SocketAddr,
    app: SocketAddr,
) -> LastStage {
    if worker.own_ports.contains(&app.port()) {
        return refuse(&worker, &client.into(), Refusal::UnknownDestination);
    }
    let peer = Peer::Anonymous;
    let silence = worker.strangers.probes.connect_to(app.port());
    // A server is not woken by a client that would not be let in.
    let heard = match permit(&worker, &peer, from, app.port()) {
        Ok(permit) => {
            let cluster = app_cluster(&worker, &permit, app.ip(), from);
            forward::listen_to_both(&worker, &cluster, &mut client).await
        }
        Err(_) => forward::listen_to_client(&mut client).await,
    };
    let (spoken, greeted) = match heard {
        Ok(Heard::Http(version)) => {
            let mut stream = Stream::from(client);
            if takes_plaintext(&worker, app.port()) {
                // Until it does not any more.
                stream = stream.tied(worker.ties.tie_plaintext(app.port()));
            }
            return serve(worker, stream, peer, from, app, version);
        }
        Ok(Heard::Tls(_, greeted)) => (Spoken::Tls, greeted),
        // It was connected to, which is all that such a probe asks.
        Ok(Heard::Bytes(None)) if silence && client.ahead.is_empty() => {
            worker.observer.probed("tcp");
            return forward::nothing_more();
        }
        Ok(Heard::Bytes(greeted)) => (Spoken::Tcp, greeted),
        Err(refusal) => return refuse(&worker, &client.into(), refusal),
    };
    match permit(&worker, &peer, from, app.port()) {
        Ok(permit) => {
            if !is_within_limits(&worker, &peer, from, app.port()) {
                return refuse(&worker, &client.into(), Refusal::RateLimited);
            }
            worker.strangers.hear(from.ip(), app.port(), &worker.discovery);
            let client = let_in(&worker, client.into(), from, &permit);
            let (cluster, flow) =
                (app_cluster(&worker, &permit, app.ip(), from), flow(&worker, &peer, app.port()));
            let plain = Security::Plaintext;
            forward::tunnel(&worker, &cluster, client, greeted, &flow, spoken, plain).await
        }
        Err(denial) => refuse(&worker, &client.into(), refusal_of(&denial)),
    }
}

/// Bytes of another sidecar, for the app.
async fn to_app(
    worker: Rc<Worker>,
    stream: Stream,
    peer: Peer,
    from: SocketAddr,
    app: SocketAddr,
) -> LastStage {
    match permit(&worker, &peer, from, app.port()) {
        Ok(permit) => {
            if !is_within_limits(&worker, &peer, from, app.port()) {
                return refuse(&worker, &stream, Refusal::RateLimited);
            }
            let stream = let_in(&worker, stream, from, &permit);
            let (cluster, flow) =
                (app_cluster(&worker, &permit, app.ip(), from), flow(&worker, &peer, app.port()));
            let mutual = Security::Mutual;
            forward::tunnel(&worker, &cluster, stream, None, &flow, Spoken::Tcp, mutual).await
        }
        Err(denial) => {
            tracing::debug!(%from, %app, %denial, "connection denied");
            refuse(&worker, &stream, refusal_of(&denial))
        }
    }
}

/// A connection of bytes, which ends when it would be let in no longer.
fn let_in(worker: &Worker, stream: Stream, from: SocketAddr, permit: &Permit) -> Stream {
    let certificate = stream.tie().and_then(Tie::peer).cloned();
    let let_in =
        LetIn { address: from.ip().to_canonical(), port: permit.port(), request: None, claims: None };
    stream.tied(worker.ties.tie(certificate, Some(let_in)))
}

/// Whether callers without an identity are heard on this port of the app.
fn takes_plaintext(worker: &Worker, port: u16) -> bool {
    let snapshot = worker.discovery.peek();
    let known = snapshot.mesh.as_ref().zip(snapshot.workload.as_ref());
    known.is_some_and(|(mesh, workload)| workload.mtls(port, mesh.mtls) == MtlsMode::Permissive)
}

/// Asks what is in force now of a connection.
fn permit(worker: &Worker, peer: &Peer, from: SocketAddr, port: u16) -> Result<Permit, Denial> {
    let call = Call { peer, address: from.ip().to_canonical(), port, request: None };
    decide(worker, &call, &mut |_, _| {})
}

/// Counts a connection that carries bytes, and says whether there is room for it.
fn is_within_limits(worker: &Worker, peer: &Peer, from: SocketAddr, port: u16) -> bool {
    let call = Call { peer, address: from.ip().to_canonical(), port, request: None };
    rates::admit(worker, &call).is_ok()
}

/// Asks what is in force now. `told` hears which policies had to do with it.
fn decide(
    worker: &Worker,
    call: &Call<'_>,
    told: &mut dyn FnMut(&AccessPolicy, Decision),
) -> Result<Permit, Denial> {
    let snapshot = worker.discovery.peek();
    // Which policies are about us comes with our workload: without it nothing is known yet.
    let workload = snapshot.workload.as_deref().ok_or(Denial::NoConfiguration)?;
    if call.request.is_none() && tokens::are_required(workload, call.port) {
        return Err(Denial::NoToken);
    }
    authorize(snapshot.mesh.as_deref(), workload, call, |policy, decision| {
        worker.observer.policy_decided(&policy.name, decision);
        told(policy, decision);
    })
}

/// The app behind the port that a permit opens, for who calls from `from`.
fn app_cluster(worker: &Worker, permit: &Permit, address: IpAddr, from: SocketAddr) -> Rc<Cluster> {
    let caller = match worker.conduct.source {
        intercept::Source::Sidecar => None,
        intercept::Source::Caller => Some(from.ip()),
    };
    let app = Source::App(SocketAddr::new(address, permit.port()), caller);
    worker.cluster(app, &worker.discovery.peek())
}

/// Who calls whom: callers are named by their service account, we by the service on that port.
fn flow(worker: &Worker, peer: &Peer, port: u16) -> Flow {
    let source = match peer {
        Peer::Known(id) => id.service_account().map_or(Party::Unknown, |(namespace, account)| {
            Party::Named(QualifiedName::new(namespace, account))
        }),
        Peer::Anonymous => Party::Unknown,
    };
    let own = worker.own_party(&worker.discovery.peek(), Some(port));
    worker.observer.flow(Direction::Inbound, source, own)
}

fn refuse(worker: &Worker, client: &Stream, refusal: Refusal) -> LastStage {
    worker.observer.connection_refused(Direction::Inbound, refusal);
    client.reset();
    forward::nothing_more()
}

fn refusal_of(denial: &Denial) -> Refusal {
    match denial {
        Denial::PlaintextUnderStrict => Refusal::Plaintext,
        _ => Refusal::Denied,
    }
}

fn code_of(denial: &Denial) -> ErrorCode {
    match denial {
        Denial::Unauthenticated => ErrorCode::Unauthenticated,
        _ => ErrorCode::Denied,
    }
}

/// Serves a connection that carries HTTP to the app.
fn serve(
    worker: Rc<Worker>,
    stream: Stream,
    peer: Peer,
    client: SocketAddr,
    app: SocketAddr,
    version: Version,
) -> LastStage {
    let identity = match &peer {
        Peer::Known(id) => Some(id),
        Peer::Anonymous => None,
    };
    let security = if identity.is_some() { Security::Mutual } else { Security::Plaintext };
    let fields = ClientFields::new(client, identity);
    let flow = flow(&worker, &peer, app.port());
    let certificate = stream.tie().and_then(Tie::peer).cloned();
    let cluster = OnceCell::new();
    let sampled = Sampled::default();
    let purpose = Purpose::Inbound(Requests { peer, certificate, client, fields, app, cluster, sampled });
    Box::pin(
        Session { worker, version, flow, client, security, purpose, requests: Cell::default() }.serve(stream),
    )
}

/// A request that is let in as a probe from outside the mesh.
#[derive(Debug)]
pub struct Probing {
    /// Who answers it.
    pub app: Rc<Cluster>,
    /// As whose it is counted.
    pub flow: Flow,
}

/// Requests of one peer for the app.
#[derive(Debug)]
pub struct Requests {
    peer: Peer,
    certificate: Option<PeerCertificate>,
    client: SocketAddr,
    fields: ClientFields,
    app: SocketAddr,
    /// The app, once a request was let in.
    cluster: OnceCell<Rc<Cluster>>,
    sampled: Sampled,
}

impl Requests {
    /// Changes in a request's head what the mesh changes.
    pub fn amend(&self, worker: &Worker, head: &mut impl Head, version: Version) {
        let fields = head.fields_mut();
        headers::name_request(fields, &mut worker.rng.borrow_mut());
        headers::introduce(fields, &self.fields);
        if version == Version::Http1 {
            headers::ensure_host(fields, self.app);
        }
    }

    /// Whether a request asks after the app's health. Whoever says by its agent that it does is believed where it has no
    /// certificate, as kubelets have none.
    pub fn asks_health(&self, worker: &Worker, head: &impl Head) -> bool {
        let agent = || head.fields().first(&USER_AGENT);
        health::asks_health(head.path())
            || self.is_check(worker, head)
            || (self.peer == Peer::Anonymous && agent().is_some_and(|agent| agent.starts_with(KUBELET)))
    }

    /// The probe from outside the mesh that a request is, where it is one.
    pub fn probe(&self, worker: &Worker, head: &impl Head) -> Option<Probing> {
        if self.peer != Peer::Anonymous || *worker.strangers.probes == OutsideProbes::default() {
            return None;
        }
        let request = Seen::new(head, None);
        let (peer, address) = (&self.peer, self.client.ip().to_canonical());
        let call = Call { peer, address, port: self.app.port(), request: Some(&request) };
        let (permit, probe) = worker.strangers.probes.permit(&call)?;
        worker.observer.probed(probe.what.as_str());
        let app = app_cluster(worker, &permit, self.app.ip(), self.client);
        let own = worker.own_party(&worker.discovery.peek(), Some(permit.port()));
        Some(Probing { app, flow: worker.observer.flow(Direction::Inbound, Party::Probe, own) })
    }

    /// Whether a request is what a declared health check asks.
    fn is_check(&self, worker: &Worker, head: &impl Head) -> bool {
        let snapshot = worker.discovery.peek();
        let checks = snapshot.workload.iter().flat_map(|workload| &workload.checks);
        checks.filter(|check| check.port == self.app.port()).any(|check| is_of(check, head.path()))
    }

    /// Says whether a request may reach the app, and what bytes rest on that may follow on it. The permit is spent on the way
    /// there.
    pub fn rule(
        &self,
        worker: &Worker,
        head: &mut impl Head,
        exchange: &mut Exchange,
    ) -> Result<(Rc<Cluster>, Option<Tie>), Answer> {
        let claims = tokens::authenticate(worker, self.app.port(), head, exchange)?;
        let request = Seen::new(&*head, claims);
        let (peer, address) = (&self.peer, self.client.ip().to_canonical());
        let call = Call { peer, address, port: self.app.port(), request: Some(&request) };
        let permit = decide(worker, &call, &mut |policy, decision| exchange.judged(policy, decision));
        let permit = permit.map_err(|denial| {
            tracing::debug!(?peer, %denial, "request denied");
            exchange.note("weft.denial", &denial);
            code_of(&denial)
        })?;
        if rates::are_limited(worker) && !self.is_check(worker, request.head) {
            match rates::admit(worker, &call) {
                Ok(None) => {}
                Ok(Some(usage)) => exchange.counted(usage),
                Err(limited) => return Err(rates::answer(&limited, exchange)),
            }
        }
        // Once a connection.
        if self.peer == Peer::Anonymous && self.cluster.get().is_none() {
            worker.strangers.hear(self.client.ip(), self.app.port(), &worker.discovery);
        }
        let tie = self.tie(worker, head, request.claims);
        Ok((self.cluster(worker, &permit), tie))
    }

    /// Whether some policy says of how many of such requests there are traces.
    pub fn may_sample(&self, worker: &Worker) -> bool {
        Sampled::may_be(worker, self.app.port())
    }

    /// Of how many requests like this one there are traces.
    pub fn sampling(&self, worker: &Worker, head: &impl Head) -> Option<Ratio> {
        self.sampled.ratio(worker, self.app.port(), head)
    }

    /// The app, looked up once a connection.
    fn cluster(&self, worker: &Worker, permit: &Permit) -> Rc<Cluster> {
        let cluster = self.cluster.get_or_init(|| app_cluster(worker, permit, self.app.ip(), self.client));
        cluster.refresh(&worker.discovery.peek());
        Rc::clone(cluster)
    }

    /// What a request rests on that asks for more than an answer: bytes both ways, for as long as it would be let in.
    fn tie(&self, worker: &Worker, head: &impl Head, claims: Option<Rc<Claims>>) -> Option<Tie> {
        if *head.method() != Method::CONNECT && head.fields().first(&UPGRADE).is_none() {
            return None;
        }
        let address = self.client.ip().to_canonical();
        let let_in = LetIn { address, port: self.app.port(), request: ties::kept(head).map(Rc::new), claims };
        Some(worker.ties.tie(self.certificate.clone(), Some(let_in)))
    }
}

/// What policies see of a request; what none asks for is not read.
pub(crate) struct Seen<'a, H> {
    head: &'a H,
    path: OnceCell<Option<Path<'a>>>,
    host: OnceCell<Option<Host<'a>>>,
    claims: Option<Rc<Claims>>,
}

impl<'a, H> Seen<'a, H> {
    pub(crate) fn new(head: &'a H, claims: Option<Rc<Claims>>) -> Self {
        Self { head, path: OnceCell::new(), host: OnceCell::new(), claims }
    }
}

impl<H: Head> Asked for Seen<'_, H> {
    fn method(&self) -> &str {
        self.head.method().as_str()
    }

    fn path(&self) -> Option<&Path<'_>> {
        self.path.get_or_init(|| Path::parse(self.head.path().as_bytes()).ok()).as_ref()
    }

    fn query(&self) -> Option<&str> {
        self.head.query()
    }

    fn host(&self) -> Option<&Host<'_>> {
        self.host.get_or_init(|| Host::parse(self.head.authority().as_bytes()).ok()).as_ref()
    }

    fn each_value(&self, name: &str, see: &mut dyn FnMut(&[u8])) {
        // A name that no field can have is that of none.
        if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
            self.head.fields().all(&name).for_each(see);
        }
    }

    fn claims(&self) -> Option<&Claims> {
        self.claims.as_deref()
    }
}

/// Whether a check asks for this path.
fn is_of(check: &AppCheck, path: &str) -> bool {
    match &check.settings.probe {
        Probe::Http { path: asked } => asked.split('?').next() == Some(path),
        Probe::Grpc { .. } | Probe::Tcp => false,
    }
}

/// An error with its causes.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
