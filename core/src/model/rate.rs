//! Rate limits, as `RateLimit` has them: how often who may call.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{AccessRule, ClaimName, QualifiedName};

/// A policy, as the sidecar of one workload is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// Its name, which answers and metrics give as the reason.
    pub name: QualifiedName,
    /// The app's ports that it is about; none: every port.
    pub ports: Vec<u16>,
    /// The calls that it is about, where one of these matches; none: every call.
    pub rules: Vec<AccessRule>,
    /// Each must have room for a call.
    pub limits: Vec<Limit>,
}

/// So many calls in so long a time, for each key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// The calls.
    pub requests: u32,
    /// The time.
    pub per: Duration,
    /// How many may come at once.
    pub burst: u32,
    /// What tells calls apart that are counted apart; nothing: all are counted together.
    pub key: Vec<KeyPart>,
}

impl Limit {
    /// The share of one of so many that count together: as often a part as there are of them, none less than one call at once.
    #[must_use]
    pub fn share(&self, of: u32) -> Self {
        let of = of.max(1);
        let burst = self.burst.checked_div(of).unwrap_or_default().max(1);
        Self { per: self.per.saturating_mul(of), burst, ..self.clone() }
    }
}

/// In words.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, per, burst, key } = self;
        write!(f, "{requests} in {per:?}, {burst} at once")?;
        if key.is_empty() {
            return f.write_str(", of all callers together");
        }
        let parts: Vec<_> = key.iter().map(ToString::to_string).collect();
        write!(f, ", for each {}", parts.join(" and "))
    }
}

/// What tells calls apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyPart {
    /// Who calls, as far as it was proved; else the address that the call comes from.
    Caller,
    /// The path in its normal form, without its query.
    Path,
    /// The values of this header, whose name is in lower case.
    Header(String),
    /// The values of this claim of the request's token.
    Claim(ClaimName),
}

/// A text that is no part of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is nothing that calls are told apart by")]
pub struct KeyPartError(String);

impl FromStr for KeyPart {
    type Err = KeyPartError;

    fn from_str(text: &str) -> Result<Self, KeyPartError> {
        let (word, rest) = text.split_once(':').map_or((text, None), |(word, rest)| (word, Some(rest)));
        match (word, rest) {
            ("caller", None) => Ok(Self::Caller),
            ("path", None) => Ok(Self::Path),
            ("header", Some(name)) if is_token(name) => Ok(Self::Header(name.to_ascii_lowercase())),
            ("claim", Some(name)) => name.parse().map(Self::Claim).map_err(|_| KeyPartError(text.to_owned())),
            _ => Err(KeyPartError(text.to_owned())),
        }
    }
}

/// As documents spell it.
impl fmt::Display for KeyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caller => f.write_str("caller"),
            Self::Path => f.write_str("path"),
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Claim(name) => write!(f, "claim:{name}"),
        }
    }
}

/// Whether a text may be a method or a header's name (RFC 9110 section 5.6.2).
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_keys_are_read_as_they_are_written() {
        for text in ["caller", "path", "header:x-user", "claim:sub", "claim:https://a/b.c"] {
            assert_eq!(text.parse::<KeyPart>().unwrap().to_string(), text);
        }
        assert_eq!("header:X-User".parse(), Ok(KeyPart::Header("x-user".to_owned())));
        for bad in ["", "Caller", "caller:web", "header", "header:", "header:a b", "cookie:x", "claim:"] {
            assert!(bad.parse::<KeyPart>().is_err(), "{bad:?}");
        }
    }
}
