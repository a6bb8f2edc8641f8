//! A client's connection from its first request to its end: one task, which holds next to nothing between requests.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::time::{Instant, timeout};

use super::Malformed;
use super::buffer::Buffer;
use super::forward::{self, Request, Tunnel};
use super::head::{MAX_HEAD, RequestHead, Wish, end_of_lines};
use super::outgoing::Outgoing;
use super::refuse::Refusal;
use super::replica::Replica;
use super::upload::Upload;
use crate::http::head::Head as _;
use crate::http::headers::{self, Upgrade};
use crate::mirror::{self, Copying};
use crate::observe;
use crate::session::{Ruling, Session};
use crate::stream::{Link as _, Stream};

/// How long a head may take once it has begun.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// How long a client is listened to that still sends what nobody will read: closing at once would reset the connection,
/// and it might never read the answer.
const LINGER: Duration = Duration::from_secs(2);

/// A client's end of its connection.
#[derive(Debug)]
pub(super) struct Caller {
    pub(super) stream: Stream,
    /// What was read and not passed on yet.
    pub(super) input: Buffer,
    /// Whether the client has said all it will.
    pub(super) has_ended: bool,
}

/// What comes after a request.
#[derive(Debug)]
pub(super) enum After {
    /// The next one.
    Next,
    /// The end, which the client asked for: it sends nothing more.
    End,
    /// The end, though the client may still be sending.
    Close,
    /// Nothing: the connection is broken, or is to look so.
    Broken,
    /// Bytes both ways.
    Tunnel(Box<Tunnel>),
}

/// Why there is no head.
enum Unheard {
    Malformed(Malformed),
    Gone,
}

/// Serves a client's connection until it ends; once we close, no further request is taken.
pub async fn serve(session: Rc<Session>, stream: Stream) {
    let mut watch = session.closing().clone();
    let mut closing = pin!(watch.draining());
    let mut caller = Caller { stream, input: Buffer::default(), has_ended: false };
    loop {
        // Where nothing has begun, an end is no one's loss.
        let begins = !caller.input.is_empty() || caller.awaits(closing.as_mut()).await;
        let after = if begins { Box::pin(turns(&session, &mut caller)).await } else { After::End };
        match after {
            After::Next => {}
            After::End => return drop(timeout(LINGER, caller.stream.shutdown()).await),
            After::Close => return Box::pin(caller.close()).await,
            After::Broken => return caller.stream.reset(),
            After::Tunnel(tunnel) => return Box::pin(tunnel.run(caller)).await,
        }
    }
}

/// Requests that come soon after one another. What is in this future is held only as long as they do: who has asked once may
/// never ask again, and who has not asked since the worker's last sweep has it made anew.
async fn turns(session: &Session, caller: &mut Caller) -> After {
    let mut swept = pin!(session.worker.swept.notified());
    loop {
        let after = turn(session, caller).await;
        let goes_on = matches!(after, After::Next) && session.requests.get() > 1;
        if !goes_on || session.closing().is_draining() {
            return after;
        }
        if caller.input.is_empty() && !caller.awaits(swept.as_mut()).await {
            return After::Next;
        }
    }
}

/// One request.
async fn turn(session: &Session, caller: &mut Caller) -> After {
    let (length, waited) = match caller.head().await {
        Ok(Some(found)) => found,
        Ok(None) => return After::Close,
        Err(Unheard::Gone) => return After::Broken,
        Err(Unheard::Malformed(malformed)) => return turn_away(session, caller, malformed).await,
    };
    session.count_request();
    match receive(session, caller, length, waited) {
        Ok((request, ruling)) => forward::forward(session, caller, request, ruling).await,
        Err(malformed) => turn_away(session, caller, malformed).await,
    }
}

/// Reads a head that is there, has it ruled on, and writes it as the next hop is to have it.
fn receive(
    session: &Session,
    caller: &mut Caller,
    length: usize,
    waited: Duration,
) -> Result<(Request, Ruling), Malformed> {
    let bytes = caller.input.unseen().get(..length).unwrap_or_default();
    let mut head = RequestHead::parse(bytes)?;
    let mut ruling = session.rule(&mut head);
    let upgrade = if head.terms.wish == Wish::Upgrade { Upgrade::Kept } else { Upgrade::Dropped };
    headers::strip_hop_by_hop(head.fields_mut(), upgrade);
    let mut out = Outgoing::new();
    head.write(&mut out.bytes);
    let terms = head.terms;
    drop(head);
    caller.input.skip(length);
    let mirrors = ruling.exchange.take_mirrors();
    // What becomes something else has no end that a copy could be sent at.
    let copying = (!mirrors.is_empty() && terms.wish == Wish::None && ruling.verdict.is_ok()).then(|| {
        let head = mirror::Head::Http1(Replica::of(&out.bytes, terms));
        Copying::begin(&session.worker, mirrors, head)
    });
    let kept = ruling.exchange.retry().map_or(0, |retry| retry.max_body);
    let mut upload = Upload::new(out, terms.framing, kept);
    upload.way.copying = copying;
    Ok((Request { terms, upload, waited }, ruling))
}

/// Refuses what is no request. Where it ends nobody can say, so nothing after it is read.
async fn turn_away(session: &Session, caller: &mut Caller, malformed: Malformed) -> After {
    tracing::debug!(client = %session.client, %malformed, "a request is refused");
    session.worker.observer.connection_refused(session.flow.direction(), observe::Refusal::Garbage);
    let code = malformed.code();
    caller.say(Refusal { code, fields: None, terms: None, grpc: false, persists: false }).await
}

impl Caller {
    /// Reads once.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let polled = self.input.poll_read(cx, &mut self.stream);
        self.has_ended |= matches!(polled, Poll::Ready(Ok(0)));
        polled
    }

    /// Ready when the client is gone, after all of its request. Its end alone is none: it may have said all it wants to and
    /// still listen. Bytes that are there already are another request, or what an upgrade will carry: they are not added to.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_ended || !self.input.is_empty() {
            return Poll::Pending;
        }
        match ready!(self.poll_read(cx)) {
            Ok(_) => Poll::Pending,
            Err(_) => Poll::Ready(()),
        }
    }

    /// Waits for a request to begin; not, if the client ends or `enough` does.
    async fn awaits(&mut self, mut enough: Pin<&mut impl Future<Output = ()>>) -> bool {
        poll_fn(|cx| match self.poll_read(cx) {
            Poll::Ready(read) => Poll::Ready(read.is_ok_and(|count| count > 0)),
            Poll::Pending => enough.as_mut().poll(cx).map(|()| false),
        })
        .await
    }

    /// Waits for the rest of a head: its length, and how long that took; none where the client ended before it began one.
    async fn head(&mut self) -> Result<Option<(usize, Duration)>, Unheard> {
        let mut seen = 0;
        if let Some(length) = self.find_head(&mut seen)? {
            return Ok(Some((length, Duration::ZERO)));
        }
        let begun = Instant::now();
        let reading = async {
            loop {
                if poll_fn(|cx| self.poll_read(cx)).await.map_err(|_| Unheard::Gone)? == 0 {
                    return if self.input.is_empty() { Ok(None) } else { Err(Unheard::Gone) };
                }
                if let Some(length) = self.find_head(&mut seen)? {
                    return Ok(Some((length, begun.elapsed())));
                }
            }
        };
        timeout(HEAD_LIMIT, reading).await.unwrap_or(Err(Unheard::Gone))
    }

    fn find_head(&mut self, seen: &mut usize) -> Result<Option<usize>, Unheard> {
        // Empty lines before a request are some old clients' habit (RFC 9112 section 2.2).
        while *seen == 0 && self.input.unseen().starts_with(b"\r\n") {
            self.input.skip(2);
        }
        match end_of_lines(self.input.unseen(), seen).map_err(Unheard::Malformed)? {
            Some(length) if length <= MAX_HEAD => Ok(Some(length)),
            None if !self.input.is_full() => Ok(None),
            _ => Err(Unheard::Malformed(Malformed::TooLarge)),
        }
    }

    /// Says what the mesh has to say.
    pub(super) async fn say(&mut self, refusal: Refusal<'_>) -> After {
        let mut out = Outgoing::new();
        refusal.write(&mut out.bytes);
        self.answer(out, if refusal.persists { After::Next } else { After::Close }).await
    }

    /// Answers with all of `out`: what comes then, if that can be said.
    pub(super) async fn answer(&mut self, out: Outgoing, then: After) -> After {
        let said = async {
            self.stream.write_all(&out.bytes).await?;
            self.stream.flush().await
        };
        match said.await {
            Ok(()) => then,
            Err(_) => After::Broken,
        }
    }

    /// Ends the connection so that the client reads all that it was told.
    async fn close(mut self) {
        let mut unread = [0; 4096];
        let listening = async {
            if self.stream.shutdown().await.is_err() || self.has_ended {
                return;
            }
            loop {
                let mut read = ReadBuf::new(&mut unread);
                let polled = poll_fn(|cx| Pin::new(&mut self.stream).poll_read(cx, &mut read)).await;
                if polled.is_err() || read.filled().is_empty() {
                    return;
                }
            }
        };
        drop(timeout(LINGER, listening).await);
    }
}
