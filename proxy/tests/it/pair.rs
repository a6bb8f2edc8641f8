//! The fixture: a caller's sidecar with a listener for the service `orders`, and the sidecar of its one endpoint.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use weft_certs::{Authority, Credentials};
use weft_core::model::{
    AuthorizationDefault, ConcurrencyMode, Endpoint, InboundPort, Mesh, MtlsMode, PortMap, Protocol,
    QualifiedName, Revoked, Service, ServicePort, Traffic, Workload,
};
use weft_proxy::credentials::CredentialStore;
use weft_proxy::observe::{Observe, Record, RecordQueue};
use weft_proxy::state::{self, Discovery, KnownService, Publisher, Snapshot};
use weft_proxy::worker::{self, Conduct, Explicit, Settings, Shared, Workers};
use weft_runtime::drain::{self, Drain};
use weft_runtime::metrics::Registry;

pub(crate) use identity::{authority, credentials, domain, identity};

#[path = "identity.rs"]
mod identity;

/// The service's port.
pub(crate) const PORT: u16 = 80;

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Longer than anything here takes, shorter than a test run may hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One sidecar.
pub(crate) struct Sidecar {
    pub(crate) workers: Workers,
    pub(crate) publisher: Publisher,
    pub(crate) drain: Drain,
    /// Where the app finds `orders`.
    pub(crate) orders: SocketAddr,
    credentials: CredentialStore,
    records: RecordQueue,
    pub(crate) metrics: Registry,
    _discovery: Discovery,
}

/// Both sidecars.
pub(crate) struct Pair {
    pub(crate) caller: Sidecar,
    pub(crate) callee: Sidecar,
    /// What is said of how `orders` is to be called; in force with the next offer.
    pub(crate) traffic: Traffic,
    pub(crate) authority: Authority,
    generation: u64,
}

pub(crate) fn orders() -> QualifiedName {
    "default/orders".parse().unwrap()
}

pub(crate) fn mesh() -> Mesh {
    Mesh::with_defaults(domain(), Vec::new())
}

/// The endpoint of `orders` where its app has no sidecar.
pub(crate) fn bare_endpoint(app: SocketAddr) -> Endpoint {
    Endpoint { identity: None, inbound_port: None, ..endpoint(app, app.port()) }
}

/// The one workload of `orders`, of which no policy says anything.
pub(crate) fn workload() -> Workload {
    Workload {
        name: "default/orders-1".parse().unwrap(),
        service_account: "orders".parse().unwrap(),
        ports: vec![InboundPort {
            port: PORT,
            protocol: Protocol::Detect,
            service: orders(),
            concurrency: ConcurrencyMode::Off,
            mtls: None,
            sampling: None,
        }],
        policies: Vec::new(),
        limits: Vec::new(),
        concurrency: ConcurrencyMode::Off,
        checks: Vec::new(),
        tokens: Vec::new(),
        mtls: None,
    }
}

/// The endpoint of `orders` behind `inbound`, whose app listens on `target_port`.
pub(crate) fn endpoint(inbound: SocketAddr, target_port: u16) -> Endpoint {
    Endpoint {
        workload: "default/orders-1".parse().unwrap(),
        addresses: vec![inbound.ip()],
        identity: Some(identity("orders")),
        inbound_port: Some(inbound.port()),
        zone: String::new(),
        node: Arc::default(),
        weight: 1,
        ports: vec![PortMap { port: PORT, target_port }],
        healthy: true,
        fits: weft_core::model::Fits::default(),
    }
}

fn sidecar(authority: &Authority, account: &str, conduct: Conduct) -> Sidecar {
    let (discovery, publisher, _asked) = state::channel(vec![LOCALHOST]);
    let store = CredentialStore::default();
    store.replace(credentials(authority, account));
    let metrics = Registry::default();
    let (observe, records) = Observe::new(&metrics);
    let any = SocketAddr::new(LOCALHOST, 0);
    let settings = Settings {
        workers: 1,
        outbound: any,
        inbound: any,
        upstreams: vec![Explicit {
            address: any,
            service: orders().name,
            namespace: Some(orders().namespace),
            port: PORT,
        }],
        conduct,
    };
    let shared = Shared {
        discovery: discovery.clone(),
        credentials: store.clone(),
        observe,
        site: Default::default(),
        probes: Default::default(),
    };
    let (drain, watch) = drain::channel();
    let workers = worker::start(&settings, &shared, &watch, &watch).unwrap();
    let orders = workers.upstreams().first().unwrap().address;
    Sidecar { workers, publisher, drain, orders, credentials: store, records, metrics, _discovery: discovery }
}

impl Sidecar {
    /// What it has recorded so far, told once.
    pub(crate) fn recorded(&mut self) -> Vec<Record> {
        self.records.take()
    }

    /// What it recorded of the one request that it carried.
    pub(crate) async fn record(&mut self) -> Record {
        loop {
            if let Some(record) = self.records.take().pop() {
                return record;
            }
            self.records.gather(Duration::from_millis(1)).await;
        }
    }
}

impl Pair {
    /// Both sidecars, knowing of each other, before an app that listens at `app`.
    pub(crate) fn new(app: SocketAddr) -> Self {
        Self::of_protocol(app, Protocol::Detect)
    }

    /// The same, where HTTP is spoken. A client that is slow to begin has the server asked whether it speaks first, otherwise, on a
    /// connection that comes to nothing: on a busy machine an app's first is not always the one with the request.
    pub(crate) fn of_http(app: SocketAddr) -> Self {
        Self::of_protocol(app, Protocol::Http)
    }

    /// The same, where the service's port is declared to speak `protocol`.
    pub(crate) fn of_protocol(app: SocketAddr, protocol: Protocol) -> Self {
        Self::that(Conduct::default(), app, protocol)
    }

    /// The same, where both sidecars conduct themselves so.
    pub(crate) fn that(conduct: Conduct, app: SocketAddr, protocol: Protocol) -> Self {
        let authority = authority();
        let (caller, callee) = (sidecar(&authority, "web", conduct), sidecar(&authority, "orders", conduct));
        let mut pair = Self { caller, callee, traffic: Traffic::default(), authority, generation: 0 };
        let endpoint = endpoint(pair.callee.workers.inbound(), app.port());
        pair.offer(vec![endpoint], protocol);
        pair.allow(MtlsMode::Strict, AuthorizationDefault::Authenticated);
        pair
    }

    /// The same two, where the app is called without its sidecar, in plaintext.
    pub(crate) fn without_callee(app: SocketAddr) -> Self {
        let mut pair = Self::new(app);
        pair.offer(vec![bare_endpoint(app)], Protocol::Detect);
        pair
    }

    /// Both ways to reach an app: through both sidecars, and without its own.
    pub(crate) fn both(app: SocketAddr) -> [Self; 2] {
        [Self::new(app), Self::without_callee(app)]
    }

    /// Tells the caller's sidecar who is behind `orders`.
    pub(crate) fn offer(&mut self, endpoints: Vec<Endpoint>, protocol: Protocol) {
        self.generation += 1;
        let service = Service {
            name: orders(),
            addresses: Vec::new(),
            ports: vec![ServicePort { port: PORT, name: String::new(), protocol }],
            traffic: Box::new(self.traffic.clone()),
            routes: Vec::new(),
            external: None,
            tokens: None,
        };
        let endpoints = endpoints.into_iter().map(Arc::new).collect();
        let known = KnownService {
            service,
            failing: Arc::from([]),
            endpoints,
            routing: weft_proxy::routing::Routing::default(),
            generation: self.generation,
        };
        self.caller.publisher.publish(Snapshot {
            mesh: Some(Arc::new(mesh())),
            services: HashMap::from([(orders(), Arc::new(known))]),
            ..Snapshot::default()
        });
    }

    /// The same for the one endpoint that there is, before an app that listens at `app`.
    pub(crate) fn treat(&mut self, app: SocketAddr, traffic: Traffic) {
        self.traffic = traffic;
        let endpoint = endpoint(self.callee.workers.inbound(), app.port());
        self.offer(vec![endpoint], Protocol::Detect);
    }

    /// Tells the endpoint's sidecar whom to let in.
    pub(crate) fn allow(&self, mtls: MtlsMode, authorization: AuthorizationDefault) {
        self.callee.publisher.publish(Snapshot {
            mesh: Some(Arc::new(Mesh { mtls, authorization, ..mesh() })),
            workload: Some(Arc::new(workload())),
            ..Snapshot::default()
        });
    }

    /// Gives both sidecars new certificates and keys.
    pub(crate) fn renew(&self) {
        self.caller.credentials.replace(credentials(&self.authority, "web"));
        self.callee.credentials.replace(credentials(&self.authority, "orders"));
    }

    /// What another pod of the mesh proves itself by.
    pub(crate) fn credentials(&self, account: &str) -> Credentials {
        credentials(&self.authority, account)
    }

    /// The endpoint's sidecar believes none of those.
    pub(crate) fn callee_refuses(&self, revoked: &[Revoked]) {
        let (_, current) = self.callee.credentials.current().unwrap();
        self.callee.credentials.replace(current.refusing(revoked));
    }

    /// A connection of the calling app.
    pub(crate) async fn connect(&self) -> TcpStream {
        self.try_connect().await.unwrap()
    }

    /// The same where it may be reset before it is known here that it was made.
    pub(crate) async fn try_connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.caller.orders).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Sends `request` on a connection of its own, which it must ask to be closed, and reads all of the response.
    pub(crate) async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = Vec::new();
        tokio::time::timeout(PATIENCE, stream.read_to_end(&mut response)).await.unwrap().unwrap();
        String::from_utf8(response).unwrap()
    }
}

/// An app: its listener.
pub(crate) async fn app() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Reads up to the end of a head, or the end of the stream.
pub(crate) async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await.unwrap() == 0 {
            break;
        }
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}
