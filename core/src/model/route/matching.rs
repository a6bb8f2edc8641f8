//! What requests and connections a route is for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

use super::super::ClaimName;
use super::{HeaderName, RoutePathError};
use crate::path::Path;

/// The most memory that a compiled expression may take, in bytes.
const PATTERN_BYTES: usize = 128 * 1024;
/// The most memory that matching it may take.
const MATCHING_BYTES: usize = 256 * 1024;
/// The longest expression.
const PATTERN_LENGTH: usize = 1024;

/// What fits a request: all that is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpMatch {
    /// The path; none: any.
    pub path: Option<PathMatch>,
    /// The method; none: any.
    pub method: Option<Method>,
    /// Header fields, each by a name of its own.
    pub headers: Vec<FieldMatch<HeaderName>>,
    /// What the request's token says, each by a name of its own.
    pub claims: Vec<FieldMatch<ClaimName>>,
    /// Parameters of the query, each by a name of its own.
    pub query: Vec<FieldMatch<String>>,
}

/// What fits a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathMatch {
    /// The whole path is this.
    Exact(RoutePath),
    /// Its first segments are these.
    Prefix(RoutePath),
    /// The expression fits the whole path.
    Regex(Pattern),
    /// It names a gRPC call: `/SERVICE/METHOD`.
    Rpc {
        /// The service; none: any.
        service: Option<TextMatch>,
        /// The method; none: any.
        method: Option<TextMatch>,
    },
}

/// What fits a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextMatch {
    /// This text.
    Exact(String),
    /// What the expression fits as a whole.
    Regex(Pattern),
}

/// What fits a named value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldMatch<N> {
    /// The name.
    pub name: N,
    /// What fits its value.
    pub value: TextMatch,
}

/// A method that a rule may be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `GET`.
    Get,
    /// `HEAD`.
    Head,
    /// `POST`.
    Post,
    /// `PUT`.
    Put,
    /// `DELETE`.
    Delete,
    /// `CONNECT`.
    Connect,
    /// `OPTIONS`.
    Options,
    /// `TRACE`.
    Trace,
    /// `PATCH`.
    Patch,
}

/// A path that a rule is for or that a filter writes: absolute, in its one normal form, without a query.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RoutePath {
    text: Arc<str>,
    /// As requests' paths are compared.
    normal: Arc<str>,
}

/// A regular expression that fits whole texts: the syntax of RE2, byte by byte, in linear time and bounded memory.
#[derive(Clone)]
pub struct Pattern {
    text: Arc<str>,
    regex: Regex,
}

/// Why a text is no expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// It is longer than what is taken.
    #[error("an expression of {0} characters is longer than {PATTERN_LENGTH}")]
    TooLong(usize),
    /// Compiled, it would take more memory than what is allowed.
    #[error("{0:?} takes more than 128 KiB when compiled")]
    TooBig(String),
    /// It is malformed.
    #[error("{text:?} is no regular expression: {reason}")]
    Malformed {
        /// The text.
        text: String,
        /// What is wrong.
        reason: String,
    },
}

/// Server names that a `TLSRoute` is for: one, or all below a domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// `www.example.com`.
    Exact(Arc<str>),
    /// `*.example.com`, without the star: `.example.com`.
    Below(Arc<str>),
}

impl Method {
    /// Every one, with its name.
    pub const ALL: [(&str, Self); 9] = [
        ("GET", Self::Get),
        ("HEAD", Self::Head),
        ("POST", Self::Post),
        ("PUT", Self::Put),
        ("DELETE", Self::Delete),
        ("CONNECT", Self::Connect),
        ("OPTIONS", Self::Options),
        ("TRACE", Self::Trace),
        ("PATCH", Self::Patch),
    ];

    /// As the request line has it.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, method)| *method == self).map_or("GET", |(name, _)| name)
    }
}

impl RoutePath {
    /// The path as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The form of it that requests' paths are compared in.
    pub fn normal(&self) -> &str {
        &self.normal
    }

    /// The same without the `/` at its end, as prefixes are compared; of the root nothing is left.
    pub fn as_prefix(&self) -> &str {
        self.normal.strip_suffix('/').unwrap_or(&self.normal)
    }
}

impl FromStr for RoutePath {
    type Err = RoutePathError;

    fn from_str(text: &str) -> Result<Self, RoutePathError> {
        let error = |why| RoutePathError { text: text.into(), why };
        if !text.starts_with('/') {
            return Err(error("it does not begin with '/'"));
        }
        if text.len() > 1024 {
            return Err(error("it is longer than 1024 bytes"));
        }
        if text.contains("//") {
            return Err(error("it holds \"//\""));
        }
        if text.split('/').any(|segment| matches!(segment, "." | "..")) {
            return Err(error("it holds a dot segment"));
        }
        if text.to_ascii_lowercase().contains("%2f") {
            return Err(error("it holds an encoded '/'"));
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@%".contains(&byte);
        if !text.bytes().all(allowed) {
            return Err(error("it holds a character that stands in no path unencoded"));
        }
        let path = Path::parse(text.as_bytes());
        let path = path.map_err(|_| error("it holds a '%' without two hexadecimal digits behind it"))?;
        Ok(Self { text: text.into(), normal: path.matched().into() })
    }
}

impl Pattern {
    /// The expression.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it fits the whole text.
    pub fn fits(&self, text: &[u8]) -> bool {
        self.regex.is_match(text)
    }

    fn build(text: &str) -> Result<Regex, regex::Error> {
        // Bytes and ASCII classes, as RE2 has them: `\w` stays small, and no text is beyond it.
        let mut builder = RegexBuilder::new(text);
        builder.unicode(false).size_limit(PATTERN_BYTES).dfa_size_limit(MATCHING_BYTES).build()
    }
}

impl FromStr for Pattern {
    type Err = ExpressionError;

    fn from_str(text: &str) -> Result<Self, ExpressionError> {
        if text.len() > PATTERN_LENGTH {
            return Err(ExpressionError::TooLong(text.len()));
        }
        let failed = |error: regex::Error| match error {
            regex::Error::CompiledTooBig(_) => ExpressionError::TooBig(text.into()),
            // Several lines with a picture; the last one says what is wrong.
            error => ExpressionError::Malformed {
                text: text.into(),
                reason: error.to_string().lines().last().unwrap_or_default().replace("error: ", ""),
            },
        };
        // By itself first: in brackets, what closes them too early would pass.
        Self::build(text).map_err(failed)?;
        let regex = Self::build(&format!("\\A(?:{text})\\z")).map_err(failed)?;
        Ok(Self { text: text.into(), regex })
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl TextMatch {
    /// Whether it fits the whole text.
    pub fn fits(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => exact.as_bytes() == text,
            Self::Regex(pattern) => pattern.fits(text),
        }
    }
}

impl HostPattern {
    /// Whether it fits a server name in lower case.
    pub fn fits(&self, name: &str) -> bool {
        match self {
            Self::Exact(exact) => **exact == *name,
            Self::Below(domain) => name.len() > domain.len() && name.ends_with(&**domain),
        }
    }

    /// How exactly it says what it is for: any exact name before any domain, then the longer.
    pub fn rank(&self) -> (bool, usize) {
        match self {
            Self::Exact(exact) => (true, exact.len()),
            Self::Below(domain) => (false, domain.len()),
        }
    }
}

impl FromStr for HostPattern {
    type Err = super::TextError;

    fn from_str(text: &str) -> Result<Self, super::TextError> {
        let below = text.strip_prefix("*.");
        let name: super::HostName = below.unwrap_or(text).parse().map_err(|_| super::TextError {
            text: text.into(),
            what: "host name such as www.example.com or *.example.com",
        })?;
        Ok(match below {
            Some(_) => Self::Below(format!(".{}", name.as_str()).into()),
            None => Self::Exact(name.as_str().into()),
        })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) => f.write_str(exact),
            Self::Below(domain) => write!(f, "*{domain}"),
        }
    }
}
