//! SPIFFE identities: who a workload is, independent of where it runs.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{Name, NameError};

/// The part of an identity that names the authority behind it, such as `mesh.local`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// `spiffe://TRUST-DOMAIN/PATH`, the identity in a certificate.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    domain: TrustDomain,
    /// Where namespace and account lie in the text: policies ask with every request.
    account: Option<Account>,
}

/// Where an identity's text names its service account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Account {
    namespace: u16,
    /// Where the namespace ends; what names the account comes after [`ACCOUNT`].
    end: u16,
}

/// What comes before the trust domain, the namespace and the account.
const SCHEME: &str = "spiffe://";
const NAMESPACE: &str = "/ns/";
const ACCOUNT: &str = "/sa/";

/// Why a text is no SPIFFE identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It does not start with `spiffe://`.
    #[error("{0:?} does not start with spiffe://")]
    Scheme(String),
    /// The trust domain is empty, too long or holds a character it may not (SPIFFE-ID 2.1).
    #[error("the trust domain of {0:?} is not lower-case letters, digits, '.', '-' and '_' (1 to 255)")]
    TrustDomain(String),
    /// The path is missing, ends in `/`, or a segment is empty, `.`, `..` or holds a character it may not (SPIFFE-ID 2.2).
    #[error("the path of {0:?} is not one or more segments of letters, digits, '.', '-' and '_'")]
    Path(String),
    /// Longer than any implementation must accept (SPIFFE-ID 2.3).
    #[error("an identity of {0} bytes is longer than 2048")]
    TooLong(usize),
}

impl TrustDomain {
    /// The trust domain's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let character_ok =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 255 || !text.bytes().all(character_ok) {
            return Err(IdentityError::TrustDomain(text.into()));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl SpiffeId {
    /// The identity of a service account: `spiffe://DOMAIN/ns/NAMESPACE/sa/ACCOUNT`.
    pub fn of_service_account(domain: &TrustDomain, namespace: &Name, account: &Name) -> Self {
        let text = format!("{SCHEME}{domain}{NAMESPACE}{namespace}{ACCOUNT}{account}");
        Self::new(text.into(), domain.clone())
    }

    fn new(text: Arc<str>, domain: TrustDomain) -> Self {
        let account = Account::find(&text, &domain);
        Self { text, domain, account }
    }

    /// The whole identity.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The authority behind it.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The path, from its first `/`.
    pub fn path(&self) -> &str {
        self.text.get(SCHEME.len() + self.domain.as_str().len()..).unwrap_or_default()
    }

    /// Namespace and service account, where the path has that form.
    pub fn service_account(&self) -> Option<(Name, Name)> {
        let (namespace, account) = self.service_account_text()?;
        let parse = |text: &str| text.parse::<Name>().map_err(|_: NameError| ()).ok();
        Some((parse(namespace)?, parse(account)?))
    }

    /// The same as texts, which may be no names.
    pub fn service_account_text(&self) -> Option<(&str, &str)> {
        let Account { namespace, end } = self.account?;
        let (namespace, end) = (usize::from(namespace), usize::from(end));
        Some((self.text.get(namespace..end)?, self.text.get(end + ACCOUNT.len()..)?))
    }
}

impl Account {
    fn find(text: &str, domain: &TrustDomain) -> Option<Self> {
        let path = SCHEME.len() + domain.as_str().len();
        let (namespace, account) = text.get(path..)?.strip_prefix(NAMESPACE)?.split_once(ACCOUNT)?;
        if namespace.contains('/') || account.contains('/') {
            return None;
        }
        let begin = path + NAMESPACE.len();
        let end = begin + namespace.len();
        Some(Self { namespace: begin.try_into().ok()?, end: end.try_into().ok()? })
    }
}

impl FromStr for SpiffeId {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        if text.len() > 2048 {
            return Err(IdentityError::TooLong(text.len()));
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| IdentityError::Scheme(text.into()))?;
        let (domain, path) = rest.split_once('/').ok_or_else(|| IdentityError::Path(text.into()))?;
        let domain: TrustDomain = domain.parse().map_err(|_| IdentityError::TrustDomain(text.into()))?;
        let character_ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let segment_ok = |s: &str| !s.is_empty() && s != "." && s != ".." && s.bytes().all(character_ok);
        if !path.split('/').all(segment_ok) {
            return Err(IdentityError::Path(text.into()));
        }
        Ok(Self::new(text.into(), domain))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, valid: bool) {
        assert_eq!(text.parse::<SpiffeId>().is_ok(), valid, "{text:?}");
    }

    #[test]
    fn identities_obey_the_spiffe_standard() {
        check("spiffe://mesh.local/ns/default/sa/web", true);
        check("spiffe://a_b-c.1/X.y_z-9", true);
        check(&format!("spiffe://d/{}", "a".repeat(2036)), true);
        for bad in [
            "",
            "http://mesh.local/a",
            "SPIFFE://mesh.local/a",
            "spiffe://mesh.local",
            "spiffe://mesh.local/",
            "spiffe:///a",
            "spiffe://Mesh.local/a",
            "spiffe://mesh.local:80/a",
            "spiffe://user@mesh.local/a",
            "spiffe://mesh.local/a/",
            "spiffe://mesh.local//a",
            "spiffe://mesh.local/a/../b",
            "spiffe://mesh.local/./b",
            "spiffe://mesh.local/a%20b",
            "spiffe://mesh.local/a?b",
            "spiffe://mesh.local/a#b",
        ] {
            check(bad, false);
        }
        check(&format!("spiffe://{}/a", "d".repeat(256)), false);
        check(&format!("spiffe://d/{}", "a".repeat(2048)), false);
    }

    #[test]
    fn service_accounts_are_read_back() {
        let id: SpiffeId = "spiffe://mesh.local/ns/shop/sa/web".parse().unwrap();
        let (namespace, account) = id.service_account().unwrap();
        assert_eq!((namespace.as_str(), account.as_str()), ("shop", "web"));
        assert_eq!(SpiffeId::of_service_account(id.trust_domain(), &namespace, &account), id);
        assert_eq!("spiffe://mesh.local/vm/7".parse::<SpiffeId>().unwrap().service_account(), None);
    }
}
