//! The codec against tables, against chance, and against hyper.

use proptest::prelude::*;
use weft_core::path::MAX_TARGET;

use super::*;
use crate::http::head::{Fields as _, Head as _, Value};
use crate::http::target::settle;

/// What a stream of requests is taken for: each head's lines, and each body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Vec<(String, String)>,
}

/// Bytes that a failed test shows legibly.
pub(super) fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn owned(fields: &FieldList<'_>) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| (text(name), text(value))).collect()
}

#[test]
fn another_host_is_asked_for_wherever_one_is_named() {
    let renamed = |wire: &str| {
        let mut head = RequestHead::parse(wire.as_bytes()).unwrap();
        head.set_host("b.example");
        let mut out = Vec::new();
        head.write(&mut out);
        (head.authority().to_owned(), String::from_utf8(out).unwrap())
    };
    let (host, tail) = ("b.example".to_owned(), "x: y\r\nhost: b.example\r\n\r\n");
    for (target, expected) in
        [("/p?q", "/p?q"), ("http://a:80/p", "http://b.example/p"), ("http://a", "http://b.example")]
    {
        let (named, written) = renamed(&format!("GET {target} HTTP/1.1\r\nHost: a:80\r\nx: y\r\n\r\n"));
        assert_eq!((named, written), (host.clone(), format!("GET {expected} HTTP/1.1\r\n{tail}")));
    }
    let (named, written) = renamed("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n");
    assert_eq!(named, "b.example:443");
    assert_eq!(written, "CONNECT b.example:443 HTTP/1.1\r\nhost: b.example:443\r\n\r\n");
    // Together with another path.
    let mut head = RequestHead::parse(b"GET http://a/p HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    head.set_host("b.example");
    head.set_target(b"/r").unwrap();
    let mut out = Vec::new();
    head.write(&mut out);
    assert_eq!(text(&out), text(b"GET http://b.example/r HTTP/1.1\r\nhost: b.example\r\n\r\n"));
}

/// Reads one request, with its body, from what comes in pieces of `step` bytes.
fn read_one(bytes: &[u8], step: usize) -> Result<Option<(Read, usize)>, Malformed> {
    let (mut seen, mut shown) = (0, 0);
    let length = loop {
        match end_of_lines(&bytes[..shown], &mut seen)? {
            Some(length) => break length,
            None if shown == bytes.len() => return Ok(None),
            None => shown = bytes.len().min(shown + step),
        }
    };
    let mut head = RequestHead::parse(&bytes[..length])?;
    settle(&mut head).map_err(|_| Malformed::Target)?;
    let mut line = Vec::new();
    head.write(&mut line);
    let line = String::from_utf8_lossy(&line);
    let target = line.split(' ').nth(1).unwrap().to_owned();
    let mut read = Read {
        method: head.method().to_string(),
        target,
        fields: owned(head.fields()),
        body: Vec::new(),
        trailers: Vec::new(),
    };
    let (mut decoder, mut at) = (Decoder::new(head.terms.framing), length);
    loop {
        match decoder.next(&bytes[at..shown])? {
            Piece::End => return Ok(Some((read, at))),
            Piece::More if shown == bytes.len() => return Ok(None),
            Piece::More => shown = bytes.len().min(shown + step),
            Piece::Data(count) => {
                read.body.extend_from_slice(&bytes[at..at + count]);
                at += count;
            }
            Piece::Delimiter(count) | Piece::Size { line: count, .. } => at += count,
            Piece::Trailers(count) => {
                read.trailers = owned(&parse_trailers(&bytes[at..at + count])?);
                at += count;
            }
        }
    }
}

pub(super) fn read_all(mut bytes: &[u8], step: usize) -> (Vec<Read>, Option<Malformed>) {
    let mut all = Vec::new();
    loop {
        match read_one(bytes, step) {
            Ok(Some((read, length))) => {
                all.push(read);
                bytes = &bytes[length..];
            }
            Ok(None) => return (all, None),
            Err(malformed) => return (all, Some(malformed)),
        }
    }
}

fn refused(request: &str, expected: Malformed) {
    for step in [1, 7, usize::MAX / 2] {
        assert_eq!(read_one(request.as_bytes(), step), Err(expected), "{request:?} in steps of {step}");
    }
}

fn taken(request: &str, body: &str) {
    for step in [1, 7, usize::MAX / 2] {
        let (read, length) = read_one(request.as_bytes(), step).unwrap().unwrap();
        assert_eq!((read.body.as_slice(), length), (body.as_bytes(), request.len()), "{request:?}");
    }
}

#[test]
fn heads_with_more_than_one_meaning_are_refused() {
    for (lines, expected) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", Malformed::Framing),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", Malformed::Framing),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", Malformed::Framing),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", Malformed::Framing),
        ("Content-Length: 5, 5\r\n", Malformed::Framing),
        ("Content-Length: +5\r\n", Malformed::Framing),
        ("Content-Length: -5\r\n", Malformed::Framing),
        ("Content-Length: 0x5\r\n", Malformed::Framing),
        ("Content-Length: 5 5\r\n", Malformed::Framing),
        ("Content-Length:\r\n", Malformed::Framing),
        ("Content-Length: 18446744073709551616\r\n", Malformed::Framing),
        ("Transfer-Encoding: gzip\r\n", Malformed::Framing),
        ("Transfer-Encoding: chunked, gzip\r\n", Malformed::Framing),
        ("Transfer-Encoding: chunked, chunked\r\n", Malformed::Framing),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Malformed::Framing),
        ("Transfer-Encoding: identity\r\n", Malformed::Framing),
        ("Transfer-Encoding: xchunked\r\n", Malformed::Framing),
        ("Transfer-Encoding: \x0bchunked\r\n", Malformed::Line),
        ("Transfer-Encoding:\r\n", Malformed::Framing),
        ("Host: a\r\n", Malformed::Target),
        ("Host: b\r\n", Malformed::Target),
        ("X: a\r\n b\r\n", Malformed::Line),
        ("X: a\r\n\tb\r\n", Malformed::Line),
        ("X : a\r\n", Malformed::Line),
        ("X\t: a\r\n", Malformed::Line),
        (": a\r\n", Malformed::Line),
        ("X\r\n", Malformed::Line),
        ("X(: a\r\n", Malformed::Line),
        ("X: a\0b\r\n", Malformed::Line),
        ("X: a\x01b\r\n", Malformed::Line),
        ("X: a\x7fb\r\n", Malformed::Line),
        ("X: a\rb\r\n", Malformed::Line),
        ("X: a\nY: b\r\n", Malformed::Line),
        ("X: a\n", Malformed::Line),
    ] {
        refused(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"), expected);
    }
}

#[test]
fn request_lines_and_hosts_have_one_meaning_or_are_refused() {
    for (request, expected) in [
        ("GET / HTTP/1.1\r\n\r\n", Malformed::Target),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", Malformed::Target),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n", Malformed::Target),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", Malformed::Target),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", Malformed::Target),
        ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", Malformed::Target),
        ("GET http://a:81/ HTTP/1.1\r\nHost: a:82\r\n\r\n", Malformed::Target),
        ("CONNECT a:1 HTTP/1.1\r\nHost: b:1\r\n\r\n", Malformed::Target),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 1\r\n\r\n", Malformed::Framing),
        ("CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n", Malformed::Target),
        ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", Malformed::Target),
        ("GET /../a HTTP/1.1\r\nHost: a\r\n\r\n", Malformed::Target),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", Malformed::Target),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", Malformed::Target),
        ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Malformed::Target),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", Malformed::Line),
        ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Malformed::Line),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", Malformed::Line),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n", Malformed::Line),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Malformed::Line),
        ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", Malformed::Line),
        ("GET / http/1.1\r\nHost: a\r\n\r\n", Malformed::Line),
        ("GET /\r\nHost: a\r\n\r\n", Malformed::Line),
        ("GET /\r\n\r\n", Malformed::Line),
        ("GE(T / HTTP/1.1\r\nHost: a\r\n\r\n", Malformed::Line),
        ("GET / HTTP/1.1\nHost: a\r\n\r\n", Malformed::Line),
        ("GET / HTTP/1.1\r\nHost: a\r\n\n", Malformed::Line),
        ("GET / HTTP/1.1\n\n", Malformed::Line),
        ("\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Malformed::Line),
        ("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Malformed::Framing),
    ] {
        refused(request, expected);
    }
}

#[test]
fn more_than_the_limits_is_refused() {
    let head = |fields: &str| format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    let many = |count: usize| head(&"a: b\r\n".repeat(count));
    let parse = |head: &str| RequestHead::parse(head.as_bytes()).map(|_| ());
    assert_eq!(parse(&many(MAX_FIELDS - 1)), Ok(()));
    assert_eq!(parse(&many(MAX_FIELDS)), Err(Malformed::TooLarge));
    let long = |length: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(length));
    assert_eq!(parse(&long(MAX_TARGET - 1)), Ok(()));
    assert_eq!(parse(&long(MAX_TARGET)), Err(Malformed::TooLarge));
}

#[test]
fn unusual_requests_are_taken_for_what_they_are() {
    taken("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", "hello");
    taken("POST / HTTP/1.1\r\nHost:a\r\ncontent-length:\t5 \r\n\r\nhello", "hello");
    taken("POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", "hello");
    taken("GET / HTTP/1.1\r\nHost: a\r\nX:\r\nY: \r\n\r\n", "");
    taken("GET http://A/ HTTP/1.1\r\nHost: a:80\r\n\r\n", "");
    taken("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", "");
    taken("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "");
    taken("BREW /%e2%98%95?milk=1 HTTP/1.1\r\nHost: a\r\n\r\n", "");
}

#[test]
fn chunks_have_one_size_or_are_refused() {
    let post = |body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n{body}");
    taken(&post("5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"), "hello world");
    taken(&post("05\r\nhello\r\n0000\r\n\r\n"), "hello");
    taken(&post("5;a=b;c=\"d\"\r\nhello\r\n0;x\r\n\r\n"), "hello");
    taken(&post("A\r\n0123456789\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n"), "0123456789");
    for (body, expected) in [
        ("\r\n", Malformed::Chunk),
        ("+5\r\nhello\r\n0\r\n\r\n", Malformed::Chunk),
        ("-5\r\nhello\r\n0\r\n\r\n", Malformed::Chunk),
        ("0x5\r\nhello\r\n0\r\n\r\n", Malformed::Chunk),
        (" 5\r\nhello\r\n0\r\n\r\n", Malformed::Chunk),
        ("5 \r\nhello\r\n0\r\n\r\n", Malformed::Chunk),
        ("5 ;a\r\nhello\r\n0\r\n\r\n", Malformed::Chunk),
        ("5\nhello\r\n0\r\n\r\n", Malformed::Chunk),
        ("5\r\nhello0\r\n\r\n", Malformed::Chunk),
        ("5\r\nhello\n0\r\n\r\n", Malformed::Chunk),
        ("5\r\nhello\r0\r\n\r\n", Malformed::Chunk),
        ("g\r\n", Malformed::Chunk),
        ("5;a\x01\r\nhello\r\n0\r\n\r\n", Malformed::Chunk),
        ("5;a\rb\r\nhello\r\n0\r\n\r\n", Malformed::Chunk),
        ("10000000000000000\r\n", Malformed::Chunk),
        ("00000000000000005\r\nhello\r\n", Malformed::Chunk),
        ("0\r\nX : 1\r\n\r\n", Malformed::Line),
        ("0\r\nX: 1\n\r\n", Malformed::Line),
        ("0\r\n a\r\n\r\n", Malformed::Line),
    ] {
        refused(&post(body), expected);
    }
    refused(&post(&format!("5;{}", "a".repeat(300))), Malformed::Chunk);
    refused(&post(&format!("0\r\n{}", "a: b\r\n".repeat(2000))), Malformed::TooLarge);
}

#[test]
fn what_is_not_touched_is_written_as_it_came() {
    let head = "GET /a?b HTTP/1.1\r\nX-One:  1 \r\nHost: a\r\nx-TWO: \u{e9}\r\nX-One: 2\r\nEmpty:\r\n\r\n";
    let mut parsed = RequestHead::parse(head.as_bytes()).unwrap();
    let mut written = Vec::new();
    parsed.write(&mut written);
    assert_eq!(String::from_utf8(written).unwrap(), head);

    let one = "x-one".parse().unwrap();
    assert_eq!(parsed.fields().all(&one).collect::<Vec<_>>(), [b"1", b"2"]);
    parsed.fields_mut().remove(&one);
    parsed.fields_mut().append(&one, Value::Once(b"3"));
    parsed.fields_mut().append(&"x-bad".parse().unwrap(), Value::Once(b"a\r\nb: c"));
    parsed.fields_mut().set(&"empty".parse().unwrap(), Value::Shared(&"4".parse().unwrap()));
    let mut written = Vec::new();
    parsed.write(&mut written);
    assert_eq!(
        String::from_utf8(written).unwrap(),
        "GET /a?b HTTP/1.1\r\nHost: a\r\nx-TWO: \u{e9}\r\nx-one: 3\r\nempty: 4\r\n\r\n"
    );
}

#[test]
fn a_path_is_forwarded_in_its_normal_form_and_its_target_in_the_form_it_had() {
    for (method, target, expected) in [
        ("GET", "/a/./b/../c?d=/../e", "/a/c?d=/../e"),
        ("GET", "http://Host:80/a/../b?c", "http://Host:80/b?c"),
        ("GET", "http://host:80", "http://host:80"),
        ("OPTIONS", "*", "*"),
    ] {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: host\r\n\r\n");
        let mut written = Vec::new();
        let mut head = RequestHead::parse(head.as_bytes()).unwrap();
        settle(&mut head).unwrap();
        head.write(&mut written);
        let expected = format!("{method} {expected} HTTP/1.1\r\n");
        assert!(String::from_utf8(written).unwrap().starts_with(&expected), "{target}");
    }
}

#[test]
fn responses_say_how_their_bodies_end() {
    let framing = |lines: &str| {
        let head = format!("HTTP/1.1 200 OK\r\n{lines}\r\n");
        ResponseHead::parse(head.as_bytes()).map(|head| (head.framing, head.persists))
    };
    assert_eq!(framing(""), Ok((None, true)));
    assert_eq!(framing("Connection: close\r\n"), Ok((None, false)));
    assert_eq!(framing("Content-Length: 7\r\n"), Ok((Some(Framing::Length(7)), true)));
    assert_eq!(framing("Transfer-Encoding: chunked\r\n"), Ok((Some(Framing::Chunked), true)));
    for bad in
        ["Content-Length: 7\r\nContent-Length: 8\r\n", "Content-Length: a\r\n", "Transfer-Encoding: x\r\n"]
    {
        assert_eq!(framing(bad), Err(Malformed::Framing), "{bad}");
    }
    let odd = b"HTTP/1.0 299 \xe9t\xe9\r\nA: b\r\n\r\n";
    let odd = ResponseHead::parse(odd).unwrap();
    assert_eq!((odd.status, odd.rest_of_line, odd.persists), (299, &b"299 \xe9t\xe9\r\n"[..], false));
    for bad in
        ["HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 OK\r\n\r\n", "ICY 200 OK\r\n\r\n", "\r\nHTTP/1.1 200 OK\r\n\r\n"]
    {
        assert!(ResponseHead::parse(bad.as_bytes()).is_err(), "{bad:?}");
    }
}

/// A request that is one, and what it is to be read as.
pub(super) fn request() -> impl Strategy<Value = (Vec<u8>, Read)> {
    let method = prop_oneof![Just("GET"), Just("POST"), Just("PUT"), Just("BREW")];
    let target = "(/[a-z0-9_-]{1,8}){1,4}(\\?[a-z=&]{0,9})?";
    let names = "[A-Za-z][A-Za-z0-9-]{0,11}x";
    let value = "([!-~\u{e9}]([ -~\u{e9}]{0,20}[!-~])?)?";
    let fields = proptest::collection::vec((names, value), 0..8);
    let body = proptest::collection::vec(any::<u8>(), 0..300);
    (method, target, fields, body, 1..64_usize, any::<bool>()).prop_map(
        |(method, target, fields, body, chunk, chunked)| {
            let mut bytes = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n").into_bytes();
            let mut read = Read {
                method: method.to_owned(),
                target,
                fields: vec![("Host".to_owned(), "a".to_owned())],
                body: body.clone(),
                trailers: Vec::new(),
            };
            for (name, value) in fields {
                bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
                read.fields.push((name, text(value.as_bytes())));
            }
            if chunked {
                bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                read.fields.push(("Transfer-Encoding".to_owned(), "chunked".to_owned()));
                for piece in body.chunks(chunk) {
                    bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
                    bytes.extend_from_slice(piece);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\nX-Trailer: t\r\n\r\n");
                read.trailers.push(("X-Trailer".to_owned(), "t".to_owned()));
            } else {
                bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                read.fields.push(("Content-Length".to_owned(), body.len().to_string()));
                bytes.extend_from_slice(&body);
            }
            (bytes, read)
        },
    )
}

proptest! {
    #[test]
    fn pipelined_requests_are_read_one_by_one_however_they_arrive(
        requests in proptest::collection::vec(request(), 1..5),
        step in 1..80_usize,
    ) {
        let bytes: Vec<u8> = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        let expected: Vec<Read> = requests.into_iter().map(|(_, read)| read).collect();
        prop_assert_eq!(read_all(&bytes, step), (expected, None));
    }

    #[test]
    fn bytes_of_any_kind_mean_the_same_however_they_arrive(
        requests in proptest::collection::vec(request(), 1..3),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        step in 1..40_usize,
    ) {
        let mut bytes: Vec<u8> = requests.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
        for (index, byte) in damage {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        prop_assert_eq!(read_all(&bytes, step), read_all(&bytes, usize::MAX / 2));
    }

    #[test]
    fn what_is_written_is_read_as_what_was_read(request in request()) {
        let (bytes, expected) = request;
        let mut seen = 0;
        let length = end_of_lines(&bytes, &mut seen).unwrap().unwrap();
        let mut written = Vec::new();
        RequestHead::parse(&bytes[..length]).unwrap().write(&mut written);
        prop_assert_eq!(&written[..], &bytes[..length]);
        written.extend_from_slice(&bytes[length..]);
        prop_assert_eq!(read_one(&written, 1000).unwrap().unwrap().0, expected);
    }
}
