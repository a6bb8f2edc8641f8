//! The resolver as programs see it, over real sockets. What it says is read by another implementation than ours, and the
//! pod's resolvers are scripts.

mod forward;
mod hostile;
mod mesh;
mod messages;

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query as Question, ResponseCode};
use hickory_proto::rr::{DNSClass, Name as HostName, RData, Record, RecordType};
use hickory_proto::serialize::binary::{BinDecodable as _, BinEncodable as _};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;
use weft_core::model::{Cidr, Endpoint, Mesh as MeshSettings, PortMap, Protocol, Service, ServicePort};
use weft_runtime::metrics::Format;

use super::*;
use crate::identity;
use crate::state::{self, Known, KnownService, Publisher, Snapshot, Wanted};

/// Longer than anything here takes, shorter than a test run may hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// A sidecar's resolver with a control plane that says nothing more, in the namespace `default`.
struct Sidecar {
    address: SocketAddr,
    folder: TempDir,
    publisher: Publisher,
    registry: Registry,
    _asked: tokio::sync::mpsc::Receiver<Wanted>,
}

impl Sidecar {
    async fn start(resolv_conf: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        fs::write(&path, resolv_conf).unwrap();
        Self::with(path, folder).await
    }

    async fn with(path: std::path::PathBuf, folder: TempDir) -> Self {
        let (discovery, publisher, asked) = state::channel(Vec::new());
        let registry = Registry::default();
        let own = vec!["127.0.0.1:53".parse().unwrap()];
        let forwarder = Forwarder::new(path, own, None);
        let resolver = Resolver::new(discovery, credentials(), forwarder, &registry);
        // The port that is free for UDP may be taken for TCP.
        let address = loop {
            let free = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            if resolver.listen(free).await.is_ok() {
                break free;
            }
        };
        publisher.publish(snapshot());
        publisher.set_connected(true);
        Self { address, folder, publisher, registry, _asked: asked }
    }

    /// Puts another file in the place of the one there is.
    fn change_resolv_conf(&self, text: &str) {
        let (new, path) = (self.folder.path().join("new"), self.folder.path().join("resolv.conf"));
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
    }

    async fn client(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket
    }

    /// The answer's bytes over UDP.
    async fn ask_bytes(&self, question: &[u8]) -> Vec<u8> {
        let socket = self.client().await;
        socket.send(question).await.unwrap();
        receive(&socket).await
    }

    /// The answer over UDP.
    async fn ask(&self, name: &str, kind: RecordType) -> Message {
        let question = question(name, kind);
        let answer = Message::from_bytes(&self.ask_bytes(&question.to_bytes().unwrap()).await).unwrap();
        assert_eq!(answer.metadata.id, question.metadata.id);
        assert_eq!(answer.queries, question.queries);
        answer
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// The answer's bytes over TCP.
    async fn ask_tcp(&self, question: &[u8]) -> Vec<u8> {
        let mut stream = self.connect().await;
        stream.write_all(&framed(question).unwrap()).await.unwrap();
        read_framed(&mut stream).await
    }

    fn counted(&self, by: &str, rcode: &str) -> u64 {
        let labels = format!("weft_dns_queries_total{{kind=\"{by}\",rcode=\"{rcode}\"}} ");
        let text = self.registry.render(Format::OpenMetrics);
        text.lines().find_map(|line| line.strip_prefix(&labels)?.parse().ok()).unwrap_or_default()
    }
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut answer = vec![0; 65_535];
    let length = timeout(PATIENCE, socket.recv(&mut answer)).await.expect("an answer in time").unwrap();
    answer.truncate(length);
    answer
}

async fn read_framed(stream: &mut TcpStream) -> Vec<u8> {
    let reading = async {
        let length = stream.read_u16().await.unwrap();
        let mut answer = vec![0; length.into()];
        stream.read_exact(&mut answer).await.unwrap();
        answer
    };
    timeout(PATIENCE, reading).await.expect("an answer in time")
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    let mut query = Question::query(HostName::from_ascii(name).unwrap(), kind);
    query.set_query_class(DNSClass::IN);
    question.add_query(query);
    question
}

/// The same with EDNS.
fn extended(name: &str, kind: RecordType, payload: u16) -> Message {
    let mut question = question(name, kind);
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    question.set_edns(edns);
    question
}

/// The data of the answers, as text.
fn data(answer: &Message) -> Vec<String> {
    answer.answers.iter().map(|record| record.data.to_string()).collect()
}

/// One of the pod's resolvers, at an address of its own on one port for UDP and TCP: `script` is given each question, the
/// transport and how many came before, and says which packets go back.
struct Fake {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
    questions: Questions,
}

/// Questions as they came, and from where.
type Questions = Arc<Mutex<Vec<(Vec<u8>, SocketAddr)>>>;

impl Fake {
    async fn start<F, Fut>(script: F) -> Self
    where
        F: Fn(Vec<u8>, Transport, usize) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Vec<Vec<u8>>> + Send,
    {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (Arc::new(udp), tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let (asked, script) = (Arc::new(AtomicUsize::new(0)), Arc::new(script));
        let questions = Arc::new(Mutex::new(Vec::new()));
        let fake = Self { address, asked: asked.clone(), questions: questions.clone() };
        let (counted, by_tcp) = (asked.clone(), script.clone());
        task::spawn("fake-udp", async move {
            let mut buffer = vec![0; 65_535];
            loop {
                let (length, client) = udp.recv_from(&mut buffer).await.unwrap();
                let question = buffer[..length].to_vec();
                questions.lock().unwrap().push((question.clone(), client));
                let before = asked.fetch_add(1, Ordering::SeqCst);
                let (udp, script) = (udp.clone(), script.clone());
                task::spawn("fake-answer", async move {
                    for packet in script(question, Transport::Udp, before).await {
                        udp.send_to(&packet, client).await.unwrap();
                    }
                });
            }
        });
        task::spawn("fake-tcp", async move {
            loop {
                let (mut stream, _) = tcp.accept().await.unwrap();
                let (asked, script) = (counted.clone(), by_tcp.clone());
                task::spawn("fake-connection", async move {
                    let question = read_framed(&mut stream).await;
                    let before = asked.fetch_add(1, Ordering::SeqCst);
                    for packet in script(question, Transport::Tcp, before).await {
                        stream.write_all(&framed(&packet).unwrap()).await.unwrap();
                    }
                });
            }
        });
        fake
    }

    /// One that answers each question at once.
    async fn answering(answer: impl Fn(&Message) -> Message + Send + Sync + 'static) -> Self {
        let answer = Arc::new(answer);
        Self::start(move |question, _, _| {
            let answer = answer(&Message::from_bytes(&question).unwrap());
            async move { vec![answer.to_bytes().unwrap()] }
        })
        .await
    }

    /// One that never does.
    async fn silent() -> Self {
        Self::start(|_, _, _| async { Vec::new() }).await
    }

    fn line(&self) -> String {
        format!("nameserver [{}]:{}\n", self.address.ip(), self.address.port())
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// The answer to a question with nothing but a code.
fn coded(question: &Message, code: ResponseCode) -> Message {
    let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.response_code = code;
    answer.add_queries(question.queries.iter().cloned());
    answer
}

/// The same with an address that holds for `ttl` seconds.
fn addressed(question: &Message, address: [u8; 4], ttl: u32) -> Message {
    let mut answer = coded(question, ResponseCode::NoError);
    let name = question.queries[0].name().clone();
    answer.add_answer(Record::from_rdata(name, ttl, RData::A(std::net::Ipv4Addr::from(address).into())));
    answer
}

fn credentials() -> CredentialStore {
    let store = CredentialStore::default();
    store.replace(identity::credentials(&identity::authority(), "web"));
    store
}

fn port(port: u16, name: &str, protocol: Protocol) -> ServicePort {
    ServicePort { port, name: name.to_owned(), protocol }
}

fn parse(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn service(
    name: &str,
    addresses: &[&str],
    ports: Vec<ServicePort>,
    endpoints: Vec<Endpoint>,
) -> Arc<KnownService> {
    let service = Service {
        routes: Vec::new(),
        external: None,
        tokens: None,
        name: name.parse().unwrap(),
        addresses: parse(addresses),
        ports,
        traffic: Default::default(),
    };
    Arc::new(KnownService {
        routing: crate::routing::Routing::default(),
        service,
        failing: Arc::from([]),
        endpoints: endpoints.into_iter().map(Arc::new).collect(),
        generation: 1,
    })
}

fn endpoint(workload: &str, addresses: &[&str], target_port: u16) -> Endpoint {
    Endpoint {
        workload: workload.parse().unwrap(),
        addresses: parse(addresses),
        identity: None,
        inbound_port: None,
        zone: String::new(),
        node: Arc::default(),
        weight: 1,
        ports: vec![PortMap { port: 80, target_port }],
        healthy: true,
        fits: weft_core::model::Fits::default(),
    }
}

/// What the control plane has said.
fn snapshot() -> Snapshot {
    let ranges: Vec<Cidr> = ["240.64.0.0/12", "fd57:eff7::/64"].map(|text| text.parse().unwrap()).into();
    let ports = vec![port(80, "web", Protocol::Http), port(9000, "", Protocol::Grpc)];
    let crowd = (0..200u8).map(|n| endpoint(&format!("default/crowd-{n}"), &[&format!("10.1.0.{n}")], 80));
    let services = [
        service("default/orders", &["240.64.0.7", "fd57:eff7::7"], ports, Vec::new()),
        service("default/four", &["240.64.0.8"], vec![port(8080, "", Protocol::Detect)], Vec::new()),
        service("shop/six", &["fd57:eff7::9"], Vec::new(), Vec::new()),
        service(
            "default/headless",
            &[],
            vec![port(80, "web", Protocol::Http)],
            vec![
                endpoint("default/headless-1", &["10.0.0.1", "fd00::1"], 8081),
                endpoint("default/headless-2", &["10.0.0.2"], 8082),
            ],
        ),
        service("default/crowd", &[], vec![port(80, "web", Protocol::Http)], crowd.collect()),
        service("default/empty", &[], Vec::new(), Vec::new()),
    ];
    let named = |service: &Arc<KnownService>| (service.service.name.clone(), Arc::clone(service));
    let addresses = services.iter().flat_map(|service| {
        let name = service.service.name.clone();
        service.service.addresses.iter().map(move |address| (*address, Known::Service(name.clone())))
    });
    let absent = ["default/missing", "com/example", "org/example", "no/such", "cluster/deep", "net/other"];
    Snapshot {
        mesh: Some(Arc::new(MeshSettings::with_defaults("mesh.local".parse().unwrap(), ranges))),
        addresses: addresses.chain([("240.64.9.9".parse().unwrap(), Known::Absent)]).collect(),
        services: services.iter().map(named).collect::<HashMap<_, _>>(),
        absent_services: absent.iter().map(|name| name.parse().unwrap()).collect(),
        ..Snapshot::default()
    }
}
