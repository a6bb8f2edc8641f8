//! How long and how often a route's requests are tried, and which of them stay together.

use std::fmt;
use std::time::Duration;

/// What a rule says besides where requests go. What it leaves open is the service's own policy's affair.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoutePolicy {
    /// From the request's first byte to the response's last; zero: no limit (GEP-1742).
    pub request_timeout: Option<Duration>,
    /// The same for each try.
    pub backend_timeout: Option<Duration>,
    /// What is tried again (GEP-1731).
    pub retry: Option<RetryPolicy>,
    /// Which requests go to the same endpoint (GEP-1619).
    pub session: Option<SessionPersistence>,
}

/// What is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetryPolicy {
    /// How often again; none: what is usual.
    pub attempts: Option<u32>,
    /// After which responses.
    pub codes: Vec<StatusCode>,
    /// How long to wait at least.
    pub backoff: Option<Duration>,
}

/// A status of HTTP that stands for a failure: 400 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StatusCode(u16);

/// A number that is no status of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no status from 400 to 599")]
pub struct StatusError(pub u32);

/// Which requests go to the same endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPersistence {
    /// What names the session; none: a name of our own.
    pub name: Option<String>,
    /// What carries it.
    pub key: SessionKey,
    /// When it ends in any case.
    pub absolute: Option<Duration>,
    /// When it ends without use.
    pub idle: Option<Duration>,
}

/// What carries a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKey {
    /// A cookie.
    Cookie(CookieLifetime),
    /// A header field.
    Header,
}

/// How long a browser keeps a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CookieLifetime {
    /// As long as it runs.
    #[default]
    Session,
    /// As long as the session may last.
    Permanent,
}

impl TryFrom<u32> for StatusCode {
    type Error = StatusError;

    fn try_from(code: u32) -> Result<Self, StatusError> {
        match u16::try_from(code) {
            Ok(code @ 400..=599) => Ok(Self(code)),
            Ok(_) | Err(_) => Err(StatusError(code)),
        }
    }
}

impl StatusCode {
    /// The number.
    pub fn code(self) -> u16 {
        self.0
    }
}

impl fmt::Display for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
