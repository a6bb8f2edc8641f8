//! How workers dial, and how much they take on.

use weft_pods::intercept;

use crate::http::trace::OwnTracing;

/// Connections from apps and peers that a worker has open at once; further ones wait in the kernel.
const MAX_CONNECTIONS: usize = 32 * 1024;

/// Requests of one connection; then its client is told to open another, which may be better balanced.
const MAX_REQUESTS: u64 = 100_000;

/// How a worker dials, and how much it takes on.
#[derive(Debug, Clone, Copy)]
pub struct Conduct {
    /// Set on every socket that is opened (`SO_MARK`).
    pub mark: Option<u32>,
    /// As whom the app is called.
    pub source: intercept::Source,
    /// Connections from apps and peers that are open at once.
    pub connections: usize,
    /// Requests of one of them.
    pub requests: u64,
    /// What our own environment says of traces.
    pub tracing: OwnTracing,
}

impl Default for Conduct {
    fn default() -> Self {
        Self {
            mark: None,
            source: Default::default(),
            connections: MAX_CONNECTIONS,
            requests: MAX_REQUESTS,
            tracing: OwnTracing::default(),
        }
    }
}
