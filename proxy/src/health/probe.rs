//! One check: asks an app how it is, in the way that was said.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderMap, Request, Response, StatusCode};
use prost::Message as _;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use weft_core::classify;
use weft_core::health::Found;
use weft_core::model::{HealthCheck, Origination, Probe, Protocol};

use super::Reach;
use crate::http1::{ResponseHead, end_of_lines};
use crate::tls::{Carries, OutsideError, outside_config};

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
    /// TLS that it is asked in.
    pub(super) tls: Option<Origination>,
}

/// Why a check failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ailment {
    #[error("no connection: {0}")]
    Unreachable(crate::failure::ErrorCode),
    #[error("no TLS with it")]
    NoTls(#[from] OutsideError),
    #[error("its certificate is for nobody: {0:?}")]
    NoName(String),
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

/// Asks one place, again and again.
pub(super) struct Asker {
    reach: Reach,
    /// TLS with it, once that was spoken.
    tls: Option<Arc<ClientConfig>>,
}

impl Asker {
    /// Whoever asks so.
    pub(super) fn new(reach: Reach) -> Self {
        Self { reach, tls: None }
    }

    /// Asks once.
    pub(super) async fn ask(&mut self, place: &Place, settings: &HealthCheck) -> Result<(), Ailment> {
        let limit = settings.timeout;
        let asking = async {
            let dialled = self.reach.dialer.dial_within(limit, &place.addresses).await;
            let tcp = dialled.map_err(Ailment::Unreachable)?;
            match (&settings.probe, &place.tls) {
                (Probe::Tcp, _) => Ok(()),
                (probe, None) => speak(tcp, place, probe).await,
                (probe, Some(origination)) => {
                    let sealed = self.seal(tcp, origination, carries(probe, place.protocol)).await?;
                    speak(sealed, place, probe).await
                }
            }
        };
        timeout(limit, asking).await.unwrap_or(Err(Ailment::Late(limit)))
    }

    /// Speaks TLS with a server outside the mesh.
    async fn seal(
        &mut self,
        tcp: TcpStream,
        origination: &Origination,
        carries: Carries,
    ) -> Result<TlsStream<TcpStream>, Ailment> {
        let config = match &self.tls {
            Some(config) => Arc::clone(config),
            None => {
                let made = outside_config(origination, carries, &self.reach.public)?;
                Arc::clone(self.tls.insert(made))
            }
        };
        let host = origination.server_name.as_str();
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Ailment::NoName(host.to_owned()))?;
        Ok(TlsConnector::from(config).connect(name, tcp).await?)
    }
}

/// What a probe speaks with a place.
fn carries(probe: &Probe, protocol: Protocol) -> Carries {
    match (probe, protocol) {
        (Probe::Tcp, _) => Carries::Tcp,
        (Probe::Http { .. }, Protocol::Http2 | Protocol::Grpc) | (Probe::Grpc { .. }, _) => Carries::Http2,
        (Probe::Http { .. }, _) => Carries::Http1,
    }
}

async fn speak<S>(stream: S, place: &Place, probe: &Probe) -> Result<(), Ailment>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match (probe, carries(probe, place.protocol)) {
        (Probe::Tcp, _) => Ok(()),
        (Probe::Http { path }, Carries::Http2) => http2(stream, place, path).await,
        (Probe::Http { path }, _) => http1(stream, place, path).await,
        (Probe::Grpc { service }, _) => grpc(stream, place, service).await,
    }
}

/// What a check's outcome says.
pub(super) fn found(outcome: &Result<(), Ailment>) -> Found {
    if outcome.is_ok() { Found::Working } else { Found::Failing }
}

async fn http1<S>(mut stream: S, place: &Place, path: &str) -> Result<(), Ailment>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {}\r\nuser-agent: {AGENT}\r\naccept: */*\r\nconnection: close\r\n\r\n",
        place.host
    );
    stream.write_all(request.as_bytes()).await?;
    let (mut answer, mut seen) = (Vec::new(), 0);
    loop {
        if stream.read_buf(&mut answer).await? == 0 || answer.len() > MAX_ANSWER {
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

async fn http2<S>(stream: S, place: &Place, path: &str) -> Result<(), Ailment>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = Request::get(uri(place, path)).header("user-agent", AGENT).body(());
    let (head, _) = exchange(stream, request.map_err(|_| Ailment::NoHttp)?, None).await?;
    judge(head.status().as_u16())
}

/// Asks as grpc/grpc, doc/health-checking.md says.
async fn grpc<S>(stream: S, place: &Place, service: &str) -> Result<(), Ailment>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let message = HealthRequest { service: service.to_owned() }.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let body = [&[0], &length[..], &message].concat();
    let request = Request::post(uri(place, "/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", AGENT)
        .body(());
    let request = request.map_err(|_| Ailment::NoHttp)?;
    let (head, mut stream) = exchange(stream, request, Some(body.into())).await?;
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
    let scheme = if place.tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{}{path}", place.host)
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

async fn exchange<S>(
    stream: S,
    request: Request<()>,
    body: Option<Bytes>,
) -> Result<(Response<()>, Driven), Ailment>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection): (SendRequest<Bytes>, _) = h2::client::handshake(stream).await?;
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
