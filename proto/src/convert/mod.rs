//! Wire to model and back: the only code that knows both.
//!
//! Reading may fail, and says which part was wrong; writing cannot.

mod access;
mod external;
mod filter;
mod health;
mod mesh;
mod rate;
mod retries;
mod route;
mod route_traffic;
mod service;
mod token;
mod traffic;
mod trust;

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
    /// Neither an identity nor a serial number.
    #[error("what is revoked is not valid")]
    Revoked(#[source] model::RevokedError),
    /// An address that is none.
    #[error("{0} is not valid")]
    Address(&'static str, #[source] std::net::AddrParseError),
    /// A pattern that is none.
    #[error("{0} is not valid: {1:?}")]
    Pattern(&'static str, String),
    /// A number or length out of range.
    #[error("{0} is out of range: {1}")]
    Range(&'static str, u64),
    /// A part of a route that is none.
    #[error("{0} is not valid: {1}")]
    Route(&'static str, String),
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
        v1::Kind::Trust => Resource::Trust(read::<v1::Trust>("Trust", body)?.try_into()?),
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
        Resource::Trust(trust) => v1::Trust::from(trust).encode_to_vec(),
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
