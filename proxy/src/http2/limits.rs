//! What one HTTP/2 connection may hold. A stream whose reader does not read keeps its window full of bytes that wait;
//! so each connection's window has room for all its streams, or the unread ones would stop the others. Towards apps, on
//! the same machine, windows are small and streams many; between pods, where a window is what may be on the way, the
//! reverse, and there are more connections where streams run out.

/// How much one connection may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Streams at once that its peer may open, or that we open.
    pub streams: u32,
    /// Bytes that a stream may have on the way or waiting.
    pub stream_window: u32,
}

impl Limits {
    /// Of a connection between an app and its sidecar, or with one who has none.
    pub const LOCAL: Self = Self { streams: 1024, stream_window: 64 * 1024 };

    /// Of a connection between two sidecars.
    pub const MESH: Self = Self { streams: 256, stream_window: 256 * 1024 };

    /// Bytes that all its streams may have on the way or waiting.
    pub const fn connection_window(self) -> u32 {
        self.streams * self.stream_window
    }
}

/// Bytes of a decoded block of headers, each field counted as its name, its value and 32 (RFC 9113 section 6.5.2).
pub const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Fields of a request, each crumb of its cookies counted.
pub const MAX_FIELDS: usize = 256;

/// Bytes of headers at which the decoder gives up. What lies between is refused in a way that says why.
pub const MAX_DECODED: u32 = 128 * 1024;

/// Bytes that are kept of a stream whose connection does not take them.
pub const SEND_BUFFER: usize = 64 * 1024;

/// Streams that we have reset whose last frames are still expected, and passed over when they come.
pub const REMEMBERED_RESETS: usize = 1024;
