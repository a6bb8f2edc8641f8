//! Requests added up: how many, how well, how fast.

use std::time::Duration;

use weft_proto::v1;

/// Requests added up.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tally {
    requests: u64,
    failures: u64,
    retries: u64,
    mutual: u64,
    /// By duration, in microseconds; only those that hold something, ascending.
    buckets: Vec<Bucket>,
}

/// Requests that took longer than `above` and no longer than `up_to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    above: u32,
    up_to: u32,
    count: u64,
}

impl Tally {
    /// What a sidecar reports.
    pub(crate) fn of(row: &v1::GoldenRow, bounds_us: &[u64]) -> Self {
        let micros = |bound: &u64| u32::try_from(*bound).unwrap_or(u32::MAX);
        let above = std::iter::once(0).chain(bounds_us.iter().map(micros));
        let up_to = bounds_us.iter().map(micros).chain(std::iter::once(u32::MAX));
        let buckets = above.zip(up_to).zip(&row.buckets);
        let buckets = buckets.map(|((above, up_to), &count)| Bucket { above, up_to, count });
        Self {
            requests: row.requests,
            failures: row.failures.min(row.requests),
            retries: row.retries,
            mutual: row.mutual.min(row.requests),
            buckets: buckets.filter(|bucket| bucket.count > 0).collect(),
        }
    }

    /// As another control plane tells of it.
    pub(crate) fn told(wire: &v1::Tally) -> Self {
        let bounds = wire.above_us.iter().zip(&wire.up_to_us).zip(&wire.counts);
        let mut tally = Self {
            requests: wire.requests,
            failures: wire.failures.min(wire.requests),
            retries: wire.retries,
            mutual: wire.mutual.min(wire.requests),
            buckets: Vec::new(),
        };
        // By `add`, which keeps them in order whatever was said.
        for ((&above, &up_to), &count) in bounds {
            tally.add(&Self { buckets: vec![Bucket { above, up_to, count }], ..Self::default() });
        }
        tally
    }

    /// The same for another control plane.
    pub(crate) fn to_wire(&self) -> v1::Tally {
        v1::Tally {
            requests: self.requests,
            failures: self.failures,
            retries: self.retries,
            mutual: self.mutual,
            above_us: self.buckets.iter().map(|bucket| bucket.above).collect(),
            up_to_us: self.buckets.iter().map(|bucket| bucket.up_to).collect(),
            counts: self.buckets.iter().map(|bucket| bucket.count).collect(),
        }
    }

    /// Adds others.
    pub(crate) fn add(&mut self, other: &Self) {
        let sum = |a: &mut u64, b: u64| *a = a.saturating_add(b);
        sum(&mut self.requests, other.requests);
        sum(&mut self.failures, other.failures);
        sum(&mut self.retries, other.retries);
        sum(&mut self.mutual, other.mutual);
        for bucket in &other.buckets {
            let order = |known: &Bucket| (known.up_to, known.above).cmp(&(bucket.up_to, bucket.above));
            match self.buckets.binary_search_by(order) {
                Ok(place) => {
                    if let Some(known) = self.buckets.get_mut(place) {
                        sum(&mut known.count, bucket.count);
                    }
                }
                Err(place) => self.buckets.insert(place, *bucket),
            }
        }
    }

    /// How many.
    pub(crate) fn requests(&self) -> u64 {
        self.requests
    }

    /// Sends after the first.
    pub(crate) fn retries(&self) -> u64 {
        self.retries
    }

    /// How many in a second, over this time.
    pub(crate) fn rps(&self, over: Duration) -> f64 {
        real(self.requests) / over.as_secs_f64().max(1.0)
    }

    /// The share that succeeded; 1 where there were none.
    pub(crate) fn success_rate(&self) -> f64 {
        share(self.requests - self.failures, self.requests)
    }

    /// The share that came by mutual TLS; 1 where there were none.
    pub(crate) fn mtls_rate(&self) -> f64 {
        share(self.mutual, self.requests)
    }

    /// What this share of the requests did not take longer than, in milliseconds, interpolated within its bucket.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        let total: u64 = self.buckets.iter().map(|bucket| bucket.count).sum();
        let rank = share * real(total);
        let mut below = 0.0;
        let mut highest = 0.0;
        for bucket in &self.buckets {
            let count = real(bucket.count);
            let above = f64::from(bucket.above) / 1000.0;
            // Above the last bound nothing is known but that.
            let up_to = if bucket.up_to == u32::MAX { above } else { f64::from(bucket.up_to) / 1000.0 };
            if below + count >= rank {
                return above + (up_to - above) * (rank - below).max(0.0) / count;
            }
            below += count;
            highest = up_to;
        }
        highest
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 1.0 } else { real(part) / real(whole) }
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
fn real(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: [u64; 3] = [1_000, 2_000, 10_000];

    fn tally(buckets: [u64; 4]) -> Tally {
        let requests = buckets.iter().sum();
        let row = v1::GoldenRow {
            requests,
            failures: 1,
            retries: 3,
            buckets: buckets.into(),
            ..Default::default()
        };
        Tally::of(&row, &BOUNDS)
    }

    fn check(buckets: [u64; 4], share: f64, expected: f64) {
        let found = tally(buckets).quantile_ms(share);
        assert!((found - expected).abs() < 1e-9, "{buckets:?} {share}: {found}");
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        check([0, 0, 0, 0], 0.5, 0.0);
        check([10, 0, 0, 0], 0.5, 0.5);
        check([50, 0, 50, 0], 0.5, 1.0);
        check([50, 0, 50, 0], 0.75, 6.0);
        check([0, 100, 0, 0], 0.99, 1.99);
        check([0, 0, 0, 4], 0.99, 10.0);
    }

    #[test]
    fn tallies_of_other_bounds_add_up_too() {
        let mut sum = tally([1, 0, 0, 0]);
        let row = v1::GoldenRow { requests: 3, buckets: vec![1, 2], ..Default::default() };
        sum.add(&Tally::of(&row, &[500]));
        sum.add(&tally([1, 0, 0, 0]));
        assert_eq!((sum.requests(), sum.retries()), (5, 6));
        assert_eq!(
            sum.buckets.iter().map(|bucket| (bucket.up_to, bucket.count)).collect::<Vec<_>>(),
            [(500, 1), (1_000, 2), (u32::MAX, 2)]
        );
        assert!((sum.success_rate() - 0.6).abs() < 1e-9);
    }

    #[test]
    fn what_is_told_to_another_is_what_was_counted() {
        let mut told = tally([50, 0, 50, 4]);
        assert_eq!(Tally::told(&told.to_wire()), told);
        let lies = v1::Tally { requests: 1, failures: 9, mutual: 9, ..v1::Tally::default() };
        told.add(&Tally::told(&lies));
        assert!(told.success_rate() >= 0.0 && told.mtls_rate() >= 0.0);
    }

    #[test]
    fn where_nothing_was_asked_nothing_failed() {
        let none = Tally::default();
        assert!((none.success_rate(), none.mtls_rate(), none.quantile_ms(0.99)) == (1.0, 1.0, 0.0));
    }
}
