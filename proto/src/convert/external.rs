//! Services outside the mesh.

use weft_core::model;

use super::route::{parsed, parsed_all};
use super::{ConvertError, port_from_wire, qualified};
use crate::v1;

pub(super) fn hosts(wire: &v1::ExternalHosts) -> Result<model::ExternalHosts, ConvertError> {
    let port = |port: &u32| port_from_wire("externals.ports", *port);
    Ok(model::ExternalHosts {
        service: qualified("externals.service", &wire.service)?,
        hosts: parsed_all("externals.hosts", &wire.hosts)?,
        ports: wire.ports.iter().map(port).collect::<Result<_, _>>()?,
    })
}

impl TryFrom<v1::External> for model::External {
    type Error = ConvertError;

    fn try_from(wire: v1::External) -> Result<Self, ConvertError> {
        let host = |host: &str| match host {
            "" => Ok(None),
            host => parsed("external.host", host).map(Some),
        };
        let map = |map: &v1::PortMap| {
            let port = port_from_wire("external.ports.port", map.port)?;
            let target_port = port_from_wire("external.ports.target_port", map.target_port)?;
            Ok(model::PortMap { port, target_port })
        };
        let tls = |tls: v1::Origination| {
            let server_name = parsed("external.tls.server_name", &tls.server_name)?;
            Ok(model::Origination { server_name, ca: tls.ca })
        };
        Ok(Self {
            host: host(&wire.host)?,
            ports: wire.ports.iter().map(map).collect::<Result<_, ConvertError>>()?,
            tls: wire.tls.map(tls).transpose()?,
        })
    }
}

impl From<&model::ExternalHosts> for v1::ExternalHosts {
    fn from(external: &model::ExternalHosts) -> Self {
        Self {
            service: external.service.to_string(),
            hosts: external.hosts.iter().map(ToString::to_string).collect(),
            ports: external.ports.iter().map(|port| (*port).into()).collect(),
        }
    }
}

impl From<&model::External> for v1::External {
    fn from(external: &model::External) -> Self {
        let map =
            |map: &model::PortMap| v1::PortMap { port: map.port.into(), target_port: map.target_port.into() };
        let tls = |tls: &model::Origination| v1::Origination {
            server_name: tls.server_name.as_str().to_owned(),
            ca: tls.ca.clone(),
        };
        Self {
            host: external.host.as_ref().map(|host| host.as_str().to_owned()).unwrap_or_default(),
            ports: external.ports.iter().map(map).collect(),
            tls: external.tls.as_ref().map(tls),
        }
    }
}
