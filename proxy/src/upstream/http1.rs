//! Connections of HTTP/1 to one upstream: lent to one request at a time, the last returned first.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

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

/// A connection that carries one request at a time.
#[derive(Debug)]
pub struct Connection {
    /// Its bytes.
    pub stream: Stream,
    /// Bytes that were written to it.
    pub sent: u64,
    /// Whether it has carried a request before.
    pub is_reused: bool,
}

/// Connections that no request uses.
#[derive(Debug, Default)]
pub struct Idle(RefCell<Vec<Parked>>);

#[derive(Debug)]
struct Parked {
    connection: Connection,
    sweeps: u8,
}

impl Idle {
    /// A connection that is open and silent, as it must be between requests. Always ready.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Option<Connection>> {
        let mut parked = self.0.borrow_mut();
        while let Some(Parked { mut connection, .. }) = parked.pop() {
            if connection.is_silent(cx) {
                return Poll::Ready(Some(connection));
            }
        }
        Poll::Ready(None)
    }

    /// Keeps a connection whose exchange is over.
    pub fn park(&self, mut connection: Connection) {
        let mut parked = self.0.borrow_mut();
        if parked.len() < MAX_IDLE {
            connection.is_reused = true;
            parked.push(Parked { connection, sweeps: 0 });
        }
    }

    /// Lets go of what has ended or been idle for too long.
    pub(super) fn sweep(&self) {
        let mut cx = Context::from_waker(Waker::noop());
        self.0.borrow_mut().retain_mut(|parked| {
            parked.sweeps += 1;
            parked.sweeps < MAX_SWEEPS && parked.connection.is_silent(&mut cx)
        });
    }
}

impl Connection {
    /// Whether it has neither ended nor said anything unasked.
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        let mut byte = [0];
        Pin::new(&mut self.stream).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }
}

/// Opens a connection to `flight`'s upstream.
pub async fn connect(worker: &Worker, flight: &mut InFlight) -> Result<Connection, ErrorCode> {
    let stream = flight.upstream.connect(worker, Carries::Http1).await?;
    flight.connected();
    Ok(Connection { stream, sent: 0, is_reused: false })
}
