//! `weft.mesh/v1alpha1 FaultInjection`.

use std::time::Duration;

use super::authorization_policy;
use super::decode::{Field, Object};
use super::document::Places;
use super::target::{self, TargetKind};
use crate::model::{Abort, ClaimName, Fault, Name, PolicyTarget, Ratio};

const TARGETS: [TargetKind; 5] = [
    TargetKind::Service,
    TargetKind::Namespace,
    TargetKind::Mesh,
    TargetKind::HttpRoute,
    TargetKind::GrpcRoute,
];

/// The longest delay.
const MAX_DELAY: Duration = Duration::from_mins(5);

/// What a `FaultInjection` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultInjectionSpec {
    /// Whose callers it is for.
    pub target: PolicyTarget,
    /// What is done to them.
    pub fault: Fault,
}

pub(super) fn read(
    spec: &Field<'_>,
    namespace: Option<&Name>,
    places: &mut Places,
) -> Option<FaultInjectionSpec> {
    let object = spec.object(&["targetRef", "match", "delay", "abort", "expires"])?;
    let target = target::read(&object, namespace, &TARGETS, places);
    let matched = object.field("match").and_then(|field| field.object(&["headers", "from"]));
    let from = matched.as_ref().and_then(|matched| matched.field("from"));
    let from = from.zip(namespace).map(|(from, own)| authorization_policy::read_workloads(&from, own));
    let headers = matched.and_then(|matched| matched.field("headers")).and_then(|list| list.list());
    let headers = headers.unwrap_or_default().iter().filter_map(header).collect();
    let (delay, abort) = (object.field("delay"), object.field("abort"));
    if delay.is_none() && abort.is_none() {
        spec.mistake(
            "does nothing",
            "write delay: {fixed: 2s, percent: 10} or abort: {status: 503, percent: 5}",
        );
    }
    let fault = Fault {
        policy: "".into(),
        from: from.unwrap_or_default(),
        headers,
        delay: delay.and_then(|field| read_delay(&field)),
        abort: abort.and_then(|field| read_abort(&field)),
        expires: object.field("expires").and_then(|field| time(&field)),
    };
    Some(FaultInjectionSpec { target: target?, fault })
}

fn header(field: &Field<'_>) -> Option<(String, String)> {
    let object = field.object(&["name", "value"])?;
    let name = object.required("name", "write the header's name")?;
    let text = name.text()?;
    let value = object.required("value", "write the value that it must have")?.text()?;
    if ClaimName::of_match(text).is_some() {
        let hint = "name the route that asks for the claim as targetRef: its faults strike its requests";
        name.mistake(format!("{text:?} is how a route asks for a claim, and no request's header"), hint);
        return None;
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        name.mistake(format!("{text:?} is no name of a header"), "write letters, digits, '-' and '_'");
        return None;
    }
    Some((text.to_ascii_lowercase(), value.to_owned()))
}

fn read_delay(field: &Field<'_>) -> Option<(Duration, Ratio)> {
    let object = field.object(&["fixed", "percent"])?;
    let share = percent(&object);
    let fixed = object.required("fixed", "write how long, such as fixed: 2s")?;
    let delay = fixed.duration()?;
    if delay > MAX_DELAY {
        fixed.mistake("is longer than five minutes", "write at most 5m");
        return None;
    }
    Some((delay, share?))
}

fn read_abort(field: &Field<'_>) -> Option<(Abort, Ratio)> {
    let object = field.object(&["status", "grpcStatus", "percent"])?;
    let share = percent(&object);
    let status = object.field("status").map(|field| field.integer(200..=599));
    let grpc = object.field("grpcStatus").map(|field| field.integer(1..=16));
    if status.is_none() && grpc.is_none() {
        field.mistake("does not say with what", "write status: 503 or grpcStatus: 14");
        return None;
    }
    let status = u16::try_from(status.unwrap_or(Some(503))?).ok()?;
    let grpc_status = match grpc {
        Some(code) => u8::try_from(code?).ok()?,
        None => grpc_of(status),
    };
    Some((Abort { status, grpc_status }, share?))
}

/// What gRPC's clients make of an HTTP status (gRPC, "HTTP to gRPC Status Code Mapping").
fn grpc_of(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// How many of a hundred; all where it is not said.
fn percent(object: &Object<'_>) -> Option<Ratio> {
    let Some(field) = object.field("percent") else { return Some(Ratio::WHOLE) };
    let hint = "write a number from 0 to 100";
    match field.spelling().map(|text| format!("{}%", text.trim_end_matches('%')).parse()) {
        Some(Ok(ratio)) => return Some(ratio),
        Some(Err(_)) | None => field.mistake("is no percentage", hint),
    }
    None
}

fn time(field: &Field<'_>) -> Option<Duration> {
    let text = field.text()?;
    let parsed = text.parse::<jiff::Timestamp>().ok();
    let since = parsed.and_then(|time| u64::try_from(time.as_second()).ok()).map(Duration::from_secs);
    if since.is_none() {
        field.mistake(format!("{text:?} is no time"), "write a time such as \"2030-01-31T12:00:00Z\"");
    }
    since
}
