//! Access rules, as `AuthorizationPolicy` has them: who may do what, under which conditions.

use std::fmt;

use super::{AccessRules, Cidr, ClaimName, QualifiedName, SpiffeId};
use crate::path::Path;

/// A policy, as the sidecar of one workload is told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessPolicy {
    /// Its name, which metrics and logs give as the reason.
    pub name: QualifiedName,
    /// What becomes of a call that one of its rules matches.
    pub action: AccessAction,
    /// Whether it is carried out or only told.
    pub mode: AccessMode,
    /// The app's ports that it is about; none: every port.
    pub ports: Vec<u16>,
    /// A call matches the policy where it matches one of them.
    pub rules: AccessRules,
}

/// What becomes of a call that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum AccessAction {
    /// It is let in, unless another policy denies it. Where one such policy is, others are not let in.
    #[default]
    Allow,
    /// It is not let in, whatever other policies say.
    Deny,
}

/// Whether a policy is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum AccessMode {
    /// It decides.
    #[default]
    Enforce,
    /// It is counted and logged what it would have decided.
    Audit,
}

/// A rule: a caller of one of `from`, asking for one of `to`, under all of `when`. What is empty asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessRule {
    /// Who calls.
    pub from: Vec<Callers>,
    /// What is asked for.
    pub to: Vec<Operations>,
    /// What else must hold.
    pub when: Vec<Condition>,
}

/// Some values and not some others. What is empty asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection<T> {
    /// One of these.
    pub one_of: Vec<T>,
    /// None of these.
    pub none_of: Vec<T>,
}

/// Callers; all of it must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Callers {
    /// Their whole identities.
    pub principals: Selection<TextPattern>,
    /// Their service accounts.
    pub service_accounts: Selection<QualifiedName>,
    /// Their namespaces.
    pub namespaces: Selection<TextPattern>,
    /// The addresses that they really connect from.
    pub cidrs: Selection<Cidr>,
}

/// What is asked for; all of it must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Operations {
    /// The app's port.
    pub ports: Selection<u16>,
    /// The method.
    pub methods: Selection<String>,
    /// The path in its normal form, without its query.
    pub paths: Selection<PathPattern>,
    /// The host in its normal form, without its port.
    pub hosts: Selection<TextPattern>,
}

/// What else must hold of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// What it is about.
    pub of: Attribute,
    /// The values that it must have and those that it must not have.
    pub values: Selection<TextPattern>,
}

/// What conditions look at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// The header of this name, in lower case. Each of its values must be as is said, for readers choose differently.
    Header(String),
    /// This claim of the request's token. One of its values must be as is said, none as must not be.
    Claim(ClaimName),
}

/// A text, or the beginning or end of one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TextPattern {
    /// Exactly this.
    Exact(String),
    /// What begins so.
    Prefix(String),
    /// What ends so.
    Suffix(String),
}

/// A path, or a pattern of one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// The path as a text.
    Text(TextPattern),
    /// Segment by segment.
    Template(Vec<PathSegment>),
}

/// A segment of a path template.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum PathSegment {
    /// Exactly this.
    Exact(String),
    /// `{*}`: one segment that is not empty.
    One,
    /// `{**}`: any segments, also none. Only the last may be.
    Rest,
}

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It says nothing.
    #[error("a pattern must not be empty")]
    Empty,
    /// More than one `*`, or one that is inside.
    #[error("{0:?} has a '*' that is neither its first nor its last character")]
    Star(String),
    /// A template that mixes.
    #[error("{0:?} may have {{*}} and {{**}} only as whole segments, {{**}} only as the last")]
    Template(String),
    /// A path that begins with something else.
    #[error("{0:?} does not begin with '/'")]
    NoPath(String),
}

impl<T> Default for Selection<T> {
    fn default() -> Self {
        Self { one_of: Vec::new(), none_of: Vec::new() }
    }
}

impl<T> Selection<T> {
    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.one_of.is_empty() && self.none_of.is_empty()
    }
}

impl TextPattern {
    /// Whether a text is meant.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text == exact,
            Self::Prefix(prefix) => text.starts_with(prefix.as_str()),
            Self::Suffix(suffix) => text.ends_with(suffix.as_str()),
        }
    }

    /// Whether an identity is meant.
    pub fn matches_identity(&self, identity: &SpiffeId) -> bool {
        self.matches(identity.as_str())
    }
}

impl PathPattern {
    /// Whether it is written in the normal form that paths are compared in, so that it can match at all.
    pub fn is_normal(&self) -> bool {
        let path = match self {
            Self::Text(TextPattern::Exact(text) | TextPattern::Prefix(text)) if text.is_empty() => {
                "/".to_owned()
            }
            Self::Text(TextPattern::Exact(text) | TextPattern::Prefix(text)) => text.clone(),
            Self::Text(TextPattern::Suffix(text)) => format!("/x{text}"),
            Self::Template(template) => template.iter().fold(String::new(), |path, segment| match segment {
                PathSegment::Exact(text) => path + "/" + text,
                PathSegment::One | PathSegment::Rest => path + "/x",
            }),
        };
        Path::parse(path.as_bytes()).is_ok_and(|read| read.matched() == path && read.literal() == path)
    }

    /// Whether a path in its normal form is meant.
    pub fn matches(&self, path: &str) -> bool {
        match self {
            Self::Text(text) => text.matches(path),
            Self::Template(template) => matches_template(template, path),
        }
    }
}

fn matches_template(template: &[PathSegment], path: &str) -> bool {
    let mut segments = path.strip_prefix('/').unwrap_or(path).split('/');
    for wanted in template {
        match (wanted, segments.next()) {
            (PathSegment::Rest, _) => return true,
            (PathSegment::Exact(exact), Some(segment)) if exact == segment => {}
            (PathSegment::One, Some(segment)) if !segment.is_empty() => {}
            (PathSegment::Exact(_) | PathSegment::One, _) => return false,
        }
    }
    segments.next().is_none()
}

/// `orders`, `orders-*`, `*.example`, or `*` for everything.
impl std::str::FromStr for TextPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (rest, make): (_, fn(String) -> Self) = match (text.strip_suffix('*'), text.strip_prefix('*')) {
            (Some(prefix), _) => (prefix, Self::Prefix),
            (None, Some(suffix)) => (suffix, Self::Suffix),
            (None, None) if text.is_empty() => return Err(PatternError::Empty),
            (None, None) => (text, Self::Exact),
        };
        if rest.contains('*') { Err(PatternError::Star(text.to_owned())) } else { Ok(make(rest.to_owned())) }
    }
}

impl std::str::FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if !text.contains('{') {
            let pattern: TextPattern = text.parse()?;
            let is_path = match &pattern {
                TextPattern::Exact(path) => path.starts_with('/'),
                TextPattern::Prefix(path) => path.is_empty() || path.starts_with('/'),
                TextPattern::Suffix(_) => true,
            };
            return if is_path {
                Ok(Self::Text(pattern))
            } else {
                Err(PatternError::NoPath(text.to_owned()))
            };
        }
        let rest = text.strip_prefix('/').ok_or_else(|| PatternError::NoPath(text.to_owned()))?;
        let segment = |segment: &str| match segment {
            "{*}" => Ok(PathSegment::One),
            "{**}" => Ok(PathSegment::Rest),
            _ if segment.contains(['{', '}', '*']) => Err(PatternError::Template(text.to_owned())),
            _ => Ok(PathSegment::Exact(segment.to_owned())),
        };
        let template = rest.split('/').map(segment).collect::<Result<Vec<_>, _>>()?;
        let inner = template.split_last().map_or(&[][..], |(_, inner)| inner);
        if inner.contains(&PathSegment::Rest) {
            return Err(PatternError::Template(text.to_owned()));
        }
        Ok(Self::Template(template))
    }
}

/// As it is written in documents.
impl fmt::Display for TextPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let template = match self {
            Self::Text(text) => return text.fmt(f),
            Self::Template(template) => template,
        };
        template.iter().try_for_each(|segment| match segment {
            PathSegment::Exact(text) => write!(f, "/{text}"),
            PathSegment::One => f.write_str("/{*}"),
            PathSegment::Rest => f.write_str("/{**}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, path: &str, expected: bool) {
        let parsed: PathPattern = pattern.parse().unwrap();
        assert_eq!(parsed.matches(path), expected, "{pattern} on {path}");
        assert_eq!(parsed.to_string(), pattern);
    }

    #[test]
    fn paths_are_matched_as_texts_or_segment_by_segment() {
        check("/orders", "/orders", true);
        check("/orders", "/orders/1", false);
        check("/orders/*", "/orders/1/2", true);
        check("/orders/*", "/orders", false);
        check("*.png", "/a/b.png", true);
        check("*", "/anything", true);
        check("/a/{*}/c", "/a/b/c", true);
        check("/a/{*}/c", "/a//c", false);
        check("/a/{*}/c", "/a/b/c/d", false);
        check("/a/{*}", "/a/b", true);
        check("/a/{*}", "/a/b/c", false);
        check("/a/{**}", "/a", true);
        check("/a/{**}", "/a/b/c", true);
        check("/a/{**}", "/ab", false);
        check("/{**}", "/", true);
    }

    #[test]
    fn patterns_that_no_path_has_are_known() {
        for (pattern, expected) in [
            ("/a/b", true),
            ("/a%20b", true),
            ("*", true),
            ("/a/*", true),
            ("*.png", true),
            ("/a/{*}/b", true),
            ("/a//b", false),
            ("/a/../b", false),
            ("/a%2Fb", false),
            ("/a?b", false),
            ("/%61", false),
        ] {
            assert_eq!(pattern.parse::<PathPattern>().unwrap().is_normal(), expected, "{pattern}");
        }
    }

    #[test]
    fn patterns_that_would_surprise_are_refused() {
        for bad in ["", "a*b", "**", "orders", "/a/{x}", "/{**}/b", "/a{*}", "{*}/a", "/a/*/b"] {
            assert!(bad.parse::<PathPattern>().is_err(), "{bad:?}");
        }
        assert!("a*b*".parse::<TextPattern>().is_err());
        assert!("spiffe://mesh.local/ns/x/*".parse::<TextPattern>().is_ok());
    }
}
