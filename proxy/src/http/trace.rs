//! A request's trace: read from its head, continued or begun, and told to the next hop in every format that it came in or
//! that the mesh's settings name.
//!
//! W3C's headers are believed first, then the others in the order of [`Format::ALL`]. Baggage is not the mesh's to touch.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use weft_core::model::{Propagation, Tracing};
use weft_core::trace::formats::{Format, Formats, Received, Sampling, Sent};
use weft_core::trace::{SpanId, TraceContext, w3c};

use super::head::{Fields, Value};

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Where a request stands in its trace: our own span, and the one it is under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The trace, and our span in it.
    pub own: TraceContext,
    /// The span that ours is a child of; none: ours is the root.
    pub parent: Option<SpanId>,
    /// Who has decided whether it is recorded.
    pub decider: Decider,
}

/// Who has decided whether a trace is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decider {
    /// Whoever sent the request.
    Sender,
    /// This sidecar.
    Sidecar,
}

/// What this sidecar's own environment says of traces, before the mesh's settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OwnTracing {
    /// Which traces are recorded; none: those that the mesh's settings say.
    pub sampler: Option<Sampler>,
    /// The formats that are written besides W3C's; none: those that the mesh's settings say.
    pub formats: Option<Formats>,
}

/// Which traces are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampler {
    /// Of a million, so many.
    pub per_million: u32,
    /// What becomes of those that others have decided about.
    pub parents: Parents,
}

/// What becomes of traces that others have decided about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parents {
    /// It is as they have decided.
    Heeded,
    /// It is decided again.
    Overruled,
}

/// Continues the request's trace, or begins one, and says so to the next hop.
pub fn trace(
    fields: &mut impl Fields,
    rng: &mut fastrand::Rng,
    tracing: Option<&Tracing>,
    own: &OwnTracing,
) -> Span {
    let sampling = tracing.map_or(0, |tracing| tracing.sampling_per_million);
    let sampling = own.sampler.map_or(sampling, |sampler| sampler.per_million);
    let mut formats = present(fields);
    match own.formats {
        Some(own) => formats.extend(own),
        None => tracing.iter().flat_map(|it| &it.propagation).for_each(|it| configure(*it, &mut formats)),
    }
    // Nearly always there is W3C's and nothing else.
    let (mut span, debug) = match (received(fields), formats.is_empty()) {
        (Some(received), _) => {
            if !w3c::state_is_valid(fields.all(&TRACESTATE)) {
                fields.remove(&TRACESTATE);
            }
            let (own, parent) = (received.child(rng), Some(received.span));
            (Span { own, parent, decider: Decider::Sender }, false)
        }
        (None, is_none) => {
            // Without a traceparent it tells of nothing (section 3.3).
            fields.remove(&TRACESTATE);
            let found = if is_none { None } else { foreign(fields, formats) };
            follow(found, rng, sampling)
        }
    };
    if own.sampler.is_some_and(|sampler| sampler.parents == Parents::Overruled) && !debug {
        span.decider = Decider::Sidecar;
        span.own.sampled = rng.u32(..1_000_000) < sampling;
    }
    fields.set(&TRACEPARENT, Value::Once(&w3c::write(&span.own)));
    if !formats.is_empty() {
        write(fields, formats, &Sent { context: span.own, debug });
    }
    span
}

/// A request's place in a trace that nobody is told of.
pub fn unsaid(rng: &mut fastrand::Rng) -> Span {
    Span { own: TraceContext::begin(rng, 0), parent: None, decider: Decider::Sender }
}

/// Says in every field that tells of the trace what has been decided of it since.
pub fn tell(fields: &mut impl Fields, own: &TraceContext) {
    fields.set(&TRACEPARENT, Value::Once(&w3c::write(own)));
    let formats = present(fields);
    if !formats.is_empty() {
        write(fields, formats, &Sent { context: *own, debug: false });
    }
}

/// Has a request belong to no trace.
pub fn forget(fields: &mut impl Fields) {
    let names = fields.names().filter(|name| is_of_trace(name));
    let names: Vec<HeaderName> = names.filter_map(|name| HeaderName::from_bytes(name).ok()).collect();
    names.iter().for_each(|name| fields.remove(name));
}

/// Whether a field tells of a trace, so that it is the mesh's to change and nobody's to have removed.
pub fn is_of_trace(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"traceparent")
        || name.eq_ignore_ascii_case(b"tracestate")
        || Format::of(name).is_some()
}

/// Names another span of ours in every field that tells of the trace.
pub fn rename(fields: &mut HeaderMap, before: SpanId, now: SpanId) {
    for (_, value) in fields.iter_mut().filter(|(name, _)| is_of_trace(name.as_str().as_bytes())) {
        let mut text = value.as_bytes().to_vec();
        before.replace(now, &mut text);
        // It is as long as it was, and digits are no less digits.
        if let Ok(mut renamed) = HeaderValue::from_bytes(&text) {
            renamed.set_sensitive(value.is_sensitive());
            *value = renamed;
        }
    }
}

/// What W3C's header says.
fn received(fields: &impl Fields) -> Option<TraceContext> {
    let mut values = fields.all(&TRACEPARENT);
    match (values.next(), values.next()) {
        // Two of them are none (section 3.2).
        (Some(value), None) => w3c::parse(value),
        _ => None,
    }
}

/// The formats of which there is a header, well-formed or not.
fn present(fields: &impl Fields) -> Formats {
    let mut formats = Formats::default();
    for format in fields.names().filter_map(Format::of) {
        formats.insert(format);
    }
    formats
}

fn configure(format: Propagation, formats: &mut Formats) {
    match format {
        Propagation::W3c => {}
        Propagation::B3 => {
            formats.insert(Format::B3Single);
            formats.insert(Format::B3Multi);
        }
        Propagation::Jaeger => formats.insert(Format::Jaeger),
        Propagation::Datadog => formats.insert(Format::Datadog),
        Propagation::Xray => formats.insert(Format::Xray),
    }
}

fn foreign(fields: &impl Fields, formats: Formats) -> Option<Received> {
    formats.iter().find_map(|format| {
        let names: Vec<HeaderName> =
            format.headers().iter().map(|name| HeaderName::from_static(name)).collect();
        format.read(|name| only(fields, names.iter().find(|one| one.as_str() == name)?))
    })
}

/// Continues what was received, or begins, by the decision that came or else by the mesh's settings.
fn follow(received: Option<Received>, rng: &mut fastrand::Rng, per_million: u32) -> (Span, bool) {
    let begun = TraceContext::begin(rng, per_million);
    let Some(Received { trace, span, sampling }) = received else {
        return (Span { own: begun, parent: None, decider: Decider::Sidecar }, false);
    };
    let decided = sampling.sampled();
    let decider = if decided.is_some() { Decider::Sender } else { Decider::Sidecar };
    let own = TraceContext {
        trace: trace.unwrap_or(begun.trace),
        sampled: decided.unwrap_or(begun.sampled),
        // Nobody has said so of an identifier that is not ours.
        random: trace.is_none(),
        ..begun
    };
    (Span { own, parent: span, decider }, sampling == Sampling::Debug)
}

fn write(fields: &mut impl Fields, formats: Formats, sent: &Sent) {
    for format in formats.iter() {
        let names: Vec<HeaderName> =
            format.headers().iter().map(|name| HeaderName::from_static(name)).collect();
        let changes = format.write(sent, |name| only(fields, names.iter().find(|one| one.as_str() == name)?));
        for (name, value) in changes {
            let name = HeaderName::from_static(name);
            match value {
                Some(value) => fields.set(&name, Value::Once(value.as_bytes())),
                None => fields.remove(&name),
            }
        }
    }
}

/// The value of a field that is there once.
fn only<'a>(fields: &'a impl Fields, name: &'a HeaderName) -> Option<&'a [u8]> {
    let mut values = fields.all(name);
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests;
