//! X-Ray's header: parts with names, in any order.

use super::{Received, Sampling, Sent, bounded, number, span_id};
use crate::trace::{TraceContext, TraceId};

pub(super) const XRAY: &str = "x-amzn-trace-id";

/// The parts of X-Ray's header that are the mesh's to say; `Self` is a load balancer's own span.
const XRAY_PARTS: [&str; 4] = ["Root", "Parent", "Sampled", "Self"];

/// `Root=1-EPOCH-REST;Parent=SPAN;Sampled=1`, in any order, with more that is not ours.
pub(super) fn read(value: &str) -> Option<Received> {
    let part = |name: &str| {
        let parts = value.split(';').filter_map(|part| part.trim().split_once('='));
        parts.filter(|(key, _)| *key == name).map(|(_, value)| value.trim()).next()
    };
    let (epoch, rest) = part("Root")?.strip_prefix("1-")?.split_once('-')?;
    let trace = number(epoch, 8..=8)? << 96 | number(rest, 24..=24)?;
    let span = match part("Parent") {
        Some(parent) => Some(span_id(parent)?),
        None => None,
    };
    let sampling = match part("Sampled") {
        Some("1") => Sampling::Keep,
        Some("0") => Sampling::Drop,
        // `?` asks for the decision to be told in the answer; X-Ray's own take it as not made.
        _ => Sampling::Deferred,
    };
    Some(Received { trace: Some(TraceId::new(trace.to_be_bytes())?), span, sampling })
}

pub(super) fn write(sent: &Sent, before: Option<&str>) -> String {
    let TraceContext { trace, span, sampled, .. } = sent.context;
    let number = u128::from_be_bytes(*trace.as_bytes());
    let (epoch, rest) = (number >> 96, number & (u128::MAX >> 32));
    let own = format!("Root=1-{epoch:08x}-{rest:024x};Parent={span};Sampled={}", u8::from(sampled));
    let others = before.into_iter().flat_map(|value| value.split(';')).map(str::trim).filter(|part| {
        part.split_once('=').is_some_and(|(key, _)| !XRAY_PARTS.contains(&key) && !key.is_empty())
    });
    bounded(std::iter::once(own.as_str()).chain(others), ";")
}
