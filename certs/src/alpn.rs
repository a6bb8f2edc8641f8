//! What a connection between two sidecars carries, said in ALPN (RFC 7301).

/// HTTP/1.1.
pub const HTTP1: &[u8] = b"http/1.1";
/// HTTP/2, and so gRPC.
pub const H2: &[u8] = b"h2";
/// Opaque bytes, forwarded both ways with half-close.
pub const TCP: &[u8] = b"weft-tcp";
