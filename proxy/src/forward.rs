//! Stages 2 and 8 as both directions share them: listen to both ends, then carry bytes or answer in HTTP.

use std::future::{poll_fn, ready};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use weft_core::detect::Sniffed;
use weft_core::model::Protocol;

use crate::http::Version;
use crate::observe::{Direction, Flow, OpenConnection, Refusal, Security, Spoken};
use crate::screen::Screened;
use crate::sniff::{self, First};
use crate::stream::{Link as _, Peeked, Stream};
use crate::tcp;
use crate::upstream::{self, Cluster, InFlight, Opened};
use crate::worker::Worker;

/// How long a client may be silent where only it can say what is spoken.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// How long a client whose server cannot be reached may take to say that it speaks HTTP, and so get a proper answer.
const LAST_WORD: Duration = Duration::from_millis(50);

/// What a server says before its client does is read in pieces of this size.
const GREETING: usize = 2048;

/// What is spoken on a connection.
#[derive(Debug)]
pub enum Heard {
    /// HTTP.
    Http(Version),
    /// TLS of the app's own, with the name it asks for; the connection to the server where it is open already.
    Tls(Option<String>, Option<Greeted>),
    /// Anything else, and the same.
    Bytes(Option<Greeted>),
}

/// A connection to a server, and what it said unasked.
#[derive(Debug)]
pub struct Greeted {
    opened: Opened,
    greeting: Vec<u8>,
}

impl From<First> for Heard {
    fn from(first: First) -> Self {
        match first {
            First::Spoke(Sniffed::Http1) => Self::Http(Version::Http1),
            First::Spoke(Sniffed::Http2) => Self::Http(Version::Http2),
            First::Spoke(Sniffed::Tls(hello)) => Self::Tls(hello.server_name, None),
            // Who ends without a word may still want to hear the server's.
            First::Spoke(Sniffed::Opaque) | First::Closed => Self::Bytes(None),
        }
    }
}

/// Waits for the client to say what is spoken, where the server is known not to speak first.
pub async fn listen_to_client(client: &mut Peeked) -> Result<Heard, Refusal> {
    match timeout(FIRST_WORD, sniff::sniff(client)).await {
        Ok(Ok(first)) => Ok(first.into()),
        Ok(Err(_)) | Err(_) => Err(Refusal::Garbage),
    }
}

/// The same where the server is declared to speak HTTP: what looks like none is malformed, and answered so. Passed on as
/// bytes, a request that servers take and [`weft_core::detect`] does not would go round all that is ruled of requests.
pub async fn listen_for_http(client: &mut Peeked) -> Result<Heard, Refusal> {
    match listen_to_client(client).await? {
        Heard::Bytes(None) if !client.ahead.is_empty() => Ok(Heard::Http(Version::Http1)),
        heard => Ok(heard),
    }
}

/// Listens to both ends at once: to the server too, where the client does not speak at once or did not last time.
pub async fn listen_to_both(
    worker: &Worker,
    cluster: &Cluster,
    client: &mut Peeked,
) -> Result<Heard, Refusal> {
    if !cluster.speaks_first.get()
        && let Some(first) = sniff::sniff_briefly(client).await.map_err(|_| Refusal::Garbage)?
    {
        return Ok(first.into());
    }
    let opened = {
        let mut opening = pin!(upstream::open(worker, cluster));
        let mut sniffing = pin!(sniff::sniff(client));
        tokio::select! {
            biased;
            first = &mut sniffing => return first.map(Heard::from).map_err(|_| Refusal::Garbage),
            opened = &mut opening => match opened {
                Ok(opened) => opened,
                Err(_) => return match timeout(LAST_WORD, sniffing).await {
                    Ok(Ok(first)) => Ok(first.into()),
                    Ok(Err(_)) | Err(_) => Err(Refusal::Unreachable),
                },
            },
        }
    };
    listen_to_opened(cluster, client, opened).await
}

/// The client is silent and the server's connection open: the first to speak says what it is.
async fn listen_to_opened(
    cluster: &Cluster,
    client: &mut Peeked,
    mut opened: Opened,
) -> Result<Heard, Refusal> {
    let mut greeting = vec![0; GREETING];
    let first = {
        let hearing = read_some(&mut opened.stream, &mut greeting);
        tokio::select! {
            biased;
            first = sniff::sniff(client) => Err(first.map_err(|_| Refusal::Garbage)?),
            heard = hearing => Ok(heard),
        }
    };
    match first {
        Ok(heard) => {
            let length = heard.map_err(|_| Refusal::Unreachable)?;
            greeting.truncate(length);
            cluster.speaks_first.set(length > 0);
            Ok(Heard::Bytes(Some(Greeted { opened, greeting })))
        }
        Err(first) => {
            cluster.speaks_first.set(false);
            Ok(match Heard::from(first) {
                // Nothing was sent on it: it is let go in order, and HTTP takes its own way.
                http @ Heard::Http(_) => {
                    drop(opened.stream.shutdown().await);
                    http
                }
                Heard::Tls(name, _) => Heard::Tls(name, Some(Greeted { opened, greeting: Vec::new() })),
                Heard::Bytes(_) => Heard::Bytes(Some(Greeted { opened, greeting: Vec::new() })),
            })
        }
    }
}

async fn read_some(stream: &mut Stream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut read = ReadBuf::new(buffer);
    poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, &mut read)).await?;
    Ok(read.filled().len())
}

/// What is left to do once it is known how: the one stage that most of a connection's life is spent in. The stages before
/// it are gone by then, and so is their memory.
pub type LastStage = Pin<Box<dyn Future<Output = ()>>>;

/// There is nothing left to do.
pub fn nothing_more() -> LastStage {
    Box::pin(ready(()))
}

/// Opens the way for bytes between the client and one of `cluster`'s endpoints. `security` is the client's where the way on
/// is no hop of its own.
pub async fn tunnel(
    worker: &Worker,
    cluster: &Rc<Cluster>,
    mut client: Stream,
    greeted: Option<Greeted>,
    flow: &Flow,
    spoken: Spoken,
    security: Security,
) -> LastStage {
    let greeted = match greeted {
        Some(greeted) => Ok(greeted),
        None => upstream::open(worker, cluster).await.map(|opened| Greeted { opened, greeting: Vec::new() }),
    };
    let Ok(Greeted { opened, greeting }) = greeted else {
        worker.observer.connection_refused(flow.direction(), Refusal::Unreachable);
        client.reset();
        return nothing_more();
    };
    let security = opened.flight.security().unwrap_or(security);
    let open = worker.observer.connection_opened(flow, spoken, security);
    if !greeting.is_empty() {
        if client.write_all(&greeting).await.is_err() {
            opened.stream.reset();
            return nothing_more();
        }
        open.moved(0, greeting.len() as u64);
    }
    let Opened { stream, flight } = opened;
    // Where a port is said to carry bytes, they may be HTTP's: nothing is ruled of it, and its app knows no callers.
    let may_be_http = matches!(cluster.protocol(), Protocol::Tcp | Protocol::Tls);
    if flow.direction() == Direction::Outbound || may_be_http {
        let cluster = Rc::clone(cluster);
        let idle = move || cluster.idle().unwrap_or(tcp::IDLE);
        return pump(client, stream, open, Some(flight), idle);
    }
    let observer = worker.observer.clone();
    let mut copying = tcp::copy(Screened::new(client), stream, || tcp::IDLE, counting(open));
    Box::pin(async move {
        match (&mut copying).await {
            // A request that came as bytes, or what no one sealed.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::debug!(%error, "what came is refused");
                observer.connection_refused(Direction::Inbound, Refusal::Garbage);
            }
            Err(error) => tracing::debug!(%error, "a connection broke"),
            Ok(()) => {}
        }
        drop(flight);
    })
}

/// Carries bytes between two connections until both ways have ended, or nothing moves for as long as `idle` says.
pub fn pump(
    client: Stream,
    server: Stream,
    open: OpenConnection,
    flight: Option<InFlight>,
    idle: impl Fn() -> Duration + Unpin + 'static,
) -> LastStage {
    let mut copying = tcp::copy(client, server, idle, counting(open));
    Box::pin(async move {
        if let Err(error) = (&mut copying).await {
            tracing::debug!(%error, "a connection broke");
        }
        drop(flight);
    })
}

fn counting(open: OpenConnection) -> impl FnMut(tcp::Moved) {
    move |moved| open.moved(moved.forth, moved.back)
}
