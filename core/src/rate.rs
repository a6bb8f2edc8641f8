//! Rate limits: a bucket of tokens for each key, by the generic cell rate algorithm.
//!
//! A bucket is one moment: when it will be full again. A call moves that moment on by its share of the time, and is refused
//! where the moment would lie further ahead than the whole burst takes. So a bucket that nobody took from for long enough is
//! like one that never was, and nothing is lost by forgetting it.

mod buckets;
mod limits;

pub use limits::{Limited, Limits, Usage};

use std::time::Duration;

use crate::model::Limit;

/// How fast a bucket fills, and how much it holds, in nanoseconds of filling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    /// What a call costs.
    cost: u64,
    /// What a full bucket holds.
    whole: u64,
}

/// What is left in a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Level {
    /// Calls that may come at once.
    remaining: u64,
    /// How long it takes to be full.
    full_in: Duration,
}

impl Rate {
    fn of(limit: &Limit) -> Self {
        let per = nanoseconds(limit.per);
        let cost = per.checked_div(limit.requests.into()).unwrap_or(per).max(1);
        Self { cost, whole: cost.saturating_mul(limit.burst.max(1).into()) }
    }

    /// Takes a call out of a bucket that will be full at `full_at`: when it is full then, or how long to wait for there to
    /// be room. Whatever was said of it before, it is never further from being full than now by a whole bucket.
    fn take(self, full_at: u64, now: u64) -> Result<u64, Duration> {
        let latest = now.saturating_add(self.whole);
        let then = full_at.clamp(now, latest).saturating_add(self.cost);
        if then <= latest { Ok(then) } else { Err(Duration::from_nanos(then - latest)) }
    }

    fn level(self, full_at: u64, now: u64) -> Level {
        let missing = full_at.saturating_sub(now).min(self.whole);
        Level { remaining: (self.whole - missing) / self.cost, full_in: Duration::from_nanos(missing) }
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(requests: u32, per: Duration, burst: u32) -> Rate {
        Rate::of(&Limit { requests, per, burst, key: Vec::new() })
    }

    #[test]
    fn a_burst_passes_and_then_what_the_rate_allows() {
        let rate = rate(10, Duration::from_secs(1), 3);
        let (mut full_at, mut now) = (0, 5_000_000_000);
        for left in [2, 1, 0] {
            full_at = rate.take(full_at, now).unwrap();
            assert_eq!(rate.level(full_at, now).remaining, left);
        }
        assert_eq!(rate.take(full_at, now), Err(Duration::from_millis(100)));
        now += 40_000_000;
        assert_eq!(rate.take(full_at, now), Err(Duration::from_millis(60)));
        now += 60_000_000;
        full_at = rate.take(full_at, now).unwrap();
        assert!(rate.take(full_at, now).is_err());
        assert_eq!(rate.level(full_at, now).full_in, Duration::from_millis(300));
    }

    #[test]
    fn over_a_long_time_no_more_passes_than_rate_and_burst_allow() {
        let rate = rate(7, Duration::from_secs(1), 5);
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut full_at, mut now, mut passed) = (0, 1, 0);
        let begun = now;
        while now < begun + 100_000_000_000 {
            if let Ok(then) = rate.take(full_at, now) {
                full_at = then;
                passed += 1;
            }
            now += rng.u64(..20_000_000);
        }
        assert!((700..=706).contains(&passed), "{passed}");
    }

    #[test]
    fn a_limit_that_was_made_stricter_or_laxer_is_never_waited_for_longer_than_it_says() {
        let slow = rate(1, Duration::from_hours(1), 10);
        let fast = rate(10, Duration::from_secs(1), 1);
        let mut full_at = 0;
        while let Ok(then) = slow.take(full_at, 0) {
            full_at = then;
        }
        assert_eq!(fast.take(full_at, 0), Err(Duration::from_millis(100)));
    }

    #[test]
    fn extremes_are_taken_as_they_are() {
        let endless = rate(1, Duration::from_hours(99_999), u32::MAX);
        assert!(endless.take(0, u64::MAX - 1).is_ok());
        let fastest = rate(u32::MAX, Duration::from_millis(1), 1);
        assert!(fastest.take(0, 1).is_ok());
    }
}
