//! Connections of HTTP/1 to one upstream: lent to one request at a time, the last returned first.
//!
//! A server that closes a connection in the moment that a request is sent on it may have seen that request, and where doing
//! it twice would matter nobody can put that right. So what cannot be repeated is sent only on connections that the server
//! is not about to close, as far as it has said or shown when it does.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead as _, ReadBuf};

use super::InFlight;
use crate::failure::ErrorCode;
use crate::stream::Stream;
use crate::tls::Carries;
use crate::worker::Worker;

/// Connections of one upstream that may lie idle.
const MAX_IDLE: usize = 512;

/// Sweeps that a connection may lie idle through: one more than it takes a minute, for the first may come at once.
const MAX_SWEEPS: u8 = 7;

/// As long as nothing is known of an endpoint, so much is expected of it; more, once its connections have outlived that.
const UNPROVEN: Duration = Duration::from_millis(50);

/// Who closes a connection sooner than this does not do so because it was idle. Who has not left one open for as long may
/// close each after its answer, without a word.
const NO_PATIENCE: Duration = Duration::from_millis(10);

/// A connection that carries one request at a time.
#[derive(Debug)]
pub struct Connection {
    /// Its bytes.
    pub stream: Stream,
    /// Bytes that were written to it.
    pub sent: u64,
    /// Since when it was idle before the request that has it; none: that is its first.
    parked: Option<Instant>,
}

/// Whether a request can be sent once more where its connection turns out to be closing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// It does no harm, or it is certain that nobody has seen it.
    Possible,
    /// Nobody could say whether it was seen.
    Impossible,
}

/// Connections that no request uses.
#[derive(Debug, Default)]
pub struct Idle {
    /// In the order in which they came.
    parked: RefCell<Vec<Parked>>,
    /// For how long the other end leaves a connection idle, at least; none: it never closed one.
    patience: Cell<Option<Duration>>,
    /// The longest that one was idle and still open.
    proven: Cell<Duration>,
}

#[derive(Debug)]
struct Parked {
    connection: Connection,
    since: Instant,
    sweeps: u8,
}

/// What an idle connection does.
enum State {
    Silent,
    /// It was closed in order.
    Closed,
    /// It broke, or said something unasked.
    Unusable,
}

impl Idle {
    /// A connection that is open and silent, as it must be between requests, and that can be expected to stay so where that
    /// matters. Always ready.
    pub fn poll_take(&self, cx: &mut Context<'_>, repeat: Repeat) -> Poll<Option<Connection>> {
        let mut parked = self.parked.borrow_mut();
        if repeat == Repeat::Impossible {
            // The oldest are closed first, and say after how long.
            let mut unwatched = Context::from_waker(Waker::noop());
            while let Some(oldest) = parked.first_mut() {
                if self.is_silent(oldest, &mut unwatched) {
                    self.outlived(oldest.since.elapsed());
                    break;
                }
                parked.remove(0);
            }
        }
        while let Some(mut last) = parked.pop() {
            if !self.is_silent(&mut last, cx) {
                continue;
            }
            if repeat == Repeat::Impossible && self.may_close_now(&last) {
                parked.push(last);
                return Poll::Ready(None);
            }
            return Poll::Ready(Some(Connection { parked: Some(last.since), ..last.connection }));
        }
        Poll::Ready(None)
    }

    /// Keeps a connection whose exchange is over.
    pub fn park(&self, connection: Connection) {
        let mut parked = self.parked.borrow_mut();
        if parked.len() < MAX_IDLE && !connection.stream.is_wanted() {
            parked.push(Parked { connection, since: Instant::now(), sweeps: 0 });
        }
    }

    /// The other end has left a connection open that was idle for that long.
    fn outlived(&self, idle: Duration) {
        self.proven.set(self.proven.get().max(idle));
    }

    /// The other end says that it leaves connections idle for that long.
    pub fn promised(&self, patience: Duration) {
        let known = self.patience.get();
        self.patience.set(Some(known.map_or(patience, |known| known.min(patience))));
    }

    /// The other end was seen to close a connection that had been idle for that long.
    fn closed_after(&self, idle: Duration) {
        if idle >= NO_PATIENCE {
            self.promised(idle);
        }
    }

    /// `connection` was closed without an answer to the request that was sent on it at `sent`.
    pub fn closed_on(&self, connection: &Connection, sent: Instant) {
        if let Some(parked) = connection.parked {
            self.closed_after(sent.saturating_duration_since(parked));
        }
    }

    /// Closes the one that has been idle for longest; false where there is none.
    pub(super) fn let_go(&self) -> bool {
        let mut parked = self.parked.borrow_mut();
        let has_any = !parked.is_empty();
        if has_any {
            parked.remove(0);
        }
        has_any
    }

    /// Lets go of what has ended or been idle for too long.
    pub(super) fn sweep(&self) {
        let mut cx = Context::from_waker(Waker::noop());
        self.parked.borrow_mut().retain_mut(|parked| {
            parked.sweeps += 1;
            parked.sweeps < MAX_SWEEPS && self.is_silent(parked, &mut cx)
        });
        if let Some(oldest) = self.parked.borrow().first() {
            self.outlived(oldest.since.elapsed());
        }
        // A server that is slow to be forgotten costs a few connections more; one that was restarted with other settings, or
        // closed all it had when it ended, is known anew in some minutes.
        self.patience.set(self.patience.get().map(|known| known.saturating_mul(5) / 4));
    }

    /// Whether a connection is still good. One that was closed says after how long.
    fn is_silent(&self, parked: &mut Parked, cx: &mut Context<'_>) -> bool {
        match parked.connection.state(cx) {
            State::Silent => true,
            State::Unusable => false,
            State::Closed => {
                // The farewell was the last that came.
                if let Ok(silence) = weft_sys::silence(parked.connection.stream.tcp()) {
                    self.closed_after(parked.since.elapsed().saturating_sub(silence.of_segments));
                }
                false
            }
        }
    }

    /// Whether the other end's patience may run out while a request is on its way.
    fn may_close_now(&self, parked: &Parked) -> bool {
        let limit = match self.patience.get() {
            Some(patience) => patience * 3 / 4,
            None if self.proven.get() < NO_PATIENCE => return true,
            // One that is still open may be about to be closed by a server that is late.
            None => self.proven.get().max(UNPROVEN) / 2,
        };
        let mut idle = parked.since.elapsed();
        // We may have parked it late; the other end has counted from when it had said all.
        if let Ok(silence) = weft_sys::silence(parked.connection.stream.tcp()) {
            idle = idle.max(silence.of_bytes);
        }
        idle >= limit
    }
}

impl Connection {
    /// Whether it has carried a request before.
    pub fn is_reused(&self) -> bool {
        self.parked.is_some()
    }

    fn state(&mut self, cx: &mut Context<'_>) -> State {
        let mut byte = [0];
        let mut read = ReadBuf::new(&mut byte);
        match Pin::new(&mut self.stream).poll_read(cx, &mut read) {
            Poll::Pending => State::Silent,
            Poll::Ready(Ok(())) if read.filled().is_empty() => State::Closed,
            Poll::Ready(Ok(()) | Err(_)) => State::Unusable,
        }
    }
}

/// Opens a connection to `flight`'s upstream.
pub async fn connect(worker: &Worker, flight: &mut InFlight) -> Result<Connection, ErrorCode> {
    let stream = flight.upstream.connect(worker, Carries::Http1).await?;
    flight.connected();
    Ok(Connection { stream, sent: 0, parked: None })
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn a_server_is_trusted_with_what_cannot_be_repeated_once_it_has_left_a_connection_open() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a listener");
        let client =
            TcpStream::connect(listener.local_addr().expect("its address")).await.expect("a connection");
        let _server = listener.accept().await.expect("the other end");
        let connection = Connection { stream: client.into(), sent: 0, parked: None };
        // It is new however long the test takes.
        let since = Instant::now() + Duration::from_secs(3600);
        let parked = Parked { connection, since, sweeps: 0 };
        let idle = Idle::default();
        assert!(idle.may_close_now(&parked), "a server of which nothing is known");
        idle.outlived(NO_PATIENCE / 2);
        assert!(idle.may_close_now(&parked), "a server that may close after each answer");
        idle.outlived(Duration::from_secs(7200));
        assert!(!idle.may_close_now(&parked), "a server that leaves connections open");
        idle.promised(Duration::ZERO);
        assert!(idle.may_close_now(&parked), "a server that has said that it does not");
    }
}
