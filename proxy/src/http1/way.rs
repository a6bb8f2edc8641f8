//! One direction of an exchange: the body's bytes as they are read, turned into what is written.

use http::header::HeaderName;

use super::Malformed;
use super::buffer::Buffer;
use super::fields::FieldList;
use super::framing::{Decoder, Framing, Piece};
use super::head::parse_trailers;
use super::outgoing::Outgoing;
use crate::http::headers::is_ours;
use crate::http::trace::is_of_trace;
use crate::mirror::Copying;

/// Of a request that may have to be sent again, so many bytes are kept, where no policy wants more.
pub(super) const KEPT: u64 = 64 * 1024;

/// How a body is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As it is delimited already.
    AsReceived,
    /// In chunks, where the connection's end would delimit it.
    Chunked,
    /// Without what delimits it, for a client that knows no chunks.
    Bare,
}

/// One direction of an exchange.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) decoder: Decoder,
    pub(super) encoding: Encoding,
    pub(super) out: Outgoing,
    /// Gets what passes, where a mirror is to have it.
    pub(super) copying: Option<Box<Copying>>,
    /// As long as its head and its body are no more than this, they are kept to be sent again.
    pub(super) kept: u64,
}

impl Way {
    /// For a body delimited so, after the head that is in `out`.
    pub(super) fn new(out: Outgoing, framing: Framing) -> Self {
        Self {
            decoder: Decoder::new(framing),
            encoding: Encoding::AsReceived,
            out,
            copying: None,
            kept: KEPT,
        }
    }

    /// Turns all that was received into what is to be written: how many bytes of the body that are. Trailers are shown
    /// to `notice` before they are passed on.
    pub(super) fn fill(
        &mut self,
        buffer: &mut Buffer,
        mut notice: impl FnMut(&FieldList<'_>),
    ) -> Result<u64, Malformed> {
        let mut moved = 0;
        loop {
            match self.decoder.next(buffer.unseen())? {
                Piece::More => return Ok(moved),
                Piece::End => {
                    if let Some(copying) = self.copying.take() {
                        copying.send();
                    }
                    return Ok(moved);
                }
                Piece::Data(count) => {
                    moved += count as u64;
                    if let Some(copying) = &mut self.copying {
                        copying.add(buffer.unseen().get(..count).unwrap_or_default());
                    }
                    self.data(buffer, count);
                }
                Piece::Delimiter(count) => self.delimiter(buffer, count),
                // An extension is for the next hop alone (RFC 9112 section 7.1.1); it ends here.
                Piece::Size { digits, line } if digits + 2 < line => {
                    if self.encoding == Encoding::AsReceived {
                        self.copy(buffer, digits);
                        self.out.bytes.extend_from_slice(b"\r\n");
                        buffer.skip(line - digits);
                    } else {
                        buffer.skip(line);
                    }
                }
                Piece::Size { line, .. } => self.delimiter(buffer, line),
                Piece::Trailers(count) => {
                    self.settle(buffer);
                    let mut fields = parse_trailers(buffer.unseen().get(..count).unwrap_or_default())?;
                    notice(&fields);
                    fields.retain(may_trail);
                    if self.encoding == Encoding::AsReceived {
                        fields.write(&mut self.out.bytes);
                        self.out.bytes.extend_from_slice(b"\r\n");
                    }
                    drop(fields);
                    buffer.skip(count);
                }
            }
        }
    }

    /// What was read ends with the connection.
    pub(super) fn end_with_connection(&mut self) {
        self.decoder = Decoder::new(Framing::Empty);
        if self.encoding == Encoding::Chunked {
            self.out.bytes.extend_from_slice(b"0\r\n\r\n");
        }
    }

    fn data(&mut self, buffer: &mut Buffer, count: usize) {
        match self.encoding {
            Encoding::AsReceived => self.pass(buffer, count),
            Encoding::Bare => buffer.clear(count),
            Encoding::Chunked => {
                self.out.bytes.extend_from_slice(format!("{count:x}\r\n").as_bytes());
                self.copy(buffer, count);
                self.out.bytes.extend_from_slice(b"\r\n");
            }
        }
    }

    fn delimiter(&mut self, buffer: &mut Buffer, count: usize) {
        match self.encoding {
            Encoding::AsReceived => self.pass(buffer, count),
            Encoding::Bare | Encoding::Chunked => {
                self.settle(buffer);
                buffer.skip(count);
            }
        }
    }

    fn pass(&mut self, buffer: &mut Buffer, count: usize) {
        if self.out.is_kept() && (self.out.bytes.len() + count) as u64 <= self.kept {
            self.copy(buffer, count);
        } else {
            self.out.forget();
            buffer.clear(count);
        }
    }

    fn copy(&mut self, buffer: &mut Buffer, count: usize) {
        self.settle(buffer);
        self.out.bytes.extend_from_slice(buffer.unseen().get(..count).unwrap_or_default());
        buffer.skip(count);
    }

    /// What is cleared is written before what is to follow.
    fn settle(&mut self, buffer: &mut Buffer) {
        self.out.bytes.extend_from_slice(buffer.cleared());
        buffer.passed(buffer.cleared().len());
    }
}

/// Whether a field may come after the body: not what delimits or routes the message (RFC 9110 section 6.5.1), and not
/// what the mesh says.
fn may_trail(name: &[u8]) -> bool {
    const BARRED: [&str; 13] = [
        "transfer-encoding",
        "content-length",
        "host",
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
        "authorization",
        "x-request-id",
        "x-forwarded-for",
        "content-type",
    ];
    let barred = |barred: &&str| name.eq_ignore_ascii_case(barred.as_bytes());
    !is_ours(name) && !is_of_trace(name) && !BARRED.iter().any(barred) && HeaderName::from_bytes(name).is_ok()
}
