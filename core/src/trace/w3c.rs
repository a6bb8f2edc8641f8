//! W3C Trace Context, level 2: `traceparent` and `tracestate`.

use super::{SpanId, TraceContext, TraceId, hex};

/// The length of a version 00 `traceparent`.
pub const LENGTH: usize = 55;

const SAMPLED: u8 = 1;
const RANDOM: u8 = 2;

/// Members that a `tracestate` may have.
const MAX_MEMBERS: usize = 32;

/// Reads a `traceparent`. Anything that is not one is as good as none: the caller begins a new trace, and drops the
/// `tracestate` (section 4.3).
pub fn parse(header: &[u8]) -> Option<TraceContext> {
    let header = header.trim_ascii();
    let (fields, rest) = header.split_at_checked(LENGTH)?;
    let (version, fields) = field(fields)?;
    let (trace, fields) = field(fields.strip_prefix(b"-")?)?;
    let (span, fields) = field(fields.strip_prefix(b"-")?)?;
    let ([flags], _) = field(fields.strip_prefix(b"-")?)?;
    let ([version], trace, span) = (version, TraceId::new(trace)?, SpanId::new(span)?);
    match version {
        0xff => None,
        0 if !rest.is_empty() => None,
        0 => Some(TraceContext { trace, span, sampled: flags & SAMPLED != 0, random: flags & RANDOM != 0 }),
        // Of later versions only the sampled bit is known to be what it is (section 3.2.4).
        _ if !rest.is_empty() && !rest.starts_with(b"-") => None,
        _ => Some(TraceContext { trace, span, sampled: flags & SAMPLED != 0, random: false }),
    }
}

/// Writes a version 00 `traceparent`.
pub fn write(context: &TraceContext) -> [u8; LENGTH] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let flags = if context.sampled { SAMPLED } else { 0 } | if context.random { RANDOM } else { 0 };
    let (_, rest) = text.split_at_mut(3);
    let (trace, rest) = rest.split_at_mut(32);
    let (_, rest) = rest.split_at_mut(1);
    let (span, rest) = rest.split_at_mut(16);
    let (_, last) = rest.split_at_mut(1);
    hex(context.trace.as_bytes(), trace);
    hex(context.span.as_bytes(), span);
    hex(&[flags], last);
    text
}

/// Whether the `tracestate` headers, in order, may be passed on (section 3.3.1); if not, they are dropped whole.
pub fn state_is_valid<'a>(headers: impl IntoIterator<Item = &'a [u8]>) -> bool {
    let mut count = 0;
    for member in headers.into_iter().flat_map(|header| header.split(|byte| *byte == b',')) {
        let member = member.trim_ascii();
        if member.is_empty() {
            continue;
        }
        count += 1;
        if count > MAX_MEMBERS || !member_is_valid(member) {
            return false;
        }
    }
    true
}

fn member_is_valid(member: &[u8]) -> bool {
    let Some(equals) = member.iter().position(|byte| *byte == b'=') else { return false };
    let (key, value) = member.split_at_checked(equals).unwrap_or_default();
    let value = value.strip_prefix(b"=").unwrap_or_default();
    let key_byte = |byte: &u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@')
    };
    let key_ok = key.first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        && key.len() <= 256
        && key.iter().all(key_byte);
    let value_ok = (1..=256).contains(&value.len())
        && value.iter().all(|byte| (b' '..=b'~').contains(byte) && !matches!(byte, b',' | b'='));
    key_ok && value_ok
}

/// The bytes that a field says in hex, and what follows it.
fn field<const N: usize>(text: &[u8]) -> Option<([u8; N], &[u8])> {
    let (hex, rest) = text.split_at_checked(2 * N)?;
    let (mut bytes, mut wrong) = ([0; N], 0);
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        let (high, low) = (digit(high), digit(low));
        wrong |= high | low;
        *byte = high << 4 | low;
    }
    (wrong & NO_DIGIT == 0).then_some((bytes, rest))
}

/// What is set in what is read of no digit.
const NO_DIGIT: u8 = 0xf0;

/// Upper-case digits are invalid here (section 3.2.2.2).
fn digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => NO_DIGIT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn check(header: &str, expected: Option<(bool, bool)>) {
        assert_eq!(parse(header.as_bytes()).map(|c| (c.sampled, c.random)), expected, "{header:?}");
    }

    #[test]
    fn what_the_standard_calls_valid_is_read() {
        check(GOOD, Some((true, false)));
        check(&format!(" \t{GOOD}\t"), Some((true, false)));
        let with_flags = |flags: &str| GOOD.replace("-01", flags);
        check(&with_flags("-00"), Some((false, false)));
        check(&with_flags("-02"), Some((false, true)));
        check(&with_flags("-ff"), Some((true, true)));
        check(&GOOD.replacen("00", "cc", 1), Some((true, false)));
        check(&format!("{}-what-the-future-will-be-like", GOOD.replacen("00", "cc", 1)), Some((true, false)));
        check(&format!("{}-", GOOD.replacen("00", "cc", 1)), Some((true, false)));
        check(&with_flags("-02").replacen("00", "cc", 1), Some((false, false)));
    }

    #[test]
    fn what_the_standard_calls_invalid_is_none() {
        for bad in [
            "",
            "00",
            "0000000000000000000000000000000000000000000000000000000",
            GOOD.trim_end_matches('1'),
            &format!("{GOOD}-"),
            &format!("{GOOD}."),
            &format!("{GOOD}-extra"),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replacen("00", "0.", 1),
            &GOOD.replacen("00", "cC", 1),
            &format!("{}.x", GOOD.replacen("00", "cc", 1)),
            &GOOD.to_uppercase(),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", "00000000000000000000000000000000"),
            &GOOD.replace("b7ad6b7169203331", "0000000000000000"),
            &GOOD.replace("-01", "-.1"),
            &GOOD.replace('-', "_"),
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut rng = fastrand::Rng::with_seed(5);
        for per_million in [0, 500_000, 1_000_000] {
            for _ in 0..100 {
                let context = TraceContext::begin(&mut rng, per_million);
                assert_eq!(parse(&write(&context)), Some(context));
                assert!(context.random && (context.sampled || per_million < 1_000_000));
                let child = context.child(&mut rng);
                assert_eq!((child.trace, child.sampled), (context.trace, context.sampled));
                assert_ne!(child.span, context.span);
            }
        }
        let parsed = parse(GOOD.as_bytes()).unwrap();
        assert_eq!(std::str::from_utf8(&write(&parsed)).unwrap(), GOOD);
        assert_eq!(parsed.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        let future = parse(GOOD.replacen("00", "cc", 1).as_bytes()).unwrap();
        assert_eq!(std::str::from_utf8(&write(&future)).unwrap(), GOOD);
    }

    #[test]
    fn tracestate_is_kept_or_dropped_whole() {
        let check = |headers: &[&str], valid: bool| {
            assert_eq!(state_is_valid(headers.iter().map(|header| header.as_bytes())), valid, "{headers:?}");
        };
        check(&["foo=1,bar=2", "baz=3"], true);
        check(&["", " foo=1 , ,\tbar=2\t,"], true);
        check(&["0@a*b/c_d-e=x y"], true);
        check(&[&format!("{}={}", "k".repeat(256), "v".repeat(256))], true);
        let members = |count: usize| (0..count).map(|n| format!("k{n}=1")).collect::<Vec<_>>().join(",");
        check(&[&members(32)], true);
        check(&[&members(33)], false);
        for bad in
            ["foo", "foo=", "=1", "Foo=1", "_foo=1", "foo=1=2", "foo =1", "foo=\u{7f}", "foo=é", "a=1;b"]
        {
            check(&[bad], bad == "a=1;b");
        }
        check(&[&format!("{}=1", "k".repeat(257))], false);
        check(&[&format!("k={}", "v".repeat(257))], false);
    }
}
