//! Wire to model and back: the only code that knows both.
//!
//! Reading may fail, and says which part was wrong; writing cannot.

mod mesh;
mod service;

use std::net::IpAddr;

use prost::Message;
use weft_core::model;
use weft_core::model::{Resource, ResourceName};

use crate::v1;

/// Why a message is no value of the model.
#[derive(Debug, thiserror::Error)]
pub enum ConvertError {
    /// The bytes are no such message.
    #[error("the body is not a {0} message")]
    Undecodable(&'static str, #[source] prost::DecodeError),
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// A name that is none.
    #[error("{0} is not valid")]
    Name(&'static str, #[source] model::NameError),
    /// An identity that is none.
    #[error("{0} is not valid")]
    Identity(&'static str, #[source] model::IdentityError),
    /// A range of addresses that is none.
    #[error("{0} is not valid")]
    Cidr(&'static str, #[source] model::CidrError),
    /// An address that is none.
    #[error("{0} is not valid")]
    Address(&'static str, #[source] std::net::AddrParseError),
    /// A number or length out of range.
    #[error("{0} is out of range: {1}")]
    Range(&'static str, u64),
    /// An enumeration value that this version does not know.
    #[error("{0} has the unknown value {1}")]
    Unknown(&'static str, i32),
    /// A kind of resource that this version does not know.
    #[error("unknown kind of resource: {0}")]
    UnknownKind(i32),
}

/// Reads a resource's body as its kind says.
pub fn decode(kind: v1::Kind, body: &[u8]) -> Result<Resource, ConvertError> {
    fn read<M: Message + Default>(name: &'static str, body: &[u8]) -> Result<M, ConvertError> {
        M::decode(body).map_err(|error| ConvertError::Undecodable(name, error))
    }
    Ok(match kind {
        v1::Kind::Mesh => Resource::Mesh(read::<v1::Mesh>("Mesh", body)?.try_into()?),
        v1::Kind::Trust => {
            let trust = read::<v1::Trust>("Trust", body)?;
            Resource::Trust { trust_domain: domain(&trust.trust_domain)?, anchors: trust.anchors }
        }
        v1::Kind::Service => Resource::Service(read::<v1::Service>("Service", body)?.try_into()?),
        v1::Kind::Endpoints => {
            let wire = read::<v1::Endpoints>("Endpoints", body)?;
            Resource::Endpoints(wire.endpoints.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?)
        }
        v1::Kind::Address => Resource::Address(read::<v1::Address>("Address", body)?.try_into()?),
        v1::Kind::Workload => Resource::Workload(read::<v1::Workload>("Workload", body)?.try_into()?),
        v1::Kind::Unspecified => return Err(ConvertError::UnknownKind(0)),
    })
}

/// Writes a resource's body.
pub fn encode(resource: &Resource) -> Vec<u8> {
    match resource {
        Resource::Mesh(mesh) => v1::Mesh::from(mesh).encode_to_vec(),
        Resource::Trust { trust_domain, anchors } => {
            v1::Trust { trust_domain: trust_domain.to_string(), anchors: anchors.clone() }.encode_to_vec()
        }
        Resource::Service(service) => v1::Service::from(service).encode_to_vec(),
        Resource::Endpoints(endpoints) => {
            v1::Endpoints { endpoints: endpoints.iter().map(Into::into).collect() }.encode_to_vec()
        }
        Resource::Address(address) => v1::Address::from(address).encode_to_vec(),
        Resource::Workload(workload) => v1::Workload::from(workload).encode_to_vec(),
    }
}

impl From<&ResourceName> for v1::ResourceName {
    fn from(name: &ResourceName) -> Self {
        let kind = match name {
            ResourceName::Mesh => v1::Kind::Mesh,
            ResourceName::Trust(_) => v1::Kind::Trust,
            ResourceName::Service(_) => v1::Kind::Service,
            ResourceName::Endpoints(_) => v1::Kind::Endpoints,
            ResourceName::Address(_) => v1::Kind::Address,
            ResourceName::Workload(_) => v1::Kind::Workload,
        };
        Self { kind: kind.into(), name: name.to_string() }
    }
}

impl TryFrom<&v1::ResourceName> for ResourceName {
    type Error = ConvertError;

    fn try_from(wire: &v1::ResourceName) -> Result<Self, ConvertError> {
        Ok(match v1::Kind::try_from(wire.kind) {
            Ok(v1::Kind::Mesh) => Self::Mesh,
            Ok(v1::Kind::Trust) => Self::Trust(domain(&wire.name)?),
            Ok(v1::Kind::Service) => Self::Service(qualified("name", &wire.name)?),
            Ok(v1::Kind::Endpoints) => Self::Endpoints(qualified("name", &wire.name)?),
            Ok(v1::Kind::Address) => {
                Self::Address(wire.name.parse().map_err(|e| ConvertError::Address("name", e))?)
            }
            Ok(v1::Kind::Workload) => Self::Workload(qualified("name", &wire.name)?),
            Ok(v1::Kind::Unspecified) | Err(_) => return Err(ConvertError::UnknownKind(wire.kind)),
        })
    }
}

/// Reads an address of 4 or 16 bytes.
pub fn address_from_wire(bytes: &[u8]) -> Result<IpAddr, ConvertError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(IpAddr::from(v4));
    }
    let v6 = <[u8; 16]>::try_from(bytes);
    v6.map(IpAddr::from).map_err(|_| ConvertError::Range("the length of an address", bytes.len() as u64))
}

/// Writes an address as 4 or 16 bytes.
pub fn address_to_wire(address: &IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// Reads a port, which must not be 0.
pub fn port_from_wire(field: &'static str, port: u32) -> Result<u16, ConvertError> {
    match u16::try_from(port) {
        Ok(port) if port != 0 => Ok(port),
        _ => Err(ConvertError::Range(field, u64::from(port))),
    }
}

/// Reads what is spoken on a port.
pub fn protocol_from_wire(value: i32) -> Result<model::Protocol, ConvertError> {
    Ok(match v1::Protocol::try_from(value).map_err(|_| ConvertError::Unknown("protocol", value))? {
        v1::Protocol::Detect => model::Protocol::Detect,
        v1::Protocol::Http => model::Protocol::Http,
        v1::Protocol::Http2 => model::Protocol::Http2,
        v1::Protocol::Grpc => model::Protocol::Grpc,
        v1::Protocol::Tcp => model::Protocol::Tcp,
        v1::Protocol::Tls => model::Protocol::Tls,
    })
}

/// Writes what is spoken on a port.
pub fn protocol_to_wire(protocol: model::Protocol) -> v1::Protocol {
    match protocol {
        model::Protocol::Detect => v1::Protocol::Detect,
        model::Protocol::Http => v1::Protocol::Http,
        model::Protocol::Http2 => v1::Protocol::Http2,
        model::Protocol::Grpc => v1::Protocol::Grpc,
        model::Protocol::Tcp => v1::Protocol::Tcp,
        model::Protocol::Tls => v1::Protocol::Tls,
    }
}

fn qualified(field: &'static str, text: &str) -> Result<model::QualifiedName, ConvertError> {
    text.parse().map_err(|error| ConvertError::Name(field, error))
}

fn domain(text: &str) -> Result<model::TrustDomain, ConvertError> {
    text.parse().map_err(|error| ConvertError::Identity("trust_domain", error))
}

fn optional_qualified(field: &'static str, text: &str) -> Result<Option<model::QualifiedName>, ConvertError> {
    if text.is_empty() { Ok(None) } else { qualified(field, text).map(Some) }
}

#[cfg(test)]
mod tests {
    use weft_core::model::{
        Address, Endpoint, InboundPort, Mesh, PortMap, Propagation, Protocol, Service, ServicePort,
        TraceExport, Workload,
    };

    use super::*;

    fn check(name: &ResourceName, resource: &Resource) {
        let wire = v1::ResourceName::from(name);
        assert_eq!(&ResourceName::try_from(&wire).unwrap(), name);
        let kind = v1::Kind::try_from(wire.kind).unwrap();
        assert_eq!(&decode(kind, &encode(resource)).unwrap(), resource);
    }

    fn endpoint() -> Endpoint {
        Endpoint {
            workload: "shop/web-1".parse().unwrap(),
            addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            identity: Some("spiffe://mesh.local/ns/shop/sa/web".parse().unwrap()),
            inbound_port: Some(4143),
            zone: "a".into(),
            weight: 3,
            ports: vec![PortMap { port: 80, target_port: 8080 }],
        }
    }

    #[test]
    fn every_kind_of_resource_is_read_back_as_it_was_written() {
        let name: model::QualifiedName = "shop/web".parse().unwrap();
        let domain: model::TrustDomain = "mesh.local".parse().unwrap();
        let address = "10.0.0.1".parse().unwrap();
        let port = ServicePort { port: 80, name: "http".into(), protocol: Protocol::Grpc };
        let mut mesh = Mesh::with_defaults(domain.clone(), vec!["240.64.0.0/12".parse().unwrap()]);
        mesh.tracing.propagation.push(Propagation::Xray);
        mesh.tracing.export.push(TraceExport::Zipkin("http://zipkin:9411".into()));
        check(&ResourceName::Mesh, &Resource::Mesh(mesh));
        let trust = Resource::Trust { trust_domain: domain.clone(), anchors: vec![vec![1, 2], vec![]] };
        check(&ResourceName::Trust(domain), &trust);
        let service = Service { name: name.clone(), addresses: vec![address], ports: vec![port.clone()] };
        check(&ResourceName::Service(name.clone()), &Resource::Service(service));
        let plain = Endpoint { identity: None, inbound_port: None, ..endpoint() };
        check(&ResourceName::Endpoints(name.clone()), &Resource::Endpoints(vec![endpoint(), plain]));
        let virtual_address = Resource::Address(Address::Service(name.clone()));
        check(&ResourceName::Address(address), &virtual_address);
        for service in [None, Some(name.clone())] {
            let target_ports = vec![port.clone()];
            let own = Address::Workload { endpoint: endpoint(), service, target_ports };
            check(&ResourceName::Address("fd00::1".parse().unwrap()), &Resource::Address(own));
        }
        let ports = vec![InboundPort { port: 8080, protocol: Protocol::Http2, service: name.clone() }];
        let workload = Workload { name: name.clone(), service_account: "web".parse().unwrap(), ports };
        check(&ResourceName::Workload(name), &Resource::Workload(workload));
    }

    #[test]
    fn what_is_no_resource_is_refused() {
        assert!(decode(v1::Kind::Unspecified, &[]).is_err());
        assert!(decode(v1::Kind::Service, &[0xff]).is_err());
        assert!(decode(v1::Kind::Mesh, &[]).is_err());
        for (kind, name) in [(1, "other"), (3, "web"), (5, "10.0.0"), (2, "A"), (0, "a/b"), (99, "a/b")] {
            let wire = v1::ResourceName { kind, name: name.into() };
            let refused = ResourceName::try_from(&wire).is_err();
            // Settings have one name only, which is not looked at.
            assert_eq!(refused, kind != 1, "{kind} {name}");
        }
    }
}
