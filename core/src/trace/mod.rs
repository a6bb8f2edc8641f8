//! Trace context: which trace a request belongs to, read from and written to headers.

pub mod formats;
pub mod w3c;

/// A trace: sixteen bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// A span within a trace: eight bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

/// The position of a request in a trace, and what was decided about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace.
    pub trace: TraceId,
    /// The span that the request is made under.
    pub span: SpanId,
    /// Whether spans of this trace are recorded.
    pub sampled: bool,
    /// Whether the right-most seven bytes of the trace id are random (W3C level 2).
    pub random: bool,
}

impl TraceId {
    /// From its bytes, unless all are zero.
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// A new one.
    pub fn random(rng: &mut fastrand::Rng) -> Self {
        Self(rng.u128(1..).to_be_bytes())
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// A number below a million that everybody makes of it alike, so that all tell of the same traces.
    pub fn lot(&self) -> u32 {
        // The right-most bytes are the random ones (W3C level 2, section 3.2.2.3); another mix than any sampler's.
        let mixed = u128::from_be_bytes(self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) >> 64;
        u32::try_from(mixed % 1_000_000).unwrap_or_default()
    }
}

impl SpanId {
    /// From its bytes, unless all are zero.
    pub fn new(bytes: [u8; 8]) -> Option<Self> {
        (bytes != [0; 8]).then_some(Self(bytes))
    }

    /// A new one.
    pub fn random(rng: &mut fastrand::Rng) -> Self {
        Self(rng.u64(1..).to_be_bytes())
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }

    /// Another one, made of this one, which has as many digits in every format: it can be written in its place.
    pub fn next(&self) -> Self {
        let before = u64::from_be_bytes(self.0);
        let mut rng = fastrand::Rng::with_seed(before);
        loop {
            let after = rng.u64(1..);
            if after != before && after.checked_ilog10() == before.checked_ilog10() {
                return Self(after.to_be_bytes());
            }
        }
    }

    /// Writes `after` wherever `text` has this one, in hexadecimal or decimal digits.
    pub fn replace(&self, after: Self, text: &mut [u8]) {
        let decimal = |id: Self| u64::from_be_bytes(id.0).to_string();
        for (before, after) in [(self.to_string(), after.to_string()), (decimal(*self), decimal(after))] {
            let mut from = 0;
            while let Some(rest) = text.get_mut(from..)
                && let Some(found) = rest.windows(before.len()).position(|part| part == before.as_bytes())
            {
                for (place, digit) in rest.iter_mut().skip(found).zip(after.bytes()) {
                    *place = digit;
                }
                from += found + before.len();
            }
        }
    }
}

impl TraceContext {
    /// Begins a trace; `per_million` of a million are sampled.
    pub fn begin(rng: &mut fastrand::Rng, per_million: u32) -> Self {
        let sampled = rng.u32(..1_000_000) < per_million;
        Self { trace: TraceId::random(rng), span: SpanId::random(rng), sampled, random: true }
    }

    /// The next span of the same trace, under this one.
    pub fn child(&self, rng: &mut fastrand::Rng) -> Self {
        Self { span: SpanId::random(rng), ..*self }
    }
}

/// Writes `bytes` as lower-case hexadecimal digits, as many as fit into `text`.
pub fn hex(bytes: &[u8], text: &mut [u8]) {
    let digit = |nibble: u8| nibble + if nibble < 10 { b'0' } else { b'a' - 10 };
    for (byte, [high, low]) in bytes.iter().zip(text.as_chunks_mut::<2>().0) {
        *high = digit(byte >> 4);
        *low = digit(byte & 15);
    }
}

fn write_hex(bytes: &[u8], f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl std::fmt::Display for TraceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_hex(&self.0, f)
    }
}

impl std::fmt::Debug for TraceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_hex(&self.0, f)
    }
}

impl std::fmt::Display for SpanId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_hex(&self.0, f)
    }
}

impl std::fmt::Debug for SpanId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_hex(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_span_is_written_in_the_place_of_the_one_before() {
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..1000 {
            let before = SpanId::random(&mut rng);
            let after = before.next();
            let write = |id: SpanId| {
                let decimal = u64::from_be_bytes(*id.as_bytes());
                format!("b3: {id}-1\r\nx-datadog-parent-id: {decimal}\r\nx: {id}{id}")
            };
            let mut text = write(before).into_bytes();
            before.replace(after, &mut text);
            assert_eq!(String::from_utf8(text).unwrap(), write(after));
            assert_ne!(before, after);
        }
    }
}
