//! One direction of a stream: data as it comes and no faster than it is taken, then trailers or the end.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;

use crate::mirror::Copying;

/// Bytes of a request that are kept so that they can be sent once more, where no policy wants more.
const KEPT: usize = 64 * 1024;

/// Moves what one stream brings to another.
#[derive(Debug)]
pub(super) struct Pump {
    from: RecvStream,
    /// Read and not yet sent.
    held: VecDeque<Bytes>,
    end: End,
    /// Bytes at the beginning of `held` whose room in the window was given back when they were sent the first time.
    again: usize,
    past: Past,
    /// Gets what comes, where a mirror is to have it.
    copying: Option<Box<Copying>>,
}

/// What was sent, for the case that it has to be sent again.
#[derive(Debug)]
enum Past {
    Kept(Kept),
    /// It was too much, or nobody will want it.
    Gone,
}

/// How far a direction has come.
#[derive(Debug)]
enum End {
    /// More may come.
    Open,
    /// What is held is the last of it.
    Data,
    /// So it is, and these follow.
    Trailers(HeaderMap),
    /// All of it is sent, or nobody takes it any more.
    Passed,
}

/// The pieces of a direction that were sent.
#[derive(Debug, Default)]
struct Kept {
    pieces: Vec<Bytes>,
    length: usize,
    /// The most that is kept.
    most: usize,
    trailers: Option<HeaderMap>,
}

/// Why a direction ended early.
#[derive(Debug)]
pub(super) enum Broke {
    /// Where it comes from.
    Source(h2::Error),
    /// Where it goes.
    Sink,
}

/// What a direction has moved.
pub(super) enum Moved<'a> {
    Data(usize),
    Trailers(&'a HeaderMap),
}

impl Pump {
    /// Of what `from` brings.
    pub(super) fn new(from: RecvStream) -> Self {
        let end = if from.is_end_stream() { End::Passed } else { End::Open };
        Self { from, held: VecDeque::new(), end, again: 0, past: Past::Gone, copying: None }
    }

    /// The same, and what it sends can be sent again, as long as it is not too much.
    pub(super) fn repeatable(from: RecvStream, most: usize) -> Self {
        Self { past: Past::Kept(Kept { most: KEPT.max(most), ..Kept::default() }), ..Self::new(from) }
    }

    /// Mirrors get what it brings, too. To be said before anything has come.
    pub(super) fn copy(&mut self, copying: Box<Copying>) {
        self.copying = Some(copying);
        if self.has_passed() {
            self.copied();
        }
    }

    /// All has come.
    fn copied(&mut self) {
        if let Some(copying) = self.copying.take() {
            copying.send();
        }
    }

    /// Whether nothing is left to do.
    pub(super) fn has_passed(&self) -> bool {
        matches!(self.end, End::Passed)
    }

    /// Whether it waits for its sink.
    pub(super) fn is_blocked(&self) -> bool {
        !self.held.is_empty()
    }

    /// Nobody takes any more of it.
    pub(super) fn stop(&mut self) {
        self.end = End::Passed;
        self.held.clear();
    }

    /// What was sent need not be kept any longer.
    pub(super) fn settle(&mut self) {
        self.past = Past::Gone;
    }

    /// Whether the beginning is still there.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self.past, Past::Kept(_))
    }

    /// Waits until something has come, or the end. It is not sent yet.
    pub(super) fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while self.held.is_empty() && matches!(self.end, End::Open) {
            ready!(self.poll_read(cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// The trailers, where they have come and nothing before them waits.
    pub(super) fn only_trailers(&self) -> Option<&HeaderMap> {
        match &self.end {
            End::Trailers(trailers) if self.held.is_empty() => Some(trailers),
            End::Trailers(_) | End::Open | End::Data | End::Passed => None,
        }
    }

    /// Whether there is anything to be sent again besides its end.
    pub(super) fn has_repeatable(&self) -> bool {
        matches!(&self.past, Past::Kept(kept) if !kept.pieces.is_empty() || kept.trailers.is_some())
    }

    /// Sends all that was sent once more, to another sink. It is no more in that one's queue than it is here.
    pub(super) fn repeat(&self, to: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
        let Past::Kept(kept) = &self.past else { return Ok(()) };
        for (index, piece) in kept.pieces.iter().enumerate() {
            let is_last = index + 1 == kept.pieces.len() && kept.trailers.is_none();
            to.send_data(piece.clone(), is_last)?;
        }
        kept.trailers.clone().map_or(Ok(()), |trailers| to.send_trailers(trailers))
    }

    /// Begins from the beginning, for another sink. False where the beginning is not there any more.
    pub(super) fn rewind(&mut self) -> bool {
        let Past::Kept(kept) = &mut self.past else { return false };
        if let Some(trailers) = kept.trailers.take() {
            self.end = End::Trailers(trailers);
        } else if matches!(self.end, End::Passed) && !kept.pieces.is_empty() {
            self.end = End::Data;
        }
        self.again += std::mem::take(&mut kept.length);
        for piece in kept.pieces.drain(..).rev() {
            self.held.push_front(piece);
        }
        true
    }

    /// Moves what can be moved now; ready when all has passed.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut SendStream<Bytes>,
        tell: &mut impl FnMut(Moved<'_>),
    ) -> Poll<Result<(), Broke>> {
        loop {
            while !self.held.is_empty() {
                ready!(self.poll_send(cx, to, tell))?;
            }
            match std::mem::replace(&mut self.end, End::Open) {
                End::Open => ready!(self.poll_read(cx)).map_err(Broke::Source)?,
                End::Passed => {
                    self.end = End::Passed;
                    return Poll::Ready(Ok(()));
                }
                End::Data => {
                    self.end = End::Passed;
                    return Poll::Ready(to.send_data(Bytes::new(), true).map_err(|_| Broke::Sink));
                }
                End::Trailers(trailers) => {
                    self.end = End::Passed;
                    tell(Moved::Trailers(&trailers));
                    if let Past::Kept(kept) = &mut self.past {
                        kept.trailers = Some(trailers.clone());
                    }
                    return Poll::Ready(to.send_trailers(trailers).map_err(|_| Broke::Sink));
                }
            }
        }
    }

    /// Takes what the source has brought before it broke or ended: no more will come, and none of it waits for a window.
    pub(super) fn gather(&mut self, cx: &mut Context<'_>) -> Result<(), h2::Error> {
        while matches!(self.end, End::Open) {
            match self.poll_read(cx) {
                Poll::Ready(read) => read?,
                Poll::Pending => break,
            }
        }
        Ok(())
    }

    /// Reads one piece, or learns that there is none.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        match ready!(self.from.poll_data(cx)) {
            Some(Ok(piece)) => {
                if let Some(copying) = &mut self.copying {
                    copying.add(&piece);
                }
                if self.from.is_end_stream() {
                    self.end = End::Data;
                    self.copied();
                }
                // An empty piece that ends nothing says nothing, and peers count such.
                if !piece.is_empty() {
                    self.held.push_back(piece);
                }
            }
            Some(Err(error)) => return Poll::Ready(Err(error)),
            None => {
                let trailers = ready!(self.from.poll_trailers(cx))?;
                self.end = trailers.map_or(End::Data, End::Trailers);
                self.copied();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends of the first piece what the sink takes, and gives the source its room back.
    fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut SendStream<Bytes>,
        tell: &mut impl FnMut(Moved<'_>),
    ) -> Poll<Result<(), Broke>> {
        let is_last = self.held.len() == 1 && matches!(self.end, End::Data);
        let Some(piece) = self.held.front_mut() else { return Poll::Ready(Ok(())) };
        // The last piece is no more in the sink's queue than it was here, and needs no permission to wait there.
        let room = if is_last { piece.len() } else { ready!(poll_room(cx, to, piece.len()))? };
        let piece = piece.split_to(room.min(piece.len()));
        if self.held.front().is_some_and(Bytes::is_empty) {
            self.held.pop_front();
        }
        let length = piece.len();
        // What is sent again has been told of.
        tell(Moved::Data(length - self.again.min(length)));
        self.keep(&piece);
        to.send_data(piece, is_last).map_err(|_| Broke::Sink)?;
        if is_last {
            self.end = End::Passed;
        }
        self.give_back(length);
        Poll::Ready(Ok(()))
    }

    fn keep(&mut self, piece: &Bytes) {
        if let Past::Kept(kept) = &mut self.past {
            kept.length += piece.len();
            if kept.length > kept.most {
                self.past = Past::Gone;
            } else {
                kept.pieces.push(piece.clone());
            }
        }
    }

    fn give_back(&mut self, length: usize) {
        let repeated = self.again.min(length);
        self.again -= repeated;
        if length > repeated {
            // Fails only where the stream is gone, and its room with it.
            let _ = self.from.flow_control().release_capacity(length - repeated);
        }
    }
}

/// How much of `wanted` the sink takes: as much as its peer's windows have room for.
fn poll_room(cx: &mut Context<'_>, to: &mut SendStream<Bytes>, wanted: usize) -> Poll<Result<usize, Broke>> {
    to.reserve_capacity(wanted);
    match to.capacity() {
        0 => match ready!(to.poll_capacity(cx)) {
            Some(Ok(room)) => Poll::Ready(Ok(room)),
            Some(Err(_)) | None => Poll::Ready(Err(Broke::Sink)),
        },
        room => Poll::Ready(Ok(room)),
    }
}
