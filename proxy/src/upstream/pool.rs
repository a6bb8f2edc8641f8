//! Open connections of one upstream. HTTP/1 connections are lent one request at a time, the last returned first;
//! HTTP/2 connections are shared.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::TokioIo;
use tokio::sync::Mutex;

use super::{InFlight, Upstream};
use crate::failure::ErrorCode;
use crate::http::limits::{BUFFER, CONNECTION_WINDOW, MAX_HEADERS, MAX_STREAMS, STREAM_WINDOW};
use crate::http::{Body, Cork, Releasing, Version};
use crate::observe::Security;
use crate::tls::Carries;
use crate::worker::Worker;

/// How long a connection may lie idle.
const IDLE: Duration = Duration::from_secs(60);

/// Connections of one upstream that may lie idle.
const MAX_IDLE: usize = 512;

/// Open connections of one upstream.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: RefCell<Vec<Idle>>,
    shared: RefCell<Vec<Shared>>,
    /// Held while an HTTP/2 connection is opened, so that a burst opens one and not many.
    opening: Mutex<()>,
    /// Counts openings that failed, and keeps why the last one did.
    failed: Cell<(u64, Option<ErrorCode>)>,
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<Body>,
    since: Instant,
}

#[derive(Debug, Clone)]
struct Shared {
    sender: http2::SendRequest<Body>,
    streams: Rc<Cell<u32>>,
}

/// A connection that may be sent one request on.
#[derive(Debug)]
pub(super) struct Connection {
    kind: Kind,
    /// For how long it lay idle; none: it is new.
    pub(super) idle: Option<Duration>,
}

#[derive(Debug)]
enum Kind {
    Http1(http1::SendRequest<Body>),
    Http2 { sender: http2::SendRequest<Body>, _place: Place },
}

/// A place among the streams of a shared connection.
#[derive(Debug)]
struct Place(Rc<Cell<u32>>);

impl Place {
    fn take(streams: &Rc<Cell<u32>>) -> Self {
        streams.set(streams.get() + 1);
        Self(Rc::clone(streams))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// A connection that carries a request, until the response has ended.
#[derive(Debug)]
pub struct Lease {
    connection: Connection,
    flight: InFlight,
}

impl Lease {
    pub(super) fn new(connection: Connection, flight: InFlight) -> Self {
        Self { connection, flight }
    }

    /// How the hop that it goes over is protected; the way to our own app is no hop.
    pub fn security(&self) -> Option<Security> {
        self.flight.security()
    }

    /// The response has ended and the request too: the connection is free for the next one.
    pub fn give_back(self) {
        if let Kind::Http1(sender) = self.connection.kind {
            self.flight.upstream.pool.park(sender);
        }
    }
}

impl Pool {
    /// A connection that is open already.
    pub(super) fn take(&self, version: Version) -> Option<Connection> {
        match version {
            Version::Http1 => self.take_idle(),
            Version::Http2 => self.take_shared(),
        }
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { sender, since }) = idle.pop() {
            if !sender.is_closed() {
                return Some(Connection { kind: Kind::Http1(sender), idle: Some(since.elapsed()) });
            }
        }
        None
    }

    fn take_shared(&self) -> Option<Connection> {
        let mut shared = self.shared.borrow_mut();
        shared.retain(|connection| !connection.sender.is_closed());
        let free = shared.iter().find(|connection| connection.streams.get() < MAX_STREAMS)?;
        let kind = Kind::Http2 { sender: free.sender.clone(), _place: Place::take(&free.streams) };
        Some(Connection { kind, idle: Some(Duration::ZERO) })
    }

    fn park(&self, sender: http1::SendRequest<Body>) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < MAX_IDLE && !sender.is_closed() {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }

    /// Closes what has been idle for too long.
    pub(super) fn sweep(&self, now: Instant) {
        let fresh = |since: Instant| now.saturating_duration_since(since) < IDLE;
        self.idle.borrow_mut().retain(|idle| !idle.sender.is_closed() && fresh(idle.since));
        self.shared.borrow_mut().retain(|shared| !shared.sender.is_closed());
    }
}

/// Opens a connection, or for HTTP/2 waits for one that another request is opening.
pub(super) async fn connect(
    worker: &Worker,
    upstream: &Upstream,
    version: Version,
) -> Result<Connection, ErrorCode> {
    match version {
        Version::Http1 => connect_http1(worker, upstream).await,
        Version::Http2 => {
            let pool = &upstream.pool;
            let (failures, _) = pool.failed.get();
            let _opening = pool.opening.lock().await;
            if let Some(connection) = pool.take_shared() {
                return Ok(connection);
            }
            // Another one failed while this one waited for it: it would fare no better.
            if let (later, Some(code)) = pool.failed.get()
                && later > failures
            {
                return Err(code);
            }
            let connected = connect_http2(worker, upstream).await;
            if let Err(code) = &connected {
                pool.failed.set((failures + 1, Some(*code)));
            }
            connected
        }
    }
}

async fn connect_http1(worker: &Worker, upstream: &Upstream) -> Result<Connection, ErrorCode> {
    let stream = upstream.connect(worker, Carries::Http1).await?;
    let mut builder = http1::Builder::new();
    builder.preserve_header_case(true).max_buf_size(BUFFER);
    let (sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(|_| ErrorCode::ConnectFailed)?;
    worker.spawn("upstream-http1", async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "HTTP/1 connection to an upstream ended early");
        }
    });
    Ok(Connection { kind: Kind::Http1(sender), idle: None })
}

async fn connect_http2(worker: &Worker, upstream: &Upstream) -> Result<Connection, ErrorCode> {
    let stream = upstream.connect(worker, Carries::Http2).await?;
    let cork = Cork::new(stream);
    let mut builder = http2::Builder::new(Releasing(cork.clone()));
    builder
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADERS);
    let (sender, connection) =
        builder.handshake(TokioIo::new(cork)).await.map_err(|_| ErrorCode::ConnectFailed)?;
    worker.spawn("upstream-http2", async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "HTTP/2 connection to an upstream ended early");
        }
    });
    let shared = Shared { sender, streams: Rc::default() };
    let kind = Kind::Http2 { sender: shared.sender.clone(), _place: Place::take(&shared.streams) };
    upstream.pool.shared.borrow_mut().push(shared);
    Ok(Connection { kind, idle: None })
}

impl Connection {
    /// Sends a request. What was never written is handed back with the error.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        match &mut self.kind {
            Kind::Http1(sender) => {
                // Given back in the very moment that the response ended, it may still have to notice.
                if !sender.is_ready() {
                    drop(sender.ready().await);
                }
                sender.try_send_request(request).await
            }
            Kind::Http2 { sender, .. } => sender.try_send_request(request).await,
        }
    }
}
