//! What becomes of a response's head on its way to the caller.

use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};

use super::Malformed;
use super::framing::Framing;
use super::head::{ResponseHead, Terms, Wish};
use super::way::Encoding;
use crate::http::Exchange;
use crate::http::head::{Fields, Value};
use crate::http::headers::{self, Upgrade};

/// What decides, beside the head itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Circumstances<'a> {
    /// What is told how it went, and knows what a route says.
    pub(super) exchange: &'a Exchange,
    /// What the request said.
    pub(super) terms: &'a Terms,
    /// Whether it came from a sidecar, which may speak for the mesh.
    pub(super) is_from_mesh: bool,
    /// Whether the caller's connection will be used again if the response allows it.
    pub(super) persists: bool,
    /// Whether all of the request has passed.
    pub(super) request_ended: bool,
}

/// What a head says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Another head follows (RFC 9110 section 15.2).
    Interim,
    /// The connections become something else.
    Switch,
    /// A body delimited so follows, written so.
    Final {
        framing: Framing,
        encoding: Encoding,
        /// Whether the caller's connection will be used again.
        persists: bool,
        /// Whether the endpoint's connection will be.
        server_persists: bool,
    },
}

/// Decides what a head means and writes it for the caller.
pub(super) fn pass(
    head: &mut ResponseHead<'_>,
    how: Circumstances<'_>,
    out: &mut Vec<u8>,
) -> Result<Answer, Malformed> {
    if !how.is_from_mesh {
        headers::disown(&mut head.fields);
    }
    match (head.status, how.terms.wish) {
        (101, Wish::Upgrade) => {
            headers::strip_hop_by_hop(&mut head.fields, Upgrade::Kept);
            how.exchange.amend_response(&mut head.fields);
            write(head, how.terms, out);
            Ok(Answer::Switch)
        }
        // Nobody asked for it.
        (101, _) => Err(Malformed::Line),
        (100..=199, _) => {
            headers::strip_hop_by_hop(&mut head.fields, Upgrade::Dropped);
            // A client of HTTP/1.0 knows none (RFC 9110 section 15.2).
            if how.terms.minor > 0 {
                write(head, how.terms, out);
            }
            Ok(Answer::Interim)
        }
        (200..=299, Wish::Tunnel) => {
            headers::strip_hop_by_hop(&mut head.fields, Upgrade::Dropped);
            // They would mean nothing here (RFC 9110 section 9.3.6).
            head.fields.remove(&CONTENT_LENGTH);
            head.fields.remove(&TRANSFER_ENCODING);
            how.exchange.amend_response(&mut head.fields);
            write(head, how.terms, out);
            Ok(Answer::Switch)
        }
        _ => Ok(pass_final(head, how, out)),
    }
}

fn pass_final(head: &mut ResponseHead<'_>, how: Circumstances<'_>, out: &mut Vec<u8>) -> Answer {
    let Circumstances { terms, request_ended, .. } = how;
    let has_body = !terms.is_head && !matches!(head.status, 204 | 304);
    let framing = if has_body { head.framing.unwrap_or(Framing::UntilClose) } else { Framing::Empty };
    // Whoever refuses a body does not read it: what the client has sent of it must not be taken for a request.
    let refused = !request_ended && (terms.expects || head.status >= 400);
    let mut persists = how.persists && !refused;
    // The field that tells why comes with the one that names it (RFC 9110 section 15.5.22).
    let upgrade = if head.status == 426 { Upgrade::Kept } else { Upgrade::Dropped };
    headers::strip_hop_by_hop(&mut head.fields, upgrade);
    how.exchange.amend_response(&mut head.fields);
    let encoding = match (terms.minor, framing) {
        (0, Framing::Chunked | Framing::UntilClose) => {
            persists = false;
            head.fields.remove(&TRANSFER_ENCODING);
            Encoding::Bare
        }
        (_, Framing::UntilClose) => {
            let chunked = HeaderValue::from_static("chunked");
            head.fields.append(&TRANSFER_ENCODING, Value::Shared(&chunked));
            Encoding::Chunked
        }
        _ => Encoding::AsReceived,
    };
    let said = match (persists, terms.minor) {
        (false, _) => Some(HeaderValue::from_static("close")),
        (true, 0) => Some(HeaderValue::from_static("keep-alive")),
        (true, _) => None,
    };
    if let Some(said) = said {
        head.fields.append(&CONNECTION, Value::Shared(&said));
    }
    write(head, terms, out);
    let server_persists = head.persists && framing != Framing::UntilClose;
    Answer::Final { framing, encoding, persists, server_persists }
}

fn write(head: &ResponseHead<'_>, terms: &Terms, out: &mut Vec<u8>) {
    out.extend_from_slice(if terms.minor == 0 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
    out.extend_from_slice(head.rest_of_line);
    head.fields.write(out);
    out.extend_from_slice(b"\r\n");
}
