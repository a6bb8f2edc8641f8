//! The vocabulary of the mesh. A value that exists is valid.

mod identity;
mod mesh;
mod name;
mod service;

pub use identity::{IdentityError, SpiffeId, TrustDomain};
pub use mesh::{
    AccessLog, AuthorizationDefault, Mesh, MtlsMode, OutboundMode, Propagation, TraceExport, Tracing,
};
pub use name::{Name, NameError, QualifiedName};
pub use service::{Address, Endpoint, InboundPort, PortMap, Protocol, Service, ServicePort, Workload};
