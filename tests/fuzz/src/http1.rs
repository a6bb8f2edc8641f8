//! HTTP/1, as the codec reads it.

use weft_proxy::http1::{Decoder, Framing, Piece, RequestHead, ResponseHead, end_of_lines, parse_trailers};

use crate::texts;

/// What is forwarded of a request means what was received: the same framing, and the same again at the next hop.
pub fn request(bytes: &[u8]) {
    let Ok(Some(end)) = end_of_lines(bytes, &mut 0) else { return };
    let Ok(head) = RequestHead::parse(&bytes[..end]) else { return };
    let mut forwarded = Vec::new();
    head.write(&mut forwarded);
    let again = RequestHead::parse(&forwarded).expect("what is forwarded is a request");
    assert_eq!(again.terms.framing, head.terms.framing);
    let mut twice = Vec::new();
    again.write(&mut twice);
    assert_eq!(twice, forwarded);
    body(head.terms.framing, &bytes[end..]);
}

pub fn requests() -> Vec<Vec<u8>> {
    texts(&[
        "GET /a/../b?c HTTP/1.1\r\nHost: orders\r\nX-Mixed: a\r\nConnection: close, x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n3;a=b\r\nabc\r\n0\r\nx: y\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /hidden HTTP/1.1\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
        "GET http://a/ HTTP/1.0\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ])
}

/// A response's head, and its body.
pub fn response(bytes: &[u8]) {
    let Ok(Some(end)) = end_of_lines(bytes, &mut 0) else { return };
    let Ok(head) = ResponseHead::parse(&bytes[..end]) else { return };
    assert!((100..=999).contains(&head.status), "{}", head.status);
    body(head.framing.unwrap_or(Framing::UntilClose), &bytes[end..]);
}

pub fn responses() -> Vec<Vec<u8>> {
    texts(&[
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200\r\n\r\n",
        "HTTP/1.0 404 \r\n\r\nuntil the end",
        "HTTP/1.1 099 \r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ])
}

/// Trailers, however they are cut into reads.
pub fn trailers(bytes: &[u8]) {
    let _ = parse_trailers(bytes);
    let whole = end_of_lines(bytes, &mut 0);
    let mut seen = 0;
    let found = (0..=bytes.len()).find_map(|end| end_of_lines(&bytes[..end], &mut seen).transpose());
    assert_eq!(found.transpose().is_err(), whole.is_err());
}

pub fn trailer_seeds() -> Vec<Vec<u8>> {
    texts(&["a: b\r\nc: d\r\n\r\n", "\r\n", "a : b\r\n\r\n", "a: b\n\n"])
}

/// A body is the same whether it is shown whole or byte by byte.
fn body(framing: Framing, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(2048)];
    assert_eq!(decode(framing, bytes, usize::MAX), decode(framing, bytes, 1));
}

/// The body's bytes, and whether it ended or broke.
fn decode(framing: Framing, bytes: &[u8], step: usize) -> (Vec<u8>, Option<bool>) {
    let (mut decoder, mut data) = (Decoder::new(framing), Vec::new());
    let (mut at, mut shown) = (0, bytes.len().min(step));
    loop {
        match decoder.next(&bytes[at..shown]) {
            Err(_) => return (data, Some(false)),
            Ok(Piece::End) => return (data, Some(true)),
            Ok(Piece::More) if shown == bytes.len() => return (data, None),
            Ok(Piece::More) => shown = (shown.saturating_add(step)).min(bytes.len()),
            Ok(Piece::Data(length)) => {
                data.extend_from_slice(&bytes[at..at + length]);
                at += length;
            }
            Ok(Piece::Size { line: length, .. } | Piece::Delimiter(length) | Piece::Trailers(length)) => {
                at += length
            }
        }
    }
}
