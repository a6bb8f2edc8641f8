//! Redirected connections, without interception: a worker is handed them with the destination that they had.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::timeout;
use weft_certs::{Authority, sni};
use weft_core::model::{AuthorizationDefault, Mesh, MtlsMode, OutboundMode, Service, ServicePort};
use weft_proxy::credentials::CredentialStore;
use weft_proxy::listen::{Accepted, OriginalDst};
use weft_proxy::observe::Observe;
use weft_proxy::state::{self, Known, KnownService, Publisher, Snapshot};
use weft_proxy::worker::{Conduct, Leaving, Shared, Worker};
use weft_proxy::{inbound, outbound};
use weft_runtime::drain::{self, Drain};
use weft_runtime::metrics::{Format, Registry};

use crate::pair::{
    LOCALHOST, PATIENCE, PORT, app, credentials, domain, identity, mesh, orders, read_head, workload,
};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\nweft-client-id: liar\r\nConnection: close\r\n\r\n";

const RESPONSE: &str = "HTTP/1.1 200 OK\r\nweft-error: liar\r\ncontent-length: 2\r\n\r\nhi";

fn vip() -> IpAddr {
    "240.64.0.7".parse().unwrap()
}

struct Alone {
    worker: Rc<Worker>,
    publisher: Publisher,
    authority: Authority,
    listener: TcpListener,
    registry: Registry,
    /// A drain that is dropped has begun.
    _drain: Drain,
}

impl Alone {
    async fn new(mtls: MtlsMode, authorization: AuthorizationDefault, outbound: OutboundMode) -> Self {
        let (discovery, publisher, _asked) = state::channel(Vec::new());
        let authority = Authority::create(&domain(), SystemTime::now()).unwrap();
        let store = CredentialStore::default();
        store.replace(credentials(&authority, "orders"));
        let registry = Registry::default();
        let (observe, _records) = Observe::new(&registry);
        let shared = Shared { discovery, credentials: store, observe, site: Default::default() };
        let (drain, watch) = drain::channel();
        let leaving = Leaving { announced: watch.clone(), closing: watch };
        let ports = vec![ServicePort { port: PORT, name: String::new(), protocol: Default::default() }];
        let service = Service {
            name: orders(),
            addresses: vec![vip()],
            ports,
            traffic: Default::default(),
            routes: Vec::new(),
            external: None,
        };
        let known = KnownService {
            service,
            endpoints: Arc::from([]),
            routing: weft_proxy::routing::Routing::default(),
            generation: 1,
        };
        publisher.publish(Snapshot {
            mesh: Some(Arc::new(Mesh { mtls, authorization, outbound, ..mesh() })),
            workload: Some(Arc::new(workload())),
            services: HashMap::from([(orders(), Arc::new(known))]),
            addresses: HashMap::from([(vip(), Known::Service(orders()))]),
            ..Snapshot::default()
        });
        let worker = Rc::new(Worker::new(shared, Conduct::default(), [4140, 4143], leaving));
        Self { worker, publisher, authority, listener: app().await.0, registry, _drain: drain }
    }

    /// A client's connection, and the worker's end of it.
    async fn accepted(&self, destination: SocketAddr) -> (TcpStream, Accepted) {
        let client = TcpStream::connect(self.listener.local_addr().unwrap()).await.unwrap();
        let (io, from) = self.listener.accept().await.unwrap();
        (client, Accepted { io, client: from, destination: OriginalDst::Redirected(destination) })
    }

    fn serve(&self, accepted: Accepted) -> JoinHandle<()> {
        tokio::task::spawn_local(inbound::connection(Rc::clone(&self.worker), accepted))
    }

    /// Sends bytes to `destination` past the inbound listener; what comes back, until the end.
    async fn inbound(&self, destination: SocketAddr, bytes: &[u8]) -> std::io::Result<String> {
        let (client, accepted) = self.accepted(destination).await;
        exchange(client, bytes, self.serve(accepted)).await
    }

    /// The same past the outbound listener.
    async fn outbound(&self, destination: SocketAddr, bytes: &[u8]) -> std::io::Result<String> {
        let (client, accepted) = self.accepted(destination).await;
        let served = outbound::redirected(Rc::clone(&self.worker), accepted);
        exchange(client, bytes, tokio::task::spawn_local(served)).await
    }
}

async fn exchange(mut client: TcpStream, bytes: &[u8], served: JoinHandle<()>) -> std::io::Result<String> {
    client.write_all(bytes).await?;
    let mut answer = String::new();
    let read = timeout(PATIENCE, client.read_to_string(&mut answer)).await.unwrap();
    drop(client);
    served.await.unwrap();
    read.map(|_| answer)
}

/// Serves one request after another, a connection each; gives the heads seen to `seen`.
async fn serve(listener: TcpListener, seen: tokio::sync::mpsc::Sender<String>) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await;
        let _ = seen.send(head).await;
        let _ = stream.write_all(RESPONSE.as_bytes()).await;
    }
}

async fn locally<F: Future>(test: F) -> F::Output {
    LocalSet::new().run_until(async { timeout(4 * PATIENCE, test).await.unwrap() }).await
}

#[tokio::test]
async fn permissive_takes_plaintext_and_vouches_for_no_one() {
    locally(async {
        let alone = Alone::new(MtlsMode::Permissive, AuthorizationDefault::Any, OutboundMode::AllowAny).await;
        let (listener, address) = app().await;
        let (seen, mut heads) = tokio::sync::mpsc::channel(8);
        tokio::task::spawn_local(serve(listener, seen));
        let answer = alone.inbound(address, REQUEST.as_bytes()).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hi"), "{answer}");
        assert!(!answer.contains("weft-"), "{answer}");
        let head = heads.recv().await.unwrap();
        assert!(head.contains("x-forwarded-for: 127.0.0.1\r\n") && !head.contains("weft-"), "{head}");
    })
    .await;
}

#[tokio::test]
async fn strict_answers_plaintext_http_and_cuts_everything_else() {
    locally(async {
        let alone = Alone::new(MtlsMode::Strict, AuthorizationDefault::Any, OutboundMode::AllowAny).await;
        let (_listener, address) = app().await;
        let answer = alone.inbound(address, REQUEST.as_bytes()).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("weft-error: denied\r\n"), "{answer}");
        assert!(alone.inbound(address, b"*1\r\n$4\r\nPING\r\n").await.is_err());
    })
    .await;
}

#[tokio::test]
async fn who_must_prove_something_and_does_not_is_unauthenticated() {
    locally(async {
        let (mtls, who) = (MtlsMode::Permissive, AuthorizationDefault::Authenticated);
        let alone = Alone::new(mtls, who, OutboundMode::AllowAny).await;
        let (_listener, address) = app().await;
        let answer = alone.inbound(address, REQUEST.as_bytes()).await.unwrap();
        let expected = "weft-error: unauthenticated\r\n";
        assert!(answer.starts_with("HTTP/1.1 401") && answer.contains(expected), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn a_plaintext_server_that_speaks_first_is_heard() {
    locally(async {
        let alone = Alone::new(MtlsMode::Permissive, AuthorizationDefault::Any, OutboundMode::AllowAny).await;
        let (listener, address) = app().await;
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"220 ready\r\n").await.unwrap();
        });
        let (mut client, accepted) = alone.accepted(address).await;
        alone.serve(accepted);
        let mut greeting = String::new();
        timeout(PATIENCE, client.read_to_string(&mut greeting)).await.unwrap().unwrap();
        assert_eq!(greeting, "220 ready\r\n");
    })
    .await;
}

#[tokio::test]
async fn another_sidecar_is_known_on_a_redirected_connection_too() {
    let test = async {
        let alone =
            Alone::new(MtlsMode::Strict, AuthorizationDefault::Authenticated, OutboundMode::AllowAny).await;
        let (listener, address) = app().await;
        let (seen, mut heads) = tokio::sync::mpsc::channel(8);
        tokio::task::spawn_local(serve(listener, seen));
        let (client, accepted) = alone.accepted(address).await;
        alone.serve(accepted);
        let ours = credentials(&alone.authority, "web");
        let config = ours.client_config(&identity("orders"), &[b"http/1.1"]).unwrap();
        let connector = tokio_rustls::TlsConnector::from(config);
        let mut tls = connector.connect(sni::for_port(address.port()), client).await.unwrap();
        tls.write_all(REQUEST.as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(PATIENCE, tls.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.ends_with("hi"), "{answer}");
        let head = heads.recv().await.unwrap();
        assert!(head.contains("weft-client-id: spiffe://mesh.local/ns/default/sa/web\r\n"), "{head}");
    };
    locally(Box::pin(test)).await;
}

#[tokio::test]
async fn a_body_that_stands_still_is_given_up_after_five_minutes() {
    let test = async {
        let alone = Alone::new(MtlsMode::Permissive, AuthorizationDefault::Any, OutboundMode::AllowAny).await;
        let (listener, address) = app().await;
        let (mut client, accepted) = alone.accepted(address).await;
        let served = alone.serve(accepted);
        let request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf!";
        client.write_all(request).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        read_head(&mut server).await;
        server.read_exact(&mut [0; 5]).await.unwrap();
        // From here on nothing moves but time.
        tokio::time::pause();
        let begun = tokio::time::Instant::now();
        assert!(client.read(&mut [0]).await.is_err(), "the client is reset");
        // Whether it stood still is looked at every five minutes.
        let minutes = begun.elapsed().as_secs() / 60;
        assert!((5..=10).contains(&minutes), "{minutes}");
        assert!(
            server.read(&mut [0]).await.is_err(),
            "and the app, so that the request looks as broken as it is"
        );
        served.await.unwrap();
    };
    LocalSet::new().run_until(Box::pin(test)).await;
}

#[tokio::test]
async fn our_own_ports_are_nobodys_app() {
    locally(async {
        let alone = Alone::new(MtlsMode::Permissive, AuthorizationDefault::Any, OutboundMode::AllowAny).await;
        for port in [4140, 4143] {
            assert!(alone.inbound(SocketAddr::new(LOCALHOST, port), REQUEST.as_bytes()).await.is_err());
        }
    })
    .await;
}

#[tokio::test]
async fn strangers_are_passed_through_untouched_or_refused_as_the_mesh_says() {
    locally(async {
        let alone = Alone::new(MtlsMode::Strict, AuthorizationDefault::Any, OutboundMode::AllowAny).await;
        let (listener, address) = app().await;
        let (seen, mut heads) = tokio::sync::mpsc::channel(8);
        tokio::task::spawn_local(serve(listener, seen));
        assert_eq!(alone.outbound(address, REQUEST.as_bytes()).await.unwrap(), RESPONSE);
        assert_eq!(heads.recv().await.unwrap(), REQUEST);

        let closed =
            Alone::new(MtlsMode::Strict, AuthorizationDefault::Any, OutboundMode::RegistryOnly).await;
        let answer = closed.outbound(address, REQUEST.as_bytes()).await.unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 404") && answer.contains("weft-error: no-route\r\n"),
            "{answer}"
        );
        assert!(closed.outbound(address, b"*1\r\n$4\r\nPING\r\n").await.is_err());

        alone.publisher.publish(Snapshot::default());
        let answer = alone.outbound(address, REQUEST.as_bytes()).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "nothing is known yet: {answer}");
    })
    .await;
}

/// The first flight of a client that asks for `host`.
fn client_hello(alone: &Alone, host: &'static str) -> Vec<u8> {
    let config = credentials(&alone.authority, "web").client_config(&identity("orders"), &[]).unwrap();
    let mut session = rustls::ClientConnection::new(config, host.try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).unwrap();
    hello
}

#[tokio::test]
async fn tls_to_a_stranger_is_untouched_and_counted_by_its_host() {
    locally(async {
        let alone = Alone::new(MtlsMode::Strict, AuthorizationDefault::Any, OutboundMode::AllowAny).await;
        let hello = client_hello(&alone, "API.example.com");
        let (listener, address) = app().await;
        let length = hello.len();
        let serving = tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = vec![0; length];
            stream.read_exact(&mut heard).await.unwrap();
            stream.write_all(b"an answer").await.unwrap();
            heard
        });
        assert_eq!(alone.outbound(address, &hello).await.unwrap(), "an answer");
        assert!(serving.await.unwrap() == hello);
        let metrics = alone.registry.render(Format::Prometheus);
        assert!(metrics.contains("weft_tls_connections_total{sni=\"api.example.com\"} 1\n"), "{metrics}");
        assert!(metrics.lines().any(|line| line.starts_with("weft_connections_total{")
            && line.contains("destination=\"unknown\",protocol=\"tls\"")));
    })
    .await;
}

#[tokio::test]
async fn tls_to_a_stranger_where_there_may_be_none_is_told_so_in_tls() {
    locally(async {
        let alone = Alone::new(MtlsMode::Strict, AuthorizationDefault::Any, OutboundMode::RegistryOnly).await;
        let hello = client_hello(&alone, "api.example.com");
        let (mut client, accepted) = alone.accepted(app().await.1).await;
        let served = outbound::redirected(Rc::clone(&alone.worker), accepted);
        let served = tokio::task::spawn_local(served);
        client.write_all(&hello).await.unwrap();
        let mut answer = Vec::new();
        timeout(PATIENCE, client.read_to_end(&mut answer)).await.unwrap().unwrap();
        // RFC 8446 sections 5.1 and 6: an alert, fatal, access_denied.
        assert_eq!(answer, [21, 3, 3, 0, 2, 2, 49]);
        drop(client);
        served.await.unwrap();
        let metrics = alone.registry.render(Format::Prometheus);
        let refused =
            "weft_connections_refused_total{direction=\"outbound\",reason=\"unknown-destination\"} 1";
        assert!(metrics.contains(refused), "{metrics}");
    })
    .await;
}

#[tokio::test]
async fn a_stranger_that_speaks_first_is_heard_at_once() {
    locally(async {
        let alone = Alone::new(MtlsMode::Strict, AuthorizationDefault::Any, OutboundMode::AllowAny).await;
        let (listener, address) = app().await;
        tokio::task::spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"220 ready\r\n").await.unwrap();
        });
        let (mut client, accepted) = alone.accepted(address).await;
        tokio::task::spawn_local(outbound::redirected(Rc::clone(&alone.worker), accepted));
        let mut greeting = String::new();
        timeout(PATIENCE, client.read_to_string(&mut greeting)).await.unwrap().unwrap();
        assert_eq!(greeting, "220 ready\r\n");
    })
    .await;
}

#[tokio::test]
async fn a_virtual_address_answers_on_declared_ports_alone() {
    locally(async {
        let alone = Alone::new(MtlsMode::Strict, AuthorizationDefault::Any, OutboundMode::AllowAny).await;
        for (port, code) in [(PORT, "no-endpoints"), (PORT + 1, "no-route")] {
            let answer = alone.outbound(SocketAddr::new(vip(), port), REQUEST.as_bytes()).await.unwrap();
            assert!(answer.contains(&format!("weft-error: {code}\r\n")), "{answer}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_stranger_who_cannot_be_reached_is_a_reset() {
    locally(async {
        let alone = Alone::new(MtlsMode::Strict, AuthorizationDefault::Any, OutboundMode::AllowAny).await;
        let nobody = app().await.1;
        let begun = std::time::Instant::now();
        assert!(alone.outbound(nobody, REQUEST.as_bytes()).await.is_err());
        assert!(begun.elapsed() < Duration::from_secs(5));
    })
    .await;
}

#[tokio::test]
async fn an_idle_connections_task_is_small() {
    locally(async {
        let alone = Alone::new(MtlsMode::Strict, AuthorizationDefault::Any, OutboundMode::AllowAny).await;
        let at = SocketAddr::new(LOCALHOST, 80);
        let sent = outbound::redirected(Rc::clone(&alone.worker), alone.accepted(at).await.1);
        let received = inbound::connection(Rc::clone(&alone.worker), alone.accepted(at).await.1);
        let (sent, received) = (size_of_val(&sent), size_of_val(&received));
        assert!(sent <= 256 && received <= 256, "{sent} and {received} bytes");
    })
    .await;
}
