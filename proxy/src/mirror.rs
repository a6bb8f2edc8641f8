//! Copies of requests for those whom a route's mirrors name: made beside the request, which neither waits for them nor
//! hears of them. What they answer is read and dropped.
//!
//! A copy is sent when all of its request is there, so that one whose caller breaks it off is no request for anyone else.
//! What is too large to be held that long is not copied, and counted.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use crate::failure::ErrorCode;
use crate::http1::Replica as Http1;
use crate::http2::Replica as Http2;
use crate::upstream::Cluster;
use crate::worker::Worker;

/// Bytes of a body that are copied.
const MAX_BODY: usize = 64 * 1024;

/// Copies of a worker that wait for their requests' ends, or for their answers.
const MAX_COPIES: usize = 256;

/// How long one may take, its answer included.
const LIMIT: Duration = Duration::from_secs(15);

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mirrored {
    /// It was sent, and answered with whatever it was.
    Sent,
    /// Nobody took it, or nobody answered.
    Failed,
    /// It was not made: the body was too large, its caller broke it off, or there were too many.
    Skipped,
}

/// A request's head, as its version has it.
#[derive(Debug)]
pub enum Head {
    /// HTTP/1.
    Http1(Http1),
    /// HTTP/2.
    Http2(Http2),
}

/// A request that is being copied.
pub struct Copying {
    worker: Rc<Worker>,
    to: Vec<Rc<Cluster>>,
    head: Option<Head>,
    /// None: it was too large.
    body: Option<BytesMut>,
    /// None: there were too many.
    place: Option<Place>,
}

impl Mirrored {
    /// As metrics spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// Copies under way in one worker.
#[derive(Debug, Default)]
pub struct Copies(Rc<Cell<usize>>);

/// One of them.
struct Place(Rc<Cell<usize>>);

impl Copies {
    fn enter(&self) -> Option<Place> {
        let count = self.0.get();
        (count < MAX_COPIES).then(|| {
            self.0.set(count + 1);
            Place(Rc::clone(&self.0))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Copying {
    /// Of a request that begins with `head`, for each of `to`.
    pub fn begin(worker: &Rc<Worker>, to: Vec<Rc<Cluster>>, head: Head) -> Box<Self> {
        let place = worker.copies.enter();
        let worker = Rc::clone(worker);
        Box::new(Self { worker, to, head: Some(head), body: Some(BytesMut::new()), place })
    }

    /// A piece of its body has come.
    pub fn add(&mut self, piece: &[u8]) {
        let Some(body) = &mut self.body else { return };
        if self.place.is_some() && body.len() + piece.len() <= MAX_BODY {
            body.extend_from_slice(piece);
        } else {
            self.body = None;
        }
    }

    /// All of it is there: it is sent to everyone, beside whatever else goes on.
    pub fn send(mut self: Box<Self>) {
        let (Some(head), Some(body), Some(place)) = (self.head.take(), self.body.take(), self.place.take())
        else {
            return;
        };
        let (head, body, place) = (Rc::new(head), body.freeze(), Rc::new(place));
        for cluster in std::mem::take(&mut self.to) {
            let copy = deliver(Rc::clone(&self.worker), cluster, Rc::clone(&head), body.clone());
            let place = Rc::clone(&place);
            self.worker.spawn("mirror", async move {
                copy.await;
                drop(place);
            });
        }
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        for cluster in &self.to {
            self.worker.observer.mirrored(&cluster.label(), Mirrored::Skipped);
        }
    }
}

impl fmt::Debug for Copying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Copying").field("to", &self.to.len()).finish_non_exhaustive()
    }
}

async fn deliver(worker: Rc<Worker>, cluster: Rc<Cluster>, head: Rc<Head>, body: Bytes) {
    let sending = async {
        match &*head {
            Head::Http1(replica) => replica.send(&worker, &cluster, &body).await,
            Head::Http2(replica) => replica.send(&worker, &cluster, body).await,
        }
    };
    let sent = timeout(LIMIT, sending).await.unwrap_or(Err(ErrorCode::Timeout));
    if let Err(code) = &sent {
        tracing::debug!(to = %cluster.label(), reason = code.as_str(), "a mirror did not get its copy");
    }
    let outcome = if sent.is_ok() { Mirrored::Sent } else { Mirrored::Failed };
    worker.observer.mirrored(&cluster.label(), outcome);
}
