//! What holds for a request: how long it may take and how often it is tried, as its route's rule says it and the rest as its
//! service's policy does.

use crate::limits::{Each, Limits, Until};
use crate::model::{Hedging, RoutePolicy, Traffic};
use crate::retry::{Retry, Twice};

/// What holds for a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// How long it may take.
    pub limits: Limits,
    /// What is tried again; none: what reached nobody.
    pub retry: Option<Retry>,
    /// When a second endpoint is asked; none: never.
    pub hedging: Option<Hedging>,
}

impl Plan {
    /// For requests to a service that fall under a rule, or none. None: nothing is said of them.
    pub fn of(traffic: &Traffic, route: Option<&RoutePolicy>) -> Option<Self> {
        let mut limits = Limits::of(traffic, route);
        let per_try = traffic.retries.as_ref().and_then(|retries| retries.per_try);
        // A route that speaks of its tries is heard first, also where it says that they have no limit.
        if route.is_none_or(|route| route.backend_timeout.is_none()) {
            limits.each = per_try.map(|limit| Each { limit, until: Until::Head });
        }
        let plan = Self { limits, retry: Retry::of(traffic, route), hedging: traffic.hedging };
        (plan != Self::default()).then_some(plan)
    }

    /// What it would mean to carry out a request of this method twice.
    pub fn twice(&self, method: &str) -> Twice {
        self.retry.as_ref().map_or_else(|| Twice::of(method), |retry| retry.twice(method))
    }

    /// Whether more may be sent than is asked for, so that what is asked for must be counted.
    pub fn adds_load(&self) -> bool {
        self.retry.is_some() || self.hedging.is_some()
    }
}
