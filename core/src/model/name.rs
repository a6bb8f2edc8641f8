//! Names of namespaces, services, workloads and service accounts.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// A DNS label (RFC 1123): lower-case letters, digits and `-`, at most 63 characters.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Arc<str>);

/// Why a text is no name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was there.
    #[error("a name must not be empty")]
    Empty,
    /// Longer than a DNS label or name may be.
    #[error("{0:?} is longer than {1} characters")]
    TooLong(String, usize),
    /// A character that DNS does not allow, or a `-` at either end.
    #[error("{0:?} may hold only lower-case letters, digits and inner '-'")]
    BadCharacter(String),
    /// Not of the form `namespace/name`.
    #[error("{0:?} is not of the form namespace/name")]
    NotQualified(String),
}

impl Name {
    /// The name's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        // Kubernetes allows dots in most object names (RFC 1123 subdomain), up to 253 characters.
        if text.len() > 253 {
            return Err(NameError::TooLong(text.into(), 253));
        }
        let label_ok = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if text.split('.').all(label_ok) {
            Ok(Self(text.into()))
        } else {
            Err(NameError::BadCharacter(text.into()))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name within a namespace, written `namespace/name`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QualifiedName {
    /// The namespace.
    pub namespace: Name,
    /// The name within it.
    pub name: Name,
}

impl QualifiedName {
    /// Joins the two.
    pub fn new(namespace: Name, name: Name) -> Self {
        Self { namespace, name }
    }
}

impl FromStr for QualifiedName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (namespace, name) = text.split_once('/').ok_or_else(|| NameError::NotQualified(text.into()))?;
        Ok(Self { namespace: namespace.parse()?, name: name.parse()? })
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, valid: bool) {
        assert_eq!(text.parse::<Name>().is_ok(), valid, "{text:?}");
    }

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "orders", "orders-2", "0", "a.b", "x-y.z"] {
            check(good, true);
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a/b", "a..b", ".a", "a.", "é", "a b", &"a".repeat(254)] {
            check(bad, false);
        }
    }

    #[test]
    fn qualified_names_round_trip() {
        let name: QualifiedName = "default/orders".parse().unwrap();
        assert_eq!(name.to_string(), "default/orders");
        assert!("orders".parse::<QualifiedName>().is_err());
        assert!("a/b/c".parse::<QualifiedName>().is_err());
    }
}
