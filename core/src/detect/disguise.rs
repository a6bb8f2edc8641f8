//! Requests among bytes that were not taken for HTTP: servers read more as a request than [`super::detect`] does, and are
//! more patient. What is said of callers and ruled of requests must not be got round by a word in lower case, or by a pause.

/// What the first bytes of a connection are to a generous server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disguise {
    /// A request, or the preface of HTTP/2.
    Request,
    /// It may still become one.
    Perhaps,
    /// Something else, whatever follows.
    None,
}

/// A first line longer than this is no server's request line.
const LONGEST_LINE: usize = 16 * 1024;

/// Looks at the first bytes of a connection; all of them again, when more have come.
pub fn disguise(bytes: &[u8]) -> Disguise {
    let whole = bytes.len() < LONGEST_LINE;
    let text = bytes.get(..LONGEST_LINE).unwrap_or(bytes).trim_ascii_start();
    // No server has a method that begins so; what follows may be anything, for some are very generous.
    if text.first().is_some_and(|byte| byte.is_ascii_control() || !byte.is_ascii()) {
        return Disguise::None;
    }
    match text.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        // The preface of HTTP/2 begins with a line of that form, too.
        Some(end) if names_http(text.get(..end).unwrap_or_default()) => Disguise::Request,
        None if whole => Disguise::Perhaps,
        Some(_) | None => Disguise::None,
    }
}

/// Whether a line ends in a version of HTTP, as request lines do (RFC 9112 section 3) and nothing else does.
fn names_http(line: &[u8]) -> bool {
    let word = line.trim_ascii_end().rsplit(u8::is_ascii_whitespace).next().unwrap_or_default();
    word.len() < line.len() && word.get(..5).is_some_and(|name| name.eq_ignore_ascii_case(b"HTTP/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Disguise) {
        assert_eq!(disguise(bytes), expected, "{}", String::from_utf8_lossy(bytes));
    }

    #[test]
    fn what_a_generous_server_reads_as_a_request_is_one() {
        for request in [
            "GET / HTTP/1.1\r\n",
            "get / http/1.1\r\nhost: a",
            "GET  /  HTTP/1.1\n",
            "\r\n\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r",
            " \tGET\t/\tHTTP/1.1 \r\n",
            "GET * HTTP/1.1\r\n",
            "X\u{e9} /\u{1}\0 HTTP/9\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        ] {
            check(request.as_bytes(), Disguise::Request);
        }
    }

    #[test]
    fn a_request_that_comes_byte_by_byte_is_found_at_the_end_of_its_line() {
        let request = b"get / HTTP/1.1\r\n";
        (0..request.len() - 2).for_each(|end| check(&request[..end], Disguise::Perhaps));
        check(&request[..request.len() - 1], Disguise::Request);
    }

    #[test]
    fn other_protocols_are_none() {
        for other in [
            &b"GET key\r\n"[..],
            b"EHLO mail.example\r\n",
            b"*1\r\n$4\r\nPING\r\n",
            b"HTTP/1.1\r\n",
            b"SSH-2.0-x\r\n",
            b"INFO {\"a\":1}\r\n",
            b"\x16\x03\x01",
            b"\0\0\0\x08",
            b"\xff\xfd",
            b"RTSP://a RTSP/1.0\r\n",
        ] {
            check(other, Disguise::None);
        }
        check(&[b'a'; LONGEST_LINE - 1], Disguise::Perhaps);
        check(&[b'a'; LONGEST_LINE], Disguise::None);
    }
}
