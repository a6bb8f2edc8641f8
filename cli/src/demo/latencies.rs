//! How long requests took, in buckets that grow by two in a hundred: quantiles of any number of them in fixed space.

use std::time::Duration;

const GROWTH: f64 = 1.02;
/// From a microsecond to a minute.
const BUCKETS: usize = 906;

/// How long requests took.
#[derive(Debug, Clone)]
pub(crate) struct Latencies {
    buckets: Box<[u64]>,
    count: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS].into(), count: 0 }
    }
}

impl Latencies {
    /// Adds one.
    pub(crate) fn record(&mut self, latency: Duration) {
        if let Some(bucket) = self.buckets.get_mut(bucket_of(latency)) {
            *bucket += 1;
            self.count += 1;
        }
    }

    /// What the given share of the requests did not exceed, in milliseconds; 0 without requests.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        let mut left = rank(share, self.count);
        let mut bound_ms = 0.001;
        for &bucket in &self.buckets {
            if bucket >= left && left > 0 {
                // The middle of the bucket, in digits that mean something.
                return (bound_ms * 1000.0_f64).round() / 1000.0;
            }
            left = left.saturating_sub(bucket);
            bound_ms *= GROWTH;
        }
        0.0
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to the number of buckets"
)]
fn bucket_of(latency: Duration) -> usize {
    let microseconds = latency.as_secs_f64() * 1e6;
    (microseconds.max(1.0).ln() / GROWTH.ln()).round().clamp(0.0, BUCKETS as f64 - 1.0) as usize
}

/// Which of so many, in order, stands at the given share.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the count")]
fn rank(share: f64, count: u64) -> u64 {
    ((share * count as f64).ceil() as u64).clamp(u64::from(count > 0), count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_within_two_in_a_hundred() {
        let mut latencies = Latencies::default();
        for milliseconds in 1..=1000 {
            latencies.record(Duration::from_millis(milliseconds));
        }
        for (share, expected) in [(0.001, 1.0), (0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let quantile = latencies.quantile_ms(share);
            assert!((quantile / expected - 1.0).abs() < 0.02, "{share}: {quantile}");
        }
    }

    #[test]
    fn extremes_fit() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile_ms(0.5), 0.0);
        latencies.record(Duration::ZERO);
        latencies.record(Duration::MAX);
        assert_eq!(latencies.quantile_ms(0.5), 0.001);
        assert!(latencies.quantile_ms(1.0) > 60_000.0);
    }
}
