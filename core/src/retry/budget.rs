//! How much extra load there may be: a share of what callers ask for themselves, and a little in any case, so that callers
//! of few requests may try again too.

use std::time::{Duration, Instant};

use crate::model::RetryBudget;
use crate::window::Window;

/// How long the floor may be saved up for.
const SAVED: Duration = Duration::from_secs(1);

/// One worker's requests of the last while, and what was sent beside them.
#[derive(Debug, Clone, Default)]
pub struct Budget(Window);

impl Budget {
    /// A caller asks for something.
    pub fn asked(&mut self, settings: &RetryBudget, now: Instant) {
        self.0.count((1, 0), settings.window, now);
    }

    /// Whether one more may be sent beside them. What is taken is not given back.
    pub fn take(&mut self, settings: &RetryBudget, now: Instant) -> bool {
        self.0.advance(settings.window, now);
        let (asked, taken) = self.0.sum();
        let allowed = u64::from(asked).saturating_mul(u64::from(settings.ratio.per_million())) / 1_000_000;
        let may = u64::from(taken) < allowed;
        if may {
            self.0.count((0, 1), settings.window, now);
        }
        may
    }
}

/// What there may be in any case, of all workers: when the last of it will have been worth its time, on a clock that
/// began with the process. One number, so that workers share it without a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Floor(u64);

impl Floor {
    /// As it is shared.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// To be shared.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// What it is when one more is sent at `now`; none: not yet.
    pub fn take(self, settings: &RetryBudget, now: Duration) -> Option<Self> {
        let each = 1_000_000_000_u64.checked_div(settings.min_per_second.into())?;
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let saved = u64::try_from(SAVED.as_nanos()).unwrap_or(u64::MAX);
        let next = self.0.max(now).saturating_add(each);
        (next <= now.saturating_add(saved)).then_some(Self(next))
    }
}
