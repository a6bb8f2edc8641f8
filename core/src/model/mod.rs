//! The vocabulary of the mesh. A value that exists is valid.

mod access;
mod cidr;
mod dns;
mod external;
mod identity;
mod layered;
mod mesh;
mod name;
mod priority;
mod protection;
mod rate;
mod ratio;
mod resource;
mod retries;
mod route;
mod rules;
mod service;
mod target;
mod token;
mod traffic;
mod trust;

pub use access::{
    AccessAction, AccessMode, AccessPolicy, AccessRule, Attribute, Callers, Condition, Operations,
    PathPattern, PathSegment, PatternError, Selection, TextPattern,
};
pub use cidr::{Cidr, CidrError};
pub use dns::{DnsName, DnsNameError, DnsQuestion};
pub use external::{External, ExternalHosts, ExternalPort, Origination, external_service};
pub use identity::{IdentityError, SpiffeId, TrustDomain};
pub(crate) use layered::layers;
pub use mesh::{
    AccessLog, AuthorizationDefault, Mesh, MtlsMode, OutboundMode, Propagation, TraceExport, Tracing,
};
pub use name::{Name, NameError, QualifiedName};
pub use priority::{Fits, Location, MAX_PRIORITIES, PlaceWanted, Priority};
pub use protection::{AppCheck, ConcurrencyMode, HealthCheck, Probe};
pub(crate) use rate::is_token;
pub use rate::{KeyPart, KeyPartError, Limit, RateLimit};
pub use ratio::{Ratio, RatioError};
pub use resource::{Resource, ResourceName};
pub use retries::{
    Backoff, GRPC_FAILURES, HedgeAfter, Hedging, HedgingLayer, Retries, RetriesLayer, RetryBudget,
    RetryMethods, RetryOn,
};
pub use route::{
    AllowedOrigin, Backend, BackendTarget, CookieLifetime, Cors, ExpressionError, FieldEdits, FieldMatch,
    Filters, HeaderName, HeaderValue, HostName, HostPattern, HttpMatch, HttpRule, Listed, Method, Mirror,
    PathEdit, PathMatch, Pattern, Redirect, RedirectStatus, RetryPolicy, Rewrite, Route, RoutePath,
    RoutePathError, RoutePolicy, RouteRules, Scheme, SessionKey, SessionPersistence, Share, StatusCode,
    StatusError, TextError, TextMatch,
};
pub use rules::AccessRules;
pub use service::{
    Address, Endpoint, InboundPort, InboundSampling, PortMap, Protocol, Service, ServicePort, Workload,
};
pub use target::PolicyTarget;
pub use token::{
    Algorithm, ClaimName, Curve, Forwarding, KeyMaterial, KeySource, Presence, TokenKey, TokenPlace,
    TokenPolicy, TokenProvider, TokenTextError,
};
pub use traffic::{
    Abort, Balancing, BalancingPolicy, Bulkhead, CircuitBreaker, Fault, HashCookie, HashKey, Locality,
    RouteTraffic, Timeouts, Traffic,
};
pub use trust::{Revocations, Revoked, RevokedError, Serial, Trust};
