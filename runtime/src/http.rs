//! A small HTTP/1 server for what is not traffic: admin ports, probes, metrics, the dashboard's pages.
//!
//! Every request is read whole within limits before its handler sees it, so that a handler is a plain function of it. Its answer
//! is whole too, but where it must come bit by bit: then it has a body of its own, which ends when the drain begins.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::drain::DrainWatch;
use crate::task;

/// What one client, and all together, may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time; more are closed at once.
    pub connections: usize,
    /// For a request's head, and for its body. An idle connection is closed after as long.
    pub read: Duration,
    /// A connection's life, after which it is closed between two requests.
    pub connection: Duration,
    /// For what a connection has begun, once it is to close.
    pub grace: Duration,
    /// A request's head, in bytes; 8 KiB at least.
    pub head: usize,
    /// A request's body, in bytes.
    pub body: usize,
}

/// Where a request comes from; among its extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            read: Duration::from_secs(10),
            connection: Duration::from_secs(300),
            grace: Duration::from_secs(10),
            head: 32 << 10,
            body: 1 << 20,
        }
    }
}

/// Serves until the drain begins and what is going on then has ended.
pub async fn serve<H, F, B>(listener: TcpListener, limits: Limits, mut drain: DrainWatch, handler: H)
where
    H: Fn(Request<Bytes>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes, Error = Infallible> + From<Full<Bytes>> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(limits.connections));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.draining() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Ok(slot) = slots.clone().try_acquire_owned() else {
                    tracing::debug!(%peer, "closed: too many connections");
                    continue;
                };
                let connection = serve_connection(stream, Peer(peer), limits, drain.clone(), handler.clone());
                task::spawn("http-connection", async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(error) => {
                // Mostly too many open files: others must close some first.
                tracing::warn!(%error, "cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A response of plain text.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

/// A response of some media type.
pub fn typed(status: StatusCode, media_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}

/// Serves one connection, whatever secures it, until it ends, its time is over or the drain begins.
pub async fn serve_connection<S, H, F, B>(
    stream: S,
    peer: Peer,
    limits: Limits,
    mut drain: DrainWatch,
    handler: H,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Request<Bytes>) -> F,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes, Error = Infallible> + From<Full<Bytes>> + 'static,
{
    let service = service_fn(|request| async {
        let response = match read(request, peer, limits).await {
            Ok(request) => handler(request).await,
            Err(refusal) => refusal.map(B::from),
        };
        Ok::<_, Infallible>(response)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.read)
        .max_buf_size(limits.head.max(8 << 10))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return log(peer, ended),
        () = drain.draining() => {}
        () = sleep(limits.connection) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection => log(peer, ended),
        () = drain.stopped() => {}
        () = sleep(limits.grace) => {}
    }
}

async fn read(
    request: Request<Incoming>,
    peer: Peer,
    limits: Limits,
) -> Result<Request<Bytes>, Response<Full<Bytes>>> {
    let (mut head, body) = request.into_parts();
    head.extensions.insert(peer);
    match timeout(limits.read, Limited::new(body, limits.body).collect()).await {
        Ok(Ok(body)) => Ok(Request::from_parts(head, body.to_bytes())),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(text(StatusCode::PAYLOAD_TOO_LARGE, format!("a body may have {} bytes\n", limits.body)))
        }
        Ok(Err(error)) => Err(text(StatusCode::BAD_REQUEST, format!("cannot read the body: {error}\n"))),
        Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "the body took too long\n")),
    }
}

fn log(peer: Peer, ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(peer = %peer.0, %error, "connection ended");
    }
}
