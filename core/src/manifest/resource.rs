//! What users wrote, as typed values.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::external_service::ExternalServiceSpec;
use super::fault_injection::FaultInjectionSpec;
use super::jwt_authentication::JwtAuthenticationSpec;
use super::node::Place;
use super::rate_limit::RateLimitSpec;
use super::sources::Sources;
use super::traffic_policy::TrafficPolicySpec;
use super::{Kind, Problem};
use crate::model::{
    AccessAction, AccessLog, AccessMode, AccessRule, AuthorizationDefault, DnsQuestion, MtlsMode, Name,
    OutboundMode, PolicyTarget, Propagation, Protocol, QualifiedName, Ratio, RouteRules, TraceExport,
    TrustDomain,
};

/// A document, read and found right.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// What it is.
    pub kind: Kind,
    /// Where it belongs; none: to the mesh as a whole.
    pub namespace: Option<Name>,
    /// Its name.
    pub name: Name,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// What it says.
    pub spec: Spec,
    /// The document as written, in its order, with its namespace filled in.
    pub document: serde_json::Value,
    /// The file it came from.
    pub file: String,
    /// The line it begins at.
    pub line: u32,
    /// Where parts of it stand that are checked against other resources, by path.
    pub(super) places: BTreeMap<String, Place>,
}

/// Which resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace, where its kind has one.
    pub namespace: Option<Name>,
    /// Its name.
    pub name: Name,
}

/// What a resource says, by kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Spec {
    /// A namespace says nothing but its labels.
    Namespace,
    /// A service.
    Service(ServiceSpec),
    /// Mesh-wide settings.
    MeshConfig(MeshConfigSpec),
    /// An endpoint that does not register itself.
    Workload(WorkloadSpec),
    /// Endpoints that DNS knows; the source that asks it makes a `Workload` of each.
    NamedWorkload(DnsQuestion),
    /// A service outside the mesh.
    ExternalService(ExternalServiceSpec),
    /// How services are to be called.
    TrafficPolicy(TrafficPolicySpec),
    /// What callers are to be tried with.
    FaultInjection(FaultInjectionSpec),
    /// Who may do what.
    AuthorizationPolicy(AuthorizationPolicySpec),
    /// How often who may call.
    RateLimit(RateLimitSpec),
    /// Whose tokens requests carry.
    JwtAuthentication(JwtAuthenticationSpec),
    /// A route of any kind.
    Route(RouteSpec),
    /// Leave for routes of other namespaces.
    ReferenceGrant(GrantSpec),
}

/// What a `v1 Service` says to the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Its TCP ports.
    pub ports: Vec<DocumentedPort>,
    /// The labels of its workloads; empty: it selects none.
    pub selector: BTreeMap<String, String>,
    /// Its addresses.
    pub addresses: ServiceAddresses,
    /// Whether workloads that are not ready take part.
    pub publish_not_ready: bool,
    /// Which endpoints go first (`trafficDistribution`); none: all are equal.
    pub distribution: Option<Distribution>,
    /// What becomes of those whom several sources know.
    pub sources: Sources,
}

/// Who goes before others, by where the caller is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// Those in its zone.
    SameZone,
    /// Those on its node, and then those in its zone.
    SameNode,
}

/// A service's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceAddresses {
    /// The mesh chooses them.
    Chosen,
    /// The document fixes them.
    Fixed(Vec<IpAddr>),
    /// It has none (`clusterIP: None`): its name stands for its endpoints' addresses.
    Headless,
}

/// A port in a `v1 Service`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentedPort {
    /// Its name; empty: none.
    pub name: String,
    /// The port callers use.
    pub port: u16,
    /// The app's port.
    pub target: TargetPort,
    /// What `appProtocol` says.
    pub protocol: Option<Protocol>,
}

/// The app's port behind a service port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetPort {
    /// This one.
    Number(u16),
    /// The one that the workload calls so.
    Named(String),
}

/// What a `MeshConfig` says; what it leaves open stays as it is by default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MeshConfigSpec {
    /// The authority behind every identity.
    pub trust_domain: Option<TrustDomain>,
    /// Whether plaintext from outside the mesh is taken.
    pub mtls: Option<MtlsMode>,
    /// Whether apps may call what the mesh does not know.
    pub outbound: Option<OutboundMode>,
    /// Who may call where no policy says otherwise.
    pub authorization: Option<AuthorizationDefault>,
    /// How many requests without a decision of their own are sampled.
    pub sampling: Option<Ratio>,
    /// Trace header formats.
    pub propagation: Option<Vec<Propagation>>,
    /// Collectors of traces besides the control plane.
    pub export: Option<Vec<TraceExport>>,
    /// The access log's form.
    pub access_log: Option<AccessLog>,
    /// How many requests it tells of.
    pub access_log_sampling: Option<Ratio>,
}

/// What a `Workload` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadSpec {
    /// Where it is reached.
    pub address: IpAddr,
    /// Its ports.
    pub ports: Vec<WorkloadPort>,
    /// The service account it runs as.
    pub service_account: Option<Name>,
    /// Its locality; empty: unknown.
    pub zone: String,
    /// Its share of the traffic, against 1; 0: none.
    pub weight: u32,
    /// Whether a sidecar beside it takes mesh traffic.
    pub mtls: bool,
}

/// A port of a `Workload`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadPort {
    /// The number.
    pub port: u16,
    /// The name that a Service's `targetPort` may use; empty: none.
    pub name: String,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// What an `AuthorizationPolicy` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationPolicySpec {
    /// Whose calls it is about.
    pub target: PolicyTarget,
    /// What becomes of a call that a rule matches.
    pub action: AccessAction,
    /// Whether it is carried out.
    pub mode: AccessMode,
    /// Its rules.
    pub rules: Vec<AccessRule>,
}

/// What a route says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// The services that it is for.
    pub parents: Vec<ParentRef>,
    /// What it says of calls to them. Its backends are as named: whether they may be is not looked at.
    pub rules: RouteRules,
}

/// A service that a route is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParentRef {
    /// The service.
    pub service: QualifiedName,
    /// Only this port of it.
    pub port: Option<u16>,
    /// Only its port of this name.
    pub section: Option<String>,
}

/// What a `ReferenceGrant` allows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GrantSpec {
    /// The routes that it is for, by kind and namespace.
    pub from: Vec<(Kind, Name)>,
    /// The services of its own namespace that they may name; none: all.
    pub to: Vec<Option<Name>>,
}

/// Something a resource names that must be somewhere else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Where it is named, in words: `target port 80`.
    pub at: String,
    /// What is named.
    pub target: Target,
}

/// What a resource may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A port of this name at the workloads with these labels, in the resource's own namespace.
    NamedPort {
        /// The port's name.
        name: String,
        /// The workloads' labels.
        selector: BTreeMap<String, String>,
    },
}

impl Resource {
    /// Which resource it is.
    pub fn key(&self) -> ResourceKey {
        ResourceKey { kind: self.kind, namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// Its name within its namespace, where its kind has one.
    pub fn qualified_name(&self) -> Option<QualifiedName> {
        self.namespace.clone().map(|namespace| QualifiedName::new(namespace, self.name.clone()))
    }

    /// What it is about, where it is a policy.
    pub fn target(&self) -> Option<&PolicyTarget> {
        match &self.spec {
            Spec::AuthorizationPolicy(spec) => Some(&spec.target),
            Spec::RateLimit(spec) => Some(&spec.target),
            Spec::JwtAuthentication(spec) => Some(&spec.target),
            _ => None,
        }
    }

    /// As what policies name it, where it is a route for requests.
    pub fn as_target(&self) -> Option<PolicyTarget> {
        match self.kind {
            Kind::HttpRoute => self.qualified_name().map(PolicyTarget::HttpRoute),
            Kind::GrpcRoute => self.qualified_name().map(PolicyTarget::GrpcRoute),
            _ => None,
        }
    }

    /// What it refers to.
    pub fn references(&self) -> Vec<Reference> {
        let Spec::Service(service) = &self.spec else { return Vec::new() };
        let reference = |port: &DocumentedPort| match &port.target {
            TargetPort::Number(_) => None,
            TargetPort::Named(name) => {
                let at = format!("target port {}", port.port);
                let target = Target::NamedPort { name: name.clone(), selector: service.selector.clone() };
                Some(Reference { at, target })
            }
        };
        service.ports.iter().filter_map(reference).collect()
    }

    /// Where one of its fields stands, as messages name it; where that is unknown, where it begins.
    pub fn place(&self, path: &str) -> String {
        let line = self.places.get(path).map_or(self.line, |place| place.line);
        if line == 0 { self.file.clone() } else { format!("{}:{line}", self.file) }
    }

    /// A mistake at one of its fields, or at its beginning where the field's place is unknown.
    pub(crate) fn problem(&self, path: &str, message: String, hint: String) -> Problem {
        let begin = Place { line: self.line, column: 1 };
        let Place { line, column } = self.places.get(path).copied().unwrap_or(begin);
        Problem { file: self.file.clone(), line, column, message, hint }
    }
}

/// `Service default/orders`.
impl fmt::Display for ResourceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}
