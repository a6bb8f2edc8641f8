//! The one normal form of a host, from a `Host` field, an `:authority` or an absolute request target.

use std::borrow::Cow;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The longest host that is read, its port not counted.
pub const MAX_HOST: usize = 255;

/// A host and, where one was named, a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host<'a> {
    name: Cow<'a, str>,
    port: Option<u16>,
}

/// Why a text names no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Nothing was there.
    #[error("the host is empty")]
    Empty,
    /// It is longer than [`MAX_HOST`].
    #[error("the host is longer than {MAX_HOST} bytes")]
    TooLong,
    /// A character that no host name has, user information among them (RFC 9110 section 4.2.4), or an empty label.
    #[error("the host is no name and no address")]
    Invalid,
    /// What follows the colon is no port.
    #[error("the host's port is none")]
    BadPort,
}

impl<'a> Host<'a> {
    /// Reads a host. Allocates only where the name is not in its normal form.
    ///
    /// # Errors
    /// It is none: the request is answered with 400.
    pub fn parse(text: &'a [u8]) -> Result<Self, HostError> {
        let text = std::str::from_utf8(text).map_err(|_| HostError::Invalid)?;
        if let Some(rest) = text.strip_prefix('[') {
            let (address, port) = rest.split_once(']').ok_or(HostError::Invalid)?;
            return Ok(Self { name: ipv6(text, address)?, port: port_of(port)? });
        }
        let (name, port) = text.split_at_checked(text.find(':').unwrap_or(text.len())).unwrap_or_default();
        Ok(Self { name: dns_name(name)?, port: port_of(port)? })
    }

    /// The name in lower case without a dot at its end, or an address; one of IPv6 in brackets.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port, where one was named.
    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

/// Whether two texts of one request, its authority and its `Host`, name the same. A port that HTTP has by default may be
/// left out.
pub fn same_host(authority: &Host<'_>, host: &Host<'_>) -> bool {
    let same_port = match (authority.port, host.port) {
        (Some(one), Some(other)) => one == other,
        (Some(port), None) | (None, Some(port)) => matches!(port, 80 | 443),
        (None, None) => true,
    };
    same_port && authority.name == host.name
}

/// Stricter than RFC 3986 section 3.2.2, whose names may hold nearly anything encoded: what DNS has, and `_`.
fn dns_name(name: &str) -> Result<Cow<'_, str>, HostError> {
    let rooted = name.strip_suffix('.').unwrap_or(name);
    if rooted.is_empty() {
        return Err(HostError::Empty);
    }
    if rooted.len() > MAX_HOST {
        return Err(HostError::TooLong);
    }
    let mut upper = false;
    let mut before = b'.';
    for byte in rooted.bytes() {
        match byte {
            b'.' if before == b'.' => return Err(HostError::Invalid),
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {}
            b'A'..=b'Z' => upper = true,
            _ => return Err(HostError::Invalid),
        }
        before = byte;
    }
    if before == b'.' {
        return Err(HostError::Invalid);
    }
    Ok(if upper { rooted.to_ascii_lowercase().into() } else { rooted.into() })
}

/// An address of IPv6 has many spellings; one is normal (RFC 5952). A zone means nothing to another machine.
fn ipv6<'a>(text: &'a str, address: &str) -> Result<Cow<'a, str>, HostError> {
    let normal = format!("[{}]", Ipv6Addr::from_str(address).map_err(|_| HostError::Invalid)?);
    match text.get(..normal.len()) {
        Some(written) if written == normal => Ok(written.into()),
        _ => Ok(normal.into()),
    }
}

/// A port may be empty (RFC 3986 section 3.2.3), which is none.
fn port_of(text: &str) -> Result<Option<u16>, HostError> {
    if text.is_empty() {
        return Ok(None);
    }
    let digits = text.strip_prefix(':').ok_or(HostError::Invalid)?;
    if digits.is_empty() {
        return Ok(None);
    }
    if digits.len() > 5 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HostError::BadPort);
    }
    match digits.parse() {
        Ok(0) | Err(_) => Err(HostError::BadPort),
        Ok(port) => Ok(Some(port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, name: &str, port: Option<u16>) {
        let host = Host::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((host.name(), host.port()), (name, port), "{text}");
        assert_eq!(
            matches!(host.name, Cow::Borrowed(_)),
            text.starts_with(name),
            "{text} is borrowed where it can be"
        );
    }

    #[test]
    fn hosts_are_lower_case_without_a_last_dot() {
        check("orders", "orders", None);
        check("Orders.Default", "orders.default", None);
        check("orders.default.", "orders.default", None);
        check("ORDERS.:8080", "orders", Some(8080));
        check("a_b-c.x~", "a_b-c.x~", None);
        check("orders:", "orders", None);
        check("orders:00080", "orders", Some(80));
        check("10.0.0.1:65535", "10.0.0.1", Some(65535));
        check(&"a".repeat(255), &"a".repeat(255), None);
    }

    #[test]
    fn addresses_of_ipv6_have_one_spelling() {
        check("[::1]", "[::1]", None);
        check("[::1]:80", "[::1]", Some(80));
        check("[0:0:0:0:0:0:0:1]:1", "[::1]", Some(1));
        check("[FD00::A]", "[fd00::a]", None);
        check("[::ffff:10.0.0.1]", "[::ffff:10.0.0.1]", None);
    }

    #[test]
    fn what_names_no_host_is_refused() {
        use HostError::{BadPort, Empty, Invalid, TooLong};
        let refused = |text: &[u8], expected| {
            assert_eq!(Host::parse(text).err(), Some(expected), "{}", String::from_utf8_lossy(text));
        };
        for text in ["", ":80", ".", ".:80"] {
            refused(text.as_bytes(), Empty);
        }
        for text in
            ["a:b", "a:80:80", "a:+80", "a:-1", "a: 80", "a:65536", "a:0", "a:000080", "[::1]:x", "::1"]
        {
            refused(text.as_bytes(), if text == "::1" { Empty } else { BadPort });
        }
        let invalid = [
            "user@host",
            "a b",
            " a",
            "a ",
            "a\t",
            "a\0",
            "a\r\n",
            "a/b",
            "a?b",
            "a#b",
            "a%41",
            "a,b",
            "é",
            "a..b",
            ".a",
            "a..",
            "[::1",
            "[]",
            "[::1]a",
            "[::1]]",
            "[fe80::1%eth0]",
            "[fe80::1%25eth0]",
            "[v1.x]",
            "[1.2.3.4]",
            "a\\b",
            "*",
            "<a>",
        ];
        invalid.iter().for_each(|text| refused(text.as_bytes(), Invalid));
        refused(b"user:secret@host", BadPort);
        refused(b"a\xff", Invalid);
        refused("a".repeat(256).as_bytes(), TooLong);
    }

    #[test]
    fn two_hosts_agree_or_they_do_not() {
        let same = |one: &str, other: &str, expected: bool| {
            let (one, other) = (Host::parse(one.as_bytes()).unwrap(), Host::parse(other.as_bytes()).unwrap());
            assert_eq!(same_host(&one, &other), expected, "{one:?} {other:?}");
            assert_eq!(same_host(&other, &one), expected, "{one:?} {other:?}");
        };
        same("orders", "ORDERS.", true);
        same("orders:80", "orders", true);
        same("orders:443", "orders", true);
        same("orders:8080", "orders", false);
        same("orders:8080", "orders:8081", false);
        same("orders:80", "orders:443", false);
        same("orders", "payments", false);
        same("[::1]", "[0::1]:80", true);
    }
}
