//! What a route makes of the requests that it takes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{BackendTarget, Method, RoutePath};

/// What becomes of a request and of its response.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filters {
    /// Changes to the request's header.
    pub request: FieldEdits,
    /// Changes to the response's header.
    pub response: FieldEdits,
    /// Who gets a copy of the request.
    pub mirrors: Vec<Mirror>,
    /// It is answered with a redirect.
    pub redirect: Option<Redirect>,
    /// Changes to its host and path.
    pub rewrite: Option<Rewrite>,
    /// Which pages of other origins may call.
    pub cors: Option<Cors>,
}

/// Changes to a header: first what is set, then what is added, then what is removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldEdits {
    /// Fields that get this value, whatever they had.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Fields that get this value besides what they had.
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Fields that go.
    pub remove: Vec<HeaderName>,
}

/// Someone who gets a copy of requests; what he answers is dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Who.
    pub target: BackendTarget,
    /// How many of them.
    pub share: Share,
}

/// `numerator` of every `denominator`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    numerator: u32,
    denominator: u32,
}

/// Where a caller is sent instead. What is left out stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<Scheme>,
    /// The host.
    pub host: Option<HostName>,
    /// The path.
    pub path: Option<PathEdit>,
    /// The port; none: the scheme's own, or the one called where no scheme is given either.
    pub port: Option<u16>,
    /// The status.
    pub status: RedirectStatus,
}

/// The scheme of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// `http`.
    Http,
    /// `https`.
    Https,
}

/// The status of a redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RedirectStatus {
    /// 301.
    MovedPermanently,
    /// 302.
    #[default]
    Found,
    /// 303.
    SeeOther,
    /// 307.
    Temporary,
    /// 308.
    Permanent,
}

/// Changes to a request's host and path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewrite {
    /// The host that the backend sees.
    pub host: Option<HostName>,
    /// The path that it sees.
    pub path: Option<PathEdit>,
}

/// A change to a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathEdit {
    /// It becomes this.
    Full(RoutePath),
    /// The prefix that fitted becomes this; none: it goes.
    Prefix(Option<RoutePath>),
}

/// Which pages of other origins may call (the Fetch standard's CORS protocol).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cors {
    /// Whose pages; none: nobody's.
    pub origins: Vec<AllowedOrigin>,
    /// Whether with cookies and the like.
    pub credentials: bool,
    /// By which methods.
    pub methods: Listed<Method>,
    /// With which header fields.
    pub headers: Listed<HeaderName>,
    /// Which fields of the response they may read.
    pub expose: Listed<HeaderName>,
    /// For how many seconds the answer to a preflight holds.
    pub max_age: u32,
}

/// Some, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listed<T> {
    /// All: `*`.
    All,
    /// These.
    These(Vec<T>),
}

/// Whose pages may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowedOrigin {
    /// Anyone's.
    Any,
    /// `https://example.com:8443`.
    Exact(Arc<str>),
    /// `https://*.example.com`, cut at the star.
    Wildcard {
        /// `https://`.
        before: Arc<str>,
        /// `.example.com`.
        after: Arc<str>,
    },
}

/// The name of a header field, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HeaderName(Arc<str>);

/// The value of a header field.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderValue(Arc<str>);

/// A host name in lower case, as DNS has them; no address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostName(Arc<str>);

/// A text that is not what it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub struct TextError {
    pub(super) text: String,
    pub(super) what: &'static str,
}

/// A text that is no path in normal form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no path: {why}")]
pub struct RoutePathError {
    pub(super) text: String,
    pub(super) why: &'static str,
}

impl Filters {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl FieldEdits {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

impl Share {
    /// All of them.
    pub const WHOLE: Self = Self { numerator: 1, denominator: 1 };

    /// `numerator` of every `denominator`, where that is a share.
    pub fn new(numerator: u32, denominator: u32) -> Option<Self> {
        (denominator > 0 && numerator <= denominator).then_some(Self { numerator, denominator })
    }

    /// How many.
    pub fn numerator(self) -> u32 {
        self.numerator
    }

    /// Of how many.
    pub fn denominator(self) -> u32 {
        self.denominator
    }

    /// Whether this one is among them.
    pub fn draw(self, rng: &mut fastrand::Rng) -> bool {
        self.numerator >= self.denominator || rng.u32(..self.denominator) < self.numerator
    }
}

impl Scheme {
    /// As a URL has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that it means where none is written.
    pub fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

impl RedirectStatus {
    /// Every one.
    pub const ALL: [Self; 5] =
        [Self::MovedPermanently, Self::Found, Self::SeeOther, Self::Temporary, Self::Permanent];

    /// The number.
    pub fn code(self) -> u16 {
        match self {
            Self::MovedPermanently => 301,
            Self::Found => 302,
            Self::SeeOther => 303,
            Self::Temporary => 307,
            Self::Permanent => 308,
        }
    }
}

impl<T> Listed<T> {
    /// None at all.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::These(these) if these.is_empty())
    }
}

/// What frames a message or concerns one connection is the mesh's affair, and what it says itself nobody else's.
fn is_ours(name: &str) -> bool {
    let framing = [
        "connection",
        "content-length",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "keep-alive",
        "proxy-connection",
    ];
    framing.contains(&name) || name.starts_with("weft-")
}

fn is_token(text: &str) -> bool {
    // RFC 9110 section 5.6.2.
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed)
}

impl HeaderName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a route may change it.
    pub fn may_change(&self) -> bool {
        !is_ours(&self.0)
    }
}

impl FromStr for HeaderName {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        if text.len() > 256 || !is_token(text) {
            return Err(TextError { text: text.into(), what: "name of a header field" });
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl HeaderValue {
    /// The value.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HeaderValue {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        // RFC 9110 section 5.5: visible characters, spaces and tabs between them.
        let allowed = text.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f));
        if text.is_empty() || text.len() > 4096 || !allowed || text.trim_matches([' ', '\t']) != text {
            return Err(TextError { text: text.into(), what: "value of a header field" });
        }
        Ok(Self(text.into()))
    }
}

impl HostName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let label_ok = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let numeric = text.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if text.len() > 253 || numeric || !text.split('.').all(label_ok) {
            return Err(TextError { text: text.into(), what: "host name in lower case" });
        }
        Ok(Self(text.into()))
    }
}

impl AllowedOrigin {
    /// Whether it allows this origin.
    pub fn allows(&self, origin: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact.as_bytes() == origin,
            // The star stands for one or more labels, and never for nothing.
            Self::Wildcard { before, after } => {
                let inner = origin.strip_prefix(before.as_bytes());
                let inner = inner.and_then(|rest| rest.strip_suffix(after.as_bytes()));
                inner.is_some_and(|inner| {
                    !inner.is_empty() && inner.iter().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(b))
                })
            }
        }
    }
}

impl FromStr for AllowedOrigin {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let error = || TextError { text: text.into(), what: "origin such as https://example.com, or *" };
        let (scheme, rest) = text.split_once("://").ok_or_else(error)?;
        let scheme_ok = scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
        let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
        let port_ok = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        let star = host.strip_prefix("*.");
        let name_ok =
            |name: &str| name.parse::<HostName>().is_ok() || name.parse::<std::net::IpAddr>().is_ok();
        if text.len() > 253 || !scheme_ok || !port_ok || !name_ok(star.unwrap_or(host)) {
            return Err(error());
        }
        match text.split_once('*') {
            Some((before, after)) => Ok(Self::Wildcard { before: before.into(), after: after.into() }),
            None => Ok(Self::Exact(text.into())),
        }
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Exact(exact) => f.write_str(exact),
            Self::Wildcard { before, after } => write!(f, "{before}*{after}"),
        }
    }
}
