//! One check: asks an app how it is, in the way that was said.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response, StatusCode};
use prost::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_core::classify;
use weft_core::health::Found;
use weft_core::model::{HealthCheck, Probe, Protocol};

use crate::http1::{ResponseHead, end_of_lines};
use crate::upstream::Dialer;

/// How we call ourselves.
const AGENT: &str = concat!("weft-health/", env!("CARGO_PKG_VERSION"));

/// Bytes of a head, or of a gRPC answer, at most.
const MAX_ANSWER: usize = 16 * 1024;

/// Where an app is asked, and how it speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) protocol: Protocol,
    /// Whom a request names as its host.
    pub(super) host: String,
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ailment {
    #[error("no connection: {0}")]
    Unreachable(crate::failure::ErrorCode),
    #[error("the connection broke")]
    Broken(#[from] std::io::Error),
    #[error("the HTTP/2 connection broke")]
    Http2(#[from] h2::Error),
    #[error("it does not speak HTTP")]
    NoHttp,
    #[error("it answered with status {0}")]
    Status(u16),
    #[error("it answered with gRPC status {0:?}")]
    GrpcStatus(Option<u8>),
    #[error("it says that it is not serving")]
    NotServing,
    #[error("no answer within {0:?}")]
    Late(Duration),
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`; 1 is `SERVING`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks once.
pub(super) async fn ask(dialer: Dialer, place: &Place, settings: &HealthCheck) -> Result<(), Ailment> {
    let limit = settings.timeout;
    let asking = async {
        let dialled = dialer.dial_within(limit, &place.addresses).await;
        let tcp = dialled.map_err(Ailment::Unreachable)?;
        match (&settings.probe, place.protocol) {
            (Probe::Tcp, _) => Ok(()),
            (Probe::Http { path }, Protocol::Http2 | Protocol::Grpc) => http2(tcp, place, path).await,
            (Probe::Http { path }, _) => http1(tcp, place, path).await,
            (Probe::Grpc { service }, _) => grpc(tcp, place, service).await,
        }
    };
    timeout(limit, asking).await.unwrap_or(Err(Ailment::Late(limit)))
}

/// What a check's outcome says.
pub(super) fn found(outcome: &Result<(), Ailment>) -> Found {
    if outcome.is_ok() { Found::Working } else { Found::Failing }
}

async fn http1(mut tcp: TcpStream, place: &Place, path: &str) -> Result<(), Ailment> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {}\r\nuser-agent: {AGENT}\r\naccept: */*\r\nconnection: close\r\n\r\n",
        place.host
    );
    tcp.write_all(request.as_bytes()).await?;
    let (mut answer, mut seen) = (Vec::new(), 0);
    loop {
        if tcp.read_buf(&mut answer).await? == 0 || answer.len() > MAX_ANSWER {
            return Err(Ailment::NoHttp);
        }
        while let Some(length) = end_of_lines(&answer, &mut seen).map_err(|_| Ailment::NoHttp)? {
            let head = answer.get(..length).unwrap_or_default();
            let status = ResponseHead::parse(head).map_err(|_| Ailment::NoHttp)?.status;
            if status >= 200 {
                return judge(status);
            }
            // What is only announced is no answer (RFC 9110 section 15.2).
            answer.drain(..length);
            seen = 0;
        }
    }
}

async fn http2(tcp: TcpStream, place: &Place, path: &str) -> Result<(), Ailment> {
    let request = Request::get(uri(place, path)).header("user-agent", AGENT).body(());
    let (head, _) = exchange(tcp, request.map_err(|_| Ailment::NoHttp)?, None).await?;
    judge(head.status().as_u16())
}

/// Asks as grpc/grpc, doc/health-checking.md says.
async fn grpc(tcp: TcpStream, place: &Place, service: &str) -> Result<(), Ailment> {
    let message = HealthRequest { service: service.to_owned() }.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let body = [&[0], &length[..], &message].concat();
    let request = Request::post(uri(place, "/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", AGENT)
        .body(());
    let (head, mut stream) = exchange(tcp, request.map_err(|_| Ailment::NoHttp)?, Some(body.into())).await?;
    if head.status() != StatusCode::OK {
        return Err(Ailment::Status(head.status().as_u16()));
    }
    let mut answer = Vec::new();
    while let Some(data) = stream.stream.data().await {
        let data = data?;
        // What was read may be sent again: a window left full would end the answer.
        let _ = stream.stream.flow_control().release_capacity(data.len());
        answer.extend_from_slice(&data);
        if answer.len() > MAX_ANSWER {
            return Err(Ailment::NoHttp);
        }
    }
    let trailers = stream.stream.trailers().await?;
    let status = |fields: &HeaderMap| classify::grpc_status(fields.get("grpc-status")?.as_bytes());
    match trailers.as_ref().and_then(status).or_else(|| status(head.headers())) {
        Some(0) => {}
        other => return Err(Ailment::GrpcStatus(other)),
    }
    let said = answer.get(5..).and_then(|message| HealthResponse::decode(message).ok());
    if said.is_some_and(|said| said.status == 1) { Ok(()) } else { Err(Ailment::NotServing) }
}

fn judge(status: u16) -> Result<(), Ailment> {
    // As kubelets judge.
    if (200..400).contains(&status) { Ok(()) } else { Err(Ailment::Status(status)) }
}

fn uri(place: &Place, path: &str) -> String {
    format!("http://{}{path}", place.host)
}

/// A body that is read while its connection is driven beside it.
struct Driven {
    stream: RecvStream,
    _connection: DropTask,
}

struct DropTask(tokio::task::JoinHandle<()>);

impl Drop for DropTask {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn exchange(
    tcp: TcpStream,
    request: Request<()>,
    body: Option<Bytes>,
) -> Result<(Response<()>, Driven), Ailment> {
    let (sender, connection): (SendRequest<Bytes>, _) = h2::client::handshake(tcp).await?;
    let driving = weft_runtime::task::spawn("health-http2", async move {
        // Why it ended, who waits for the answer hears.
        let _ = connection.await;
    });
    let driving = DropTask(driving);
    let mut sender = sender.ready().await?;
    let (response, mut sending) = sender.send_request(request, body.is_none())?;
    if let Some(body) = body {
        sending.send_data(body, true)?;
    }
    let (head, stream) = response.await?.into_parts();
    Ok((Response::from_parts(head, ()), Driven { stream, _connection: driving }))
}
