//! Which endpoint gets the next request (stage 6 of a request's life).
//!
//! First who takes part at all ([`Rotation`]), then one of them: by default by power of two choices: draw two by weight,
//! take the one that costs less. Cost is the peak-sensitive moving average of response times, times the requests in
//! flight; or the requests in flight alone.

mod balancer;
mod consistent;
mod ewma;
mod rotation;
mod round_robin;
mod weights;

pub use balancer::{Balancer, Load};
pub use consistent::{Candidate, consistent, hash};
pub use ewma::PeakEwma;
pub use rotation::{Group, Member, Rotation, priority_shares};
pub use round_robin::RoundRobin;
pub use weights::Weights;

/// Draws two endpoints by weight and says which of them costs less; the only one where there is one.
pub fn two_choices(
    weights: &Weights,
    rng: &mut fastrand::Rng,
    mut cost: impl FnMut(usize) -> f64,
) -> Option<usize> {
    // At equal costs the first stays: it was drawn by weight alone.
    choose_of_two(weights, rng, |first, second, _| cost(second) < cost(first))
}

/// Draws two endpoints by weight and, where costs are measured, mostly takes the one that costs less: how much more often
/// is as the eighth power of the costs is. What is a third dearer is taken once in ten times, what is twice as dear once
/// in 257. So a difference that may be chance decides nothing for long, and what was slow is measured again: a caller
/// that sends one request after another does not stay with whoever answered it first.
pub fn two_choices_by_measure(
    weights: &Weights,
    rng: &mut fastrand::Rng,
    mut cost: impl FnMut(usize) -> f64,
) -> Option<usize> {
    choose_of_two(weights, rng, |first, second, rng| {
        let (first, second) = (cost(first), cost(second));
        if !first.is_finite() || !second.is_finite() {
            return second < first;
        }
        let ratio = first / second;
        let (square, drawn) = (ratio * ratio, rng.f64());
        let power = (square * square) * (square * square);
        // The second's chance is `power / (1 + power)`.
        drawn * (1.0 + power) < power
    })
}

/// Draws two endpoints by weight, and takes the second where `prefers` says so.
fn choose_of_two(
    weights: &Weights,
    rng: &mut fastrand::Rng,
    mut prefers: impl FnMut(usize, usize, &mut fastrand::Rng) -> bool,
) -> Option<usize> {
    let first = weights.draw(rng)?;
    let Some(second) = weights.draw_second(rng, first) else { return Some(first) };
    Some(if prefers(first, second, rng) { second } else { first })
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do to start a virtual clock at")]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// One endpoint of the simulation: a fixed service time with some jitter.
    struct Simulated {
        load: PeakEwma,
        service: Duration,
        served: usize,
    }

    /// Sends `requests`, `gap` apart on a virtual clock, and counts who served them.
    fn simulate(
        seed: u64,
        weights: &[u32],
        service_ms: &[f64],
        requests: usize,
        gap: Duration,
    ) -> Vec<usize> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut now = Instant::now();
        let shares = weights;
        let weights = Weights::new(shares.iter().copied());
        let typical = Duration::from_millis(10);
        let mut endpoints: Vec<_> = service_ms
            .iter()
            .map(|ms| Simulated {
                load: PeakEwma::new(typical, now),
                service: Duration::from_secs_f64(ms / 1000.0),
                served: 0,
            })
            .collect();
        let mut in_flight: Vec<(Instant, usize, Duration)> = Vec::new();
        for _ in 0..requests {
            now += gap;
            in_flight.retain(|(end, index, took)| {
                if *end <= now {
                    endpoints[*index].load.finish(*end, Some(*took));
                }
                *end > now
            });
            let chosen = two_choices_by_measure(&weights, &mut rng, |index| {
                endpoints[index].load.cost(now, shares[index])
            })
            .unwrap();
            let endpoint = &mut endpoints[chosen];
            endpoint.load.start();
            endpoint.served += 1;
            let took = endpoint.service.mul_f64(0.8 + 0.4 * rng.f64());
            in_flight.push((now + took, chosen, took));
        }
        endpoints.iter().map(|endpoint| endpoint.served).collect()
    }

    #[test]
    fn equal_endpoints_get_equal_shares() {
        for seed in 0..5 {
            let served = simulate(seed, &[1; 10], &[10.0; 10], 100_000, Duration::from_micros(200));
            for count in &served {
                assert!((9_500..=10_500).contains(count), "seed {seed}: {served:?}");
            }
        }
    }

    #[test]
    fn a_slow_endpoint_gets_less() {
        for seed in 0..5 {
            let served =
                simulate(seed, &[1; 4], &[10.0, 10.0, 10.0, 100.0], 40_000, Duration::from_millis(1));
            assert!(served[3] < 4_000, "seed {seed}: {served:?}");
        }
    }

    #[test]
    fn weights_are_shares() {
        for seed in 0..5 {
            let served = simulate(seed, &[3, 1, 0], &[10.0; 3], 40_000, Duration::from_millis(20));
            assert_eq!(served[2], 0);
            assert!((26_000..=34_000).contains(&served[0]), "seed {seed}: {served:?}");
        }
    }

    #[test]
    fn a_newcomer_is_not_stormed() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut now = Instant::now();
        let weights = Weights::new([1; 5]);
        let mut loads: Vec<_> = (0..4).map(|_| PeakEwma::new(Duration::from_millis(10), now)).collect();
        for load in &mut loads {
            for _ in 0..100 {
                now += Duration::from_millis(1);
                load.start();
                load.finish(now, Some(Duration::from_millis(10)));
            }
        }
        loads.push(PeakEwma::new(PeakEwma::typical(&loads, now), now));
        // A burst, during which nothing is answered.
        let mut chosen = [0; 5];
        for _ in 0..100 {
            let index =
                two_choices_by_measure(&weights, &mut rng, |index| loads[index].cost(now, 1)).unwrap();
            loads[index].start();
            chosen[index] += 1;
        }
        assert!((10..=30).contains(&chosen[4]), "{chosen:?}");
    }

    #[test]
    fn one_endpoint_is_always_chosen_and_none_never() {
        let mut rng = fastrand::Rng::with_seed(1);
        assert_eq!(two_choices(&Weights::new([1]), &mut rng, |_| 0.0), Some(0));
        assert_eq!(two_choices(&Weights::new([]), &mut rng, |_| 0.0), None);
        assert_eq!(two_choices(&Weights::new([0, 0]), &mut rng, |_| 0.0), None);
    }
}
