//! Trace headers besides W3C's: B3, Jaeger's, Datadog's, X-Ray's and OpenTracing's.
//!
//! All are read, in the order of [`Format::ALL`]; each that a request carries is written anew, so that none is left that
//! tells of another span than the rest. Identifiers are read in any case and length that the format knows.

mod b3;
mod datadog;
mod jaeger;
mod xray;

use std::fmt::Write as _;

use super::{SpanId, TraceContext, TraceId};
use b3::{B3, B3_FLAGS, B3_PARENT, B3_SAMPLED, B3_SPAN, B3_TRACE};
use datadog::{DATADOG_PARENT, DATADOG_PRIORITY, DATADOG_TAGS, DATADOG_TRACE};
use jaeger::JAEGER;
use xray::XRAY;

/// A format of trace headers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `b3`.
    B3Single,
    /// `x-b3-*`.
    B3Multi,
    /// `uber-trace-id`.
    Jaeger,
    /// `x-datadog-*`.
    Datadog,
    /// `x-amzn-trace-id`.
    Xray,
    /// `ot-tracer-*`.
    OpenTracing,
}

/// Several formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Formats(u8);

/// What a format's headers say of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// The trace, where one is named.
    pub trace: Option<TraceId>,
    /// The span that the request is made under, where one is named.
    pub span: Option<SpanId>,
    /// What was decided.
    pub sampling: Sampling,
}

/// What was decided about a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampling {
    /// Nothing yet: whoever gets the request decides.
    Deferred,
    /// It is not recorded.
    Drop,
    /// It is recorded.
    Keep,
    /// It is recorded, whatever it costs.
    Debug,
}

/// What is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// The trace, and the span that the next hop is under.
    pub context: TraceContext,
    /// Whether it is recorded whatever it costs.
    pub debug: bool,
}

/// Headers, each with the value it is to have; one without a value is removed.
pub type Changes = Vec<(&'static str, Option<String>)>;

const OT_TRACE: &str = "ot-tracer-traceid";
const OT_SPAN: &str = "ot-tracer-spanid";
const OT_SAMPLED: &str = "ot-tracer-sampled";

/// Bytes of what others say in a header of several parts that are passed on.
const MAX_KEPT: usize = 512;

impl Format {
    /// Every one, in the order in which they are believed; all come after W3C's.
    pub const ALL: [Self; 6] =
        [Self::B3Single, Self::B3Multi, Self::Jaeger, Self::Datadog, Self::Xray, Self::OpenTracing];

    /// Its headers.
    pub const fn headers(self) -> &'static [&'static str] {
        match self {
            Self::B3Single => &[B3],
            Self::B3Multi => &[B3_TRACE, B3_SPAN, B3_PARENT, B3_SAMPLED, B3_FLAGS],
            Self::Jaeger => &[JAEGER],
            Self::Datadog => &[DATADOG_TRACE, DATADOG_PARENT, DATADOG_PRIORITY, DATADOG_TAGS],
            Self::Xray => &[XRAY],
            Self::OpenTracing => &[OT_TRACE, OT_SPAN, OT_SAMPLED],
        }
    }

    /// Whose header this is, written in any case.
    pub fn of(name: &[u8]) -> Option<Self> {
        // Most names are told apart by their first letter and what follows it.
        match name {
            [b'b' | b'B', b'3'] => Some(Self::B3Single),
            [b'x' | b'X', b'-', b'b' | b'B' | b'd' | b'D' | b'a' | b'A', ..]
            | [b'u' | b'U', b'b' | b'B', ..]
            | [b'o' | b'O', b't' | b'T', b'-', ..] => Self::ALL
                .into_iter()
                .find(|format| format.headers().iter().any(|one| name.eq_ignore_ascii_case(one.as_bytes()))),
            _ => None,
        }
    }

    /// What the headers say. Nothing where they are malformed, or not there; `header` has a header's value, and none where
    /// it has several.
    pub fn read<'a>(self, header: impl Fn(&'static str) -> Option<&'a [u8]>) -> Option<Received> {
        let header = |name| header(name).and_then(|value| str::from_utf8(value).ok()).map(str::trim);
        match self {
            Self::B3Single => b3::read_one(header(B3)?),
            Self::B3Multi => b3::read_several(header),
            Self::Jaeger => jaeger::read(header(JAEGER)?),
            Self::Datadog => datadog::read(header),
            Self::Xray => xray::read(header(XRAY)?),
            Self::OpenTracing => {
                let decision = header(OT_SAMPLED).map_or(Sampling::Deferred, decision);
                ids(header(OT_TRACE)?, header(OT_SPAN)?, decision)
            }
        }
    }

    /// How the headers are to say it. `header` is as in [`Self::read`]: what else they say is kept where it is of the same
    /// trace.
    pub fn write<'a>(self, sent: &Sent, header: impl Fn(&'static str) -> Option<&'a [u8]>) -> Changes {
        let before = |name| header(name).and_then(|value| str::from_utf8(value).ok());
        let TraceContext { trace, span, sampled, .. } = sent.context;
        let is_same = self.read(&header).is_some_and(|received| self.is_trace(received.trace, trace));
        match self {
            Self::B3Single => b3::write_one(sent),
            Self::B3Multi => b3::write_several(sent),
            Self::Jaeger => jaeger::write(sent),
            Self::Datadog => {
                datadog::write(sent, before(DATADOG_PRIORITY), before(DATADOG_TAGS).filter(|_| is_same))
            }
            Self::Xray => vec![(XRAY, Some(xray::write(sent, before(XRAY).filter(|_| is_same))))],
            Self::OpenTracing if lower(trace) == 0 => self.nothing(),
            Self::OpenTracing => vec![
                (OT_TRACE, Some(format!("{:016x}", lower(trace)))),
                (OT_SPAN, Some(span.to_string())),
                (OT_SAMPLED, Some(sampled.to_string())),
            ],
        }
    }

    /// The trace cannot be told of: half of its identifier is all zeros.
    fn nothing(self) -> Changes {
        self.headers().iter().map(|name| (*name, None)).collect()
    }

    fn is_trace(self, received: Option<TraceId>, sent: TraceId) -> bool {
        match self {
            // It names the lower half; the upper one is among what may be kept.
            Self::Datadog => received.is_some_and(|received| lower(received) == lower(sent)),
            _ => received == Some(sent),
        }
    }
}

impl Sent {
    /// Whether it is recorded, as most formats say it.
    fn digit(&self) -> &'static str {
        if self.context.sampled { "1" } else { "0" }
    }
}

impl Formats {
    /// One more.
    pub fn insert(&mut self, format: Format) {
        self.0 |= 1 << format as u8;
    }

    /// And these.
    pub fn extend(&mut self, more: Self) {
        self.0 |= more.0;
    }

    /// Those of these, in the order in which they are believed.
    pub fn iter(self) -> impl Iterator<Item = Format> {
        Format::ALL.into_iter().filter(move |format| self.0 & 1 << *format as u8 != 0)
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl Sampling {
    /// What it says of recording; none where that is left to others.
    pub fn sampled(self) -> Option<bool> {
        match self {
            Self::Deferred => None,
            Self::Drop => Some(false),
            Self::Keep | Self::Debug => Some(true),
        }
    }
}

/// The parts that fit, each whole, and in none of them what a header may not hold.
fn bounded<'a>(parts: impl Iterator<Item = &'a str>, between: &str) -> String {
    let mut all = String::new();
    for part in parts.filter(|part| part.bytes().all(|byte| (b' '..=b'~').contains(&byte))) {
        if all.len() + between.len() + part.len() > MAX_KEPT {
            break;
        }
        let _ = write!(all, "{}{part}", if all.is_empty() { "" } else { between });
    }
    all
}

/// Identifiers of a fixed length: a trace's of 16 or 32 digits, a span's of 16.
fn ids(trace: &str, span: &str, sampling: Sampling) -> Option<Received> {
    let trace = number(trace, 16..=16).or_else(|| number(trace, 32..=32))?;
    Some(Received { trace: Some(TraceId::new(trace.to_be_bytes())?), span: Some(span_id(span)?), sampling })
}

fn span_id(text: &str) -> Option<SpanId> {
    SpanId::new(u64::try_from(number(text, 16..=16)?).ok()?.to_be_bytes())
}

fn decision(text: &str) -> Sampling {
    match text {
        "1" | "true" | "True" => Sampling::Keep,
        "0" | "false" | "False" => Sampling::Drop,
        "d" => Sampling::Debug,
        _ => Sampling::Deferred,
    }
}

/// Hexadecimal digits, so many of them.
fn number(digits: &str, length: std::ops::RangeInclusive<usize>) -> Option<u128> {
    let is_hex = length.contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex { u128::from_str_radix(digits, 16).ok() } else { None }
}

/// A trace that came with 64 bits goes on with 64, for those who know no more.
fn short(trace: TraceId) -> String {
    let number = u128::from_be_bytes(*trace.as_bytes());
    if number >> 64 == 0 { format!("{number:016x}") } else { format!("{number:032x}") }
}

fn lower(trace: TraceId) -> u64 {
    let [.., a, b, c, d, e, f, g, h] = *trace.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests;
