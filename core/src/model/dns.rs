//! What DNS is asked for those behind a service.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest name (RFC 1035 section 3.1), its length bytes not counted.
const LONGEST: usize = 253;
/// The longest label (RFC 1035 section 2.3.4).
const LONGEST_LABEL: usize = 63;

/// A name that DNS may know: lower-case letters, digits, `-` and `_`; no address.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DnsName(Arc<str>);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DnsQuestion {
    /// A and AAAA: the addresses of a host.
    Host(DnsName),
    /// SRV: hosts, each with a port and a weight (RFC 2782).
    Service(DnsName),
}

/// A text that is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no DNS name")]
pub struct DnsNameError(String);

impl DnsName {
    /// Without a dot at its end.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DnsName {
    type Err = DnsNameError;

    fn from_str(text: &str) -> Result<Self, DnsNameError> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let is_label = |label: &str| {
            (1..=LONGEST_LABEL).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        // No top-level domain is a number (RFC 3696 section 2): that would be an address with a mistake in it.
        let is_numeric = name.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        match name.len() <= LONGEST && name.split('.').all(is_label) && !is_numeric {
            true => Ok(Self(name.into())),
            false => Err(DnsNameError(text.to_owned())),
        }
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for DnsQuestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(name) => write!(f, "{name}"),
            Self::Service(name) => write!(f, "SRV {name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_addresses_and_mistakes() {
        let read = |text: &str| text.parse::<DnsName>().map(|name| name.to_string());
        assert_eq!(read("PG.example.com.").as_deref(), Ok("pg.example.com"));
        assert_eq!(read("_pg._tcp.example.com").as_deref(), Ok("_pg._tcp.example.com"));
        assert_eq!(read("db").as_deref(), Ok("db"));
        for wrong in ["", ".", "a..b", "10.0.0.300", "a b", "-a.example", "a.example-", "1", &"a".repeat(64)]
        {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(read(&["a234567890".repeat(5).as_str(); 5].join(".")).is_err());
    }
}
