//! Whether a request that failed is tried again, and when: what its route's rule and its service's policy say, as long as
//! there are tries, time and budget left.

mod after;
mod budget;

use std::time::Duration;

pub use after::{Pushback, pushback, retry_after};
pub use budget::{Budget, Floor};

use crate::model::{Backoff, Retries, RetryBudget, RetryMethods, RetryOn, RetryPolicy, RoutePolicy, Traffic};

/// The longest that an endpoint may ask to be left alone for; who asks for more is not tried again.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// By how much a route's `backoff` may grow.
const GROWTH: u32 = 10;

/// What of a request is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    attempts: u32,
    on: Vec<RetryOn>,
    spacing: Spacing,
    methods: RetryMethods,
    /// Bytes of its body that are kept for it.
    pub max_body: usize,
}

/// How long is waited in between: so long in any case, and then as long again as chance says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Spacing {
    least: Duration,
    backoff: Backoff,
}

/// What became of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failed {
    /// It was answered so.
    Answered {
        /// The status.
        status: u16,
        /// That of gRPC, where the answer tells it and nothing of it has gone to the caller.
        grpc_status: Option<u8>,
    },
    /// It was broken off before its answer began.
    Reset,
    /// Its answer did not begin in time.
    Late,
}

/// What it would mean to carry a request out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Twice {
    /// The same as once, or whoever is in charge does not mind.
    Harmless,
    /// Perhaps something else.
    Harmful,
}

/// A try that failed, and what is known besides.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// What became of it.
    pub failed: Failed,
    /// Whether it may have been carried out already.
    pub twice: Twice,
    /// Tries that were made before it.
    pub before: u32,
    /// What the endpoint asks for.
    pub pushback: Pushback,
    /// What is left of the request's time; none: as much as it likes.
    pub left: Option<Duration>,
}

/// Why a request is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It is not asked for.
    Unwanted,
    /// It was tried often enough.
    Attempts,
    /// There is no time left.
    Time,
    /// Too much else was.
    Budget,
}

impl Twice {
    /// By its method alone (RFC 9110 section 9.2.2).
    pub fn of(method: &str) -> Self {
        match method {
            "GET" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "TRACE" => Self::Harmless,
            _ => Self::Harmful,
        }
    }
}

impl Retry {
    /// What holds for a request: what the rule says that it falls under, and the rest as its service's policy says.
    /// None: nothing is tried again but what reached nobody.
    pub fn of(traffic: &Traffic, route: Option<&RoutePolicy>) -> Option<Self> {
        let route = route.and_then(|route| route.retry.as_ref());
        let said = traffic.retries.as_ref();
        if said.is_none() && route.is_none() {
            return None;
        }
        let retries = said.cloned().unwrap_or_default();
        let Retries { attempts, on, backoff, max_body, methods, .. } = *retries;
        let spacing = Spacing { least: Duration::ZERO, backoff };
        let max_body = usize::try_from(max_body).unwrap_or(usize::MAX);
        let retry = Self { attempts, on, spacing, methods, max_body };
        let retry = match route {
            Some(route) => retry.overruled_by(route),
            None => retry,
        };
        (retry.attempts > 0).then_some(retry)
    }

    fn overruled_by(self, route: &RetryPolicy) -> Self {
        let on = match route.codes.as_slice() {
            [] => self.on,
            // Connections that fail count in any case (GEP-1731).
            codes => codes.iter().copied().map(RetryOn::Status).chain([RetryOn::Reset]).collect(),
        };
        let spacing = match route.backoff {
            None => self.spacing,
            Some(least) => {
                Spacing { least, backoff: Backoff { base: least, max: least.saturating_mul(GROWTH) } }
            }
        };
        Self { attempts: route.attempts.unwrap_or(self.attempts), on, spacing, ..self }
    }

    /// Whether anything of a gRPC call is tried again for its status.
    pub fn heeds_grpc(&self) -> bool {
        self.on.iter().any(|on| matches!(on, RetryOn::Grpc(_)))
    }

    /// What is tried again, in words.
    pub fn describe(&self) -> [(&'static str, String); 5] {
        let Spacing { least, backoff } = self.spacing;
        let on: Vec<_> = self.on.iter().map(ToString::to_string).collect();
        [
            ("attempts", self.attempts.to_string()),
            ("on", on.join(", ")),
            ("methods", self.methods.to_string()),
            ("pause", format!("{least:?} and up to {:?}, {:?} at most", backoff.base, backoff.max)),
            ("maxBodyBytes", self.max_body.to_string()),
        ]
    }

    /// What it would mean to carry out a request of this method twice.
    pub fn twice(&self, method: &str) -> Twice {
        match &self.methods {
            RetryMethods::Idempotent => Twice::of(method),
            RetryMethods::These(methods) if !methods.iter().any(|allowed| allowed == method) => {
                Twice::Harmful
            }
            RetryMethods::These(_) | RetryMethods::Any => Twice::Harmless,
        }
    }

    /// Whether an answer is a reason to try again, were there tries, time and budget left.
    pub fn wants(&self, failed: Failed, twice: Twice) -> bool {
        let fits = |on: &RetryOn| match (on, failed) {
            (RetryOn::ServerErrors, Failed::Answered { status, .. }) => status >= 500,
            (RetryOn::GatewayErrors, Failed::Answered { status, .. }) => matches!(status, 502..=504),
            (RetryOn::Status(code), Failed::Answered { status, .. }) => code.code() == status,
            (RetryOn::Reset, Failed::Reset) => true,
            // A try that has a limit of its own is to be followed by another.
            (_, Failed::Late) => true,
            _ => false,
        };
        let says_so = |on: &RetryOn| match (on, failed) {
            (RetryOn::Grpc(code), Failed::Answered { grpc_status, .. }) => grpc_status == Some(*code),
            _ => false,
        };
        // Every call of gRPC is a POST: whoever names one of its statuses means calls that may be repeated after it.
        self.on.iter().any(says_so) || twice == Twice::Harmless && self.on.iter().any(fits)
    }

    /// Says after how long a request is tried again, or why it is not.
    pub fn decide(
        &self,
        attempt: &Attempt,
        take: impl FnOnce() -> bool,
        rng: &mut fastrand::Rng,
    ) -> Result<Duration, Stop> {
        if !self.wants(attempt.failed, attempt.twice) {
            return Err(Stop::Unwanted);
        }
        if attempt.before >= self.attempts {
            return Err(Stop::Attempts);
        }
        let own = self.spacing.pause(attempt.before, rng);
        let pause = match attempt.pushback {
            Pushback::None => own,
            Pushback::After(asked) => own.max(asked),
            Pushback::Never => return Err(Stop::Unwanted),
        };
        let is_too_long = pause > LONGEST_PAUSE.max(own) || attempt.left.is_some_and(|left| pause >= left);
        if is_too_long {
            return Err(Stop::Time);
        }
        // Last, for what is taken is not given back.
        if take() { Ok(pause) } else { Err(Stop::Budget) }
    }
}

impl Spacing {
    /// Before the first further try none was made before: full jitter, doubled each time.
    fn pause(self, before: u32, rng: &mut fastrand::Rng) -> Duration {
        let factor = 1_u32.checked_shl(before).unwrap_or(u32::MAX);
        let most = self.backoff.base.saturating_mul(factor).min(self.backoff.max);
        self.least.saturating_add(most.mul_f64(rng.f64()))
    }
}

/// The budget that holds for a service's requests.
pub fn budget_of(traffic: &Traffic) -> RetryBudget {
    traffic.retries.as_ref().map(|retries| retries.budget).unwrap_or_default()
}
