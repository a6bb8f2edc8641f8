//! What a TLS ClientHello says in the clear: server name and application protocols (RFC 8446 section 4.1.2).

/// The record type of a handshake: the first byte of every TLS connection.
pub(super) const HANDSHAKE: u8 = 0x16;

/// What a client says before anything is encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClientHello {
    /// The host it asks for (RFC 6066 section 3).
    pub server_name: Option<String>,
    /// The application protocols it offers (RFC 7301).
    pub alpn: Vec<Vec<u8>>,
}

pub(super) enum Read {
    Hello(ClientHello),
    More,
    Malformed,
}

/// Reads the ClientHello at the start of `bytes`, over as many records as it takes.
pub(super) fn read(bytes: &[u8]) -> Read {
    let mut records = Cursor(bytes);
    let mut message = Vec::new();
    while !is_complete(&message) {
        // Each field is checked as soon as it is there, so that what cannot be TLS is not waited for.
        match records.0 {
            [] => return Read::More,
            [HANDSHAKE] | [HANDSHAKE, 3] => return Read::More,
            [HANDSHAKE, 3, 0..=4, rest @ ..] => match rest {
                [_] | [] => return Read::More,
                [high, low, ..] if !(1..=16_384).contains(&u16::from_be_bytes([*high, *low])) => {
                    return Read::Malformed;
                }
                _ => {}
            },
            _ => return Read::Malformed,
        }
        records.take(3);
        let length = usize::from(records.u16().unwrap_or_default());
        let available = records.0.get(..length.min(records.0.len())).unwrap_or_default();
        message.extend_from_slice(available);
        if message.first().is_some_and(|kind| *kind != 1) {
            return Read::Malformed;
        }
        if available.len() < length && !is_complete(&message) {
            return Read::More;
        }
        records.take(available.len());
    }
    parse(Cursor(&message)).map_or(Read::Malformed, Read::Hello)
}

fn is_complete(message: &[u8]) -> bool {
    match message {
        [_, a, b, c, body @ ..] => {
            body.len() >= usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap_or(usize::MAX)
        }
        _ => false,
    }
}

fn parse(mut message: Cursor<'_>) -> Option<ClientHello> {
    message.take(1)?;
    let length = message.take(3)?;
    let &[a, b, c] = length else { return None };
    let mut body = Cursor(message.take(usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?)?);
    body.take(2 + 32)?; // version, random
    body.vector8()?; // session id
    body.vector16()?; // cipher suites
    body.vector8()?; // compression methods
    let mut hello = ClientHello::default();
    if body.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = body.vector16()?;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut extension = extensions.vector16()?;
        match kind {
            0 => hello.server_name = server_name(extension.vector16()?),
            16 => hello.alpn = protocols(extension.vector16()?)?,
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(mut names: Cursor<'_>) -> Option<String> {
    while !names.0.is_empty() {
        let kind = names.u8()?;
        let name = names.vector16()?;
        if kind == 0 {
            let text = std::str::from_utf8(name.0).ok()?;
            return (!text.is_empty() && text.is_ascii()).then(|| text.to_ascii_lowercase());
        }
    }
    None
}

fn protocols(mut list: Cursor<'_>) -> Option<Vec<Vec<u8>>> {
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        protocols.push(list.vector8()?.0.to_vec());
    }
    Some(protocols)
}

/// Reads forward; every step may find too little.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u16(&mut self) -> Option<u16> {
        let &[high, low] = self.take(2)? else { return None };
        Some(u16::from_be_bytes([high, low]))
    }

    fn vector8(&mut self) -> Option<Self> {
        let length = self.u8()?;
        self.take(length.into()).map(Cursor)
    }

    fn vector16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(length.into()).map(Cursor)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn vector16(bytes: &[u8]) -> Vec<u8> {
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
    }

    fn record(bytes: &[u8]) -> Vec<u8> {
        [&[HANDSHAKE, 3, 1][..], &vector16(bytes)].concat()
    }

    fn message(server_name: Option<&str>, alpn: &[&[u8]]) -> Vec<u8> {
        let mut extensions = vec![0xff, 0x01, 0, 1, 0];
        if let Some(name) = server_name {
            let names = vector16(&[&[0][..], &vector16(name.as_bytes())].concat());
            extensions.extend([&[0, 0][..], &vector16(&names)].concat());
        }
        if !alpn.is_empty() {
            let list: Vec<u8> =
                alpn.iter().flat_map(|p| [&[u8::try_from(p.len()).unwrap()][..], p].concat()).collect();
            extensions.extend([&[0, 16][..], &vector16(&vector16(&list))].concat());
        }
        let body =
            [&[3, 3][..], &[7; 32], &[0], &vector16(&[0x13, 1]), &[1, 0], &vector16(&extensions)].concat();
        [&[1][..], &u32::try_from(body.len()).unwrap().to_be_bytes()[1..], &body].concat()
    }

    pub(crate) fn hello(server_name: Option<&str>, alpn: &[&[u8]]) -> Vec<u8> {
        record(&message(server_name, alpn))
    }

    fn check(bytes: &[u8], server_name: Option<&str>, alpn: &[&[u8]]) {
        let Read::Hello(hello) = read(bytes) else { panic!("no hello in {bytes:?}") };
        assert_eq!(hello.server_name.as_deref(), server_name);
        assert_eq!(hello.alpn, alpn);
    }

    #[test]
    fn server_name_and_protocols_are_read() {
        check(
            &hello(Some("Orders.example"), &[b"h2", b"http/1.1"]),
            Some("orders.example"),
            &[b"h2", b"http/1.1"],
        );
        check(&hello(None, &[]), None, &[]);
    }

    #[test]
    fn a_hello_may_span_records() {
        let message = message(Some("orders"), &[b"weft-tcp"]);
        for cut in 1..message.len() {
            let bytes = [record(&message[..cut]), record(&message[cut..])].concat();
            check(&bytes, Some("orders"), &[b"weft-tcp"]);
        }
    }

    #[test]
    fn a_hello_cut_short_is_waited_for() {
        let whole = hello(Some("orders"), &[b"h2"]);
        for length in 1..whole.len() {
            assert!(matches!(read(&whole[..length]), Read::More), "{length}");
        }
    }

    #[test]
    fn what_cannot_be_a_hello_is_malformed() {
        for bytes in [
            &[HANDSHAKE, 2][..],
            &[HANDSHAKE, 3, 9],
            &[HANDSHAKE, 3, 1, 0, 0],
            &[HANDSHAKE, 3, 1, 255, 255],
            &[HANDSHAKE, 3, 1, 0, 1, 2],
        ] {
            assert!(matches!(read(bytes), Read::Malformed), "{bytes:?}");
        }
        let mut lying = hello(Some("orders"), &[b"h2"]);
        lying[9 + 34] = 200; // a session id longer than the message
        assert!(matches!(read(&lying), Read::Malformed));
    }
}
