//! Routes: which backend a call to a service goes to, and what becomes of it on the way (Gateway API, GEP-1294).

mod filter;
mod matching;
mod policy;

pub use filter::{
    AllowedOrigin, Cors, FieldEdits, Filters, HeaderName, HeaderValue, HostName, Listed, Mirror, PathEdit,
    Redirect, RedirectStatus, Rewrite, RoutePathError, Scheme, Share, TextError,
};
pub use matching::{
    ExpressionError, FieldMatch, HostPattern, HttpMatch, Method, PathMatch, Pattern, RoutePath, TextMatch,
};
pub use policy::{
    CookieLifetime, RetryPolicy, RoutePolicy, SessionKey, SessionPersistence, StatusCode, StatusError,
};

use std::fmt;
use std::sync::Arc;

use super::{ClaimName, QualifiedName, RouteTraffic};

/// A route, as far as it concerns one service. Routes of a service are in the order of age: where two match alike,
/// the first one holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Its name. A route in another namespace than its service is only for callers of its own namespace.
    pub name: QualifiedName,
    /// The service's ports that it is for; none: all.
    pub ports: Vec<u16>,
    /// What it says.
    pub rules: RouteRules,
    /// What policies say of its requests; none: nothing.
    pub traffic: Option<Arc<RouteTraffic>>,
}

/// What a route says, by kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteRules {
    /// An `HTTPRoute`.
    Http(Vec<HttpRule>),
    /// A `GRPCRoute`.
    Grpc(Vec<HttpRule>),
    /// A `TLSRoute`.
    Tls {
        /// The server names it is for; none: all.
        hosts: Vec<HostPattern>,
        /// Where connections go.
        backends: Vec<Backend>,
    },
    /// A `TCPRoute`.
    Tcp(Vec<Backend>),
}

/// A rule for requests. It holds for a request that any of its matches fits; without any, for all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HttpRule {
    /// Its name; empty: none.
    pub name: String,
    /// Which requests.
    pub matches: Vec<HttpMatch>,
    /// What becomes of them.
    pub filters: Filters,
    /// Where they go, by weight.
    pub backends: Vec<Backend>,
    /// How long and how often it is tried.
    pub policy: RoutePolicy,
}

/// A place that requests or connections go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Where.
    pub target: BackendTarget,
    /// Its share, against the other backends' weights; 0: nothing.
    pub weight: u32,
    /// What becomes of the requests that go there, besides the rule's own filters.
    pub filters: Filters,
}

/// Where a backend is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackendTarget {
    /// A service's port.
    Service(QualifiedName, u16),
    /// Nowhere: what was named is of a kind that nothing can be sent to.
    OtherKind,
    /// Nowhere: what was named is in a namespace whose owner has not allowed it.
    NotPermitted,
}

impl fmt::Display for BackendTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name, port) => write!(f, "{name}:{port}"),
            Self::OtherKind => f.write_str("of another kind than Service"),
            Self::NotPermitted => f.write_str("not permitted"),
        }
    }
}

impl RouteRules {
    /// The claims that its rules ask for.
    pub fn claims(&self) -> impl Iterator<Item = &ClaimName> {
        let rules = match self {
            Self::Http(rules) | Self::Grpc(rules) => rules.as_slice(),
            Self::Tls { .. } | Self::Tcp(_) => &[],
        };
        let matches = rules.iter().flat_map(|rule| &rule.matches);
        matches.flat_map(|wanted| wanted.claims.iter().map(|claim| &claim.name))
    }

    /// Every backend named, those of mirrors too.
    pub fn targets(&self) -> impl Iterator<Item = &BackendTarget> {
        let (rules, backends) = match self {
            Self::Http(rules) | Self::Grpc(rules) => (rules.as_slice(), [].as_slice()),
            Self::Tls { backends, .. } | Self::Tcp(backends) => ([].as_slice(), backends.as_slice()),
        };
        let of_rules = rules.iter().flat_map(HttpRule::targets);
        of_rules.chain(backends.iter().map(|backend| &backend.target))
    }

    /// The same, to be changed.
    pub fn targets_mut(&mut self) -> impl Iterator<Item = &mut BackendTarget> {
        let (rules, backends) = match self {
            Self::Http(rules) | Self::Grpc(rules) => (rules.as_mut_slice(), [].as_mut_slice()),
            Self::Tls { backends, .. } | Self::Tcp(backends) => ([].as_mut_slice(), backends.as_mut_slice()),
        };
        let of_rules = rules.iter_mut().flat_map(HttpRule::targets_mut);
        of_rules.chain(backends.iter_mut().map(|backend| &mut backend.target))
    }
}

impl HttpRule {
    fn targets(&self) -> impl Iterator<Item = &BackendTarget> {
        let mirrors = self.filters.mirrors.iter().map(|mirror| &mirror.target);
        mirrors.chain(self.backends.iter().flat_map(Backend::targets))
    }

    fn targets_mut(&mut self) -> impl Iterator<Item = &mut BackendTarget> {
        let mirrors = self.filters.mirrors.iter_mut().map(|mirror| &mut mirror.target);
        mirrors.chain(self.backends.iter_mut().flat_map(Backend::targets_mut))
    }
}

impl Backend {
    fn targets(&self) -> impl Iterator<Item = &BackendTarget> {
        let mirrors = self.filters.mirrors.iter().map(|mirror| &mirror.target);
        std::iter::once(&self.target).chain(mirrors)
    }

    fn targets_mut(&mut self) -> impl Iterator<Item = &mut BackendTarget> {
        let mirrors = self.filters.mirrors.iter_mut().map(|mirror| &mut mirror.target);
        std::iter::once(&mut self.target).chain(mirrors)
    }
}
