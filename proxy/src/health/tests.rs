//! Checks of apps that answer well, badly, late or not at all; and what becomes of their outcomes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use weft_core::model::{AppCheck, Probe, Protocol, Workload};

use super::*;
use crate::state::{self, Publisher};
use probe::Ailment;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn settings(probe: Probe) -> HealthCheck {
    let (interval, timeout) = (Duration::from_millis(20), Duration::from_secs(10));
    HealthCheck { interval, timeout, unhealthy_after: 2, ..HealthCheck::new(probe) }
}

fn path() -> Probe {
    Probe::Http { path: "/healthz".into() }
}

fn place(address: SocketAddr, protocol: Protocol) -> Place {
    Place { addresses: vec![address], protocol, host: "orders".into(), tls: None }
}

async fn ask(place: &Place, settings: &HealthCheck) -> Result<(), Ailment> {
    Asker::new(Reach::default()).ask(place, settings).await
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An app that says this to whoever asks; what it was asked last, the receiver has.
async fn says(answer: &'static str) -> (SocketAddr, watch::Receiver<String>) {
    let (listener, address) = listener().await;
    let (asked, seen) = watch::channel(String::new());
    task::spawn("app", async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = [0; 1024];
            let Ok(count) = stream.read(&mut bytes).await else { continue };
            asked.send_replace(String::from_utf8_lossy(&bytes[..count]).into_owned());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, seen)
}

async fn ask_http(answer: &'static str) -> Result<(), Ailment> {
    let (address, _) = says(answer).await;
    ask(&place(address, Protocol::Http), &settings(path())).await
}

#[tokio::test]
async fn an_app_is_asked_by_a_get_of_its_path_and_judged_by_the_status() {
    let (address, asked) = says("HTTP/1.1 204 No Content\r\n\r\n").await;
    let outcome = ask(&place(address, Protocol::Detect), &settings(path())).await;
    assert!(outcome.is_ok(), "{outcome:?}");
    let asked = asked.borrow().clone();
    assert!(
        asked.starts_with("GET /healthz HTTP/1.1\r\nhost: orders\r\nuser-agent: weft-health/"),
        "{asked}"
    );
    assert!(ask_http("HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 302 Found\r\n\r\n").await.is_ok());
    assert!(matches!(ask_http("HTTP/1.1 500 Broken\r\n\r\n").await, Err(Ailment::Status(500))));
    assert!(matches!(ask_http("HTTP/1.1 404 Nothing\r\n\r\n").await, Err(Ailment::Status(404))));
    assert!(matches!(ask_http("SSH-2.0-x\r\n\r\n").await, Err(Ailment::NoHttp)));
    assert!(matches!(ask_http("").await, Err(Ailment::NoHttp)));
}

#[tokio::test]
async fn whoever_is_not_there_or_does_not_answer_fails() {
    let (listener, address) = listener().await;
    let hurried = HealthCheck { timeout: Duration::from_millis(50), ..settings(path()) };
    let outcome = ask(&place(address, Protocol::Http), &hurried).await;
    assert!(matches!(outcome, Err(Ailment::Late(_))), "accepts and says nothing: {outcome:?}");
    let tcp = ask(&place(address, Protocol::Tcp), &settings(Probe::Tcp)).await;
    assert!(tcp.is_ok(), "{tcp:?}");
    drop(listener);
    let tcp = ask(&place(address, Protocol::Tcp), &settings(Probe::Tcp)).await;
    assert!(matches!(tcp, Err(Ailment::Unreachable(_))), "{tcp:?}");
}

/// A gRPC server that answers every call with this message and status, or without either.
async fn grpc_says(message: &'static [u8], status: &'static str) -> Result<(), Ailment> {
    let (listener, address) = listener().await;
    task::spawn("app", async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            assert_eq!(request.headers()["content-type"], "application/grpc");
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(message), false).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        }
    });
    let probe = Probe::Grpc { service: "shop.Orders".into() };
    ask(&place(address, Protocol::Grpc), &settings(probe)).await
}

#[tokio::test]
async fn grpc_s_health_service_must_say_that_it_serves() {
    assert!(grpc_says(b"\0\0\0\0\x02\x08\x01", "0").await.is_ok());
    assert!(matches!(grpc_says(b"\0\0\0\0\x02\x08\x02", "0").await, Err(Ailment::NotServing)));
    assert!(matches!(grpc_says(b"\0\0\0\0\0", "0").await, Err(Ailment::NotServing)));
    assert!(matches!(grpc_says(b"", "5").await, Err(Ailment::GrpcStatus(Some(5)))));
    assert!(matches!(ask_http("HTTP/1.1 200 OK\r\n\r\n").await, Ok(())));
}

struct Harness {
    publisher: Publisher,
    thoughts: watch::Receiver<Thoughts>,
}

impl Harness {
    fn start() -> Self {
        let (discovery, publisher, _asked) = state::channel(Vec::new());
        let (health, thoughts) = HealthLoop::new(discovery, vec![LOCALHOST], Reach::default());
        task::spawn("health", health.run());
        Self { publisher, thoughts }
    }

    /// Tells of our workload, whose app listens there and is to be asked so.
    fn tell(&self, app: SocketAddr, settings: Option<HealthCheck>) {
        let check =
            |settings| AppCheck { service: orders(), port: app.port(), protocol: Protocol::Http, settings };
        let workload = Workload {
            name: "default/orders-1".parse().unwrap(),
            service_account: "orders".parse().unwrap(),
            ports: Vec::new(),
            policies: Vec::new(),
            limits: Vec::new(),
            tokens: Vec::new(),
            concurrency: Default::default(),
            mtls: None,
            checks: settings.into_iter().map(check).collect(),
        };
        let workload = Some(Arc::new(workload));
        self.publisher.publish(Snapshot { workload, ..Snapshot::default() });
    }

    async fn until(&mut self, thought: Option<Found>) {
        let subject = Subject::Own(orders());
        let waiting = self.thoughts.wait_for(|thoughts| thoughts.get(&subject).copied() == thought);
        drop(tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap().unwrap());
    }
}

fn orders() -> QualifiedName {
    "default/orders".parse().unwrap()
}

#[tokio::test]
async fn our_app_is_asked_as_long_as_that_is_wanted() {
    let mut harness = Harness::start();
    let (address, mut asked) = says("HTTP/1.1 200 OK\r\n\r\n").await;
    harness.tell(address, None);
    harness.until(None).await;
    harness.tell(address, Some(settings(path())));
    harness.until(Some(Found::Working)).await;
    for _ in 0..3 {
        asked.changed().await.unwrap();
    }
    harness.tell(address, None);
    harness.until(None).await;
}

#[tokio::test]
async fn an_app_that_fails_enough_is_thought_to_fail_and_a_newcomer_at_once() {
    let mut harness = Harness::start();
    let (address, _) = says("HTTP/1.1 500 Broken\r\n\r\n").await;
    harness.tell(address, Some(settings(path())));
    harness.until(Some(Found::Failing)).await;
    let (address, _) = says("HTTP/1.1 200 OK\r\n\r\n").await;
    harness.tell(address, Some(settings(path())));
    harness.until(Some(Found::Working)).await;
}
