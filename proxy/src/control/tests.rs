//! The control loops against a control plane of our own making, over real TLS on loopback.

use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use rustls::HandshakeKind;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};
use weft_certs::{Authority, ClientAuth, Credentials, IssueParams, KeyPair, Sessions, alpn};
use weft_core::model::{Mesh, QualifiedName, Resource, ResourceName, Revoked, Service, Trust};
use weft_proto::v1::discovery_server::{Discovery as DiscoveryApi, DiscoveryServer};
use weft_proto::v1::identity_server::{Identity as IdentityApi, IdentityServer};
use weft_proto::v1::sidecar_message::Message;
use weft_proto::{convert, v1};
use weft_runtime::metrics::Registry;

use super::*;
use crate::config::{Machine, RunArgs};
use crate::state::{self, Discovery};
use crate::upstream::Site;

const TOKEN: &str = "aaa.bbb.ccc";

/// What happened at the control plane.
#[derive(Debug, PartialEq)]
enum Event {
    Signed { token: bool },
    Said(Box<Message>),
    Met { connection: usize, is_resumed: bool },
    Parted { connection: usize },
}

type Pushes = mpsc::Sender<Result<v1::ControlMessage, Status>>;

struct Fake {
    authority: Authority,
    life: Duration,
    events: mpsc::Sender<Event>,
    streams: mpsc::Sender<Pushes>,
}

fn issue(authority: &Authority, csr: &[u8], identity: &str, ttl: Duration) -> Vec<Vec<u8>> {
    let wanted = IssueParams {
        identity: identity.parse().unwrap(),
        dns: Vec::new(),
        ips: Vec::new(),
        ttl,
        now: SystemTime::now(),
    };
    authority.sign(csr, &wanted).unwrap().chain
}

#[tonic::async_trait]
impl IdentityApi for Fake {
    async fn sign(&self, request: Request<v1::SignRequest>) -> Result<Response<v1::SignResponse>, Status> {
        let token = request.metadata().get("authorization").map(|value| value.to_str().unwrap().to_owned());
        if token.as_ref().is_some_and(|token| *token != format!("Bearer {TOKEN}")) {
            return Err(Status::unauthenticated("unknown token"));
        }
        let identity = "spiffe://mesh.local/ns/default/sa/web";
        let chain = issue(&self.authority, &request.get_ref().csr, identity, self.life);
        self.events.send(Event::Signed { token: token.is_some() }).await.unwrap();
        let anchors = self.authority.anchors();
        Ok(Response::new(v1::SignResponse { chain, anchors, identity: identity.into(), sequence: 0 }))
    }
}

#[tonic::async_trait]
impl DiscoveryApi for Fake {
    type SyncStream = ReceiverStream<Result<v1::ControlMessage, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<v1::SidecarMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let (pushes, receiver) = mpsc::channel(8);
        self.streams.send(pushes).await.unwrap();
        let (mut said, events) = (request.into_inner(), self.events.clone());
        task::spawn("fake", async move {
            while let Ok(Some(message)) = said.message().await {
                let message = message.message.unwrap();
                if !matches!(message, Message::CertificateInUse(_)) {
                    let _ = events.send(Event::Said(Box::new(message))).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

struct Io {
    stream: TlsStream<TcpStream>,
    connection: usize,
    events: mpsc::Sender<Event>,
}

impl Drop for Io {
    fn drop(&mut self) {
        let _ = self.events.try_send(Event::Parted { connection: self.connection });
    }
}

impl Connected for Io {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A control plane, and a sidecar's control loops that talk to it.
struct Harness {
    port: u16,
    anchors: Vec<Vec<u8>>,
    dir: tempfile::TempDir,
    events: mpsc::Receiver<Event>,
    streams: mpsc::Receiver<Pushes>,
    serving: tokio::task::JoinHandle<()>,
}

/// What a sidecar would use of the control loops.
struct Loops {
    discovery: Discovery,
    store: CredentialStore,
    ready: watch::Sender<bool>,
}

impl Harness {
    async fn start(life: Duration) -> Self {
        let domain = "mesh.local".parse().unwrap();
        let authority = Authority::create(&domain, SystemTime::now()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), authority.anchors_pem()).unwrap();
        std::fs::write(dir.path().join("token"), format!("{TOKEN}\n")).unwrap();
        let key = KeyPair::generate().unwrap();
        let csr = weft_certs::request(&key).unwrap();
        let name = "spiffe://mesh.local/ns/weft/sa/control-plane";
        let chain = issue(&authority, &csr, name, Duration::from_secs(600));
        let own = Credentials::new(chain, &key, &authority.anchors(), &domain).unwrap();
        let sessions = Sessions::new(8);
        let tls = own.resuming_server(&[alpn::H2], ClientAuth::Optional, &sessions).unwrap();
        let tls = TlsAcceptor::from(tls.config());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (connection, connections) = mpsc::channel(8);
        let (event, events) = mpsc::channel(64);
        let met = event.clone();
        let accept = async move {
            let mut number = 0;
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = tls.accept(stream).await {
                    let is_resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
                    let _ = met.try_send(Event::Met { connection: number, is_resumed });
                    let io = Io { stream, connection: number, events: met.clone() };
                    number += 1;
                    let _ = connection.send(Ok::<_, std::io::Error>(io)).await;
                }
            }
        };
        let (stream, streams) = mpsc::channel(8);
        let anchors = authority.anchors();
        let fake = Arc::new(Fake { authority, life, events: event, streams: stream });
        let server = tonic::transport::Server::builder()
            .add_service(IdentityServer::from_arc(Arc::clone(&fake)))
            .add_service(DiscoveryServer::from_arc(fake))
            .serve_with_incoming(ReceiverStream::new(connections));
        let serving = task::spawn("fake", async move {
            tokio::select! { _ = server => {}, () = accept => {} }
        });
        Self { port, anchors, dir, events, streams, serving }
    }

    fn loops(&self) -> Loops {
        loops(self.port, self.dir.path())
    }

    async fn signed(&mut self) -> bool {
        loop {
            if let Event::Signed { token } = soon(self.events.recv()).await.unwrap() {
                return token;
            }
        }
    }

    async fn said(&mut self) -> Message {
        loop {
            if let Event::Said(message) = soon(self.events.recv()).await.unwrap() {
                return *message;
            }
        }
    }

    /// The next connection, and whether it goes on where another one was.
    async fn met(&mut self) -> (usize, bool) {
        loop {
            if let Event::Met { connection, is_resumed } = soon(self.events.recv()).await.unwrap() {
                return (connection, is_resumed);
            }
        }
    }

    /// Greets a new stream: returns what the sidecar said, and where to push.
    async fn greeted(&mut self) -> (v1::Hello, Pushes) {
        let pushes = soon(self.streams.recv()).await.unwrap();
        loop {
            // What is left of an earlier stream is passed over.
            if let Message::Hello(hello) = self.said().await {
                return (hello, pushes);
            }
        }
    }
}

fn loops(port: u16, dir: &Path) -> Loops {
    let args = RunArgs {
        control_plane: Some(format!("https://127.0.0.1:{port}")),
        ca: Some(dir.join("ca.pem")),
        token_file: Some(dir.join("token")),
        workload: Some("web-1".into()),
        services: Some("web:80->8080:http".into()),
        cache_dir: Some(dir.join("cache")),
        ..RunArgs::default()
    };
    let settings = args.settle(&Machine::here()).unwrap();
    let (discovery, publisher, asked) = state::channel(Vec::new());
    let (ready, readiness) = watch::channel(false);
    let store = CredentialStore::default();
    let registry = Registry::new();
    let (observe, _records) = Observe::new(&registry);
    let admin = Arc::new(Admin {
        discovery: discovery.clone(),
        credentials: store.clone(),
        registry,
        ready: readiness.clone(),
        level: None,
        orders: mpsc::channel(1).0,
        site: Site::default(),
        health: watch::channel(Default::default()).1,
    });
    let control = Control {
        settings: Arc::new(settings),
        addresses: vec![[10, 0, 0, 2].into()],
        store: store.clone(),
        publisher,
        asked,
        ready: readiness,
        health: watch::channel(Default::default()).1,
        observe,
        admin,
    };
    control.start();
    Loops { discovery, store, ready }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap()
}

async fn until(discovery: &mut Discovery, holds: impl Fn(&state::Snapshot) -> bool) {
    while !holds(&discovery.snapshot()) {
        soon(discovery.changed()).await;
    }
}

fn orders() -> QualifiedName {
    "default/orders".parse().unwrap()
}

fn resource(name: &ResourceName, hash: u64, resource: &Resource) -> v1::Resource {
    v1::Resource { name: Some(name.into()), hash, body: convert::encode(resource).into() }
}

fn first_push() -> v1::Push {
    let mesh = Mesh::with_defaults("mesh.local".parse().unwrap(), Vec::new());
    let upserts = vec![resource(&ResourceName::Mesh, 7, &Resource::Mesh(mesh))];
    v1::Push { epoch: 1, revision: 3, upserts, ..v1::Push::default() }
}

async fn push(pushes: &Pushes, push: v1::Push) {
    let message = v1::ControlMessage { message: Some(v1::control_message::Message::Push(push)) };
    pushes.send(Ok(message)).await.unwrap();
}

#[tokio::test]
async fn a_sidecar_joins_greets_applies_asks_and_acks() {
    let mut harness = Harness::start(Duration::from_secs(600)).await;
    let mut loops = harness.loops();
    assert!(harness.signed().await, "the first certificate is for the token");
    let (hello, pushes) = harness.greeted().await;
    assert_eq!((hello.workload.as_str(), hello.inbound_port), ("web-1", 4143));
    assert_eq!((hello.offers[0].port, hello.offers[0].target_port), (80, 8080));
    assert_eq!(hello.addresses, [vec![10, 0, 0, 2]]);
    assert_eq!(harness.said().await, Message::Health(v1::Health::default()));
    assert_eq!(harness.said().await, Message::Readiness(v1::Readiness { ready: false }));
    push(&pushes, first_push()).await;
    assert_eq!(harness.said().await, Message::Ack(v1::Ack { epoch: 1, rejected: Vec::new() }));
    until(&mut loops.discovery, |snapshot| snapshot.revision == 3).await;
    while !loops.discovery.connected() {
        soon(loops.discovery.changed()).await;
    }
    let answer = async {
        let wanted =
            v1::Subscribe { add: vec![(&ResourceName::Service(orders())).into()], remove: Vec::new() };
        assert_eq!(harness.said().await, Message::Subscribe(wanted));
        let service = Service {
            name: orders(),
            addresses: Vec::new(),
            ports: Vec::new(),
            traffic: Default::default(),
            routes: Vec::new(),
            external: None,
            tokens: None,
        };
        let good = resource(&ResourceName::Service(orders()), 9, &Resource::Service(service));
        let bad = v1::Resource {
            body: vec![0xff].into(),
            ..resource(&ResourceName::Mesh, 8, &Resource::Endpoints(vec![]))
        };
        push(&pushes, v1::Push { epoch: 2, revision: 4, upserts: vec![good, bad], ..v1::Push::default() })
            .await;
        let Message::Ack(ack) = harness.said().await else { panic!("a push is acked") };
        assert_eq!((ack.epoch, ack.rejected.len()), (2, 1));
    };
    let name = orders();
    let (found, ()) = tokio::join!(loops.discovery.lookup_service(&name), answer);
    assert!(found.is_some());
    assert!(loops.discovery.snapshot().mesh.is_some(), "a refused resource keeps its last good value");
    loops.ready.send_replace(true);
    assert_eq!(harness.said().await, Message::Readiness(v1::Readiness { ready: true }));
}

#[tokio::test]
async fn what_was_told_stays_and_is_not_told_again() {
    let mut harness = Harness::start(Duration::from_secs(600)).await;
    let mut loops = harness.loops();
    let (hello, pushes) = harness.greeted().await;
    assert!(hello.held.is_empty());
    push(&pushes, first_push()).await;
    until(&mut loops.discovery, |snapshot| snapshot.mesh.is_some()).await;
    drop(pushes);
    let (again, _pushes) = harness.greeted().await;
    assert_eq!(again.held, [v1::Held { name: Some((&ResourceName::Mesh).into()), hash: 7 }]);
    assert_eq!(again.instance, hello.instance);
    assert!(loops.discovery.snapshot().mesh.is_some());
}

#[tokio::test]
async fn a_sidecar_starts_from_disk_while_the_control_plane_is_down() {
    let mut harness = Harness::start(Duration::from_secs(600)).await;
    let mut first = harness.loops();
    let (_, pushes) = harness.greeted().await;
    push(&pushes, first_push()).await;
    // The state is on disk before the sidecar counts as connected.
    until(&mut first.discovery, |snapshot| snapshot.mesh.is_some()).await;
    while !first.discovery.connected() {
        soon(first.discovery.changed()).await;
    }
    let before = first.store.current().unwrap().1.serial().clone();
    harness.serving.abort();
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = nobody.local_addr().unwrap().port();
    drop(nobody);
    let mut second = loops(port, harness.dir.path());
    until(&mut second.discovery, |snapshot| snapshot.mesh.is_some()).await;
    let mut certificates = second.store.changes();
    soon(certificates.wait_for(|generation| *generation > 0)).await.unwrap();
    assert_eq!(second.store.current().unwrap().1.serial(), &before);
    assert!(!second.discovery.connected());
}

#[tokio::test]
async fn a_certificate_renews_itself_before_it_expires() {
    let mut harness = Harness::start(Duration::from_secs(2)).await;
    let loops = harness.loops();
    assert!(harness.signed().await);
    let mut certificates = loops.store.changes();
    for generation in 2..=3 {
        assert!(!harness.signed().await, "a renewal proves itself by the certificate");
        soon(certificates.wait_for(|seen| *seen >= generation)).await.unwrap();
        assert!(loops.store.current().unwrap().1.not_after() > SystemTime::now());
    }
}

#[tokio::test]
async fn a_sidecar_goes_on_with_its_control_plane_and_is_known_anew_when_it_believes_others() {
    // What is done some time soon is done within a hundredth of this.
    let mut harness = Harness::start(Duration::from_secs(100)).await;
    let anchors = harness.anchors.clone();
    let _loops = harness.loops();
    assert_eq!([harness.met().await.1, harness.met().await.1], [false, false], "one to join, one to stay");
    let (_, pushes) = harness.greeted().await;
    push(&pushes, first_push()).await;
    assert!(matches!(harness.said().await, Message::Health(_)));
    drop(pushes);
    assert!(harness.met().await.1, "it is known by its certificate");

    let (_, pushes) = harness.greeted().await;
    push(&pushes, first_push()).await;
    let trust = Trust {
        trust_domain: "mesh.local".parse().unwrap(),
        sequence: 1,
        anchors,
        renew_within: Duration::ZERO,
        revoked: vec![Revoked::Identity("spiffe://mesh.local/ns/default/sa/mallory".parse().unwrap())],
    };
    let name = ResourceName::Trust(trust.trust_domain.clone());
    let upserts = vec![resource(&name, 5, &Resource::Trust(trust))];
    push(&pushes, v1::Push { epoch: 2, revision: 4, upserts, ..v1::Push::default() }).await;
    let (introduced, is_resumed) = harness.met().await;
    assert!(!is_resumed, "what was agreed before is forgotten");
    while soon(harness.events.recv()).await.unwrap() != (Event::Parted { connection: introduced }) {}
    drop(pushes);
    assert!(harness.met().await.1, "it has been known anew before it was needed");
}
