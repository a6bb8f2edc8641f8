//! B3, in one header and in several (<https://github.com/openzipkin/b3-propagation>).

use super::{Changes, Received, Sampling, Sent, decision, ids, short, span_id};

pub(super) const B3: &str = "b3";
pub(super) const B3_TRACE: &str = "x-b3-traceid";
pub(super) const B3_SPAN: &str = "x-b3-spanid";
pub(super) const B3_PARENT: &str = "x-b3-parentspanid";
pub(super) const B3_SAMPLED: &str = "x-b3-sampled";
pub(super) const B3_FLAGS: &str = "x-b3-flags";

/// `TRACE-SPAN[-SAMPLED[-PARENT]]`, or a decision alone.
pub(super) fn read_one(value: &str) -> Option<Received> {
    let parts: Vec<&str> = value.split('-').collect();
    let decided = |text: &str| match text {
        "0" => Some(Sampling::Drop),
        "1" => Some(Sampling::Keep),
        "d" => Some(Sampling::Debug),
        _ => None,
    };
    match parts[..] {
        [decision] => Some(Received { trace: None, span: None, sampling: decided(decision)? }),
        [trace, span] => ids(trace, span, Sampling::Deferred),
        [trace, span, decision] => ids(trace, span, decided(decision)?),
        [trace, span, decision, parent] => {
            span_id(parent)?;
            ids(trace, span, decided(decision)?)
        }
        _ => None,
    }
}

pub(super) fn read_several<'a>(header: impl Fn(&'static str) -> Option<&'a str>) -> Option<Received> {
    let sampling = match (header(B3_FLAGS), header(B3_SAMPLED)) {
        (Some("1"), _) => Sampling::Debug,
        (_, decided) => decided.map_or(Sampling::Deferred, decision),
    };
    match (header(B3_TRACE), header(B3_SPAN)) {
        (Some(trace), Some(span)) => ids(trace, span, sampling),
        (None, None) if sampling != Sampling::Deferred => {
            Some(Received { trace: None, span: None, sampling })
        }
        _ => None,
    }
}

pub(super) fn write_one(sent: &Sent) -> Changes {
    let digit = if sent.debug { "d" } else { sent.digit() };
    let (trace, span) = (short(sent.context.trace), sent.context.span);
    vec![(B3, Some(format!("{trace}-{span}-{digit}")))]
}

pub(super) fn write_several(sent: &Sent) -> Changes {
    vec![
        (B3_TRACE, Some(short(sent.context.trace))),
        (B3_SPAN, Some(sent.context.span.to_string())),
        // Optional, and said by none but Zipkin's own: a parent that another format may not tell of.
        (B3_PARENT, None),
        // Debug implies it, and is said instead of it.
        (B3_SAMPLED, (!sent.debug).then(|| sent.digit().to_owned())),
        (B3_FLAGS, sent.debug.then(|| "1".to_owned())),
    ]
}
