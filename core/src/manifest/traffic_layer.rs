//! What `TrafficPolicy` documents say, one over another: what the more specific one leaves open, the next one says.

use std::time::Duration;

use super::health_check::HealthCheckLayer;
use crate::model::{
    Balancing, BalancingPolicy, Bulkhead, CircuitBreaker, ConcurrencyMode, Hedging, HedgingLayer, Locality,
    MtlsMode, Priority, Ratio, Retries, RetriesLayer, RouteTraffic, Timeouts, Traffic, layers,
};

/// What policies say of a service, one over another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrafficLayer {
    /// Which endpoint gets a request.
    pub balancing: BalancingLayer,
    /// How long things may take.
    pub timeouts: TimeoutsLayer,
    /// When an endpoint is left alone.
    pub circuit_breaker: Option<CircuitBreakerLayer>,
    /// How much is sent at once.
    pub bulkhead: Option<BulkheadLayer>,
    /// Whether it is found out how many requests an app is given at once.
    pub concurrency: Option<ConcurrencyMode>,
    /// How an app is asked whether it works.
    pub health_check: Option<HealthCheckLayer>,
    /// What is tried again.
    pub retries: Option<Box<RetriesLayer>>,
    /// When a second endpoint is asked.
    pub hedging: Option<HedgingLayer>,
    /// Whether an app takes plaintext.
    pub mtls: Option<MtlsMode>,
    /// Of how many requests there are traces.
    pub sampling: Option<Ratio>,
}

layers! {
    /// What policies say of balancing.
    pub struct BalancingLayer {
        /// How one is chosen.
        pub policy as "policy": BalancingPolicy,
        /// Whether the caller's zone goes first.
        pub locality as "locality": Locality,
        /// Which endpoints go first.
        pub priorities as "priorities": Vec<Priority>,
        /// Within which time a newcomer's share grows.
        pub slow_start as "slowStart": Duration,
        /// Below which share all endpoints are called.
        pub panic_threshold as "panicThreshold": Ratio,
    }
}

layers! {
    /// What policies say of time.
    pub struct TimeoutsLayer {
        /// Making a connection.
        pub connect as "connect": Duration,
        /// A request and its answer.
        pub request as "request": Duration,
        /// Nothing moves.
        pub idle as "idle": Duration,
    }
}

layers! {
    /// What policies say of leaving endpoints alone.
    pub struct CircuitBreakerLayer {
        /// After so many failures in a row.
        pub consecutive_failures as "consecutiveFailures": u32,
        /// When so many of the requests within the window failed.
        pub failure_ratio as "failureRatio": Ratio,
        /// Among fewer requests a share says nothing.
        pub min_requests as "minRequests": u32,
        /// How long requests are remembered.
        pub window as "window": Duration,
        /// For how long it is left alone the first time.
        pub open_for as "openFor": Duration,
        /// Requests that try it afterwards.
        pub half_open_requests as "halfOpenRequests": u32,
        /// Never more of a service's endpoints than this are left alone.
        pub max_ejected as "maxEjected": Ratio,
    }
}

layers! {
    /// What policies say of how much is sent at once.
    pub struct BulkheadLayer {
        /// Connections that are open.
        pub max_connections as "maxConnections": u32,
        /// Requests that are under way.
        pub max_concurrent_requests as "maxConcurrentRequests": u32,
        /// Requests that wait for others to end.
        pub max_pending_requests as "maxPendingRequests": u32,
    }
}

impl TrafficLayer {
    /// This one where it says something, else the one below.
    #[must_use]
    pub fn over(self, below: &Self) -> Self {
        Self {
            balancing: self.balancing.over(&below.balancing),
            timeouts: self.timeouts.over(&below.timeouts),
            circuit_breaker: section(self.circuit_breaker, &below.circuit_breaker, CircuitBreakerLayer::over),
            bulkhead: section(self.bulkhead, &below.bulkhead, BulkheadLayer::over),
            concurrency: self.concurrency.or(below.concurrency),
            health_check: section(self.health_check, &below.health_check, HealthCheckLayer::over),
            retries: section(self.retries, &below.retries, |above, below| Box::new(above.over(below))),
            hedging: section(self.hedging, &below.hedging, HedgingLayer::over),
            mtls: self.mtls.or(below.mtls),
            sampling: self.sampling.or(below.sampling),
        }
    }

    /// Whether it says something of the apps behind a service, and not of its callers alone.
    pub fn is_about_apps(&self) -> bool {
        self.concurrency.is_some() || self.health_check.is_some() || self.mtls.is_some()
    }

    /// What holds, with the defaults of what nobody has said.
    pub fn resolve(self) -> Traffic {
        let Self {
            balancing,
            timeouts,
            circuit_breaker,
            bulkhead,
            concurrency: _,
            health_check,
            retries,
            hedging,
            mtls: _,
            sampling,
        } = self;
        Traffic {
            balancing: Balancing {
                policy: balancing.policy.unwrap_or_default(),
                locality: balancing.locality,
                priorities: balancing.priorities.unwrap_or_default(),
                slow_start: balancing.slow_start,
                panic_threshold: balancing.panic_threshold,
            },
            timeouts: Timeouts { connect: timeouts.connect, request: timeouts.request, idle: timeouts.idle },
            circuit_breaker: circuit_breaker.map(CircuitBreakerLayer::resolve),
            bulkhead: bulkhead.map(BulkheadLayer::resolve),
            health_check: health_check.and_then(HealthCheckLayer::resolve),
            retries: retries.map(|retries| Box::new(retries.resolve(Retries::default()))),
            hedging: hedging.map(|hedging| hedging.resolve(Hedging::default())),
            faults: Vec::new(),
            sampling,
        }
    }

    /// What of it is about a route's requests.
    pub fn of_route(self) -> RouteTraffic {
        let TimeoutsLayer { connect: _, request, idle } = self.timeouts;
        RouteTraffic {
            request,
            idle,
            retries: self.retries,
            hedging: self.hedging,
            faults: Vec::new(),
            sampling: self.sampling,
        }
    }

    /// The sections of which it says something.
    pub fn sections(&self) -> Vec<&'static str> {
        SECTIONS.into_iter().zip(self.says()).filter_map(|(section, says)| says.then_some(section)).collect()
    }

    /// The fields of which it says something, as documents name them.
    pub fn fields(&self) -> Vec<String> {
        let of = |section: &str, said: Vec<&str>| -> Vec<String> {
            said.into_iter().map(|field| format!("{section}.{field}")).collect()
        };
        [
            of("loadBalancing", self.balancing.said()),
            of("timeouts", self.timeouts.said()),
            of(
                "circuitBreaker",
                self.circuit_breaker.as_ref().map(CircuitBreakerLayer::said).unwrap_or_default(),
            ),
            of("bulkhead", self.bulkhead.as_ref().map(BulkheadLayer::said).unwrap_or_default()),
            of("concurrency", self.concurrency.iter().map(|_| "mode").collect()),
            of("healthCheck", self.health_check.as_ref().map(HealthCheckLayer::said).unwrap_or_default()),
            of("retries", self.retries.as_ref().map(|retries| retries.said()).unwrap_or_default()),
            of("hedging", self.hedging.as_ref().map(HedgingLayer::said).unwrap_or_default()),
            of("mtls", self.mtls.iter().map(|_| "mode").collect()),
            of("tracing", self.sampling.iter().map(|_| "sampling").collect()),
        ]
        .concat()
    }

    /// The sections of which both say something.
    pub fn overlap(&self, other: &Self) -> Vec<&'static str> {
        let both = SECTIONS.into_iter().zip(self.says()).zip(other.says());
        both.filter_map(|((section, ours), theirs)| (ours && theirs).then_some(section)).collect()
    }

    /// Of which of the sections it says something, in their order.
    fn says(&self) -> [bool; SECTIONS.len()] {
        [
            self.balancing != BalancingLayer::default(),
            self.timeouts != TimeoutsLayer::default(),
            self.circuit_breaker.is_some(),
            self.bulkhead.is_some(),
            self.concurrency.is_some(),
            self.health_check.is_some(),
            self.retries.is_some(),
            self.hedging.is_some(),
            self.mtls.is_some(),
            self.sampling.is_some(),
        ]
    }
}

/// One policy's section over a less specific one's: where neither speaks of it there is none.
fn section<L: Clone>(above: Option<L>, below: &Option<L>, over: fn(L, &L) -> L) -> Option<L> {
    match (above, below) {
        (Some(above), Some(below)) => Some(over(above, below)),
        (above, below) => above.or_else(|| below.clone()),
    }
}

impl CircuitBreakerLayer {
    fn resolve(self) -> CircuitBreaker {
        let default = CircuitBreaker::default();
        CircuitBreaker {
            consecutive_failures: self.consecutive_failures.or(default.consecutive_failures),
            failure_ratio: self.failure_ratio.or(default.failure_ratio),
            min_requests: self.min_requests.unwrap_or(default.min_requests),
            window: self.window.unwrap_or(default.window),
            open_for: self.open_for.unwrap_or(default.open_for),
            half_open_requests: self.half_open_requests.unwrap_or(default.half_open_requests),
            max_ejected: self.max_ejected.unwrap_or(default.max_ejected),
        }
    }
}

impl BulkheadLayer {
    fn resolve(self) -> Bulkhead {
        let default = Bulkhead::default();
        Bulkhead {
            max_connections: self.max_connections.unwrap_or(default.max_connections),
            max_concurrent_requests: self.max_concurrent_requests.unwrap_or(default.max_concurrent_requests),
            max_pending_requests: self.max_pending_requests.unwrap_or(default.max_pending_requests),
        }
    }
}

/// The sections that are enforced.
pub(super) const SECTIONS: [&str; 10] = [
    "loadBalancing",
    "timeouts",
    "circuitBreaker",
    "bulkhead",
    "concurrency",
    "healthCheck",
    "retries",
    "hedging",
    "mtls",
    "tracing",
];
