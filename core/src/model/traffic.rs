//! How a service is to be called: what `TrafficPolicy` documents say of it, resolved.

use std::time::Duration;

use super::Ratio;

/// How a service is to be called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Which endpoint gets a request.
    pub balancing: Balancing,
    /// How long things may take.
    pub timeouts: Timeouts,
}

/// Which endpoint gets a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Balancing {
    /// How one is chosen among those that take part.
    pub policy: BalancingPolicy,
    /// Whether the caller's own zone goes first; none: zones do not matter.
    pub locality: Option<Locality>,
    /// Within which time a newcomer's share grows to the whole; none: it has it at once.
    pub slow_start: Option<Duration>,
    /// Below which share of available endpoints all of them are called; none: never.
    pub panic_threshold: Option<Ratio>,
}

/// How an endpoint is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum BalancingPolicy {
    /// Of two the one with the lower peak-sensitive average of response times, times requests in flight.
    #[default]
    PeakEwma,
    /// Of two the one with fewer requests in flight.
    LeastRequest,
    /// Each in its turn.
    RoundRobin,
    /// By chance.
    Random,
    /// The same key to the same endpoint.
    ConsistentHash(HashKey),
}

/// What is hashed. A request without it is balanced by chance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashKey {
    /// The value of this header.
    Header(String),
    /// The value of this cookie.
    Cookie(String),
    /// The address of the app that calls.
    SourceIp,
}

/// The caller's own zone goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Locality {
    /// Below which share of available endpoints there, traffic goes to other zones as well.
    pub failover_below: Ratio,
}

/// How long things may take; none: as long as the sidecar allows by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// Making a connection.
    pub connect: Option<Duration>,
}
