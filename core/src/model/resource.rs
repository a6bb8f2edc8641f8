//! What sidecars are told, one resource at a time.

use std::fmt;
use std::net::IpAddr;

use super::{Address, Endpoint, Mesh, QualifiedName, Service, Trust, TrustDomain, Workload};

/// Which resource: its kind and its name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceName {
    /// Mesh-wide settings.
    Mesh,
    /// The trust anchors of this trust domain.
    Trust(TrustDomain),
    /// A service.
    Service(QualifiedName),
    /// The endpoints of this service.
    Endpoints(QualifiedName),
    /// Who answers at this address.
    Address(IpAddr),
    /// A sidecar's own workload.
    Workload(QualifiedName),
}

/// A resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resource {
    /// Mesh-wide settings.
    Mesh(Mesh),
    /// Whom to believe.
    Trust(Trust),
    /// A service.
    Service(Service),
    /// The endpoints of a service, sorted by workload.
    Endpoints(Vec<Endpoint>),
    /// Who answers at an address.
    Address(Address),
    /// The sidecar's own workload.
    Workload(Workload),
}

/// The name alone, without the kind: `default`, `namespace/name` or an address.
impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("default"),
            Self::Trust(domain) => domain.fmt(f),
            Self::Service(name) | Self::Endpoints(name) | Self::Workload(name) => name.fmt(f),
            Self::Address(address) => address.fmt(f),
        }
    }
}
