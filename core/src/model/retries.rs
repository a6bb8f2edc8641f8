//! What of a service's requests is tried again, and how much of that: what `TrafficPolicy` documents say.

use std::fmt;
use std::time::Duration;

use super::layered::layers;
use super::{Ratio, StatusCode};

/// The statuses of gRPC that stand for a failure, by number less one.
pub const GRPC_FAILURES: [&str; 16] = [
    "cancelled",
    "unknown",
    "invalid-argument",
    "deadline-exceeded",
    "not-found",
    "already-exists",
    "permission-denied",
    "resource-exhausted",
    "failed-precondition",
    "aborted",
    "out-of-range",
    "unimplemented",
    "internal",
    "unavailable",
    "data-loss",
    "unauthenticated",
];

/// What is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retries {
    /// How often, after the first time.
    pub attempts: u32,
    /// After what.
    pub on: Vec<RetryOn>,
    /// How long a try may take to begin its answer; none: as long as it likes.
    pub per_try: Option<Duration>,
    /// How long is waited in between.
    pub backoff: Backoff,
    /// How much of it there may be.
    pub budget: RetryBudget,
    /// Bytes of a body that are kept for it; what is longer is sent once.
    pub max_body: u32,
    /// Which requests.
    pub methods: RetryMethods,
}

/// After what a request is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryOn {
    /// Any status from 500 on.
    ServerErrors,
    /// 502, 503 and 504.
    GatewayErrors,
    /// The connection could not be made.
    ConnectFailure,
    /// The answer was broken off before it began.
    Reset,
    /// The endpoint did not take it.
    RefusedStream,
    /// This status.
    Status(StatusCode),
    /// This status of gRPC.
    Grpc(u8),
}

/// How long is waited before a request is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The most before the first time; twice as much before each further one.
    pub base: Duration,
    /// The most ever.
    pub max: Duration,
}

/// How much is tried again at most, of what there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// Of the requests within the window.
    pub ratio: Ratio,
    /// As often in any case.
    pub min_per_second: u32,
    /// How long requests count.
    pub window: Duration,
}

/// Which requests may be tried again though they may have been carried out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RetryMethods {
    /// Those of methods that do the same when they are done twice (RFC 9110 section 9.2.2).
    #[default]
    Idempotent,
    /// All.
    Any,
    /// Those of these methods.
    These(Vec<String>),
}

/// When further endpoints are asked although the first may still answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hedging {
    /// After so long.
    pub after: HedgeAfter,
    /// How many further ones at most.
    pub max: u32,
}

/// How long the first endpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HedgeAfter {
    /// So long.
    Time(Duration),
    /// As long as this share of answers took.
    Quantile(Ratio),
}

layers! {
    /// What policies say of trying again.
    pub struct RetriesLayer {
        /// How often.
        pub attempts as "attempts": u32,
        /// After what.
        pub on as "on": Vec<RetryOn>,
        /// How long a try may take to begin its answer.
        pub per_try as "perTryTimeout": Duration,
        /// The most that is waited before the first time.
        pub base as "backoff.base": Duration,
        /// The most that is ever waited.
        pub max as "backoff.max": Duration,
        /// The share of the requests that may be tried again.
        pub ratio as "budget.ratio": Ratio,
        /// How many in any case.
        pub min_per_second as "budget.minPerSecond": u32,
        /// How long requests count.
        pub window as "budget.window": Duration,
        /// Bytes of a body that are kept.
        pub max_body as "maxBodyBytes": u32,
        /// Which requests.
        pub methods as "methods": RetryMethods,
    }
}

layers! {
    /// What policies say of asking a second endpoint.
    pub struct HedgingLayer {
        /// When.
        pub after as "after": HedgeAfter,
        /// How many at most.
        pub max as "max": u32,
    }
}

impl RetriesLayer {
    /// What holds, where this goes before what is said below.
    pub fn resolve(self, below: Retries) -> Retries {
        Retries {
            attempts: self.attempts.unwrap_or(below.attempts),
            on: self.on.unwrap_or(below.on),
            per_try: self.per_try.or(below.per_try),
            backoff: Backoff {
                base: self.base.unwrap_or(below.backoff.base),
                max: self.max.unwrap_or(below.backoff.max),
            },
            budget: RetryBudget {
                ratio: self.ratio.unwrap_or(below.budget.ratio),
                min_per_second: self.min_per_second.unwrap_or(below.budget.min_per_second),
                window: self.window.unwrap_or(below.budget.window),
            },
            max_body: self.max_body.unwrap_or(below.max_body),
            methods: self.methods.unwrap_or(below.methods),
        }
    }
}

impl HedgingLayer {
    /// What holds, where this goes before what is said below.
    pub fn resolve(self, below: Hedging) -> Hedging {
        Hedging { after: self.after.unwrap_or(below.after), max: self.max.unwrap_or(below.max) }
    }
}

impl Default for Hedging {
    fn default() -> Self {
        Self { after: HedgeAfter::Quantile(Ratio::percent(95)), max: 1 }
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 2,
            on: vec![RetryOn::ServerErrors, RetryOn::ConnectFailure, RetryOn::Reset, RetryOn::RefusedStream],
            per_try: None,
            backoff: Backoff::default(),
            budget: RetryBudget::default(),
            max_body: 64 * 1024,
            methods: RetryMethods::default(),
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_millis(25), max: Duration::from_millis(250) }
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { ratio: Ratio::percent(20), min_per_second: 10, window: Duration::from_secs(10) }
    }
}

/// As documents spell it.
impl fmt::Display for RetryOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServerErrors => f.write_str("5xx"),
            Self::GatewayErrors => f.write_str("gateway-error"),
            Self::ConnectFailure => f.write_str("connect-failure"),
            Self::Reset => f.write_str("reset"),
            Self::RefusedStream => f.write_str("refused-stream"),
            Self::Status(code) => code.fmt(f),
            Self::Grpc(code) => {
                let name = code.checked_sub(1).and_then(|index| GRPC_FAILURES.get(usize::from(index)));
                write!(f, "grpc:{}", name.unwrap_or(&"unknown"))
            }
        }
    }
}

/// As documents spell it.
impl fmt::Display for RetryMethods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idempotent => f.write_str("idempotent"),
            Self::Any => f.write_str("any"),
            Self::These(methods) => f.write_str(&methods.join(", ")),
        }
    }
}

/// In words.
impl fmt::Display for Hedging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.max {
            1 => write!(f, "a second endpoint after {}", self.after),
            max => write!(f, "a further endpoint after {} each, {max} at most", self.after),
        }
    }
}

impl fmt::Display for HedgeAfter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => write!(f, "{time:?}"),
            Self::Quantile(share) => write!(f, "p{}", share.to_string().trim_end_matches('%')),
        }
    }
}
