//! Heads of requests and responses: what httparse finds in them, and what may not be in them.

use std::mem::MaybeUninit;
use std::time::Duration;

use http::Method;
use http::header::{self, HeaderName};
use httparse::{Header, ParserConfig, Status};

use super::Malformed;
use super::fields::FieldList;
use super::framing::Framing;
use super::target::Target;
use crate::failure::ErrorCode;
use crate::http::head::{Fields, Head, Value};
use crate::http::headers::{KEEP_ALIVE, asks_upgrade, tokens};

static CONNECTION: HeaderName = header::CONNECTION;
static EXPECT: HeaderName = header::EXPECT;
static HOST: HeaderName = header::HOST;

/// Bytes of a head, at most.
pub const MAX_HEAD: usize = 64 * 1024;

/// Fields of a head, at most.
pub const MAX_FIELDS: usize = 256;

/// A request's head. It refers to the received bytes.
#[derive(Debug)]
pub struct RequestHead<'b> {
    method: Method,
    target: Target<'b>,
    fields: FieldList<'b>,
    /// What decides how its body and its connection go on.
    pub terms: Terms,
}

/// What a request's head says of its body and its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// The version: HTTP/1.1, or 0 for HTTP/1.0.
    pub minor: u8,
    /// How its body is delimited.
    pub framing: Framing,
    /// Whether the connection is to be used again.
    pub persists: bool,
    /// Whether the client waits for leave to send the body.
    pub expects: bool,
    /// What the connection is to become.
    pub wish: Wish,
    /// Whether the response will have no body.
    pub is_head: bool,
    /// Whether it may be repeated unasked (RFC 9110 section 9.2.2).
    pub is_idempotent: bool,
}

/// What a request wants its connection to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Nothing else.
    None,
    /// What its `Upgrade` field says; granted with 101.
    Upgrade,
    /// A tunnel (`CONNECT`); granted with 2xx.
    Tunnel,
}

/// A response's head. It refers to the received bytes.
#[derive(Debug)]
pub struct ResponseHead<'b> {
    /// The status.
    pub status: u16,
    /// The status line from the status on, with its CRLF.
    pub rest_of_line: &'b [u8],
    /// Its fields.
    pub fields: FieldList<'b>,
    /// What its fields say of its body; nothing where they say nothing.
    pub framing: Option<Framing>,
    /// Whether the connection may be used again, by its version and fields.
    pub persists: bool,
}

/// Finds the end of a head, or of other lines that an empty one ends: their length with it. `seen` says how far was
/// looked, so that nothing is looked at twice when more has come.
///
/// # Errors
/// A line does not end with CRLF (RFC 9112 section 2.2 would allow it, but not all agree on what such a message is).
pub fn end_of_lines(bytes: &[u8], seen: &mut usize) -> Result<Option<usize>, Malformed> {
    while let Some(found) = memchr::memchr(b'\n', bytes.get(*seen..).unwrap_or_default()) {
        let end = *seen + found;
        let line = bytes.get(..end).unwrap_or_default();
        *seen = end + 1;
        match line {
            [.., b'\n', b'\r'] => return Ok(Some(end + 1)),
            [.., b'\r'] => {}
            _ => return Err(Malformed::Line),
        }
    }
    *seen = bytes.len();
    Ok(None)
}

impl<'b> RequestHead<'b> {
    /// Reads a whole head, with its empty line, as [`end_of_lines`] finds it.
    ///
    /// # Errors
    /// It is none, or has more than one meaning.
    pub fn parse(bytes: &'b [u8]) -> Result<Self, Malformed> {
        let mut uninit: [MaybeUninit<Header<'b>>; MAX_FIELDS] = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut []);
        let parsed =
            ParserConfig::default().parse_request_with_uninit_headers(&mut request, bytes, &mut uninit);
        whole(parsed, bytes)?;
        let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version)
        else {
            return Err(Malformed::Line);
        };
        let fields = FieldList::new(bytes, request.headers, bytes.len().saturating_sub(2));
        let method = Method::from_bytes(method.as_bytes()).map_err(|_| Malformed::Line)?;
        let target = Target::parse(&method, target)?;
        let terms = Terms::of(&method, minor, &fields)?;
        Ok(Self { method, target, fields, terms })
    }

    /// Writes it for the next hop, to which all is HTTP/1.1 (RFC 9110 section 6.2).
    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.push(b' ');
        self.target.write(out);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        self.fields.write(out);
        out.extend_from_slice(b"\r\n");
    }
}

impl Terms {
    fn of(method: &Method, minor: u8, fields: &FieldList<'_>) -> Result<Self, Malformed> {
        let framing = Framing::of(fields, minor)?.unwrap_or(Framing::Empty);
        let wish = match *method {
            // What follows is not a body but what the tunnel will carry (RFC 9110 section 9.3.6).
            Method::CONNECT if framing != Framing::Empty => return Err(Malformed::Framing),
            Method::CONNECT => Wish::Tunnel,
            _ if minor == 1 && asks_upgrade(fields) => Wish::Upgrade,
            _ => Wish::None,
        };
        let expects = minor == 1
            && framing != Framing::Empty
            && fields.first(&EXPECT).is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
        let idempotent =
            [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE];
        Ok(Self {
            minor,
            framing,
            persists: persists(fields, minor),
            expects,
            wish,
            is_head: *method == Method::HEAD,
            is_idempotent: idempotent.contains(method),
        })
    }
}

impl<'b> Head for RequestHead<'b> {
    type Fields = FieldList<'b>;

    fn method(&self) -> &Method {
        &self.method
    }

    fn authority(&self) -> &str {
        match self.target.authority() {
            Some(authority) => authority,
            None => self.fields.first(&HOST).and_then(|host| str::from_utf8(host).ok()).unwrap_or_default(),
        }
    }

    fn target_authority(&self) -> Option<&str> {
        self.target.authority()
    }

    fn target(&self) -> Option<&str> {
        self.target.path_and_query()
    }

    fn set_target(&mut self, target: &[u8]) -> Result<(), ErrorCode> {
        self.target.settle(target);
        Ok(())
    }

    fn must_name_host(&self) -> bool {
        self.terms.minor > 0
    }

    fn path(&self) -> &str {
        let target = self.target().unwrap_or_default();
        target.split_once('?').map_or(target, |(path, _)| path)
    }

    fn query(&self) -> Option<&str> {
        self.target().and_then(|target| target.split_once('?')).map(|(_, query)| query)
    }

    fn set_host(&mut self, host: &str) {
        // Of the two that may name it none may be left to disagree (RFC 9112 section 3.2.2).
        self.target.rename(host);
        let host = match self.target.authority() {
            Some(authority) => authority,
            None => host,
        };
        self.fields.set(&HOST, Value::Once(host.as_bytes()));
    }

    fn fields(&self) -> &FieldList<'b> {
        &self.fields
    }

    fn fields_mut(&mut self) -> &mut FieldList<'b> {
        &mut self.fields
    }
}

impl<'b> ResponseHead<'b> {
    /// Reads a whole head, with its empty line, as [`end_of_lines`] finds it.
    ///
    /// # Errors
    /// It is none, or has more than one meaning.
    pub fn parse(bytes: &'b [u8]) -> Result<Self, Malformed> {
        let mut uninit: [MaybeUninit<Header<'b>>; MAX_FIELDS] = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut []);
        let parsed =
            ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, &mut uninit);
        whole(parsed, bytes)?;
        let (Some(status), Some(minor)) = (response.code, response.version) else {
            return Err(Malformed::Line);
        };
        // Of five classes none begins with 0 (RFC 9110 section 15).
        if status < 100 {
            return Err(Malformed::Line);
        }
        let line_end = memchr::memchr(b'\n', bytes).ok_or(Malformed::Line)?;
        let rest_of_line = bytes.get("HTTP/1.1 ".len()..=line_end).ok_or(Malformed::Line)?;
        let fields = FieldList::new(bytes, response.headers, bytes.len().saturating_sub(2));
        let framing = Framing::of(&fields, minor)?;
        Ok(Self { status, rest_of_line, framing, persists: persists(&fields, minor), fields })
    }

    /// For how long the server says that it leaves the connection idle: `timeout` of `Keep-Alive` (RFC 2068 section 19.7.1.1,
    /// which nothing has replaced).
    pub fn patience(&self) -> Option<Duration> {
        let mut parameters = self.fields.all(&KEEP_ALIVE).flat_map(tokens);
        parameters.find_map(|parameter| {
            let (name, seconds) = str::from_utf8(parameter).ok()?.split_once('=')?;
            let is_timeout = name.trim_end().eq_ignore_ascii_case("timeout");
            is_timeout.then_some(Duration::from_secs(seconds.trim_start().parse().ok()?))
        })
    }
}

/// Reads trailers, with the empty line after them.
///
/// # Errors
/// They are none.
pub fn parse_trailers(bytes: &[u8]) -> Result<FieldList<'_>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_FIELDS];
    match httparse::parse_headers(bytes, &mut headers) {
        Ok(Status::Complete((length, headers))) if length == bytes.len() => {
            Ok(FieldList::new(bytes, headers, length.saturating_sub(2)))
        }
        Ok(_) => Err(Malformed::Line),
        Err(error) => Err(error.into()),
    }
}

fn whole(parsed: httparse::Result<usize>, bytes: &[u8]) -> Result<(), Malformed> {
    match parsed {
        Ok(Status::Complete(length)) if length == bytes.len() => Ok(()),
        Ok(_) => Err(Malformed::Line),
        Err(error) => Err(error.into()),
    }
}

/// Whether a connection is used again after a message (RFC 9112 section 9.3).
fn persists(fields: &FieldList<'_>, minor: u8) -> bool {
    let mut persists = minor == 1;
    for token in fields.all(&CONNECTION).flat_map(tokens) {
        if token.eq_ignore_ascii_case(b"close") {
            return false;
        }
        persists |= token.eq_ignore_ascii_case(b"keep-alive");
    }
    persists
}
