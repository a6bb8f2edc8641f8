//! How a service is to be called: what `TrafficPolicy` documents say of it, resolved.

use std::sync::Arc;
use std::time::Duration;

use super::{Callers, HealthCheck, Hedging, HedgingLayer, Priority, Ratio, Retries, RetriesLayer};

/// How a service is to be called.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Which endpoint gets a request.
    pub balancing: Balancing,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// When an endpoint is left alone; none: never.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// How much it is sent at once; none: as much as callers have.
    pub bulkhead: Option<Bulkhead>,
    /// How its endpoints are asked whether they work. Those that have a sidecar are asked by that.
    pub health_check: Option<HealthCheck>,
    /// What is tried again; none: what reached nobody.
    pub retries: Option<Box<Retries>>,
    /// When a second endpoint is asked; none: never.
    pub hedging: Option<Hedging>,
    /// What its callers are to be tried with.
    pub faults: Vec<Fault>,
    /// How many of the traces that begin with a request to it are recorded; none: as many as of the whole mesh's.
    pub sampling: Option<Ratio>,
}

/// What policies for a route say of its requests. It goes before what is said of the service that they are sent to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RouteTraffic {
    /// From a request's first byte to the last of its answer; zero: as long as it likes.
    pub request: Option<Duration>,
    /// How long nothing may move on one.
    pub idle: Option<Duration>,
    /// What is tried again; the budget is the service's.
    pub retries: Option<Box<RetriesLayer>>,
    /// When further endpoints are asked.
    pub hedging: Option<HedgingLayer>,
    /// What its callers are to be tried with.
    pub faults: Vec<Fault>,
    /// How many of the traces that begin with one of its requests are recorded.
    pub sampling: Option<Ratio>,
}

impl RouteTraffic {
    /// What holds for its requests to a service of which `below` is said: time, tries and hedges.
    pub fn over(&self, below: &Traffic) -> Traffic {
        let Timeouts { connect, request, idle } = below.timeouts;
        let retries = match &self.retries {
            None => below.retries.clone(),
            Some(layer) => {
                let below = below.retries.as_deref().cloned().unwrap_or_default();
                Some(Box::new(layer.as_ref().clone().resolve(below)))
            }
        };
        let hedging = self.hedging.clone().map(|layer| layer.resolve(below.hedging.unwrap_or_default()));
        Traffic {
            timeouts: Timeouts { connect, request: self.request.or(request), idle: self.idle.or(idle) },
            retries,
            hedging: hedging.or(below.hedging),
            sampling: self.sampling.or(below.sampling),
            ..Traffic::default()
        }
    }

    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Which endpoint gets a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Balancing {
    /// How one is chosen among those that take part.
    pub policy: BalancingPolicy,
    /// Whether the caller's own zone goes first; none: zones do not matter.
    pub locality: Option<Locality>,
    /// Which endpoints go first, and which only when too few of those are left; none: all are equal.
    pub priorities: Vec<Priority>,
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
    Cookie(HashCookie),
    /// The address of the app that calls.
    SourceIp,
}

/// A cookie that requests are told from others by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashCookie {
    /// Its name.
    pub name: String,
    /// For which paths.
    pub path: String,
    /// How long it is kept; none: as long as the browser runs.
    pub ttl: Option<Duration>,
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
    /// From a request's first byte to the last of its answer; zero: as long as it likes.
    pub request: Option<Duration>,
    /// How long nothing may move, on a connection of bytes or of a request.
    pub idle: Option<Duration>,
}

/// When an endpoint is left alone, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitBreaker {
    /// After so many failures in a row; none: their number in a row does not matter.
    pub consecutive_failures: Option<u32>,
    /// When so many of the requests within the window failed; none: their share does not matter.
    pub failure_ratio: Option<Ratio>,
    /// Among fewer requests a share says nothing.
    pub min_requests: u32,
    /// How long requests are remembered.
    pub window: Duration,
    /// For how long it is left alone the first time.
    pub open_for: Duration,
    /// Requests that try it afterwards.
    pub half_open_requests: u32,
    /// Never more of a service's endpoints than this are left alone.
    pub max_ejected: Ratio,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self {
            consecutive_failures: Some(5),
            failure_ratio: Some(Ratio::percent(50)),
            min_requests: 10,
            window: Duration::from_secs(10),
            open_for: Duration::from_secs(30),
            half_open_requests: 1,
            max_ejected: Ratio::percent(50),
        }
    }
}

/// How much a service is sent at once, by each sidecar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bulkhead {
    /// Connections that are open.
    pub max_connections: u32,
    /// Requests that are under way.
    pub max_concurrent_requests: u32,
    /// Requests that wait for others to end.
    pub max_pending_requests: u32,
}

impl Default for Bulkhead {
    fn default() -> Self {
        Self { max_connections: 1024, max_concurrent_requests: 1024, max_pending_requests: 1024 }
    }
}

/// A fault that callers are tried with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The policy that says so, `NAMESPACE/NAME`, as spans name it.
    pub policy: Arc<str>,
    /// Whose requests; none are said: everyone's.
    pub from: Vec<Callers>,
    /// The headers that a request must have, lower-case, each with its value.
    pub headers: Vec<(String, String)>,
    /// It is held up for so long, so often.
    pub delay: Option<(Duration, Ratio)>,
    /// It is answered so instead of being sent, so often.
    pub abort: Option<(Abort, Ratio)>,
    /// Until when, as Unix time; none: until it is deleted.
    pub expires: Option<Duration>,
}

/// The answer to a request that is not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Abort {
    /// In HTTP.
    pub status: u16,
    /// In gRPC.
    pub grpc_status: u8,
}
