//! First bytes of a client -> what is spoken (stage 2 of a request's life).
//!
//! Pure and incremental: [`detect`] is asked again with all bytes so far whenever more arrive. It never takes text for
//! HTTP that lacks an HTTP request line, and says how long it is worth waiting for the rest.

mod client_hello;
mod disguise;
mod named_host;

pub use client_hello::ClientHello;
pub use disguise::{Disguise, disguise};
pub use named_host::{NamedHost, named_host};

/// What the client's first bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sniffed {
    /// An HTTP/1.0 or HTTP/1.1 request line.
    Http1,
    /// The HTTP/2 connection preface.
    Http2,
    /// A TLS handshake, with what it says in the clear.
    Tls(ClientHello),
    /// Anything else.
    Opaque,
}

/// The answer for the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// More bytes cannot change it.
    Done(Sniffed),
    /// It may still become one of several.
    More(Patience),
}

/// How long the rest is worth waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Patience {
    /// Text that could be anything: a word in capitals.
    Brief,
    /// The beginning of something known.
    Long,
}

/// No more than this is ever needed; a plausible request line that is longer counts as HTTP.
pub const MAX_BYTES: usize = 16 * 1024;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const METHODS: [&[u8]; 12] = [
    b"GET",
    b"POST",
    b"PUT",
    b"HEAD",
    b"DELETE",
    b"OPTIONS",
    b"PATCH",
    b"CONNECT",
    b"TRACE",
    b"PROPFIND",
    b"REPORT",
    b"QUERY",
];

/// Method tokens longer than this are not waited for.
const MAX_METHOD: usize = 24;

/// Whether `bytes`, the first of a connection, may begin TLS.
pub fn may_be_tls(bytes: &[u8]) -> bool {
    bytes.first() == Some(&client_hello::HANDSHAKE)
}

/// Says what `bytes`, the first of a connection, are.
pub fn detect(bytes: &[u8]) -> Progress {
    match bytes.first() {
        None => Progress::More(Patience::Brief),
        Some(&client_hello::HANDSHAKE) => match client_hello::read(bytes) {
            client_hello::Read::Hello(hello) => Progress::Done(Sniffed::Tls(hello)),
            client_hello::Read::More if bytes.len() < MAX_BYTES => Progress::More(Patience::Long),
            client_hello::Read::More | client_hello::Read::Malformed => Progress::Done(Sniffed::Opaque),
        },
        Some(_) if bytes.starts_with(PREFACE) => Progress::Done(Sniffed::Http2),
        Some(_) if PREFACE.starts_with(bytes) => Progress::More(Patience::Long),
        Some(_) => request_line(bytes),
    }
}

/// RFC 9112 section 3: method SP request-target SP HTTP-version CRLF, after at most a few empty lines (section 2.2).
fn request_line(bytes: &[u8]) -> Progress {
    const OPAQUE: Progress = Progress::Done(Sniffed::Opaque);
    let empty = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
    if empty > 4 {
        return OPAQUE;
    }
    let line = bytes.get(empty..).unwrap_or_default();
    if empty > 0 && line.is_empty() {
        return Progress::More(Patience::Brief);
    }
    let method_length = line.iter().take_while(|b| is_method_byte(**b)).count();
    let (method, rest) = line.split_at_checked(method_length).unwrap_or((line, &[]));
    if method.is_empty() || method.len() > MAX_METHOD {
        return OPAQUE;
    }
    let Some(rest) = rest.strip_prefix(b" ") else {
        return if rest.is_empty() { Progress::More(patience(method)) } else { OPAQUE };
    };
    let target_length = rest.iter().take_while(|b| **b > b' ' && **b != 0x7f).count();
    let (target, rest) = rest.split_at_checked(target_length).unwrap_or((rest, &[]));
    if !target_is_plausible(method, target, !rest.is_empty()) {
        return OPAQUE;
    }
    let Some(version) = rest.strip_prefix(b" ") else {
        return match rest {
            [] if bytes.len() >= MAX_BYTES => Progress::Done(Sniffed::Http1),
            [] => Progress::More(Patience::Long),
            _ => OPAQUE,
        };
    };
    let is_begun_by_version = |end: &[u8]| version.starts_with(end);
    if [&b"HTTP/1.1\r\n"[..], b"HTTP/1.0\r\n", b"HTTP/1.1\n", b"HTTP/1.0\n"]
        .into_iter()
        .any(is_begun_by_version)
    {
        return Progress::Done(Sniffed::Http1);
    }
    let may_become_version = |end: &[u8]| end.starts_with(version);
    if [&b"HTTP/1.1\r\n"[..], b"HTTP/1.0\r\n"].into_iter().any(may_become_version) {
        return Progress::More(Patience::Long);
    }
    OPAQUE
}

/// Methods in use are in capitals; a lower-case word is text.
fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_')
}

fn patience(method: &[u8]) -> Patience {
    if METHODS.iter().any(|known| known.starts_with(method)) { Patience::Long } else { Patience::Brief }
}

/// RFC 9112 section 3.2: origin, absolute, authority (CONNECT) and asterisk form; `Redis GET key` has none of them.
fn target_is_plausible(method: &[u8], target: &[u8], complete: bool) -> bool {
    if method == b"CONNECT" {
        let authority =
            |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'%');
        return target.iter().all(authority) && (!complete || target.contains(&b':'));
    }
    match target {
        [] => !complete,
        [b'/', ..] => true,
        [b'*'] => method == b"OPTIONS",
        _ => [&b"http://"[..], b"https://"].into_iter().any(|scheme| {
            let length = target.len().min(scheme.len());
            let begins = target.iter().zip(scheme).all(|(a, b)| a.eq_ignore_ascii_case(b));
            begins && (length == scheme.len() || !complete)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Sniffed) {
        assert_eq!(detect(bytes), Progress::Done(expected), "{:?}", String::from_utf8_lossy(bytes));
    }

    fn check_more(bytes: &[u8], expected: Patience) {
        assert_eq!(detect(bytes), Progress::More(expected), "{:?}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn request_lines_are_http1() {
        for line in [
            "GET / HTTP/1.1\r\n",
            "\r\nGET / HTTP/1.1\r\n",
            "POST /a?b=c HTTP/1.0\r\nhost: x\r\n\r\nbody",
            "PURGE /x HTTP/1.1\n",
            "M-SEARCH /x HTTP/1.1\r\n",
            "OPTIONS * HTTP/1.1\r\n",
            "GET http://orders:8080/x HTTP/1.1\r\n",
            "CONNECT orders:443 HTTP/1.1\r\n",
            "GET /\u{e9} HTTP/1.1\r\n",
        ] {
            check(line.as_bytes(), Sniffed::Http1);
        }
        let long = format!("GET /{} HTTP", "a".repeat(MAX_BYTES));
        check(&long.as_bytes()[..MAX_BYTES], Sniffed::Http1);
    }

    #[test]
    fn the_preface_is_http2() {
        check(PREFACE, Sniffed::Http2);
        check(&[PREFACE, &[0, 0, 0, 4]].concat(), Sniffed::Http2);
    }

    #[test]
    fn text_of_other_protocols_is_opaque() {
        for text in [
            "hello, twenty-two byte", // and no newline
            "HELLO WORLD",
            "PING\r\n",
            "GET foo\r\n",
            "GET /foo\r\n",
            "SET a b\r\n",
            "*1\r\n$4\r\nPING\r\n",
            "CONNECT {\"verbose\":false}\r\n",
            "CONNECT\naccept-version:1.2\n",
            "CONNECT nohost HTTP/1.1\r\n",
            "OPTIONS rtsp://x RTSP/1.0\r\n",
            "DESCRIBE /x RTSP/1.0\r\n",
            "OPTIONS sip:a@b SIP/2.0\r\n",
            "GET / HTTP/2.0\r\n",
            "GET / HTTP/1.1 \r\n",
            "GET  / HTTP/1.1\r\n",
            "GET * HTTP/1.1\r\n",
            "GET /a\0b HTTP/1.1\r\n",
            "EHLO mail\r\n",
            "\r\n\r\n\r\n\r\n",
            "PRI * HTTP/2.1\r\n",
            "SSH-2.0-OpenSSH_9\r\n",
            "\u{10}\u{1b}\0\u{4}MQTT",
            "\0\0\0\u{8}\u{4}\u{d2}\u{16}\u{2f}",
            "AMQP\0\0\u{9}\u{1}",
        ] {
            check(text.as_bytes(), Sniffed::Opaque);
        }
        check("A".repeat(MAX_METHOD + 1).as_bytes(), Sniffed::Opaque);
    }

    #[test]
    fn beginnings_of_known_things_are_waited_for_longer_than_words() {
        for beginning in [
            "P",
            "PR",
            "PRI * HTTP/2",
            "GE",
            "GET",
            "GET ",
            "GET /x",
            "GET /x HTTP/1",
            "GET htt",
            "CONNECT orders",
        ] {
            check_more(beginning.as_bytes(), Patience::Long);
        }
        for word in ["", "\r\n", "X", "HELLO", "AMQP"] {
            check_more(word.as_bytes(), Patience::Brief);
        }
    }

    #[test]
    fn byte_by_byte_and_all_at_once_agree() {
        let seed = fastrand::u64(..);
        let mut rng = fastrand::Rng::with_seed(seed);
        let alphabet = b"GETPOSR /*:h.tp1\r\n\0\x16\x03\x01az{";
        for _ in 0..20_000 {
            let mut bytes: Vec<u8> = match rng.u8(..4) {
                0 => b"GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_vec(),
                1 => PREFACE.to_vec(),
                2 => client_hello::tests::hello(Some("orders"), &[b"h2"]),
                _ => (0..rng.usize(..40)).map(|_| alphabet[rng.usize(..alphabet.len())]).collect(),
            };
            for _ in 0..rng.usize(..3) {
                if !bytes.is_empty() {
                    let at = rng.usize(..bytes.len());
                    bytes[at] = rng.u8(..);
                }
            }
            let first =
                (0..=bytes.len()).map(|n| detect(&bytes[..n])).find(|p| matches!(p, Progress::Done(_)));
            match detect(&bytes) {
                Progress::Done(all) => assert_eq!(first, Some(Progress::Done(all)), "seed {seed} {bytes:?}"),
                Progress::More(_) => assert_eq!(first, None, "seed {seed} {bytes:?}"),
            }
        }
    }
}
