//! Jaeger's header: one of four parts.

use super::{Changes, Received, Sampling, Sent, number, short};
use crate::trace::{SpanId, TraceId};

pub(super) const JAEGER: &str = "uber-trace-id";

/// `TRACE:SPAN:PARENT:FLAGS`, without leading zeros, perhaps with its colons written as in a URL.
pub(super) fn read(value: &str) -> Option<Received> {
    const MAX: usize = 80;
    if value.len() > MAX {
        return None;
    }
    let plain = value.replace("%3A", ":").replace("%3a", ":");
    let parts: Vec<&str> = plain.split(':').collect();
    let &[trace, span, _parent, flags] = &parts[..] else { return None };
    let flags = u8::try_from(number(flags, 1..=2)?).ok()?;
    let sampling = match flags & 3 {
        0 => Sampling::Drop,
        1 => Sampling::Keep,
        _ => Sampling::Debug,
    };
    let trace = TraceId::new(number(trace, 1..=32)?.to_be_bytes())?;
    let span = u64::try_from(number(span, 1..=16)?).ok()?;
    Some(Received { trace: Some(trace), span: Some(SpanId::new(span.to_be_bytes())?), sampling })
}

pub(super) fn write(sent: &Sent) -> Changes {
    let flags = if sent.debug { "3" } else { sent.digit() };
    vec![(JAEGER, Some(format!("{}:{}:0:{flags}", short(sent.context.trace), sent.context.span)))]
}
