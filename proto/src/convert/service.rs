//! Services, endpoints, addresses, workloads.

use std::net::IpAddr;
use std::sync::Arc;

use weft_core::model;
use weft_core::model::{ConcurrencyMode, Ratio};

use super::mesh::{mtls_from_wire, mtls_to_wire};
use super::{
    ConvertError, address_from_wire, address_to_wire, optional_qualified, port_from_wire, protocol_from_wire,
    protocol_to_wire, qualified,
};
use crate::v1;

impl TryFrom<v1::Service> for model::Service {
    type Error = ConvertError;

    fn try_from(wire: v1::Service) -> Result<Self, ConvertError> {
        let namespace = wire.namespace.parse().map_err(|e| ConvertError::Name("namespace", e))?;
        let name = wire.name.parse().map_err(|e| ConvertError::Name("name", e))?;
        Ok(Self {
            name: model::QualifiedName::new(namespace, name),
            addresses: addresses(&wire.addresses)?,
            ports: wire.ports.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            traffic: wire.traffic.map(TryInto::try_into).transpose()?.map(Box::new).unwrap_or_default(),
            routes: wire.routes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            external: wire.external.map(TryInto::try_into).transpose()?,
            tokens: wire.tokens.as_ref().map(TryInto::try_into).transpose()?.map(Arc::new),
        })
    }
}

impl TryFrom<v1::ServicePort> for model::ServicePort {
    type Error = ConvertError;

    fn try_from(wire: v1::ServicePort) -> Result<Self, ConvertError> {
        let protocol = protocol_from_wire(wire.protocol)?;
        Ok(Self { port: port_from_wire("port", wire.port)?, name: wire.name, protocol })
    }
}

impl TryFrom<v1::Endpoint> for model::Endpoint {
    type Error = ConvertError;

    fn try_from(wire: v1::Endpoint) -> Result<Self, ConvertError> {
        let identity = match wire.identity.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|e| ConvertError::Identity("identity", e))?),
        };
        let inbound_port = match wire.inbound_port {
            0 => None,
            port => Some(port_from_wire("inbound_port", port)?),
        };
        let port_map = |map: &v1::PortMap| {
            let port = port_from_wire("ports.port", map.port)?;
            Ok(model::PortMap { port, target_port: port_from_wire("ports.target_port", map.target_port)? })
        };
        Ok(Self {
            workload: qualified("workload", &wire.workload)?,
            addresses: addresses(&wire.addresses)?,
            identity,
            inbound_port,
            zone: wire.zone,
            node: wire.node.into(),
            weight: wire.weight,
            ports: wire.ports.iter().map(port_map).collect::<Result<_, ConvertError>>()?,
            healthy: !wire.unhealthy,
            fits: fits(wire.fits)?,
        })
    }
}

impl TryFrom<v1::Address> for model::Address {
    type Error = ConvertError;

    fn try_from(wire: v1::Address) -> Result<Self, ConvertError> {
        match wire.target.ok_or(ConvertError::Missing("target"))? {
            v1::address::Target::Service(name) => Ok(Self::Service(qualified("service", &name)?)),
            v1::address::Target::Workload(workload) => Ok(Self::Workload {
                endpoint: workload.endpoint.ok_or(ConvertError::Missing("endpoint"))?.try_into()?,
                service: optional_qualified("service", &workload.service)?,
                target_ports: workload
                    .target_ports
                    .into_iter()
                    .map(TryInto::try_into)
                    .collect::<Result<_, _>>()?,
            }),
        }
    }
}

impl TryFrom<v1::Workload> for model::Workload {
    type Error = ConvertError;

    fn try_from(wire: v1::Workload) -> Result<Self, ConvertError> {
        let namespace = wire.namespace.parse().map_err(|e| ConvertError::Name("namespace", e))?;
        let name = wire.name.parse().map_err(|e| ConvertError::Name("name", e))?;
        let port = |port: v1::InboundPort| {
            Ok(model::InboundPort {
                port: port_from_wire("port", port.port)?,
                protocol: protocol_from_wire(port.protocol)?,
                service: qualified("service", &port.service)?,
                concurrency: concurrency_from_wire(port.concurrency)?,
                mtls: port.mtls.map(mtls_from_wire).transpose()?,
                sampling: port.sampling.map(inbound_sampling_from_wire).transpose()?.map(Arc::new),
            })
        };
        Ok(Self {
            name: model::QualifiedName::new(namespace, name),
            service_account: wire
                .service_account
                .parse()
                .map_err(|e| ConvertError::Name("service_account", e))?,
            ports: wire.ports.into_iter().map(port).collect::<Result<_, ConvertError>>()?,
            policies: wire.policies.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            limits: wire.limits.iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            concurrency: concurrency_from_wire(wire.concurrency)?,
            checks: wire.checks.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
            tokens: wire
                .tokens
                .iter()
                .map(|policy| policy.try_into().map(Arc::new))
                .collect::<Result<_, ConvertError>>()?,
            mtls: wire.mtls.map(mtls_from_wire).transpose()?,
        })
    }
}

impl From<&model::Service> for v1::Service {
    fn from(service: &model::Service) -> Self {
        Self {
            namespace: service.name.namespace.to_string(),
            name: service.name.name.to_string(),
            addresses: service.addresses.iter().map(address_to_wire).collect(),
            ports: service.ports.iter().map(Into::into).collect(),
            traffic: (*service.traffic != model::Traffic::default()).then(|| (&*service.traffic).into()),
            routes: service.routes.iter().map(Into::into).collect(),
            external: service.external.as_ref().map(Into::into),
            tokens: service.tokens.as_deref().map(Into::into),
        }
    }
}

impl From<&model::ServicePort> for v1::ServicePort {
    fn from(port: &model::ServicePort) -> Self {
        Self {
            port: port.port.into(),
            name: port.name.clone(),
            protocol: protocol_to_wire(port.protocol).into(),
        }
    }
}

impl From<&model::Endpoint> for v1::Endpoint {
    fn from(endpoint: &model::Endpoint) -> Self {
        let port_map =
            |map: &model::PortMap| v1::PortMap { port: map.port.into(), target_port: map.target_port.into() };
        Self {
            workload: endpoint.workload.to_string(),
            addresses: endpoint.addresses.iter().map(address_to_wire).collect(),
            identity: endpoint.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
            inbound_port: endpoint.inbound_port.map(Into::into).unwrap_or_default(),
            zone: endpoint.zone.clone(),
            node: endpoint.node.as_ref().to_owned(),
            weight: endpoint.weight,
            ports: endpoint.ports.iter().map(port_map).collect(),
            unhealthy: !endpoint.healthy,
            fits: endpoint.fits.bits().into(),
        }
    }
}

impl From<&model::Address> for v1::Address {
    fn from(address: &model::Address) -> Self {
        let target = match address {
            model::Address::Service(name) => v1::address::Target::Service(name.to_string()),
            model::Address::Workload { endpoint, service, target_ports } => {
                v1::address::Target::Workload(v1::AddressedWorkload {
                    endpoint: Some(endpoint.into()),
                    service: service.as_ref().map(ToString::to_string).unwrap_or_default(),
                    target_ports: target_ports.iter().map(Into::into).collect(),
                })
            }
        };
        Self { target: Some(target) }
    }
}

impl From<&model::Workload> for v1::Workload {
    fn from(workload: &model::Workload) -> Self {
        let port = |port: &model::InboundPort| v1::InboundPort {
            port: port.port.into(),
            protocol: protocol_to_wire(port.protocol).into(),
            service: port.service.to_string(),
            concurrency: concurrency_to_wire(port.concurrency).into(),
            mtls: port.mtls.map(|mode| mtls_to_wire(mode).into()),
            sampling: port.sampling.as_deref().map(|sampling| v1::InboundSampling {
                per_million: sampling.service.map(Ratio::per_million),
                routes: sampling.routes.iter().map(Into::into).collect(),
            }),
        };
        Self {
            namespace: workload.name.namespace.to_string(),
            name: workload.name.name.to_string(),
            service_account: workload.service_account.to_string(),
            ports: workload.ports.iter().map(port).collect(),
            policies: workload.policies.iter().map(Into::into).collect(),
            limits: workload.limits.iter().map(Into::into).collect(),
            concurrency: concurrency_to_wire(workload.concurrency).into(),
            checks: workload.checks.iter().map(Into::into).collect(),
            tokens: workload.tokens.iter().map(|policy| (&**policy).into()).collect(),
            mtls: workload.mtls.map(|mode| mtls_to_wire(mode).into()),
        }
    }
}

fn inbound_sampling_from_wire(wire: v1::InboundSampling) -> Result<model::InboundSampling, ConvertError> {
    Ok(model::InboundSampling {
        service: super::traffic::sampling(wire.per_million)?,
        routes: wire.routes.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
    })
}

fn concurrency_from_wire(wire: i32) -> Result<ConcurrencyMode, ConvertError> {
    match v1::Concurrency::try_from(wire) {
        Ok(v1::Concurrency::Unlimited) => Ok(ConcurrencyMode::Off),
        Ok(v1::Concurrency::Adaptive) => Ok(ConcurrencyMode::Adaptive),
        Err(_) => Err(ConvertError::Unknown("concurrency", wire)),
    }
}

fn concurrency_to_wire(mode: ConcurrencyMode) -> v1::Concurrency {
    match mode {
        ConcurrencyMode::Off => v1::Concurrency::Unlimited,
        ConcurrencyMode::Adaptive => v1::Concurrency::Adaptive,
    }
}

fn fits(wire: u32) -> Result<model::Fits, ConvertError> {
    let bits = u8::try_from(wire).map_err(|_| ConvertError::Range("fits", wire.into()))?;
    Ok(model::Fits::from_bits(bits))
}

fn addresses(wire: &[Vec<u8>]) -> Result<Vec<IpAddr>, ConvertError> {
    wire.iter().map(|bytes| address_from_wire(bytes)).collect()
}
