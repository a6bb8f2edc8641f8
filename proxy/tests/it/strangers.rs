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
use weft_core::authorize::{OutsideProbe, OutsideProbes};
use weft_core::model::{
    AuthorizationDefault, InboundPort, Mesh, MtlsMode, OutboundMode, Service, ServicePort, Workload,
};
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
        Self::with_probes(mtls, authorization, outbound, OutsideProbes::default()).await
    }

    async fn with_probes(
        mtls: MtlsMode,
        authorization: AuthorizationDefault,
        outbound: OutboundMode,
        probes: OutsideProbes,
    ) -> Self {
        let (discovery, publisher, _asked) = state::channel(Vec::new());
        let authority = Authority::create(&domain(), SystemTime::now()).unwrap();
        let store = CredentialStore::default();
        store.replace(credentials(&authority, "orders"));
        let registry = Registry::default();
        let (observe, _records) = Observe::new(&registry);
        let shared = Shared {
            discovery,
            credentials: store,
            observe,
            site: Default::default(),
            probes: Arc::new(probes),
        };
        let (drain, watch) = drain::channel();
        let leaving = Leaving { announced: watch.clone(), inbound: watch.clone(), outbound: watch };
        let ports = vec![ServicePort { port: PORT, name: String::new(), protocol: Default::default() }];
        let service = Service {
            name: orders(),
            addresses: vec![vip()],
            ports,
            traffic: Default::default(),
            routes: Vec::new(),
            external: None,
            tokens: None,
        };
        let known = KnownService {
            service,
            failing: Arc::from([]),
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

/// What the sidecar of `Alone` is told when it takes no plaintext on `port` any more, though the mesh does.
fn turn_strict(alone: &Alone, port: u16) {
    let snapshot = alone.publisher.snapshot();
    let own = InboundPort { port, mtls: Some(MtlsMode::Strict), ..workload().ports.remove(0) };
    let workload = Some(Arc::new(Workload { ports: vec![own], ..workload() }));
    alone.publisher.publish(Snapshot { workload, ..(*snapshot).clone() });
}

#[tokio::test]
async fn open_plaintext_ends_when_its_port_turns_strict_and_on_others_it_goes_on() {
    locally(async {
        let alone = Alone::new(MtlsMode::Permissive, AuthorizationDefault::Any, OutboundMode::AllowAny).await;
        let discovery = alone.worker.discovery.clone();
        let closing = alone.worker.leaving.inbound.clone();
        let worker = Rc::clone(&alone.worker);
        tokio::task::spawn_local(async move { worker.ties.review(discovery, closing, |_, _| {}).await });
        let (listener, address) = app().await;
        let (other_listener, other) = app().await;
        // Half of an answer: the request is under way.
        let open = async |listener: &TcpListener, address: SocketAddr, bytes: &[u8]| {
            let (mut client, accepted) = alone.accepted(address).await;
            let served = alone.serve(accepted);
            client.write_all(bytes).await.unwrap();
            let (mut app, _) = listener.accept().await.unwrap();
            let mut heard = [0; 4];
            app.read_exact(&mut heard).await.unwrap();
            (client, app, served)
        };
        let (mut http, app_http, http_served) = open(&listener, address, REQUEST.as_bytes()).await;
        let (mut bytes, app_bytes, bytes_served) = open(&listener, address, b"\x00\x01\x02\x03").await;
        let (mut lasting, mut app_lasting, _served) = open(&other_listener, other, b"\x00\x01\x02\x03").await;
        turn_strict(&alone, address.port());
        for client in [&mut http, &mut bytes] {
            let mut rest = Vec::new();
            let ended = timeout(Duration::from_secs(2), client.read_to_end(&mut rest)).await;
            assert!(ended.expect("it ends").is_err() || rest.is_empty(), "{rest:?}");
        }
        timeout(PATIENCE, async { http_served.await.and(bytes_served.await) }).await.unwrap().unwrap();
        drop((app_http, app_bytes));
        lasting.write_all(b"on").await.unwrap();
        app_lasting.read_exact(&mut [0; 2]).await.unwrap();
        let refused = alone.inbound(address, REQUEST.as_bytes()).await.unwrap();
        assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    })
    .await;
}

#[tokio::test]
async fn probes_that_were_declared_are_let_in_whatever_holds_for_others() {
    locally(async {
        let (listener, address) = app().await;
        let port = address.port();
        let texts = [format!("http:{port}:/healthz"), format!("grpc:{port}"), format!("tcp:{port}")];
        let probes = texts.iter().map(|text| text.parse::<OutsideProbe>().unwrap()).collect();
        let (strict, deny) = (MtlsMode::Strict, AuthorizationDefault::Deny);
        let alone = Alone::with_probes(strict, deny, OutboundMode::AllowAny, probes).await;
        let (seen, mut heads) = tokio::sync::mpsc::channel(8);
        tokio::task::spawn_local(serve(listener, seen));
        let sampled = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
        let grpc = "POST /grpc.health.v1.Health/Check HTTP/1.1\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\n";
        for (request, expected) in [
            ("GET /healthz HTTP/1.1\r\n", "HTTP/1.1 200"),
            ("HEAD /./healthz HTTP/1.1\r\n", "HTTP/1.1 200"),
            (grpc, "HTTP/1.1 200"),
            ("GET / HTTP/1.1\r\n", "HTTP/1.1 403"),
            ("GET /healthz HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n", "HTTP/1.1 403"),
            ("GET /grpc.health.v1.Health/Check HTTP/1.1\r\n", "HTTP/1.1 403"),
        ] {
            let request = format!("{request}host: a\r\n{sampled}connection: close\r\n\r\n");
            let answer = alone.inbound(address, request.as_bytes()).await.unwrap();
            assert!(answer.starts_with(expected), "{request}\n{answer}");
            if expected == "HTTP/1.1 200" {
                let head = heads.recv().await.unwrap();
                let trace = head.lines().find(|line| line.starts_with("traceparent: ")).unwrap();
                assert!((trace.ends_with("-00") || trace.ends_with("-02")) && !trace.contains("0af7651916cd43dd"), "{head}");
            }
        }
        // Without a word it is a probe, with one it is not.
        assert_eq!(silently(&alone, address).await.unwrap(), "");
        assert!(alone.inbound(address, b"*1\r\n$4\r\nPING\r\n").await.is_err());
        assert!(heads.try_recv().is_err());
        let metrics = alone.registry.render(Format::OpenMetrics);
        for series in [
            "weft_probes_total{kind=\"http\"} 2",
            "weft_probes_total{kind=\"grpc\"} 1",
            "weft_probes_total{kind=\"tcp\"} 1",
        ] {
            assert!(metrics.contains(series), "{series} in {metrics}");
        }
    })
    .await;
}

/// Connects to `destination` past the inbound listener and leaves.
async fn silently(alone: &Alone, destination: SocketAddr) -> std::io::Result<String> {
    let (mut client, accepted) = alone.accepted(destination).await;
    let served = alone.serve(accepted);
    client.shutdown().await?;
    let mut answer = String::new();
    let read = timeout(PATIENCE, client.read_to_string(&mut answer)).await.unwrap();
    served.await.unwrap();
    read.map(|_| answer)
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
