//! Settings that hold for the whole mesh.

use super::{Cidr, ExternalHosts, TrustDomain};

/// What `MeshConfig` says, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mesh {
    /// The authority behind every identity of this mesh.
    pub trust_domain: TrustDomain,
    /// Whether plaintext from outside the mesh is taken.
    pub mtls: MtlsMode,
    /// Whether apps may call what the mesh does not know.
    pub outbound: OutboundMode,
    /// Who may call where no policy says otherwise.
    pub authorization: AuthorizationDefault,
    /// Which requests are traced, in which headers, to where.
    pub tracing: Tracing,
    /// The access log's form.
    pub access_log: AccessLog,
    /// How many of a million requests it tells of.
    pub access_log_per_million: u32,
    /// Where the mesh's virtual addresses live.
    pub service_cidrs: Vec<Cidr>,
    /// The services outside the mesh, by their hosts.
    pub externals: Vec<ExternalHosts>,
}

/// Whether plaintext from outside the mesh is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MtlsMode {
    /// Only mesh peers are heard.
    #[default]
    Strict,
    /// Plaintext is taken as well.
    Permissive,
}

/// Whether apps may call what the mesh does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OutboundMode {
    /// Unknown destinations are passed through.
    #[default]
    AllowAny,
    /// Unknown destinations are refused.
    RegistryOnly,
}

/// Who may call where no policy says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthorizationDefault {
    /// Any caller with an identity of the mesh.
    #[default]
    Authenticated,
    /// Anyone.
    Any,
    /// No one.
    Deny,
}

/// The access log's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AccessLog {
    /// None.
    #[default]
    Off,
    /// One JSON object a request.
    Json,
    /// The common log format.
    Common,
}

/// Which requests are traced, in which headers, to where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracing {
    /// How many of a million requests without a decision of their own are sampled.
    pub sampling_per_million: u32,
    /// Header formats written besides W3C's.
    pub propagation: Vec<Propagation>,
    /// Collectors besides the control plane.
    pub export: Vec<TraceExport>,
}

/// A trace header format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Propagation {
    /// `traceparent` and `tracestate`.
    W3c,
    /// `b3` and `x-b3-*`.
    B3,
    /// `uber-trace-id`.
    Jaeger,
    /// `x-datadog-*`.
    Datadog,
    /// `x-amzn-trace-id`.
    Xray,
}

/// A collector of traces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TraceExport {
    /// OTLP at this URL.
    Otlp(String),
    /// Zipkin v2 JSON at this URL.
    Zipkin(String),
}

impl Default for Tracing {
    fn default() -> Self {
        Self { sampling_per_million: 1_000_000, propagation: vec![Propagation::W3c], export: Vec::new() }
    }
}

impl Mesh {
    /// What holds before any `MeshConfig` was applied.
    pub fn with_defaults(trust_domain: TrustDomain, service_cidrs: Vec<Cidr>) -> Self {
        Self {
            trust_domain,
            mtls: MtlsMode::default(),
            outbound: OutboundMode::default(),
            authorization: AuthorizationDefault::default(),
            tracing: Tracing::default(),
            access_log: AccessLog::default(),
            access_log_per_million: 1_000_000,
            service_cidrs,
            externals: Vec::new(),
        }
    }
}
