//! What one HTTP connection may hold, on either side.

/// What a connection's read buffer may grow to: hyper's default lets bulk bodies grow it to hundreds of KiB.
pub const BUFFER: usize = 64 * 1024;

/// Bytes that one HTTP/2 stream may have on the way.
pub const STREAM_WINDOW: u32 = 256 * 1024;

/// Bytes that all streams of a connection may have on the way: enough for each to fill its own, so that streams whose
/// readers do not read hold up no other.
pub const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS;

/// Streams at once on a connection.
pub const MAX_STREAMS: u32 = 256;

/// Bytes of a decoded header list.
pub const MAX_HEADERS: u32 = 64 * 1024;
