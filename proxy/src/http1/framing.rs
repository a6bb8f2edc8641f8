//! Where a body ends (RFC 9112 section 6), found by looking at its bytes without moving them.

use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};

use super::Malformed;
use super::fields::FieldList;
use super::head::end_of_lines;
use crate::http::head::Fields;
use crate::http::headers::tokens;

/// A chunk's size with its extension, at most.
const MAX_CHUNK_LINE: usize = 256;

/// All trailers together, at most.
pub const MAX_TRAILERS: usize = 8 * 1024;

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// It has that many bytes.
    Length(u64),
    /// In chunks, with trailers perhaps.
    Chunked,
    /// It ends with the connection; responses only.
    UntilClose,
}

impl Framing {
    /// What a head's fields say; nothing where they say nothing.
    pub(super) fn of(fields: &FieldList<'_>, minor: u8) -> Result<Option<Self>, Malformed> {
        let mut lengths = fields.all(&CONTENT_LENGTH);
        let length = lengths.next();
        if lengths.next().is_some() {
            return Err(Malformed::Framing);
        }
        let mut encodings = fields.all(&TRANSFER_ENCODING).peekable();
        if encodings.peek().is_none() {
            return length.map(|length| parse_length(length).map(Self::Length)).transpose();
        }
        // Both together, or an encoding of HTTP/1.0, is how requests are smuggled (RFC 9112 section 6.1).
        if length.is_some() || minor == 0 {
            return Err(Malformed::Framing);
        }
        let mut codings = encodings.flat_map(tokens);
        match (codings.next(), codings.next()) {
            (Some(only), None) if only.eq_ignore_ascii_case(b"chunked") => Ok(Some(Self::Chunked)),
            _ => Err(Malformed::Framing),
        }
    }
}

fn parse_length(digits: &[u8]) -> Result<u64, Malformed> {
    if digits.is_empty() {
        return Err(Malformed::Framing);
    }
    let mut length: u64 = 0;
    for digit in digits {
        let digit = char::from(*digit).to_digit(10).ok_or(Malformed::Framing)?;
        length = length
            .checked_mul(10)
            .and_then(|length| length.checked_add(digit.into()))
            .ok_or(Malformed::Framing)?;
    }
    Ok(length)
}

/// The next piece of a body, at the front of the bytes that were shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the body itself.
    Data(usize),
    /// A chunk's size: so many digits, and with the extension and the line's end so many bytes.
    Size {
        /// The digits.
        digits: usize,
        /// The whole line.
        line: usize,
    },
    /// The end of a line that delimits something.
    Delimiter(usize),
    /// All trailers with the empty line after them. The body has ended.
    Trailers(usize),
    /// More bytes are needed.
    More,
    /// The body has ended.
    End,
}

/// Follows a body through the bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decoder(State);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ended,
    Length(u64),
    UntilClose,
    Size,
    Chunk(u64),
    ChunkEnd,
    Trailers,
}

impl Decoder {
    /// For a body delimited so.
    pub fn new(framing: Framing) -> Self {
        Self(match framing {
            Framing::Empty | Framing::Length(0) => State::Ended,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size,
            Framing::UntilClose => State::UntilClose,
        })
    }

    /// Whether all of the body has been seen.
    pub fn has_ended(&self) -> bool {
        self.0 == State::Ended
    }

    /// Whether the connection's end is the body's.
    pub fn ends_with_connection(&self) -> bool {
        matches!(self.0, State::UntilClose | State::Ended)
    }

    /// Says what is at the front of `bytes`; next time they are shown from behind it.
    ///
    /// # Errors
    /// They are no body of that framing.
    pub fn next(&mut self, bytes: &[u8]) -> Result<Piece, Malformed> {
        if self.0 == State::Ended {
            return Ok(Piece::End);
        }
        if bytes.is_empty() {
            return Ok(Piece::More);
        }
        match self.0 {
            State::Ended => Ok(Piece::End),
            State::UntilClose => Ok(Piece::Data(bytes.len())),
            State::Length(left) => {
                let (count, left) = take(bytes, left);
                self.0 = if left == 0 { State::Ended } else { State::Length(left) };
                Ok(Piece::Data(count))
            }
            State::Chunk(left) => {
                let (count, left) = take(bytes, left);
                self.0 = if left == 0 { State::ChunkEnd } else { State::Chunk(left) };
                Ok(Piece::Data(count))
            }
            State::ChunkEnd => match bytes {
                [b'\r', b'\n', ..] => {
                    self.0 = State::Size;
                    Ok(Piece::Delimiter(2))
                }
                [b'\r'] => Ok(Piece::More),
                _ => Err(Malformed::Chunk),
            },
            State::Size => self.size(bytes),
            State::Trailers => self.trailers(bytes),
        }
    }

    fn size(&mut self, bytes: &[u8]) -> Result<Piece, Malformed> {
        let line = bytes.get(..MAX_CHUNK_LINE).unwrap_or(bytes);
        let Some(end) = memchr::memchr(b'\n', line) else {
            return if line.len() < MAX_CHUNK_LINE && is_size(line) {
                Ok(Piece::More)
            } else {
                Err(Malformed::Chunk)
            };
        };
        let text = line.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(Malformed::Chunk)?;
        let digits = text.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(text.len());
        let (number, extension) = text.split_at_checked(digits).ok_or(Malformed::Chunk)?;
        if !matches!(extension, [] | [b';', ..]) || !extension.iter().all(is_of_extension) {
            return Err(Malformed::Chunk);
        }
        self.0 = match parse_size(number)? {
            0 => State::Trailers,
            size => State::Chunk(size),
        };
        Ok(Piece::Size { digits, line: end + 1 })
    }

    fn trailers(&mut self, bytes: &[u8]) -> Result<Piece, Malformed> {
        match bytes {
            [b'\r', b'\n', ..] => {
                self.0 = State::Ended;
                return Ok(Piece::Delimiter(2));
            }
            [b'\r'] => return Ok(Piece::More),
            _ => {}
        }
        let section = bytes.get(..MAX_TRAILERS).unwrap_or(bytes);
        match end_of_lines(section, &mut 0)? {
            Some(length) => {
                self.0 = State::Ended;
                Ok(Piece::Trailers(length))
            }
            None if section.len() < MAX_TRAILERS => Ok(Piece::More),
            None => Err(Malformed::TooLarge),
        }
    }
}

fn take(bytes: &[u8], left: u64) -> (usize, u64) {
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (count, left.saturating_sub(count as u64))
}

/// Whether a line that has not ended can still become a chunk's size: a sign or a space is refused at once.
fn is_size(line: &[u8]) -> bool {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    digits > 0 && matches!(line.get(digits), None | Some(b';' | b'\r'))
}

fn is_of_extension(byte: &u8) -> bool {
    *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f)
}

fn parse_size(digits: &[u8]) -> Result<u64, Malformed> {
    // More digits than a size has, even zeros, are not counted the same by everyone.
    if digits.is_empty() || digits.len() > 16 {
        return Err(Malformed::Chunk);
    }
    let mut size: u64 = 0;
    for digit in digits {
        let digit = char::from(*digit).to_digit(16).ok_or(Malformed::Chunk)?;
        size = size << 4 | u64::from(digit);
    }
    Ok(size)
}
