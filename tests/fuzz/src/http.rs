//! What comes before, and in, a request.

use std::time::{Duration, Instant};
use weft_core::classify;
use weft_proxy::http2::guard::{Guard, Role};

use weft_core::deadline;
use weft_core::detect::{Disguise, Progress, Sniffed, detect as first_word, disguise};
use weft_core::host::{Host, same_host};
use weft_core::path::Path;
use weft_core::session::{Session, cookie};
use weft_core::target::Target;
use weft_core::trace::formats::{Format, Sent};
use weft_core::trace::{TraceContext, w3c};

use crate::texts;

/// More bytes never change what was settled, however they are cut.
pub fn detect(bytes: &[u8]) {
    let all = first_word(bytes);
    let step = (bytes.len() / 64).max(1);
    for end in (0..bytes.len()).step_by(step) {
        if let Progress::Done(settled) = first_word(&bytes[..end]) {
            assert_eq!(all, Progress::Done(settled), "settled after {end} bytes");
        }
        match disguise(&bytes[..end]) {
            Disguise::Perhaps => {}
            settled => assert_eq!(disguise(bytes), settled, "settled after {end} bytes"),
        }
    }
    // What is HTTP to us is HTTP to the one who looks for HTTP that is none to us.
    if matches!(all, Progress::Done(Sniffed::Http1 | Sniffed::Http2)) && bytes.len() < 8192 {
        assert_eq!(disguise(bytes), Disguise::Request);
    }
}

pub fn first_words() -> Vec<Vec<u8>> {
    texts(&[
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "\r\n\r\nPOST /a?b HTTP/1.0\n",
        "CONNECT [::1]:443 HTTP/1.1\r\n",
        "OPTIONS * HTTP/1.1\r\n",
        "GET http://a/b HTTP/1.1\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET key\r\n",
        "EHLO a\r\n",
        "HELLO",
    ])
}

/// The forms of a path are settled: each is itself when read again.
pub fn path(bytes: &[u8]) {
    let Ok(path) = Path::parse(bytes) else { return };
    assert!(path.forwarded().len() <= bytes.len());
    assert!(!path.forwarded().iter().any(|byte| matches!(byte, 0..=b' ' | b'#' | 0x7f)));
    let again = Path::parse(path.forwarded()).expect("what is forwarded is a path");
    assert!(again.is_as_received());
    assert_eq!((again.matched(), again.literal()), (path.matched(), path.literal()));
    for segment in path.forwarded().split(|byte| matches!(byte, b'/' | b'?')).take(1) {
        assert!(!matches!(segment, b"." | b".."));
    }
    // The encoded forms may be longer than a target may be.
    if let Ok(matched) = Path::parse(path.matched().as_bytes()) {
        assert_eq!((matched.matched(), matched.literal()), (path.matched(), path.matched()));
    }
    for hidden in ["//", "/./", "/../", ";", "\\", "%2F", "%5C", "%3B"] {
        assert!(!path.matched().contains(hidden), "{} holds {hidden}", path.matched());
    }
}

pub fn paths() -> Vec<Vec<u8>> {
    texts(&[
        "/",
        "/orders/17?a=b",
        "/a/../b/./c//d",
        "/%2e%2e/%2F%5c\\/;x=y/..;z/",
        "/a%2F..%2Fb",
        "/%c0%ae%252e\u{e9}%E9|^",
        "/@scope%2fname",
    ])
}

/// A request's target: the first word is the method.
pub fn target(bytes: &[u8]) {
    let mut parts = bytes.splitn(2, |byte| *byte == b' ');
    let (method, target) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    match Target::parse(method, target) {
        Ok(Target::Absolute { host, authority, .. }) => {
            assert_eq!(Host::parse(authority), Ok(host));
        }
        Ok(Target::Authority(host)) => assert!(method == b"CONNECT" && host.port().is_some()),
        Ok(Target::Server) => assert_eq!((method, target), (&b"OPTIONS"[..], &b"*"[..])),
        Ok(Target::Origin(_)) => assert!(target.starts_with(b"/")),
        Err(error) => drop(error.to_string()),
    }
}

pub fn targets() -> Vec<Vec<u8>> {
    texts(&[
        "GET /a?b",
        "OPTIONS *",
        "CONNECT db:5432",
        "GET http://A.b:80/c/../d?e",
        "OPTIONS https://[::1]",
        "GET http://a?b",
    ])
}

/// A host is itself when it is written and read again.
pub fn host(bytes: &[u8]) {
    let Ok(host) = Host::parse(bytes) else { return };
    let written =
        host.port().map_or_else(|| host.name().to_owned(), |port| format!("{}:{port}", host.name()));
    let again = Host::parse(written.as_bytes()).expect("its normal form is a host");
    assert_eq!(again, host);
    assert!(same_host(&again, &host));
    assert!(
        host.name().is_ascii() && !host.name().bytes().any(|byte| byte.is_ascii_uppercase() || byte <= b' ')
    );
}

pub fn hosts() -> Vec<Vec<u8>> {
    texts(&[
        "orders",
        "Orders.Default.:8080",
        "10.0.0.1:1",
        "[::1]:80",
        "[fe80::1%eth0]",
        "a@b",
        "a..b",
        "a:80:80",
    ])
}

/// What was read is written as it was read.
pub fn traceparent(bytes: &[u8]) {
    let Some(context) = w3c::parse(bytes) else { return };
    assert_eq!(w3c::parse(&w3c::write(&context)), Some(context));
}

pub fn traceparents() -> Vec<Vec<u8>> {
    texts(&[
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03-later",
        "00-00000000000000000000000000000000-b7ad6b7169203331-00",
    ])
}

/// A state that is passed on has no byte that could end its field.
pub fn tracestate(bytes: &[u8]) {
    if w3c::state_is_valid(bytes.split(|byte| *byte == b'\n')) {
        assert!(bytes.iter().all(|byte| matches!(byte, b'\n' | b'\t' | b'\r' | 0x0c | b' '..=b'~')));
    }
}

pub fn tracestates() -> Vec<Vec<u8>> {
    texts(&["a=1,b@c=2\nd=3", "a= ,", "0@a*b/c_d-e=x y", "A=1"])
}

/// Lines of `name: value`: what is read of them can be written, and is then read again.
pub fn trace_headers(bytes: &[u8]) {
    let lines = bytes.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((&line[..colon], &line[colon + 1..]))
    });
    let lines: Vec<_> = lines.collect();
    for (name, _) in &lines {
        let named =
            |format: &Format| format.headers().iter().any(|one| name.eq_ignore_ascii_case(one.as_bytes()));
        assert_eq!(Format::of(name), Format::ALL.into_iter().find(named));
    }
    for format in Format::ALL {
        let value = |of: &str| lines.iter().find(|(name, _)| *name == of.as_bytes()).map(|(_, value)| *value);
        let Some(received) = format.read(value) else { continue };
        let begun = TraceContext::begin(&mut fastrand::Rng::with_seed(1), 0);
        let context = TraceContext { trace: received.trace.unwrap_or(begun.trace), ..begun };
        let changes = format.write(&Sent { context, debug: false }, value);
        let written =
            |of: &str| changes.iter().find(|(name, _)| *name == of)?.1.as_deref().map(str::as_bytes);
        if let Some(again) = format.read(written) {
            assert_eq!(again.span, Some(context.span));
        }
        let is_text = |text: &String| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        assert!(changes.iter().all(|(_, value)| value.as_ref().is_none_or(is_text)));
    }
}

pub fn traced_heads() -> Vec<Vec<u8>> {
    texts(&[
        "b3:0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-d-05e3ac9a4f6e3b90",
        "x-b3-traceid:8448eb211c80319c\nx-b3-spanid:b7ad6b7169203331\nx-b3-flags:1",
        "uber-trace-id:1f%3A2%3A0%3A3",
        "x-datadog-trace-id:9532127138774266268\nx-datadog-parent-id:7\nx-datadog-sampling-priority:-1\nx-datadog-tags:a=b,_dd.p.tid=0af7651916cd43dd",
        "x-amzn-trace-id:Self=1;Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=b7ad6b7169203331;Sampled=?",
        "ot-tracer-traceid:8448eb211c80319c\not-tracer-spanid:b7ad6b7169203331\not-tracer-sampled:true",
    ])
}

/// A session is read where its text is one, whatever cookies stand beside it.
pub fn session(bytes: &[u8]) {
    let brought = cookie(std::iter::once(bytes), "s");
    for text in brought.into_iter().chain([bytes]) {
        assert!(Session::read(text).is_none() || text.len() == 48);
    }
}

pub fn sessions() -> Vec<Vec<u8>> {
    let session = "00000000000000070000000000000009000f4240000f4240";
    texts(&[session, &format!("a=1; s={session}; b"), &format!("s=\"{session}\""), "s=", "s", "; ;=", "s=\""])
}

/// No status but those there are.
pub fn grpc_status(bytes: &[u8]) {
    if let Some(status) = classify::grpc_status(bytes) {
        assert!(bytes.iter().all(u8::is_ascii_digit), "{status}");
    }
}

pub fn grpc_statuses() -> Vec<Vec<u8>> {
    texts(&["0", "14", "016", "-1", "256"])
}

/// What is left of a deadline is never more than there was, and is read as it was written.
pub fn grpc_timeout(bytes: &[u8]) {
    let Some(allowed) = deadline::parse(bytes) else { return };
    let written = deadline::write(allowed);
    let read = deadline::parse(written.as_bytes()).expect("what we write");
    assert!(read <= allowed, "{allowed:?} became {read:?}");
    if let Some(left) = deadline::left(allowed, Duration::from_millis(3)) {
        assert!(left <= allowed);
    }
}

pub fn grpc_timeouts() -> Vec<Vec<u8>> {
    texts(&["1S", "99999999H", "100m", "0n", "123456789u", "-1S", "1"])
}

/// The guard of a connection of HTTP/2 comes to the same end however the bytes are cut.
pub fn frames(bytes: &[u8]) {
    let now = Instant::now();
    for role in [Role::Server, Role::Client] {
        let (mut whole, mut cut) = (Guard::new(role, now), Guard::new(role, now));
        whole.received(bytes, || now);
        let piece = usize::from(bytes.first().copied().unwrap_or_default()) % 17 + 1;
        bytes.chunks(piece).for_each(|piece| cut.received(piece, || now));
        assert_eq!(
            (whole.is_flooded(), whole.has_settings(), whole.open_block()),
            (cut.is_flooded(), cut.has_settings(), cut.open_block())
        );
        whole.sent(bytes);
    }
}

pub fn frame_seeds() -> Vec<Vec<u8>> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let frame = |kind: u8, flags: u8, stream: u8, body: &[u8]| {
        let length = u8::try_from(body.len()).expect("a short seed");
        [&[0, 0, length, kind, flags, 0, 0, 0, stream][..], body].concat()
    };
    let settings = frame(4, 0, 0, &[0, 3, 0, 0, 0, 100]);
    let headers = frame(1, 4, 1, b"\x82\x84\x86\x41\x01a");
    let open = [frame(1, 0, 1, b"\x82"), frame(9, 0, 1, b"\x84")].concat();
    let flood = frame(6, 0, 0, &[0; 8]).repeat(100);
    vec![
        [&preface[..], &settings, &headers, &frame(0, 1, 1, b"body")].concat(),
        [&preface[..], &settings, &open].concat(),
        [&preface[..], &flood].concat(),
        [
            &settings[..],
            &frame(3, 0, 1, &[0, 0, 0, 8]),
            &frame(8, 0, 0, &[0, 0, 0, 1]),
            &frame(7, 0, 0, &[0; 8]),
        ]
        .concat(),
    ]
}
