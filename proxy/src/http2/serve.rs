//! The caller's connection, and all of its requests: one task, so that what many streams have to say leaves together.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream};
use http::Request;
use tokio::time::{sleep, timeout};
use weft_runtime::drain::DrainWatch;

use super::guard::{Guard, Role};
use super::limits::{Limits, MAX_DECODED, REMEMBERED_RESETS, SEND_BUFFER};
use super::relay::{Fate, relay};
use super::watch::Watched;
use crate::http::Cork;
use crate::observe::Security;
use crate::session::{Purpose, Session};
use crate::stream::Stream;

/// How long a client may take for the preface, and for a block of headers that it has begun.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// How long one that is cut off has to take our last word.
const FAREWELL: Duration = Duration::from_secs(1);

/// Serves `stream` until it ends; once we close, no further request is taken, and what is under way ends.
pub async fn serve(session: Rc<Session>, stream: Stream) {
    let (watched, guard) = Watched::new(stream, Role::Server);
    let cork = Cork::new(watched);
    let served = async {
        let limits = limits(&session);
        let handshake = Builder::new()
            .enable_connect_protocol()
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window())
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(MAX_DECODED)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_reset_streams(REMEMBERED_RESETS)
            .handshake(cork.clone());
        match timeout(HEAD_LIMIT, handshake).await {
            Ok(Ok(connection)) => {
                if Server::new(session, connection, guard, run).await == Parting::Unheard {
                    cork.abandon();
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "HTTP/2 did not begin"),
            Err(_) => tracing::debug!("HTTP/2 did not begin in time"),
        }
    };
    cork.clone().releasing(served).await;
}

fn limits(session: &Session) -> Limits {
    match (&session.purpose, session.security) {
        (Purpose::Inbound(_), Security::Mutual) => Limits::MESH,
        (Purpose::Inbound(_) | Purpose::Outbound(_) | Purpose::Nowhere(_), _) => Limits::LOCAL,
    }
}

/// What is under way on a connection besides the connection itself.
enum Task {
    Request(Rc<Session>, Box<(Request<RecvStream>, SendResponse<Bytes>)>),
    /// Waits until we close.
    Closing(DrainWatch),
    /// Waits whether a block of headers ends.
    Block(u64),
    /// Waits whether one that is cut off goes.
    Cut,
}

/// What came of it.
enum Event {
    Served(Fate),
    Closing,
    BlockIsLate(u64),
    CutIsLate,
}

async fn run(task: Task) -> Event {
    match task {
        Task::Request(session, request) => {
            let (request, respond) = *request;
            Event::Served(relay(session, request, respond).await)
        }
        Task::Closing(mut closing) => {
            closing.draining().await;
            Event::Closing
        }
        Task::Block(number) => {
            sleep(HEAD_LIMIT).await;
            Event::BlockIsLate(number)
        }
        Task::Cut => {
            sleep(FAREWELL).await;
            Event::CutIsLate
        }
    }
}

/// A connection that is served.
struct Server<F> {
    session: Rc<Session>,
    connection: Connection<Cork<Watched>, Bytes>,
    guard: Rc<RefCell<Guard>>,
    tasks: FuturesUnordered<F>,
    start: fn(Task) -> F,
    /// The block of headers that is waited for.
    block: u64,
    is_cut: bool,
}

impl<F: Future<Output = Event>> Server<F> {
    fn new(
        session: Rc<Session>,
        connection: Connection<Cork<Watched>, Bytes>,
        guard: Rc<RefCell<Guard>>,
        start: fn(Task) -> F,
    ) -> Self {
        let tasks = FuturesUnordered::new();
        tasks.push(start(Task::Closing(session.closing().clone())));
        Self { session, connection, guard, tasks, start, block: 0, is_cut: false }
    }

    fn start(&self, task: Task) {
        self.tasks.push((self.start)(task));
    }

    /// Lets everything under way go on.
    fn poll_tasks(&mut self, cx: &mut Context<'_>) -> Progress {
        while let Poll::Ready(Some(event)) = self.tasks.poll_next_unpin(cx) {
            match event {
                Event::Served(Fate::Done) => {}
                Event::Served(Fate::TakenBack) => self.guard.borrow_mut().forgive_reset(),
                Event::Closing => self.connection.graceful_shutdown(),
                Event::BlockIsLate(number) if self.guard.borrow().open_block() == Some(number) => {
                    self.cut_off();
                }
                Event::BlockIsLate(_) => self.block = 0,
                Event::CutIsLate => return Progress::Ended,
            }
        }
        Progress::GoesOn
    }

    /// Takes what requests there are.
    fn poll_requests(&mut self, cx: &mut Context<'_>) -> Progress {
        let mut progress = Progress::Waits;
        loop {
            match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok(request))) => {
                    self.start(Task::Request(Rc::clone(&self.session), Box::new(request)));
                    self.session.count_request();
                    if self.session.is_spent() {
                        // Which ones it still takes is said in a GOAWAY (RFC 9113 section 6.8); others go elsewhere.
                        self.connection.graceful_shutdown();
                    }
                    progress = Progress::GoesOn;
                }
                Poll::Ready(Some(Err(error))) => {
                    tracing::debug!(%error, "HTTP/2 connection ended early");
                    return Progress::Ended;
                }
                Poll::Ready(None) => return Progress::Ended,
                Poll::Pending => return progress,
            }
        }
    }

    /// Looks at what the guard has seen.
    fn heed_guard(&mut self) -> Progress {
        let (is_flooded, block) = {
            let guard = self.guard.borrow();
            (guard.is_flooded(), guard.open_block())
        };
        if is_flooded && !self.is_cut {
            self.cut_off();
            return Progress::GoesOn;
        }
        match block {
            Some(block) if self.block == 0 => {
                self.block = block;
                self.start(Task::Block(block));
                Progress::GoesOn
            }
            Some(_) | None => Progress::Waits,
        }
    }

    /// Says why, and takes nothing more (RFC 9113 section 10.5).
    fn cut_off(&mut self) {
        tracing::debug!(client = %self.session.client, "HTTP/2 client cut off: it asks for work and sends no messages");
        self.is_cut = true;
        self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        self.start(Task::Cut);
    }
}

/// How a turn went on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Nothing more can be done now.
    Waits,
    /// There is more to do.
    GoesOn,
    /// The connection is over.
    Ended,
}

/// How a connection ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parting {
    /// All that was to be said was said, or there is nobody any more.
    Heard,
    /// Its client does not listen.
    Unheard,
}

impl<F: Future<Output = Event>> Future for Server<F> {
    type Output = Parting;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Parting> {
        let this = self.get_mut();
        loop {
            // Answers first: what they write leaves when the connection is polled.
            if this.poll_tasks(cx) == Progress::Ended {
                return Poll::Ready(Parting::Unheard);
            }
            let (requests, guard) = (this.poll_requests(cx), this.heed_guard());
            match (requests, guard) {
                (Progress::Ended, _) => return Poll::Ready(Parting::Heard),
                (Progress::Waits, Progress::Waits) => return Poll::Pending,
                _ => {}
            }
        }
    }
}
