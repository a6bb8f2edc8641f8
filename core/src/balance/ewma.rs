//! What an endpoint costs: a moving average of its response times that rises at once and falls slowly.

use std::time::{Duration, Instant};

/// How fast what was measured is forgotten.
const DECAY: Duration = Duration::from_secs(10);

/// Response times of one endpoint and its requests in flight.
///
/// A slower answer than the average replaces it (a peak is believed at once); a faster one moves it by how long ago
/// the last one was.
#[derive(Debug, Clone)]
pub struct PeakEwma {
    nanoseconds: f64,
    stamp: Instant,
    in_flight: u32,
}

impl PeakEwma {
    /// An endpoint that nothing was measured of yet, taken to be `typical`.
    pub fn new(typical: Duration, now: Instant) -> Self {
        Self { nanoseconds: nanoseconds(typical), stamp: now, in_flight: 0 }
    }

    /// What a newcomer among `others` may be taken for: their average, or a millisecond where there are none.
    pub fn typical<'a>(others: impl IntoIterator<Item = &'a Self>, now: Instant) -> Duration {
        let (sum, count) = others
            .into_iter()
            .fold((0.0, 0.0), |(sum, count), other| (sum + other.average(now), count + 1.0));
        if count > 0.0 { Duration::from_secs_f64(sum / count / 1e9) } else { Duration::from_millis(1) }
    }

    /// A request is sent.
    pub fn start(&mut self) {
        self.in_flight = self.in_flight.saturating_add(1);
    }

    /// A request has ended; `took` where how long it took says something of the endpoint.
    pub fn finish(&mut self, now: Instant, took: Option<Duration>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let Some(took) = took.map(nanoseconds) else { return };
        if took > self.nanoseconds {
            self.nanoseconds = took;
            self.stamp = self.stamp.max(now);
        } else {
            self.blend(now, took);
        }
    }

    /// The first request on a new connection has ended. What it took is in part what the connection took, at both ends
    /// of it: it moves the average, but is no peak, or an endpoint would be shunned for having been met.
    pub fn finish_first(&mut self, now: Instant, took: Duration) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.blend(now, nanoseconds(took));
    }

    fn blend(&mut self, now: Instant, took: f64) {
        let keep = keep(now.saturating_duration_since(self.stamp));
        self.nanoseconds = self.nanoseconds * keep + took * (1.0 - keep);
        self.stamp = self.stamp.max(now);
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// What one more request would cost, to be compared with others'. An endpoint of twice the weight is expected to
    /// have twice as many in flight.
    pub fn cost(&self, now: Instant, weight: u32) -> f64 {
        // An average of nothing must not hide the requests in flight.
        self.average(now).max(1.0) * (f64::from(self.in_flight) / f64::from(weight.max(1)) + 1.0)
    }

    /// The average as of `now`: with nothing in flight it is slowly forgiven, so that an endpoint that was slow once
    /// is tried again.
    fn average(&self, now: Instant) -> f64 {
        if self.in_flight > 0 {
            return self.nanoseconds;
        }
        self.nanoseconds * keep(now.saturating_duration_since(self.stamp))
    }
}

fn keep(elapsed: Duration) -> f64 {
    libm::exp(-elapsed.as_secs_f64() / DECAY.as_secs_f64())
}

fn nanoseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do to start a virtual clock at")]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let start = Instant::now();
        let mut load = PeakEwma::new(MS, start);
        load.start();
        load.finish(start, Some(100 * MS));
        assert!(load.cost(start, 1) >= 99e6);
        load.start();
        load.finish(start + Duration::from_secs(1), Some(MS));
        let soon = load.cost(start + Duration::from_secs(1), 1);
        assert!((80e6..99e6).contains(&soon), "{soon}");
        assert!(load.cost(start + Duration::from_secs(60), 1) < 1e6);
    }

    #[test]
    fn requests_in_flight_multiply_the_cost() {
        let now = Instant::now();
        let mut load = PeakEwma::new(MS, now);
        let idle = load.cost(now, 1);
        load.start();
        load.start();
        assert!((load.cost(now, 1) / idle - 3.0).abs() < 1e-9);
        load.finish(now, None);
        load.finish(now, None);
        load.finish(now, None);
        assert_eq!((load.in_flight(), load.cost(now, 1)), (0, idle));
    }

    #[test]
    fn the_first_request_on_a_connection_is_no_peak_but_counts_in_time() {
        let start = Instant::now();
        let mut load = PeakEwma::new(MS, start);
        load.start();
        load.finish_first(start + MS, 50 * MS);
        assert!(load.cost(start + MS, 1) < 1.1e6);
        for second in 1..60 {
            load.start();
            load.finish_first(start + Duration::from_secs(second), 50 * MS);
        }
        assert!(load.cost(start + Duration::from_secs(59), 1) > 45e6);
    }

    #[test]
    fn time_may_stand_still_or_go_back() {
        let now = Instant::now();
        let mut load = PeakEwma::new(MS, now + MS);
        load.finish(now, Some(Duration::ZERO));
        assert!(load.cost(now, 1).is_finite() && load.cost(now, 1) > 0.0);
    }
}
