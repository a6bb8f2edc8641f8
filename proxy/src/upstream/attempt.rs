//! The attempts that a request is given: another endpoint where one cannot be reached, another connection where a
//! pooled one turns out to be closed. What an endpoint may have seen is not sent again, except where that is harmless.

use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request, Response};
use hyper::body::Incoming;
use weft_core::breaker::Verdict;

use super::pool::{self, Connection, Lease};
use super::{Cluster, InFlight, Slot, Upstream};
use crate::failure::ErrorCode;
use crate::http::{Body, Exchange};
use crate::stream::Stream;
use crate::tls::Carries;
use crate::worker::Worker;

/// Endpoints that are tried after the first could not be reached.
const OTHERS: u32 = 2;

/// Only a connection that lay idle for longer may have been closed in the very moment it was used again.
const RACE: Duration = Duration::from_millis(100);

/// A connection that carries bytes, and the upstream that is busy with it.
#[derive(Debug)]
pub struct Opened {
    /// The connection.
    pub stream: Stream,
    /// Where to.
    pub flight: InFlight,
}

/// Opens a connection for bytes to one of `cluster`'s endpoints.
pub async fn open(worker: &Worker, cluster: &Cluster) -> Result<Opened, ErrorCode> {
    let mut attempts = Attempts::default();
    loop {
        let mut flight = attempts.pick(worker, cluster).await?;
        match flight.upstream.connect(worker, Carries::Tcp).await {
            Ok(stream) => {
                flight.answered();
                // Of bytes nothing more can be told than that they may be sent.
                if let Some(ticket) = flight.take_ticket() {
                    ticket.judge(Verdict::Worked);
                }
                return Ok(Opened { stream, flight });
            }
            Err(code) => attempts.failed(flight, code)?,
        }
    }
}

/// Sends a request to one of `cluster`'s endpoints; the lease ends with the response.
pub async fn send(
    worker: &Worker,
    cluster: &Cluster,
    mut request: Box<Request<Body>>,
    exchange: &Exchange,
) -> Result<(Response<Incoming>, Lease), ErrorCode> {
    let mut attempts = Attempts::of(exchange);
    loop {
        let mut flight = attempts.pick(worker, cluster).await?;
        let mut connection = match connection(worker, &flight.upstream).await {
            Ok(connection) => connection,
            Err(code) => {
                attempts.failed(flight, code)?;
                continue;
            }
        };
        exchange.sent(&mut flight);
        let spare = spare(&request, &connection);
        let is_new = connection.idle.is_none();
        if is_new {
            flight.connected();
        }
        let mut error = match connection.send(*request).await {
            Ok(response) => {
                if !response.status().is_server_error() {
                    flight.answered();
                }
                return Ok((response, Lease::new(connection, flight)));
            }
            Err(error) => error,
        };
        let unsent = error.take_message().map(Box::new);
        let code = code_of(error.error());
        tracing::debug!(error = %error.error(), unsent = unsent.is_some(), "sending a request failed");
        match unsent.or(spare) {
            None => return Err(code),
            Some(again) => request = again,
        }
        // A pool of closed connections is emptied one by one; new ones that fail are counted.
        if is_new {
            attempts.failed(flight, code)?;
        }
    }
}

async fn connection(worker: &Worker, upstream: &Upstream) -> Result<Connection, ErrorCode> {
    match upstream.pool.take() {
        Some(connection) => Ok(connection),
        // Boxed, for every request's future would be as large as a handshake's, and most find a connection.
        None => Box::pin(pool::connect(worker, upstream)).await,
    }
}

/// A copy to send again should the connection turn out to have been closed while it was idle. A request may only be
/// repeated unasked where its method is idempotent (RFC 9110 section 9.2.2); only one without a body can be.
fn spare(request: &Request<Body>, connection: &Connection) -> Option<Box<Request<Body>>> {
    let raced = connection.idle.is_some_and(|idle| idle > RACE);
    let idempotent = [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE];
    if !raced || !idempotent.contains(request.method()) || !http_body::Body::is_end_stream(request.body()) {
        return None;
    }
    let mut copy = Box::new(Request::new(Body::empty()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    Some(copy)
}

fn code_of(error: &hyper::Error) -> ErrorCode {
    if error.is_parse() { ErrorCode::ProtocolError } else { ErrorCode::UpstreamReset }
}

/// The endpoints that were tried.
#[derive(Debug, Default)]
pub struct Attempts {
    failed: u32,
    last: Option<Rc<Upstream>>,
    /// What decides on the endpoint where equal requests are to go to the same one.
    key: Option<u64>,
    /// The request's place among the service's, while no endpoint has it.
    slot: Option<Slot>,
}

impl Attempts {
    /// For a request.
    pub fn of(exchange: &Exchange) -> Self {
        Self { key: exchange.key(), ..Self::default() }
    }

    /// The next endpoint to try; waits where the service has as many requests as it may.
    pub async fn pick(&mut self, worker: &Worker, cluster: &Cluster) -> Result<InFlight, ErrorCode> {
        if self.slot.is_none()
            && let Some(room) = cluster.room()
        {
            let slot = match room.try_enter() {
                Some(slot) => slot,
                // Boxed, for every request's future would have room for it, and most need not wait.
                None => Box::pin(room.enter()).await?,
            };
            self.slot = Some(slot);
        }
        let mut flight = cluster.pick(&mut worker.rng.borrow_mut(), self.last.as_ref(), self.key)?;
        flight.slot = self.slot.take();
        Ok(flight)
    }

    /// An endpoint did not take the request, for no fault of its own; rather another is tried next.
    pub fn avoid(&mut self, mut flight: InFlight) {
        self.slot = flight.slot.take();
        self.last = Some(Rc::clone(&flight.upstream));
    }

    /// An endpoint could not be reached; the error where there were enough of those.
    pub fn failed(&mut self, mut flight: InFlight, code: ErrorCode) -> Result<(), ErrorCode> {
        flight.unreachable();
        self.failed += 1;
        self.slot = flight.slot.take();
        self.last = Some(Rc::clone(&flight.upstream));
        if self.failed > OTHERS { Err(code) } else { Ok(()) }
    }
}
