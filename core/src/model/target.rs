//! What a policy is about.

use std::fmt;

use super::{Name, QualifiedName};

/// What a policy's `targetRef` names. The order is that of precision: a later one wins over an earlier.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyTarget {
    /// The whole mesh.
    Mesh,
    /// A namespace.
    Namespace(Name),
    /// A service.
    Service(QualifiedName),
    /// A workload.
    Workload(QualifiedName),
    /// An HTTPRoute.
    HttpRoute(QualifiedName),
    /// A GRPCRoute.
    GrpcRoute(QualifiedName),
}

impl PolicyTarget {
    /// Whether it is about the whole of a service.
    pub fn comprises(&self, service: &QualifiedName) -> bool {
        match self {
            Self::Mesh => true,
            Self::Namespace(namespace) => service.namespace == *namespace,
            Self::Service(name) => service == name,
            Self::Workload(_) | Self::HttpRoute(_) | Self::GrpcRoute(_) => false,
        }
    }
}

impl fmt::Display for PolicyTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("Mesh"),
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Service(name) => write!(f, "Service {name}"),
            Self::Workload(name) => write!(f, "Workload {name}"),
            Self::HttpRoute(name) => write!(f, "HTTPRoute {name}"),
            Self::GrpcRoute(name) => write!(f, "GRPCRoute {name}"),
        }
    }
}
