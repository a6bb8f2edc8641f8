//! Trace headers besides W3C's: B3, Jaeger's, Datadog's, X-Ray's and OpenTracing's.
//!
//! All are read, in the order of [`Format::ALL`]; each that a request carries is written anew, so that none is left that
//! tells of another span than the rest. Identifiers are read in any case and length that the format knows.

use std::fmt::Write as _;

use super::{SpanId, TraceContext, TraceId};

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

const B3: &str = "b3";
const B3_TRACE: &str = "x-b3-traceid";
const B3_SPAN: &str = "x-b3-spanid";
const B3_PARENT: &str = "x-b3-parentspanid";
const B3_SAMPLED: &str = "x-b3-sampled";
const B3_FLAGS: &str = "x-b3-flags";
const JAEGER: &str = "uber-trace-id";
const DATADOG_TRACE: &str = "x-datadog-trace-id";
const DATADOG_PARENT: &str = "x-datadog-parent-id";
const DATADOG_PRIORITY: &str = "x-datadog-sampling-priority";
const DATADOG_TAGS: &str = "x-datadog-tags";
const XRAY: &str = "x-amzn-trace-id";
const OT_TRACE: &str = "ot-tracer-traceid";
const OT_SPAN: &str = "ot-tracer-spanid";
const OT_SAMPLED: &str = "ot-tracer-sampled";

/// Datadog's name for the upper half of a trace's identifier.
const DATADOG_UPPER: &str = "_dd.p.tid";

/// The parts of X-Ray's header that are the mesh's to say; `Self` is a load balancer's own span.
const XRAY_PARTS: [&str; 4] = ["Root", "Parent", "Sampled", "Self"];

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
            Self::B3Single => b3(header(B3)?),
            Self::B3Multi => b3_multi(header),
            Self::Jaeger => jaeger(header(JAEGER)?),
            Self::Datadog => datadog(header),
            Self::Xray => xray(header(XRAY)?),
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
        let digit = if sampled { "1" } else { "0" };
        let is_same = self.read(&header).is_some_and(|received| self.is_trace(received.trace, trace));
        match self {
            Self::B3Single => {
                let digit = if sent.debug { "d" } else { digit };
                vec![(B3, Some(format!("{}-{span}-{digit}", short(trace))))]
            }
            Self::B3Multi => vec![
                (B3_TRACE, Some(short(trace))),
                (B3_SPAN, Some(span.to_string())),
                // Optional, and said by none but Zipkin's own: a parent that another format may not tell of.
                (B3_PARENT, None),
                // Debug implies it, and is said instead of it.
                (B3_SAMPLED, (!sent.debug).then(|| digit.to_owned())),
                (B3_FLAGS, sent.debug.then(|| "1".to_owned())),
            ],
            Self::Jaeger => {
                let flags = if sent.debug { "3" } else { digit };
                vec![(JAEGER, Some(format!("{}:{span}:0:{flags}", short(trace))))]
            }
            Self::Datadog => {
                let tags = before(DATADOG_TAGS).filter(|_| is_same);
                write_datadog(sent, before(DATADOG_PRIORITY), tags)
            }
            Self::Xray => vec![(XRAY, Some(write_xray(sent, before(XRAY).filter(|_| is_same))))],
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

impl Formats {
    /// One more.
    pub fn insert(&mut self, format: Format) {
        self.0 |= 1 << format as u8;
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

/// `TRACE-SPAN[-SAMPLED[-PARENT]]`, or a decision alone.
fn b3(value: &str) -> Option<Received> {
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

fn b3_multi<'a>(header: impl Fn(&'static str) -> Option<&'a str>) -> Option<Received> {
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

/// `TRACE:SPAN:PARENT:FLAGS`, without leading zeros, perhaps with its colons written as in a URL.
fn jaeger(value: &str) -> Option<Received> {
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

/// Decimal numbers of 64 bits, and the trace's upper half among the tags.
fn datadog<'a>(header: impl Fn(&'static str) -> Option<&'a str>) -> Option<Received> {
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

/// `Root=1-EPOCH-REST;Parent=SPAN;Sampled=1`, in any order, with more that is not ours.
fn xray(value: &str) -> Option<Received> {
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

fn write_datadog(sent: &Sent, priority: Option<&str>, tags: Option<&str>) -> Changes {
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

fn write_xray(sent: &Sent, before: Option<&str>) -> String {
    let TraceContext { trace, span, sampled, .. } = sent.context;
    let number = u128::from_be_bytes(*trace.as_bytes());
    let (epoch, rest) = (number >> 96, number & (u128::MAX >> 32));
    let own = format!("Root=1-{epoch:08x}-{rest:024x};Parent={span};Sampled={}", u8::from(sampled));
    let others = before.into_iter().flat_map(|value| value.split(';')).map(str::trim).filter(|part| {
        part.split_once('=').is_some_and(|(key, _)| !XRAY_PARTS.contains(&key) && !key.is_empty())
    });
    bounded(std::iter::once(own.as_str()).chain(others), ";")
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

fn decimal(digits: &str) -> Option<u64> {
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn read(format: Format, headers: &[(&str, &str)]) -> Option<(String, String, Sampling)> {
        let received = format.read(|name| {
            headers.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_bytes())
        })?;
        let text = |id: Option<String>| id.unwrap_or_default();
        let (trace, span) = (received.trace.map(|id| id.to_string()), received.span.map(|id| id.to_string()));
        Some((text(trace), text(span), received.sampling))
    }

    fn check(format: Format, headers: &[(&str, &str)], trace: &str, span: &str, sampling: Sampling) {
        assert_eq!(read(format, headers), Some((trace.to_owned(), span.to_owned(), sampling)), "{headers:?}");
    }

    fn none(format: Format, headers: &[(&str, &str)]) {
        assert_eq!(read(format, headers), None, "{headers:?}");
    }

    #[test]
    fn b3_is_read_in_one_header() {
        let whole = |value: &str, sampling| check(Format::B3Single, &[("b3", value)], TRACE, SPAN, sampling);
        whole(&format!("{TRACE}-{SPAN}"), Sampling::Deferred);
        whole(&format!("{TRACE}-{SPAN}-1"), Sampling::Keep);
        whole(&format!("{TRACE}-{SPAN}-0-05e3ac9a4f6e3b90"), Sampling::Drop);
        whole(&format!(" {TRACE}-{SPAN}-d"), Sampling::Debug);
        let short = format!("{:016}{}", 0, "8448eb211c80319c");
        check(
            Format::B3Single,
            &[("b3", "8448eb211c80319c-b7ad6b7169203331")],
            &short,
            SPAN,
            Sampling::Deferred,
        );
        check(Format::B3Single, &[("b3", "0")], "", "", Sampling::Drop);
        for bad in [
            "",
            "-",
            "x",
            "2",
            "b3",
            &format!("{TRACE}-{SPAN}-"),
            &format!("{TRACE}-{SPAN}-2"),
            &format!("{TRACE}-{SPAN}-1-"),
            &format!("{TRACE}-{SPAN}-1--"),
            &format!("{TRACE}-0000000000000000-1"),
            &format!("{:032}-{SPAN}-1", 0),
            &format!("{TRACE}a-{SPAN}"),
            &format!("{TRACE}-{SPAN}-1-{SPAN}-1"),
        ] {
            none(Format::B3Single, &[("b3", bad)]);
        }
    }

    #[test]
    fn b3_is_read_in_several_headers() {
        let both = [(B3_TRACE, TRACE), (B3_SPAN, SPAN)];
        check(Format::B3Multi, &both, TRACE, SPAN, Sampling::Deferred);
        for (sampled, expected) in [
            ("1", Sampling::Keep),
            ("true", Sampling::Keep),
            ("0", Sampling::Drop),
            ("x", Sampling::Deferred),
        ] {
            check(Format::B3Multi, &[both[0], both[1], (B3_SAMPLED, sampled)], TRACE, SPAN, expected);
        }
        check(Format::B3Multi, &[both[0], both[1], (B3_FLAGS, "1")], TRACE, SPAN, Sampling::Debug);
        check(Format::B3Multi, &[(B3_SAMPLED, "0")], "", "", Sampling::Drop);
        none(Format::B3Multi, &both[..1]);
        none(Format::B3Multi, &[both[0], (B3_SPAN, "nonsense")]);
    }

    #[test]
    fn jaegers_header_may_lack_leading_zeros() {
        let check = |value: &str, trace: &str, span: &str, sampling| {
            check(Format::Jaeger, &[(JAEGER, value)], trace, span, sampling);
        };
        check(&format!("{TRACE}:{SPAN}:0:1"), TRACE, SPAN, Sampling::Keep);
        check(&format!("{TRACE}%3A{SPAN}%3a0%3A00"), TRACE, SPAN, Sampling::Drop);
        check("1f:2:0:3", "0000000000000000000000000000001f", "0000000000000002", Sampling::Debug);
        for bad in
            ["", "::::", "1:2:3", "0:1:0:1", "1:0:0:1", "1:2:0:x", "1:2:0:100", &format!("{TRACE}0:1:0:1")]
        {
            none(Format::Jaeger, &[(JAEGER, bad)]);
        }
    }

    #[test]
    fn datadogs_upper_half_stands_among_the_tags() {
        let headers = [
            (DATADOG_TRACE, "9532127138774266268"),
            (DATADOG_PARENT, "13235353014750950193"),
            (DATADOG_PRIORITY, "2"),
            (DATADOG_TAGS, "_dd.p.dm=-4,_dd.p.tid=0af7651916cd43dd"),
        ];
        check(Format::Datadog, &headers, TRACE, SPAN, Sampling::Keep);
        check(Format::Datadog, &headers[..1], "00000000000000008448eb211c80319c", "", Sampling::Deferred);
        check(
            Format::Datadog,
            &[headers[0], (DATADOG_PRIORITY, "-1")],
            "00000000000000008448eb211c80319c",
            "",
            Sampling::Drop,
        );
        for bad in ["", "0", "-1", "x", "+5", "18446744073709551616"] {
            none(Format::Datadog, &[(DATADOG_TRACE, bad)]);
        }
        none(Format::Datadog, &[headers[0], (DATADOG_PRIORITY, "often")]);
    }

    #[test]
    fn xrays_parts_come_in_any_order() {
        let root = "Root=1-0af76519-16cd43dd8448eb211c80319c";
        let check =
            |value: &str, span: &str, sampling| check(Format::Xray, &[(XRAY, value)], TRACE, span, sampling);
        check(&format!("{root};Parent={SPAN};Sampled=1"), SPAN, Sampling::Keep);
        check(&format!("Sampled=0; Parent={SPAN}; Lineage=a:1; {root}"), SPAN, Sampling::Drop);
        check(&format!("{root};Sampled=?"), "", Sampling::Deferred);
        for bad in [
            "",
            "Root",
            "Root=2-0af76519-16cd43dd8448eb211c80319c",
            "Root=1-0af76519",
            "Parent=b7ad6b7169203331",
            &format!("{root};Parent=x"),
        ] {
            none(Format::Xray, &[(XRAY, bad)]);
        }
    }

    #[test]
    fn opentracings_headers_say_true_and_false() {
        let headers = [(OT_TRACE, "8448eb211c80319c"), (OT_SPAN, SPAN), (OT_SAMPLED, "true")];
        check(Format::OpenTracing, &headers, "00000000000000008448eb211c80319c", SPAN, Sampling::Keep);
        none(Format::OpenTracing, &headers[..1]);
    }

    #[test]
    fn what_others_say_is_kept_within_the_same_trace_alone() {
        let context = TraceContext {
            trace: TraceId::new(0x0af7651916cd43dd8448eb211c80319c_u128.to_be_bytes()).unwrap(),
            span: SpanId::new([1; 8]).unwrap(),
            sampled: true,
            random: false,
        };
        let sent = Sent { context, debug: false };
        let written = |format: Format, headers: &[(&str, &str)], name: &str| {
            let changes = format.write(&sent, |name| {
                headers.iter().find(|(found, _)| *found == name).map(|(_, value)| value.as_bytes())
            });
            changes.into_iter().find(|(found, _)| *found == name).unwrap().1
        };
        let lineage = "Self=1-5;Root=1-0af76519-16cd43dd8448eb211c80319c;Lineage=a:1";
        let expected = "Root=1-0af76519-16cd43dd8448eb211c80319c;Parent=0101010101010101;Sampled=1";
        assert_eq!(written(Format::Xray, &[(XRAY, lineage)], XRAY), Some(format!("{expected};Lineage=a:1")));
        let other = lineage.replace("0af76519", "0af76518");
        assert_eq!(written(Format::Xray, &[(XRAY, &other)], XRAY).as_deref(), Some(expected));
        let datadog = [
            (DATADOG_TRACE, "9532127138774266268"),
            (DATADOG_PRIORITY, "2"),
            (DATADOG_TAGS, "_dd.p.dm=-4,_dd.p.tid=0af7651916cd43dd,broken"),
        ];
        let tags = "_dd.p.tid=0af7651916cd43dd,_dd.p.dm=-4";
        assert_eq!(written(Format::Datadog, &datadog, DATADOG_TAGS).as_deref(), Some(tags));
        assert_eq!(written(Format::Datadog, &datadog, DATADOG_PRIORITY).as_deref(), Some("2"));
        let other = [(DATADOG_TRACE, "7"), (DATADOG_PRIORITY, "-1"), (DATADOG_TAGS, "_dd.p.dm=-4")];
        assert_eq!(
            written(Format::Datadog, &other, DATADOG_TAGS).as_deref(),
            Some("_dd.p.tid=0af7651916cd43dd")
        );
        assert_eq!(written(Format::Datadog, &other, DATADOG_PRIORITY).as_deref(), Some("1"));
    }

    fn contexts() -> impl Strategy<Value = Sent> {
        (1..u128::MAX, 1..u64::MAX, any::<bool>(), any::<bool>()).prop_map(|(trace, span, sampled, debug)| {
            let trace = TraceId::new(trace.to_be_bytes()).unwrap();
            let span = SpanId::new(span.to_be_bytes()).unwrap();
            Sent { context: TraceContext { trace, span, sampled: sampled || debug, random: false }, debug }
        })
    }

    /// Values that look like what a format wants, and some that do not.
    fn values() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            "[0-9a-fA-F]{0,33}[-:;,=]{0,2}[0-9a-f]{0,17}[-:]?[01d]?".prop_map(String::into_bytes),
            "Root=1-[0-9a-f]{7,8}-[0-9a-f]{24};(Parent=[0-9a-f]{16};)?(x=[ -~]{0,600})?"
                .prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back_and_may_stand_in_a_header(sent in contexts(), value in values()) {
            for format in Format::ALL {
                let changes = format.write(&sent, |_| Some(&value));
                for (name, text) in &changes {
                    prop_assert!(format.headers().contains(name));
                    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte);
                    prop_assert!(text.as_deref().unwrap_or("x").bytes().all(is_plain), "{name}: {text:?}");
                }
                let found = |name| changes.iter().find(|(of, _)| *of == name).unwrap().1.as_deref().map(str::as_bytes);
                let Some(received) = format.read(found) else {
                    prop_assert!(format == Format::Datadog || format == Format::OpenTracing, "{format:?} {changes:?}");
                    prop_assert_eq!(lower(sent.context.trace), 0);
                    continue;
                };
                let expected = match format {
                    Format::OpenTracing => TraceId::new(u128::from(lower(sent.context.trace)).to_be_bytes()),
                    _ => Some(sent.context.trace),
                };
                prop_assert_eq!((received.trace, received.span), (expected, Some(sent.context.span)));
                prop_assert_eq!(received.sampling.sampled(), Some(sent.context.sampled));
            }
        }

        #[test]
        fn no_value_makes_a_reader_panic_or_find_zeros(value in values()) {
            for format in Format::ALL {
                if let Some(received) = format.read(|_| Some(&value)) {
                    prop_assert!(received.trace.is_none_or(|trace| *trace.as_bytes() != [0; 16]));
                }
            }
        }

        #[test]
        fn a_header_is_its_formats_in_any_case(index in 0..6_usize, upper in any::<bool>()) {
            let format = Format::ALL[index];
            for name in format.headers() {
                let name = if upper { name.to_ascii_uppercase() } else { (*name).to_owned() };
                prop_assert_eq!(Format::of(name.as_bytes()), Some(format));
                prop_assert_eq!(Format::of(format!("{name}x").as_bytes()), None);
            }
        }
    }
}
