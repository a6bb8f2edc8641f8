//! HTTP/1.1 as the shop's services speak it: a server, a client that keeps its connections, JSON bodies.

use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::{TcpListener, TcpStream};
use weft_runtime::drain::DrainWatch;
use weft_runtime::task;

use crate::context::Context;
use crate::listen::accept;
use crate::{MARKER, MARKER_HEADER};

/// The largest body that is read, asked for or answered.
const BODY_LIMIT: usize = 64 * 1024;
/// How long a call to another service may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections to one service that are kept while idle.
const IDLE_LIMIT: usize = 64;

/// An answer.
pub(crate) type Reply = Response<Full<Bytes>>;

/// Why a request was not served: the status and the sentence that the caller reads.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    message: String,
}

impl Failure {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// A service that this one needs did not do its part.
    pub(crate) fn upstream(who: &str, error: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, format!("{who}: {error}"))
    }

    pub(crate) fn no_such_page() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no such page")
    }
}

/// Serves until told to drain, then finishes the requests under way.
///
/// A connection that is idle is never closed from this side: whoever pools it decides on its life.
pub(crate) async fn serve<A, F>(listener: TcpListener, mut drain: DrainWatch, answer: A) -> anyhow::Result<()>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Reply, Failure>> + Send + 'static,
{
    loop {
        let stream = tokio::select! {
            () = drain.draining() => return Ok(()),
            stream = accept(&listener) => stream,
        };
        task::spawn("connection", serve_connection(stream, drain.clone(), answer.clone()));
    }
}

async fn serve_connection<A, F>(stream: TcpStream, mut drain: DrainWatch, answer: A)
where
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Reply, Failure>>,
{
    let service = service_fn(|request| {
        let answering = answer(request);
        async { Ok::<_, std::convert::Infallible>(answering.await.unwrap_or_else(refuse)) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = drain.draining() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}

fn refuse(failure: Failure) -> Reply {
    if failure.status.is_server_error() {
        tracing::warn!(status = failure.status.as_u16(), "{failure}");
    }
    json(failure.status, &serde_json::json!({ "error": failure.message }))
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Reply {
    match serde_json::to_vec(value) {
        Ok(body) => reply(status, "application/json", body),
        Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
    }
}

/// An answer.
pub(crate) fn reply(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Full::new(body.into()));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(MARKER_HEADER, HeaderValue::from_static(MARKER));
    reply
}

/// The answer to a health check.
pub(crate) fn healthy() -> Reply {
    reply(StatusCode::OK, "text/plain", "ok\n")
}

/// Reads a JSON body.
pub(crate) async fn read_json<T: DeserializeOwned>(body: Incoming) -> Result<T, Failure> {
    let body = read_body(body).await.map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error))?;
    serde_json::from_slice(&body).map_err(|error| Failure::new(StatusCode::BAD_REQUEST, error.to_string()))
}

async fn read_body<B>(body: B) -> Result<Bytes, String>
where
    B: Body<Data = Bytes, Error = hyper::Error>,
{
    let read = Limited::new(body, BODY_LIMIT).collect().await;
    Ok(read.map_err(|error| format!("reading a body: {error}"))?.to_bytes())
}

/// Another service of the shop, called by HTTP over connections that are kept.
#[derive(Debug)]
pub struct Upstream {
    name: &'static str,
    authority: String,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Upstream {
    /// The service at a URL such as `http://orders:8080`.
    pub fn new(name: &'static str, url: &Uri) -> anyhow::Result<Arc<Self>> {
        let Some(authority) = url.authority().filter(|_| url.scheme_str() == Some("http")) else {
            bail!("{url}: not of the form http://HOST:PORT");
        };
        let port = authority.port_u16().unwrap_or(80);
        let authority = format!("{}:{port}", authority.host());
        Ok(Arc::new(Self { name, authority, idle: Mutex::default() }))
    }

    /// Sends JSON and reads the JSON that comes back.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        context: &Context,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).map_err(|error| Failure::upstream(self.name, error))?;
        self.call(Method::POST, context, path, body.into()).await
    }

    /// Reads JSON.
    pub(crate) async fn get<T: DeserializeOwned>(&self, context: &Context, path: &str) -> Result<T, Failure> {
        self.call(Method::GET, context, path, Bytes::new()).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        context: &Context,
        path: &str,
        body: Bytes,
    ) -> Result<T, Failure> {
        let request = self.request(method, context, path, body)?;
        let (status, body) = tokio::time::timeout(CALL_TIMEOUT, self.exchange(request))
            .await
            .map_err(|_| Failure::upstream(self.name, format!("no answer within {CALL_TIMEOUT:?}")))?
            .map_err(|error| Failure::upstream(self.name, format!("{error:#}")))?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| Failure::upstream(self.name, error));
        }
        let said = format!("{status}: {}", String::from_utf8_lossy(&body));
        // What the caller got wrong is told on; what went wrong behind us is ours.
        let status = if status.is_client_error() { status } else { StatusCode::BAD_GATEWAY };
        Err(Failure::new(status, format!("{}: {said}", self.name)))
    }

    fn request(
        &self,
        method: Method,
        context: &Context,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, Failure> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/json")
            .header(MARKER_HEADER, MARKER)
            .body(Full::new(body))
            .map_err(|error| Failure::upstream(self.name, error))?;
        context.write_to(request.headers_mut());
        Ok(request)
    }

    async fn exchange(&self, mut request: Request<Full<Bytes>>) -> anyhow::Result<(StatusCode, Bytes)> {
        loop {
            let kept = self.kept();
            let reused = kept.is_some();
            let mut sender = match kept {
                Some(sender) => sender,
                None => self.connect().await?,
            };
            if sender.ready().await.is_err() && reused {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return self.finish(sender, response).await,
                // The other side closed an idle connection before it saw any of this: take another.
                Err(mut failed) => match failed.take_message() {
                    Some(unsent) if reused => request = unsent,
                    _ => return Err(failed.into_error()).context("sending a request"),
                },
            }
        }
    }

    async fn finish(
        &self,
        sender: SendRequest<Full<Bytes>>,
        response: Response<Incoming>,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let status = response.status();
        let body = read_body(response.into_body()).await.map_err(anyhow::Error::msg)?;
        self.keep(sender);
        Ok((status, body))
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(&self.authority)
            .await
            .with_context(|| format!("connecting to {}", self.authority))?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        task::spawn("upstream connection", async {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to another service ended early");
            }
        });
        Ok(sender)
    }

    fn kept(&self) -> Option<SendRequest<Full<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        idle.pop()
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_LIMIT && !sender.is_closed() {
            idle.push(sender);
        }
    }
}
