//! Datadog's headers: decimal numbers, half of a trace's identifier, and the other half among tags.

use super::{Changes, Format, Received, Sampling, Sent, bounded, lower, number};
use crate::trace::{SpanId, TraceContext, TraceId};

pub(super) const DATADOG_TRACE: &str = "x-datadog-trace-id";
pub(super) const DATADOG_PARENT: &str = "x-datadog-parent-id";
pub(super) const DATADOG_PRIORITY: &str = "x-datadog-sampling-priority";
pub(super) const DATADOG_TAGS: &str = "x-datadog-tags";

/// Datadog's name for the upper half of a trace's identifier.
const DATADOG_UPPER: &str = "_dd.p.tid";

/// Decimal numbers of 64 bits, and the trace's upper half among the tags.
pub(super) fn read<'a>(header: impl Fn(&'static str) -> Option<&'a str>) -> Option<Received> {
    let lower = decimal(header(DATADOG_TRACE)?).filter(|lower| *lower != 0)?;
    let upper = header(DATADOG_TAGS)
        .into_iter()
        .flat_map(|tags| tags.split(','))
        .find_map(|tag| tag.strip_prefix(DATADOG_UPPER)?.strip_prefix('='))
        .and_then(|upper| number(upper, 16..=16))
        .unwrap_or(0);
    // A trace that begins at the edge has no parent yet.
    let span = match header(DATADOG_PARENT) {
        Some(parent) => SpanId::new(decimal(parent)?.to_be_bytes()),
        None => None,
    };
    let sampling = match header(DATADOG_PRIORITY).map(str::parse::<i8>) {
        None => Sampling::Deferred,
        Some(priority) if priority.clone().ok()? > 0 => Sampling::Keep,
        Some(_) => Sampling::Drop,
    };
    Some(Received { trace: TraceId::new((upper << 64 | u128::from(lower)).to_be_bytes()), span, sampling })
}

pub(super) fn write(sent: &Sent, priority: Option<&str>, tags: Option<&str>) -> Changes {
    let TraceContext { trace, span, sampled, .. } = sent.context;
    let (upper, lower) = (u128::from_be_bytes(*trace.as_bytes()) >> 64, lower(trace));
    if lower == 0 {
        return Format::Datadog.nothing();
    }
    // A decision made by hand (2, -1) stays one.
    let kept = priority.and_then(|text| text.trim().parse::<i8>().ok()).filter(|p| (*p > 0) == sampled);
    let priority = kept.unwrap_or(if sampled { 1 } else { 0 });
    let others =
        tags.into_iter().flat_map(|tags| tags.split(',')).filter(|tag| !tag.starts_with(DATADOG_UPPER));
    let others: Vec<&str> = others.filter(|tag| tag.contains('=')).collect();
    let upper = (upper != 0).then(|| format!("{DATADOG_UPPER}={upper:016x}"));
    let all = bounded(upper.as_deref().into_iter().chain(others), ",");
    vec![
        (DATADOG_TRACE, Some(lower.to_string())),
        (DATADOG_PARENT, Some(u64::from_be_bytes(*span.as_bytes()).to_string())),
        (DATADOG_PRIORITY, Some(priority.to_string())),
        (DATADOG_TAGS, (!all.is_empty()).then_some(all)),
    ]
}

fn decimal(digits: &str) -> Option<u64> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}
