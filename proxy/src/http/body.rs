//! A message body on its way through: streamed as it comes, counted, and noticed when it ends.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;

use super::Exchange;

/// A body of either direction. One type, so that nothing is boxed.
#[derive(Debug)]
pub struct Body {
    content: Content,
    part: Part,
}

#[derive(Debug)]
enum Content {
    Empty,
    Whole(Bytes),
    Stream(Incoming),
}

/// Whom the body reports to.
#[derive(Debug)]
enum Part {
    Nobody,
    Request(Rc<Exchange>),
    Response(Rc<Exchange>),
}

impl Body {
    /// Nothing.
    pub fn empty() -> Self {
        Self { content: Content::Empty, part: Part::Nobody }
    }

    /// A text of the mesh's own.
    pub fn text(text: impl Into<Bytes>) -> Self {
        Self { content: Content::Whole(text.into()), part: Part::Nobody }
    }

    /// All of a body of the mesh's own.
    pub fn whole(self) -> Bytes {
        match self.content {
            Content::Whole(bytes) => bytes,
            Content::Empty | Content::Stream(_) => Bytes::new(),
        }
    }

    /// The request's body.
    pub fn request(incoming: Incoming, exchange: Rc<Exchange>) -> Self {
        Self::streamed(incoming, Part::Request(exchange))
    }

    /// The response's body.
    pub fn response(incoming: Incoming, exchange: Rc<Exchange>) -> Self {
        Self::streamed(incoming, Part::Response(exchange))
    }

    fn streamed(incoming: Incoming, part: Part) -> Self {
        if incoming.is_end_stream() {
            part.ended();
            return Self::empty();
        }
        Self { content: Content::Stream(incoming), part }
    }

    fn take_part(&mut self) -> Part {
        std::mem::replace(&mut self.part, Part::Nobody)
    }
}

impl Part {
    fn passed(&self, frame: &Frame<Bytes>) {
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        match self {
            Self::Nobody => {}
            Self::Request(exchange) => exchange.request_moved(bytes),
            Self::Response(exchange) => {
                exchange.response_moved(bytes);
                if let Some(trailers) = frame.trailers_ref() {
                    exchange.trailers(trailers);
                }
            }
        }
    }

    fn ended(self) {
        match self {
            Self::Nobody => {}
            Self::Request(exchange) => exchange.request_ended(),
            Self::Response(exchange) => exchange.response_ended(),
        }
    }

    fn broke(self) {
        match self {
            Self::Nobody | Self::Request(_) => {}
            Self::Response(exchange) => exchange.response_broke(),
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let incoming = match &mut this.content {
            Content::Empty => return Poll::Ready(None),
            Content::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                this.content = Content::Empty;
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            Content::Stream(incoming) => incoming,
        };
        let polled = Pin::new(&mut *incoming).poll_frame(cx);
        let at_end = incoming.is_end_stream();
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                this.part.passed(frame);
                // Where the length is known nobody asks for more after the last byte; trailers are an end, too.
                if at_end || frame.is_trailers() {
                    this.take_part().ended();
                }
            }
            Poll::Ready(Some(Err(_))) => this.take_part().broke(),
            Poll::Ready(None) => this.take_part().ended(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Whole(_) => false,
            Content::Stream(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(incoming) => incoming.size_hint(),
        }
    }
}
