//! What the mesh answers itself: a status, its code in `weft-error`, and for gRPC a status that its clients understand.

use std::io::Write as _;

use http::{HeaderMap, Response, StatusCode};

use super::head::Terms;
use crate::failure::ErrorCode;

/// An answer of the mesh's own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusal<'a> {
    /// Why.
    pub(super) code: ErrorCode,
    /// What else there is to say of it.
    pub(super) fields: Option<&'a HeaderMap>,
    /// What the request said; none where its head could not be read.
    pub(super) terms: Option<&'a Terms>,
    /// Whether it is gRPC.
    pub(super) grpc: bool,
    /// Whether the connection will be used again.
    pub(super) persists: bool,
}

/// An answer of the mesh's own where nothing is wrong: it has no body.
#[derive(Debug)]
pub(super) struct Plain<'a> {
    /// Its status and fields.
    pub(super) response: &'a Response<()>,
    /// What the request said.
    pub(super) terms: &'a Terms,
    /// Whether the connection will be used again.
    pub(super) persists: bool,
}

impl Plain<'_> {
    /// Writes all of it.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let status = self.response.status();
        let (minor, reason) = (self.terms.minor, status.canonical_reason().unwrap_or_default());
        // Writing into memory does not fail.
        let _ = write!(out, "HTTP/1.{minor} {} {reason}\r\n", status.as_u16());
        write_fields(self.response.headers(), out);
        out.extend_from_slice(connection(self.persists, minor).as_bytes());
        // Where there can be no body, none is announced (RFC 9110 section 8.6).
        if status != StatusCode::NO_CONTENT {
            out.extend_from_slice(b"content-length: 0\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

fn write_fields(fields: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in fields {
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// The field that says whether the connection will be used again, where it must be said.
fn connection(persists: bool, minor: u8) -> &'static str {
    match (persists, minor) {
        (false, _) => "connection: close\r\n",
        (true, 0) => "connection: keep-alive\r\n",
        (true, _) => "",
    }
}

impl Refusal<'_> {
    /// Writes all of it.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let name = self.code.as_str();
        let minor = self.terms.map_or(1, |terms| terms.minor);
        let connection = connection(self.persists, minor);
        // Writing into memory does not fail.
        let _ = if self.grpc {
            // The status is always 200, and the call's own is in the head where there is no body.
            let _ = write!(
                out,
                "HTTP/1.{minor} 200 OK\r\nweft-error: {name}\r\ncontent-type: application/grpc\r\n\
                 grpc-status: {}\r\ngrpc-message: {name}\r\n",
                self.code.grpc_status(),
            );
            self.write_more(out);
            write!(out, "{connection}content-length: 0\r\n\r\n")
        } else {
            let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            let body = format!("weft: {name}\n");
            let written = if self.terms.is_some_and(|terms| terms.is_head) { "" } else { &body };
            let _ = write!(
                out,
                "HTTP/1.{minor} {} {}\r\nweft-error: {name}\r\ncontent-type: text/plain\r\n",
                status.as_u16(),
                status.canonical_reason().unwrap_or_default(),
            );
            self.write_more(out);
            write!(out, "{connection}content-length: {}\r\n\r\n{written}", body.len())
        };
    }

    fn write_more(&self, out: &mut Vec<u8>) {
        if let Some(fields) = self.fields {
            write_fields(fields, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::Framing;
    use crate::http1::{RequestHead, ResponseHead};

    #[test]
    fn an_answer_without_a_body_says_so_where_it_may() {
        let written = |status: u16, persists, minor| {
            let wire = format!("GET / HTTP/1.{minor}\r\nhost: a\r\n\r\n");
            let terms = RequestHead::parse(wire.as_bytes()).unwrap().terms;
            let response = Response::builder().status(status).header("location", "/b").body(()).unwrap();
            let mut out = Vec::new();
            Plain { response: &response, terms: &terms, persists }.write(&mut out);
            String::from_utf8(out).unwrap()
        };
        let found = "HTTP/1.1 302 Found\r\nlocation: /b\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(written(302, true, 1), found);
        let none = "HTTP/1.0 204 No Content\r\nlocation: /b\r\nconnection: close\r\n\r\n";
        assert_eq!(written(204, false, 0), none);
    }

    #[test]
    fn every_code_is_answered_in_http_and_in_grpc() {
        for code in ErrorCode::ALL {
            for (grpc, status) in [(false, code.status()), (true, 200)] {
                let mut out = Vec::new();
                Refusal { code, fields: None, terms: None, grpc, persists: false }.write(&mut out);
                let text = String::from_utf8(out.clone()).unwrap();
                let length = text.find("\r\n\r\n").unwrap() + 4;
                let head = ResponseHead::parse(&out[..length]).unwrap();
                assert_eq!((head.status, head.persists), (status, false), "{text}");
                assert_eq!(head.framing, Some(Framing::Length((out.len() - length) as u64)), "{text}");
                assert!(text.contains(&format!("weft-error: {code}\r\n")), "{text}");
                assert_eq!(
                    text.contains(&format!("grpc-status: {}\r\n", code.grpc_status())),
                    grpc,
                    "{text}"
                );
            }
        }
    }
}
