//! What one HTTP/1 connection may hold, on either side.

/// What a connection's read buffer may grow to: hyper's default lets bulk bodies grow it to hundreds of KiB.
pub const BUFFER: usize = 64 * 1024;
