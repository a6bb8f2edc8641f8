//! How many certificates one workload may ask for: a burst, then a steady few.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Requests that may come at once.
const BURST: f64 = 20.0;
/// Requests a second after that: certificates may live a single second.
const PER_SECOND: f64 = 5.0;
/// Workloads that are watched at once; beyond, none more is admitted until some are forgotten.
const MOST: usize = 100_000;

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: SystemTime,
}

/// A token bucket for each workload.
#[derive(Debug, Default)]
pub(super) struct Rate(Mutex<HashMap<String, Bucket>>);

impl Rate {
    /// Whether one more request may pass now.
    pub(super) fn admit(&self, whose: &str, now: SystemTime) -> bool {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !buckets.contains_key(whose) && buckets.len() >= MOST {
            return false;
        }
        let bucket = buckets.entry(whose.to_owned()).or_insert(Bucket { tokens: BURST, at: now });
        bucket.refill(now);
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    /// Forgets the workloads that have their whole burst again.
    pub(super) fn forget(&self, now: SystemTime) {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.retain(|_, bucket| {
            bucket.refill(now);
            bucket.tokens < BURST
        });
    }
}

impl Bucket {
    fn refill(&mut self, now: SystemTime) {
        let passed = now.duration_since(self.at).unwrap_or(Duration::ZERO);
        self.tokens = (self.tokens + passed.as_secs_f64() * PER_SECOND).min(BURST);
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_has_a_burst_and_then_a_steady_rate() {
        let rate = Rate::default();
        let start = SystemTime::UNIX_EPOCH;
        assert_eq!((0..100).filter(|_| rate.admit("a", start)).count(), 20);
        assert!(rate.admit("b", start));
        let later = start + Duration::from_secs(2);
        assert_eq!((0..100).filter(|_| rate.admit("a", later)).count(), 10);
        rate.forget(later + Duration::from_secs(60));
        assert!(rate.0.lock().unwrap().is_empty());
    }
}
