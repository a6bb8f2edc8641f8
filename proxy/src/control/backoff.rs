//! How long to wait before the next attempt: twice as long each time, with jitter, so that a thousand sidecars do
//! not return together.

use std::time::Duration;

/// The waits between attempts.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    least: Duration,
    most: Duration,
}

impl Backoff {
    /// From about `least` to about `most`.
    pub(super) fn new(least: Duration, most: Duration) -> Self {
        Self { next: least, least, most }
    }

    /// The next wait: between half and all of what doubles each time.
    pub(super) fn next(&mut self, rng: &mut fastrand::Rng) -> Duration {
        let wait = self.next.mul_f64(0.5 + rng.f64() / 2.0);
        self.next = (2 * self.next).min(self.most);
        wait
    }

    /// An attempt went well.
    pub(super) fn reset(&mut self) {
        self.next = self.least;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most_and_start_anew() {
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(least, most);
        let mut rng = fastrand::Rng::with_seed(1);
        for full in [100, 200, 400, 800, 1000, 1000].map(Duration::from_millis) {
            let wait = backoff.next(&mut rng);
            assert!(wait >= full / 2 && wait <= full, "{wait:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.next(&mut rng) <= least);
    }
}
