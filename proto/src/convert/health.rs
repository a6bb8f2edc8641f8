//! How apps are asked whether they work.

use weft_core::model;
use weft_core::model::Probe;

use super::traffic::{duration, milliseconds, positive};
use super::{ConvertError, port_from_wire, protocol_from_wire, protocol_to_wire, qualified};
use crate::v1;
use crate::v1::health_check::Probe as Wire;

impl TryFrom<v1::HealthCheck> for model::HealthCheck {
    type Error = ConvertError;

    fn try_from(wire: v1::HealthCheck) -> Result<Self, ConvertError> {
        let probe = match wire.probe.ok_or(ConvertError::Missing("probe"))? {
            Wire::Path(path) => Probe::Http { path },
            Wire::Grpc(service) => Probe::Grpc { service },
            Wire::Tcp(_) => Probe::Tcp,
        };
        let port = match wire.port {
            0 => None,
            port => Some(port_from_wire("port", port)?),
        };
        Ok(Self {
            probe,
            port,
            interval: duration("interval_ms", wire.interval_ms)?,
            timeout: duration("timeout_ms", wire.timeout_ms)?,
            unhealthy_after: positive("unhealthy_after", wire.unhealthy_after)?,
            healthy_after: positive("healthy_after", wire.healthy_after)?,
        })
    }
}

impl From<&model::HealthCheck> for v1::HealthCheck {
    fn from(check: &model::HealthCheck) -> Self {
        let probe = match &check.probe {
            Probe::Http { path } => Wire::Path(path.clone()),
            Probe::Grpc { service } => Wire::Grpc(service.clone()),
            Probe::Tcp => Wire::Tcp(v1::Nothing {}),
        };
        Self {
            probe: Some(probe),
            port: check.port.map(Into::into).unwrap_or_default(),
            interval_ms: milliseconds(check.interval),
            timeout_ms: milliseconds(check.timeout),
            unhealthy_after: check.unhealthy_after,
            healthy_after: check.healthy_after,
        }
    }
}

impl TryFrom<v1::AppCheck> for model::AppCheck {
    type Error = ConvertError;

    fn try_from(wire: v1::AppCheck) -> Result<Self, ConvertError> {
        Ok(Self {
            service: qualified("service", &wire.service)?,
            port: port_from_wire("port", wire.port)?,
            protocol: protocol_from_wire(wire.protocol)?,
            settings: wire.check.ok_or(ConvertError::Missing("check"))?.try_into()?,
        })
    }
}

impl From<&model::AppCheck> for v1::AppCheck {
    fn from(check: &model::AppCheck) -> Self {
        Self {
            service: check.service.to_string(),
            port: check.port.into(),
            protocol: protocol_to_wire(check.protocol).into(),
            check: Some((&check.settings).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_survive_the_wire_and_what_cannot_be_meant_is_refused() {
        for probe in [Probe::Http { path: "/x".into() }, Probe::Grpc { service: String::new() }, Probe::Tcp] {
            let settings = model::HealthCheck { port: Some(80), ..model::HealthCheck::new(probe) };
            let (service, protocol) = ("a/b".parse().unwrap(), model::Protocol::Grpc);
            let check = model::AppCheck { service, port: 8080, protocol, settings };
            let wire = v1::AppCheck::from(&check);
            assert_eq!(model::AppCheck::try_from(wire.clone()).unwrap(), check);
            assert!(model::AppCheck::try_from(v1::AppCheck { check: None, ..wire }).is_err());
        }
        assert!(model::HealthCheck::try_from(v1::HealthCheck::default()).is_err());
    }
}
