//! Trace context: which trace a request belongs to, read from and written to headers.

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
