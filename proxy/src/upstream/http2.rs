//! Connections of HTTP/2 to one upstream, each shared by as many requests as its peer allows, and more of them where
//! that is not enough.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use h2::SendStream;
use h2::client::{Builder, ResponseFuture, SendRequest};
use http::Request;
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

use super::{Attempts, Cluster, InFlight, Room, Upstream};
use crate::failure::ErrorCode;
use crate::http::Cork;
use crate::http::Exchange;
use crate::http2::guard::{Guard, Role};
use crate::http2::limits::{Limits, MAX_DECODED, REMEMBERED_RESETS, SEND_BUFFER};
use crate::http2::watch::Watched;
use crate::observe::Security;
use crate::tls::Carries;
use crate::worker::Worker;

/// Connections to one upstream.
const MAX_CONNECTIONS: usize = 64;

/// How long a connection may lie idle.
const IDLE: Duration = Duration::from_secs(60);

/// A connection on which requests wait to be sent, and none could go on for this long, is given no further one.
const STUCK: Duration = Duration::from_millis(20);

/// How long a server may take to say how many streams it takes.
const SETTLING: Duration = Duration::from_secs(1);

/// Streams that a server is taken to allow before it has said how many (RFC 9113 section 6.5.2 recommends no fewer).
const ASSUMED_STREAMS: usize = 100;

/// The connections of HTTP/2 to one upstream.
#[derive(Debug, Default)]
pub(super) struct Pool {
    open: RefCell<Vec<Rc<Shared>>>,
    /// Held while a connection is opened, so that a burst opens no more than it needs.
    opening: Mutex<()>,
    /// Counts openings that failed, and keeps why the last one did.
    failed: Cell<(u64, Option<ErrorCode>)>,
}

/// One connection.
#[derive(Debug)]
struct Shared {
    sender: RefCell<SendRequest<Bytes>>,
    /// Streams at once, however many more its peer takes.
    most: Cell<usize>,
    streams: Cell<usize>,
    /// Requests that wait for the peer to take more of them.
    waiting: Cell<usize>,
    /// When one of those last went on, or the first began to wait.
    moved: Cell<Instant>,
    used: Cell<Instant>,
    ended: Cell<bool>,
    guard: Rc<RefCell<Guard>>,
    /// Whether it is known, or given up to know, what the peer takes.
    is_settled: Cell<bool>,
    settled: Notify,
    /// Where connections are limited: who hears when it is idle.
    room: Option<Arc<Room>>,
}

/// A request's place on a connection, until dropped.
#[derive(Debug)]
pub struct Place {
    seat: Seat,
    flight: InFlight,
    is_new: bool,
}

/// One of a connection's streams.
#[derive(Debug)]
struct Seat {
    shared: Rc<Shared>,
    is_waiting: Cell<bool>,
}

impl Pool {
    /// A place on a connection that is open already.
    fn take(&self, now: Instant) -> Option<Rc<Shared>> {
        let mut open = self.open.borrow_mut();
        open.retain(|shared| !shared.ended.get());
        let mut spare: Option<&Rc<Shared>> = None;
        let mut gone = None;
        for (index, shared) in open.iter().enumerate() {
            match shared.readiness() {
                Readiness::Free if !shared.is_stuck(now) => return Some(Rc::clone(shared)),
                Readiness::Free => spare = spare.or(Some(shared)),
                Readiness::Full => {}
                Readiness::Gone => gone = Some(index),
            }
        }
        // Where no more may be opened a stuck one is better than none.
        let stuck = spare.filter(|_| open.len() >= MAX_CONNECTIONS).cloned();
        if let Some(index) = gone {
            // One at a time: the next request finds the next.
            open.swap_remove(index);
        }
        stuck
    }

    /// Closes one that carries nothing; false where there is none.
    pub(super) fn let_go(&self) -> bool {
        let mut open = self.open.borrow_mut();
        let idle = open.iter().position(|shared| shared.streams.get() == 0);
        idle.map(|index| open.swap_remove(index)).is_some()
    }

    /// Lets go of what has been idle for too long.
    pub(super) fn sweep(&self, now: Instant) {
        self.open.borrow_mut().retain(|shared| {
            let idle = shared.streams.get() == 0 && now.saturating_duration_since(shared.used.get()) >= IDLE;
            !shared.ended.get() && !idle
        });
    }
}

/// A place for a request on a connection to one of `cluster`'s endpoints.
pub async fn find(worker: &Worker, cluster: &Cluster, attempts: &mut Attempts) -> Result<Place, ErrorCode> {
    loop {
        let flight = attempts.pick(worker, cluster).await?;
        match place(worker, flight).await {
            Ok(place) => return Ok(place),
            Err((flight, code)) => attempts.failed(flight, code)?,
        }
    }
}

/// A place for a request on a connection to the endpoint that was picked for it.
pub async fn reach(worker: &Worker, flight: InFlight) -> Result<Place, ErrorCode> {
    place(worker, flight).await.map_err(|(mut flight, code)| {
        flight.unreachable();
        code
    })
}

/// A place on a connection to `flight`'s upstream; opens one where none has room.
async fn place(worker: &Worker, flight: InFlight) -> Result<Place, (InFlight, ErrorCode)> {
    let pool = &flight.upstream.http2;
    if let Some(shared) = pool.take(flight.begun) {
        return Ok(Place::on(shared, flight, false));
    }
    // Boxed, for every request's future would be as large as a handshake's, and most find a connection.
    match Box::pin(open(worker, &flight.upstream)).await {
        Ok((shared, is_new)) => Ok(Place::on(shared, flight, is_new)),
        Err(code) => Err((flight, code)),
    }
}

/// Opens a connection, or waits for one that another request is opening.
async fn open(worker: &Worker, upstream: &Upstream) -> Result<(Rc<Shared>, bool), ErrorCode> {
    let pool = &upstream.http2;
    let (failures, _) = pool.failed.get();
    let _opening = pool.opening.lock().await;
    loop {
        if let Some(shared) = pool.take(Instant::now()) {
            return Ok((shared, false));
        }
        // One that was just opened may take more as soon as its server has said so.
        let unsettled = pool.open.borrow().iter().find(|shared| !shared.is_settled.get()).cloned();
        let Some(unsettled) = unsettled else { break };
        unsettled.settle().await;
    }
    // Another one failed while this one waited for it: it would fare no better.
    if let (later, Some(code)) = pool.failed.get()
        && later > failures
    {
        return Err(code);
    }
    if pool.open.borrow().len() >= MAX_CONNECTIONS {
        return Err(ErrorCode::Overloaded);
    }
    match connect(worker, upstream).await {
        Ok(shared) => {
            pool.open.borrow_mut().push(Rc::clone(&shared));
            Ok((shared, true))
        }
        Err(code) => {
            pool.failed.set((failures + 1, Some(code)));
            Err(code)
        }
    }
}

async fn connect(worker: &Worker, upstream: &Upstream) -> Result<Rc<Shared>, ErrorCode> {
    let stream = upstream.connect(worker, Carries::Http2).await?;
    let limits = if upstream.secure.is_some() { Limits::MESH } else { Limits::LOCAL };
    // What a sidecar takes is known.
    let is_settled = upstream.secure.is_some();
    let assumed = if is_settled { limits.streams as usize } else { ASSUMED_STREAMS };
    let (watched, guard) = Watched::new(stream, Role::Client);
    let cork = Cork::new(watched);
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window())
        .initial_max_send_streams(assumed)
        .max_header_list_size(MAX_DECODED)
        .max_send_buffer_size(SEND_BUFFER)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        // What a server still sends on streams that were taken back is nobody's mistake.
        .max_local_error_reset_streams(None);
    let (sender, mut connection) =
        builder.handshake(cork.clone()).await.map_err(|_| ErrorCode::ConnectFailed)?;
    let now = Instant::now();
    let shared = Rc::new(Shared {
        sender: RefCell::new(sender),
        most: Cell::new(limits.streams as usize),
        streams: Cell::default(),
        waiting: Cell::default(),
        moved: Cell::new(now),
        used: Cell::new(now),
        ended: Cell::default(),
        guard,
        is_settled: Cell::new(is_settled),
        settled: Notify::new(),
        room: upstream.room.borrow().clone(),
    });
    let watching = Rc::downgrade(&shared);
    let (guard, mut has_settings) = (Rc::clone(&shared.guard), false);
    let driven = cork.releasing(poll_fn(move |cx| {
        let polled = connection.poll_unpin(cx);
        if !has_settings && guard.borrow().has_settings() {
            has_settings = true;
            if let Some(shared) = watching.upgrade() {
                shared.is_settled.set(true);
                shared.settled.notify_waiters();
            }
        }
        // A server that floods us is left; what it was to answer has failed.
        if guard.borrow().is_flooded() { Poll::Ready(Ok(())) } else { polled }
    }));
    let ended = Rc::downgrade(&shared);
    worker.spawn("upstream-http2", async move {
        if let Err(error) = driven.await {
            tracing::debug!(%error, "HTTP/2 connection to an upstream ended early");
        }
        if let Some(shared) = ended.upgrade() {
            shared.ended.set(true);
            shared.settled.notify_waiters();
        }
    });
    Ok(shared)
}

enum Readiness {
    Free,
    Full,
    Gone,
}

impl Shared {
    fn readiness(&self) -> Readiness {
        let mut sender = self.sender.borrow_mut();
        let mut cx = Context::from_waker(Waker::noop());
        match sender.poll_ready(&mut cx) {
            Poll::Ready(Err(_)) => return Readiness::Gone,
            Poll::Pending => return Readiness::Full,
            Poll::Ready(Ok(())) => {}
        }
        let most = match self.is_settled.get() {
            true => sender.current_max_send_streams().min(self.most.get()),
            false => 1,
        };
        match most {
            0 => Readiness::Gone,
            _ if self.streams.get() < most => Readiness::Free,
            _ => Readiness::Full,
        }
    }

    /// Waits for the peer's settings, but not for long: servers send them unasked (RFC 9113 section 3.4).
    async fn settle(&self) {
        let mut settled = std::pin::pin!(self.settled.notified());
        settled.as_mut().enable();
        if !self.guard.borrow().has_settings() && !self.ended.get() {
            let _ = timeout(SETTLING, settled).await;
        }
        self.is_settled.set(true);
    }

    fn is_stuck(&self, now: Instant) -> bool {
        self.waiting.get() > 0 && now.saturating_duration_since(self.moved.get()) > STUCK
    }
}

impl Place {
    fn on(shared: Rc<Shared>, mut flight: InFlight, is_new: bool) -> Self {
        if is_new {
            flight.connected();
        }
        shared.streams.set(shared.streams.get() + 1);
        Self { seat: Seat { shared, is_waiting: Cell::default() }, flight, is_new }
    }

    /// Sends a request's head.
    pub fn send(
        &self,
        request: Request<()>,
        ends: bool,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), h2::Error> {
        // A sender that waits for its last stream to be opened takes that stream's waker for its own when it is asked
        // whether it is ready. A clone waits for none, and the shared one never does.
        let mut sender = self.seat.shared.sender.borrow().clone();
        sender.send_request(request, ends)
    }

    /// Whether the connection was opened for this request.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Whether the peer takes extended CONNECT (RFC 8441 section 3), once it has said so.
    pub async fn takes_protocols(&self) -> bool {
        let shared = &self.seat.shared;
        shared.settle().await;
        shared.sender.borrow().is_extended_connect_protocol_enabled()
    }

    /// The peer did not take the request: it is given no more at once than it had beside it.
    pub fn refused(&self) {
        let shared = &self.seat.shared;
        shared.most.set(shared.streams.get().saturating_sub(1));
    }

    /// The request waits for the peer to take more of it, or does no longer.
    pub fn wait(&self, waits: Waits) {
        self.seat.wait(waits);
    }

    /// How the hop that it goes over is protected; the way to our own app is no hop.
    pub fn security(&self) -> Option<Security> {
        self.flight.security()
    }

    /// Tells the exchange where it is sent to.
    pub fn tell(&mut self, exchange: &Exchange) {
        exchange.sent(&mut self.flight);
    }

    /// Tells the exchange that it was asked second and has answered first.
    pub fn take_over(&mut self, exchange: &Exchange) {
        exchange.overtaken_by(&mut self.flight);
    }

    /// It was answered, in a way that says how fast the upstream is.
    pub fn answered(&mut self) {
        self.flight.answered();
    }

    /// Its sidecar refuses it, for its app has enough to do.
    pub fn has_enough(&mut self) {
        self.flight.has_enough();
    }

    /// Its endpoint did not do what was hoped for: what it holds of the service's is for another one.
    pub fn give_way(&mut self, attempts: &mut Attempts) {
        attempts.avoid(&mut self.flight);
    }

    /// What it is sent to.
    pub fn upstream(&self) -> &Rc<Upstream> {
        self.flight.upstream()
    }
}

/// Whether a request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waits {
    /// For its peer.
    Yes,
    /// It goes on.
    No,
}

impl Seat {
    fn wait(&self, waits: Waits) {
        let is_waiting = waits == Waits::Yes;
        let waiting = self.shared.waiting.get();
        match (self.is_waiting.replace(is_waiting), is_waiting) {
            (false, false) | (true, true) => return,
            (false, true) => self.shared.waiting.set(waiting + 1),
            (true, false) => self.shared.waiting.set(waiting.saturating_sub(1)),
        }
        self.shared.moved.set(Instant::now());
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.wait(Waits::No);
        let shared = &self.shared;
        shared.streams.set(shared.streams.get().saturating_sub(1));
        if shared.streams.get() == 0 {
            shared.used.set(Instant::now());
            if let Some(room) = &shared.room {
                room.announce_idle();
            }
        }
    }
}
