//! Mesh-wide settings.

use weft_core::model;

use super::ConvertError;
use crate::v1;

impl TryFrom<v1::Mesh> for model::Mesh {
    type Error = ConvertError;

    fn try_from(wire: v1::Mesh) -> Result<Self, ConvertError> {
        let mtls = mtls_from_wire(wire.mtls)?;
        let outbound = match known("outbound", wire.outbound)? {
            v1::OutboundMode::AllowAny => model::OutboundMode::AllowAny,
            v1::OutboundMode::RegistryOnly => model::OutboundMode::RegistryOnly,
        };
        let authorization = match known("authorization", wire.authorization)? {
            v1::AuthorizationDefault::Authenticated => model::AuthorizationDefault::Authenticated,
            v1::AuthorizationDefault::Any => model::AuthorizationDefault::Any,
            v1::AuthorizationDefault::Deny => model::AuthorizationDefault::Deny,
        };
        let access_log = match known("access_log", wire.access_log)? {
            v1::AccessLog::Off => model::AccessLog::Off,
            v1::AccessLog::Json => model::AccessLog::Json,
            v1::AccessLog::Common => model::AccessLog::Common,
        };
        Ok(Self {
            trust_domain: wire.trust_domain.parse().map_err(|e| ConvertError::Identity("trust_domain", e))?,
            mtls,
            outbound,
            authorization,
            tracing: wire.tracing.ok_or(ConvertError::Missing("tracing"))?.try_into()?,
            access_log,
            access_log_per_million: wire.access_log_per_million,
            service_cidrs: wire.service_cidrs.iter().map(|range| cidr(range)).collect::<Result<_, _>>()?,
            externals: wire.externals.iter().map(super::external::hosts).collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<v1::Tracing> for model::Tracing {
    type Error = ConvertError;

    fn try_from(wire: v1::Tracing) -> Result<Self, ConvertError> {
        if wire.sampling_per_million > 1_000_000 {
            return Err(ConvertError::Range("sampling_per_million", wire.sampling_per_million.into()));
        }
        let propagation = wire.propagation.iter().map(|name| propagation(name)).collect::<Result<_, _>>()?;
        let export = |export: v1::TraceExport| match export.to.ok_or(ConvertError::Missing("export.to"))? {
            v1::trace_export::To::Otlp(url) => Ok(model::TraceExport::Otlp(url)),
            v1::trace_export::To::Zipkin(url) => Ok(model::TraceExport::Zipkin(url)),
        };
        Ok(Self {
            sampling_per_million: wire.sampling_per_million,
            propagation,
            export: wire.export.into_iter().map(export).collect::<Result<_, ConvertError>>()?,
        })
    }
}

impl From<&model::Mesh> for v1::Mesh {
    fn from(mesh: &model::Mesh) -> Self {
        let mtls = mtls_to_wire(mesh.mtls);
        let outbound = match mesh.outbound {
            model::OutboundMode::AllowAny => v1::OutboundMode::AllowAny,
            model::OutboundMode::RegistryOnly => v1::OutboundMode::RegistryOnly,
        };
        let authorization = match mesh.authorization {
            model::AuthorizationDefault::Authenticated => v1::AuthorizationDefault::Authenticated,
            model::AuthorizationDefault::Any => v1::AuthorizationDefault::Any,
            model::AuthorizationDefault::Deny => v1::AuthorizationDefault::Deny,
        };
        let access_log = match mesh.access_log {
            model::AccessLog::Off => v1::AccessLog::Off,
            model::AccessLog::Json => v1::AccessLog::Json,
            model::AccessLog::Common => v1::AccessLog::Common,
        };
        Self {
            trust_domain: mesh.trust_domain.to_string(),
            mtls: mtls.into(),
            outbound: outbound.into(),
            authorization: authorization.into(),
            tracing: Some((&mesh.tracing).into()),
            access_log: access_log.into(),
            access_log_per_million: mesh.access_log_per_million,
            service_cidrs: mesh.service_cidrs.iter().map(ToString::to_string).collect(),
            externals: mesh.externals.iter().map(Into::into).collect(),
        }
    }
}

impl From<&model::Tracing> for v1::Tracing {
    fn from(tracing: &model::Tracing) -> Self {
        let name = |propagation: &model::Propagation| match propagation {
            model::Propagation::W3c => "w3c",
            model::Propagation::B3 => "b3",
            model::Propagation::Jaeger => "jaeger",
            model::Propagation::Datadog => "datadog",
            model::Propagation::Xray => "xray",
        };
        let export = |export: &model::TraceExport| v1::TraceExport {
            to: Some(match export {
                model::TraceExport::Otlp(url) => v1::trace_export::To::Otlp(url.clone()),
                model::TraceExport::Zipkin(url) => v1::trace_export::To::Zipkin(url.clone()),
            }),
        };
        Self {
            sampling_per_million: tracing.sampling_per_million,
            propagation: tracing.propagation.iter().map(|p| name(p).to_owned()).collect(),
            export: tracing.export.iter().map(export).collect(),
        }
    }
}

pub(super) fn mtls_from_wire(wire: i32) -> Result<model::MtlsMode, ConvertError> {
    Ok(match known("mtls", wire)? {
        v1::MtlsMode::Strict => model::MtlsMode::Strict,
        v1::MtlsMode::Permissive => model::MtlsMode::Permissive,
    })
}

pub(super) fn mtls_to_wire(mode: model::MtlsMode) -> v1::MtlsMode {
    match mode {
        model::MtlsMode::Strict => v1::MtlsMode::Strict,
        model::MtlsMode::Permissive => v1::MtlsMode::Permissive,
    }
}

pub(super) fn known<T: TryFrom<i32>>(field: &'static str, value: i32) -> Result<T, ConvertError> {
    T::try_from(value).map_err(|_| ConvertError::Unknown(field, value))
}

fn propagation(name: &str) -> Result<model::Propagation, ConvertError> {
    Ok(match name {
        "w3c" => model::Propagation::W3c,
        "b3" => model::Propagation::B3,
        "jaeger" => model::Propagation::Jaeger,
        "datadog" => model::Propagation::Datadog,
        "xray" => model::Propagation::Xray,
        _ => return Err(ConvertError::Missing("a known name in tracing.propagation")),
    })
}

fn cidr(text: &str) -> Result<model::Cidr, ConvertError> {
    text.parse().map_err(|error| ConvertError::Cidr("service_cidrs", error))
}
