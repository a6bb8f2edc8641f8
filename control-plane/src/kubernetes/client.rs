//! Calls of the API server: each on a connection of its own, bounded in time and size.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_runtime::task;

use super::{Access, AccessError};
use crate::keys::addresses;

/// For a connection to be there and secured.
const CONNECT: Duration = Duration::from_secs(5);
/// For an answer; a list of a large cluster takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// The longest answer: a page of a list.
const LARGEST: usize = 64 << 20;
/// The longest line of a watch. etcd holds no object of more than 1.5 MiB.
const LONGEST_LINE: usize = 8 << 20;
/// Who has written what, as the API server remembers it.
pub(crate) const FIELD_MANAGER: &str = "weft";

/// Why there is no answer, or none that is of use.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// It is not known how to reach it.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// It cannot be reached.
    #[error("cannot connect to the API server at {0}")]
    Connect(String, #[source] io::Error),
    /// It does not speak HTTP.
    #[error("the API server does not answer as HTTP")]
    Http(#[from] hyper::Error),
    /// The request cannot be made.
    #[error("cannot ask the API server for that")]
    Request(#[from] http::Error),
    /// The answer is not what it should be.
    #[error("what the API server answers is too long or broken off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not what it should be.
    #[error("what the API server answers is not what it should be")]
    Json(#[from] serde_json::Error),
    /// No answer in time.
    #[error("the API server does not answer in time")]
    Late,
    /// It refuses.
    #[error("the API server answers {status}: {message}")]
    Refused {
        /// How.
        status: StatusCode,
        /// Why.
        message: String,
        /// When it may be asked again, where it says so.
        retry_after: Option<Duration>,
    },
}

impl ApiError {
    /// How it refuses, where it does.
    pub(crate) fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// When it may be asked again, where it says so.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The API server.
#[derive(Debug)]
pub(crate) struct Client {
    access: Access,
}

/// A long answer, of one JSON document a line.
#[derive(Debug)]
pub(super) struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Client {
    /// By this way.
    pub(crate) fn new(access: Access) -> Self {
        Self { access }
    }

    /// Where we run.
    pub(crate) fn namespace(&self) -> &str {
        &self.access.namespace
    }

    /// Reads an object, or a page of a list.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, ApiError> {
        self.call(Method::GET, path, None).await
    }

    /// Makes an object.
    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.call(Method::POST, path, Some(("application/json", object))).await
    }

    /// Writes an object anew, if it is still as its `resourceVersion` says.
    pub(crate) async fn replace(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        self.call(Method::PUT, path, Some(("application/json", object))).await
    }

    /// Makes an object say this, and lets stand what others made it say (server-side apply).
    pub(crate) async fn apply(&self, path: &str, object: &Value) -> Result<Value, ApiError> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}&force=true");
        self.call(Method::PATCH, &path, Some(("application/apply-patch+yaml", object))).await
    }

    /// Changes parts of an object that is there (RFC 7386).
    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Result<Value, ApiError> {
        let path = format!("{path}?fieldManager={FIELD_MANAGER}");
        self.call(Method::PATCH, &path, Some(("application/merge-patch+json", patch))).await
    }

    /// Takes an object away.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), ApiError> {
        self.call(Method::DELETE, path, None).await.map(drop)
    }

    /// Opens a watch.
    pub(super) async fn lines(&self, path: &str) -> Result<Lines, ApiError> {
        let response = timeout(PATIENCE, self.send(Method::GET, path, None)).await;
        let response = response.map_err(|_| ApiError::Late)??;
        if response.status().is_success() {
            return Ok(Lines { body: response.into_body(), buffer: BytesMut::new() });
        }
        Err(refusal(response).await)
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Value, ApiError> {
        let answer = async {
            let response = self.send(method, path, body).await?;
            if !response.status().is_success() {
                return Err(refusal(response).await);
            }
            Ok(serde_json::from_slice(&read(response).await?)?)
        };
        timeout(PATIENCE, answer).await.map_err(|_| ApiError::Late)?
    }

    /// `HOST:PORT` of the API server.
    pub(crate) fn server(&self) -> String {
        let Access { host, port, .. } = &self.access;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&'static str, &Value)>,
    ) -> Result<Response<Incoming>, ApiError> {
        let prefix = &self.access.prefix;
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{prefix}{path}"))
            .header(HOST, self.server())
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("weft/", env!("CARGO_PKG_VERSION")));
        if let Some(shown) = self.access.authorization()? {
            let mut value = HeaderValue::try_from(shown).map_err(http::Error::from)?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let request = match body {
            Some((kind, object)) => {
                request.header(CONTENT_TYPE, kind).body(Full::new(Bytes::from(serde_json::to_vec(object)?)))
            }
            None => request.body(Full::default()),
        };
        let mut sender = self.connect().await?;
        Ok(sender.send_request(request?).await?)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, ApiError> {
        let Access { host, port, .. } = &self.access;
        let failed = |error| ApiError::Connect(format!("{host}:{port}"), error);
        let security = self.access.connector()?;
        let connecting = async {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
            for address in addresses(host).await? {
                match TcpStream::connect(SocketAddr::new(address, *port)).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = error,
                }
            }
            Err(last)
        };
        let secured = async {
            let stream = connecting.await.map_err(failed)?;
            keep_alive(&stream).map_err(failed)?;
            match security {
                Some((tls, name)) => shake(tls.connect(name, stream).await.map_err(failed)?).await,
                None => shake(stream).await,
            }
        };
        timeout(CONNECT, secured).await.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
    }
}

impl Lines {
    /// The next document; none: the server has ended the answer.
    pub(super) async fn next(&mut self) -> Result<Option<Value>, ApiError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            if self.buffer.len() > LONGEST_LINE {
                return Err(ApiError::Body("a line of a watch is too long".into()));
            }
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.map_err(|error| ApiError::Body(error.into()))?;
                    self.buffer.extend(frame.into_data().unwrap_or_default());
                }
                None => return Ok(None),
            }
        }
    }
}

/// A server that vanished is noticed within a minute, though a watch may be silent for longer.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let settings = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(20))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_tcp_keepalive(&settings)
}

async fn shake<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, ApiError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await?;
    // It ends when its answer was read or dropped; how, the answer's reader is told.
    task::spawn("kubernetes-connection", async move { drop(connection.await) });
    Ok(sender)
}

async fn read(response: Response<Incoming>) -> Result<Bytes, ApiError> {
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    Ok(body.map_err(ApiError::Body)?.to_bytes())
}

/// What a `v1 Status` says.
async fn refusal(response: Response<Incoming>) -> ApiError {
    let status = response.status();
    let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let body = read(response).await.unwrap_or_default();
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    let message = said.get("message").and_then(Value::as_str).unwrap_or_default();
    let message = message.chars().take(500).collect();
    ApiError::Refused { status, message, retry_after: seconds.map(Duration::from_secs) }
}
