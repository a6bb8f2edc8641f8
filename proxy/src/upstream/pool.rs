//! Open connections of HTTP/1 to one upstream, lent one request at a time, the last returned first.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;

use super::{InFlight, Upstream};
use crate::failure::ErrorCode;
use crate::http::Body;
use crate::http::limits::BUFFER;
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
}

#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<Body>,
    since: Instant,
}

/// A connection that may be sent one request on.
#[derive(Debug)]
pub(super) struct Connection {
    sender: http1::SendRequest<Body>,
    /// For how long it lay idle; none: it is new.
    pub(super) idle: Option<Duration>,
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
        self.flight.upstream.pool.park(self.connection.sender);
    }
}

impl Pool {
    /// A connection that is open already.
    pub(super) fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        while let Some(Idle { sender, since }) = idle.pop() {
            if !sender.is_closed() {
                return Some(Connection { sender, idle: Some(since.elapsed()) });
            }
        }
        None
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
    }
}

/// Opens a connection.
pub(super) async fn connect(worker: &Worker, upstream: &Upstream) -> Result<Connection, ErrorCode> {
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
    Ok(Connection { sender, idle: None })
}

impl Connection {
    /// Sends a request. What was never written is handed back with the error.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        // Given back in the very moment that the response ended, it may still have to notice.
        if !self.sender.is_ready() {
            drop(self.sender.ready().await);
        }
        self.sender.try_send_request(request).await
    }
}
