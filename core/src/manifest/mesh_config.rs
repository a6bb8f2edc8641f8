//! `weft.mesh/v1alpha1 MeshConfig`.

use super::decode::{Field, Object};
use super::document::Places;
use super::resource::MeshConfigSpec;
use crate::model::{AccessLog, AuthorizationDefault, MtlsMode, OutboundMode, Propagation, TraceExport};

const FIELDS: [&str; 6] = ["trustDomain", "mtls", "outbound", "authorization", "tracing", "accessLog"];
/// As documents spell it.
pub(super) const MTLS: [(&str, MtlsMode); 2] =
    [("Strict", MtlsMode::Strict), ("Permissive", MtlsMode::Permissive)];
const OUTBOUND: [(&str, OutboundMode); 2] =
    [("AllowAny", OutboundMode::AllowAny), ("RegistryOnly", OutboundMode::RegistryOnly)];
const AUTHORIZATION: [(&str, AuthorizationDefault); 3] = [
    ("Any", AuthorizationDefault::Any),
    ("Authenticated", AuthorizationDefault::Authenticated),
    ("Deny", AuthorizationDefault::Deny),
];
const ACCESS_LOG: [(&str, AccessLog); 3] =
    [("json", AccessLog::Json), ("common", AccessLog::Common), ("off", AccessLog::Off)];
const PROPAGATION: [(&str, Propagation); 5] = [
    ("w3c", Propagation::W3c),
    ("b3", Propagation::B3),
    ("jaeger", Propagation::Jaeger),
    ("datadog", Propagation::Datadog),
    ("xray", Propagation::Xray),
];

pub(super) fn read(spec: &Field<'_>, places: &mut Places) -> Option<MeshConfigSpec> {
    let spec = spec.object(&FIELDS)?;
    let trust_domain = spec.field("trustDomain");
    places.extend(trust_domain.as_ref().map(|field| ("spec.trustDomain".to_owned(), field.place())));
    let tracing =
        spec.field("tracing").and_then(|field| field.object(&["sampling", "propagation", "export"]));
    let access_log = spec.field("accessLog").and_then(|field| field.object(&["format", "sampling"]));
    let list =
        |name: &str| tracing.as_ref().and_then(|tracing| tracing.field(name)).and_then(|list| list.list());
    Some(MeshConfigSpec {
        trust_domain: trust_domain.and_then(|field| field.parse("write a name such as mesh.local")),
        mtls: mode(&spec, "mtls", "mode", &MTLS),
        outbound: mode(&spec, "outbound", "mode", &OUTBOUND),
        authorization: mode(&spec, "authorization", "default", &AUTHORIZATION),
        sampling: tracing
            .as_ref()
            .and_then(|tracing| tracing.field("sampling"))
            .and_then(|field| field.ratio()),
        propagation: list("propagation").map(|formats| formats.iter().filter_map(propagation).collect()),
        export: list("export").map(|exports| exports.iter().filter_map(export).collect()),
        access_log: access_log.as_ref().and_then(|log| log.field("format")?.choice(&ACCESS_LOG)),
        access_log_sampling: access_log.as_ref().and_then(|log| log.field("sampling")?.ratio()),
    })
}

/// The one word in an object of one field, such as `mtls: {mode: Strict}`.
fn mode<T: Copy>(spec: &Object<'_>, object: &str, field: &str, choices: &[(&str, T)]) -> Option<T> {
    spec.field(object)?.object(&[field])?.field(field)?.choice(choices)
}

fn propagation(field: &Field<'_>) -> Option<Propagation> {
    field.choice(&PROPAGATION)
}

fn export(field: &Field<'_>) -> Option<TraceExport> {
    let object = field.object(&["otlp", "zipkin"])?;
    match (object.field("otlp"), object.field("zipkin")) {
        (Some(otlp), None) => url(&otlp).map(TraceExport::Otlp),
        (None, Some(zipkin)) => url(&zipkin).map(TraceExport::Zipkin),
        (Some(_), Some(_)) | (None, None) => {
            field.mistake("exactly one of otlp and zipkin is expected", "write {otlp: http://HOST:4317}");
            None
        }
    }
}

fn url(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let authority = rest.and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    let port_ok = match authority.rsplit_once(':') {
        // Within brackets a colon is part of an IPv6 address.
        Some((_, port)) if !port.ends_with(']') => port.parse::<u16>().is_ok_and(|port| port != 0),
        Some(_) | None => true,
    };
    let host_ok = !authority.is_empty() && !authority.starts_with(':') && !authority.contains('@');
    if host_ok && port_ok && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Some(text.to_owned());
    }
    field
        .mistake(format!("{text:?} is no URL of a collector"), "write http://HOST:PORT or https://HOST:PORT");
    None
}
