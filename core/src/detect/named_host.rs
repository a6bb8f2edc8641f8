//! The host that a client's first request of HTTP/1 names, read before anything is decided of the connection. What is decided of
//! each request is decided by whoever parses it; a head that a strict reader refuses names nobody here.

use crate::host::Host;

/// A head longer than this names nobody.
const LONGEST_HEAD: usize = 16 * 1024;

/// What the bytes of a connection say so far of whom it calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedHost {
    /// The head is not there whole.
    More,
    /// Nobody, or several.
    None,
    /// This host, in lower case.
    Host(String),
}

/// Looks at a connection's first bytes; all of them again, when more have come.
pub fn named_host(bytes: &[u8]) -> NamedHost {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return if bytes.len() < LONGEST_HEAD { NamedHost::More } else { NamedHost::None };
    };
    let head = bytes.get(..end).unwrap_or_default();
    let mut lines = head.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let target = lines.next().and_then(|line| line.split(|byte| *byte == b' ').nth(1));
    let mut hosts = lines.filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = line.split_at_checked(colon)?;
        name.eq_ignore_ascii_case(b"host").then(|| value.get(1..).unwrap_or_default().trim_ascii())
    });
    let (first, second) = (hosts.next(), hosts.next());
    // A target in absolute form goes before the field (RFC 9112 section 3.2.2).
    let named = match (target.and_then(authority), first, second) {
        (Some(authority), ..) => Some(authority),
        (None, first, None) => first,
        (None, _, Some(_)) => None,
    };
    match named.map(Host::parse) {
        Some(Ok(host)) => NamedHost::Host(host.name().to_owned()),
        Some(Err(_)) | None => NamedHost::None,
    }
}

/// The authority of `http://host/path`.
fn authority(target: &[u8]) -> Option<&[u8]> {
    let scheme = target.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case(b"http://"))?;
    let rest = target.get(scheme.len()..)?;
    rest.split(|byte| matches!(byte, b'/' | b'?' | b'#')).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(head: &str, expected: &str) {
        let expected = match expected {
            "" => NamedHost::None,
            host => NamedHost::Host(host.to_owned()),
        };
        assert_eq!(named_host(head.as_bytes()), expected, "{head:?}");
    }

    #[test]
    fn a_request_names_its_host_once_its_head_is_whole() {
        check("GET / HTTP/1.1\r\nHost: Api.Example.com\r\n\r\n", "api.example.com");
        check("GET / HTTP/1.1\r\naccept: */*\r\nhost:api.example.com:80 \r\n\r\nbody", "api.example.com");
        check("GET http://one.example.com/a HTTP/1.1\r\nhost: two.example.com\r\n\r\n", "one.example.com");
        for nobody in [
            "GET / HTTP/1.0\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a\r\nHost: b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: a b\r\n\r\n",
            "GET / HTTP/1.1\r\nhost:\r\n\r\n",
            "GET / HTTP/1.1\r\nx-host: a\r\n\r\n",
        ] {
            check(nobody, "");
        }
    }

    #[test]
    fn a_head_is_waited_for_but_not_for_ever() {
        assert_eq!(named_host(b"GET / HTTP/1.1\r\nhost: a\r\n"), NamedHost::More);
        assert_eq!(named_host(&[b'a'; LONGEST_HEAD]), NamedHost::None);
    }
}
