//! HTTP/1: a codec that keeps what it receives, and the engine of a connection.
//!
//! The codec does no I/O: bytes in, heads and pieces of bodies out. What parses a peer's bytes, for fuzzing:
//! [`end_of_lines`], [`RequestHead::parse`], [`ResponseHead::parse`], [`parse_trailers`] and [`Decoder::next`].
//!
//! The engine is one task for each client's connection. It reads a head, has it ruled on, takes a connection to an
//! endpoint for the time of one request, and passes both messages through: no other task, no channel between them.

mod buffer;
mod connection;
mod fields;
mod forward;
mod framing;
mod head;
mod journey;
mod outgoing;
mod race;
mod refuse;
mod replica;
mod response;
mod target;
mod transit;
mod upload;
mod way;

pub use connection::serve;
pub use fields::FieldList;
pub use framing::{Decoder, Framing, MAX_TRAILERS, Piece};
pub use head::{MAX_FIELDS, MAX_HEAD, RequestHead, ResponseHead, Terms, Wish, end_of_lines, parse_trailers};
pub use replica::Replica;

use crate::failure::ErrorCode;

/// Why bytes are no message, or none that is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A line of the head is none.
    #[error("a line of the head is malformed")]
    Line,
    /// The target has no one meaning.
    #[error("the target is malformed")]
    Target,
    /// The end of the body has no one meaning.
    #[error("the body's length is malformed or said twice")]
    Framing,
    /// A chunk is none.
    #[error("a chunk is malformed")]
    Chunk,
    /// More than is taken.
    #[error("the head or the trailers are too large")]
    TooLarge,
}

impl From<httparse::Error> for Malformed {
    fn from(error: httparse::Error) -> Self {
        match error {
            httparse::Error::TooManyHeaders => Self::TooLarge,
            _ => Self::Line,
        }
    }
}

impl Malformed {
    /// What a request is refused with.
    pub fn code(self) -> ErrorCode {
        match self {
            Self::TooLarge => ErrorCode::HeaderTooLarge,
            Self::Line | Self::Target | Self::Framing | Self::Chunk => ErrorCode::BadRequest,
        }
    }
}

#[cfg(test)]
mod differential;
#[cfg(test)]
mod tests;
