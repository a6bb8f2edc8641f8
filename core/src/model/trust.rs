//! Whom a trust domain's members believe, and whom no longer.

use std::collections::HashSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::{IdentityError, SpiffeId, TrustDomain};

/// Digits of the longest serial number that a certificate may have (RFC 5280 section 4.1.2.2: twenty bytes).
const LONGEST_SERIAL: usize = 40;

/// What a trust domain's members must prove, and who of them is not believed any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Whose members.
    pub trust_domain: TrustDomain,
    /// Counts up with every change, also over restarts: of two, the higher one is newer.
    pub sequence: u64,
    /// Certificates that others must lead to, as DER; new ones lead to the first.
    pub anchors: Vec<Vec<u8>>,
    /// Within which time whoever has a certificate that does not lead to the first anchor asks for another.
    pub renew_within: Duration,
    /// Who is not believed, whatever its certificate says; sorted.
    pub revoked: Vec<Revoked>,
}

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revoked {
    /// An identity: every certificate of it, present and future.
    Identity(SpiffeId),
    /// One certificate.
    Certificate(Serial),
}

/// A certificate's serial number: lower-case hexadecimal digits, without the zeros before them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Arc<str>);

/// The same, to be asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations {
    identities: HashSet<SpiffeId>,
    certificates: HashSet<Serial>,
}

/// Why a text names nothing that can be revoked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevokedError {
    /// It is meant to be an identity.
    #[error("not a SPIFFE identity")]
    Identity(#[source] IdentityError),
    /// It is meant to be a serial number.
    #[error(
        "{0:?} is neither a SPIFFE identity nor a serial number (1 to {LONGEST_SERIAL} hexadecimal digits)"
    )]
    Serial(String),
}

impl Trust {
    /// Trust in these anchors and nothing else said.
    pub fn new(trust_domain: TrustDomain, anchors: Vec<Vec<u8>>) -> Self {
        Self { trust_domain, sequence: 0, anchors, renew_within: Duration::ZERO, revoked: Vec::new() }
    }
}

impl Revocations {
    /// All of these.
    pub fn new(revoked: &[Revoked]) -> Self {
        let mut revocations = Self::default();
        for revoked in revoked {
            match revoked {
                Revoked::Identity(identity) => drop(revocations.identities.insert(identity.clone())),
                Revoked::Certificate(serial) => drop(revocations.certificates.insert(serial.clone())),
            }
        }
        revocations
    }

    /// Whether whoever shows this certificate is not to be believed.
    pub fn hold(&self, identity: &SpiffeId, serial: &Serial) -> bool {
        self.identities.contains(identity) || self.certificates.contains(serial)
    }
}

impl Serial {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Serial {
    type Err = RevokedError;

    /// Also takes what other programs print: upper case, bytes with colons between them.
    fn from_str(text: &str) -> Result<Self, RevokedError> {
        let digits: String = text.chars().filter(|c| *c != ':').map(|c| c.to_ascii_lowercase()).collect();
        let digits = digits.trim_start_matches('0');
        if digits.is_empty()
            || digits.len() > LONGEST_SERIAL
            || !digits.bytes().all(|b| b.is_ascii_hexdigit())
        {
            return Err(RevokedError::Serial(text.chars().take(64).collect()));
        }
        Ok(Self(digits.into()))
    }
}

impl FromStr for Revoked {
    type Err = RevokedError;

    fn from_str(text: &str) -> Result<Self, RevokedError> {
        if text.contains("://") {
            return text.parse().map(Self::Identity).map_err(RevokedError::Identity);
        }
        text.parse().map(Self::Certificate)
    }
}

impl fmt::Display for Revoked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Identity(identity) => identity.fmt(f),
            Self::Certificate(serial) => serial.fmt(f),
        }
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<&str>) {
        assert_eq!(
            text.parse::<Revoked>().ok().map(|revoked| revoked.to_string()).as_deref(),
            expected,
            "{text}"
        );
    }

    #[test]
    fn identities_and_serial_numbers_are_told_apart_and_have_one_spelling() {
        let web = "spiffe://mesh.local/ns/default/sa/web";
        check(web, Some(web));
        check("5f03", Some("5f03"));
        check("00:5F:03", Some("5f03"));
        check(&"f".repeat(40), Some(&"f".repeat(40)));
        for bad in
            ["", "0", "00:00", "5g", "web", "spiffe://mesh.local", "http://mesh.local/ns/a", &"f".repeat(41)]
        {
            check(bad, None);
        }
    }
}
