//! When to ask for the next certificate.

use std::time::{Duration, SystemTime};

use fastrand::Rng;

/// Two thirds into the life that a certificate has left when it comes into use here at `from`, five percent earlier or
/// later, so that sidecars started together do not renew together.
///
/// `from` is when it was received (or read from disk), not its `not_before`: that is back-dated for the sake of peers
/// with a slow clock, which would make a certificate of a few seconds look old at birth.
pub fn renew_at(from: SystemTime, not_after: SystemTime, rng: &mut Rng) -> SystemTime {
    let life = not_after.duration_since(from).unwrap_or(Duration::ZERO);
    let jitter = 0.95 + 0.1 * rng.f64();
    from + life.mul_f64(2.0 / 3.0 * jitter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewal_is_at_two_thirds_of_life_give_or_take_five_percent() {
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let mut rng = Rng::with_seed(1);
        for life in [Duration::from_secs(3), Duration::from_hours(24)] {
            let mut seen: Vec<_> = (0..1000)
                .map(|_| renew_at(from, from + life, &mut rng).duration_since(from).unwrap())
                .map(|after| after.as_secs_f64() / life.as_secs_f64())
                .collect();
            seen.sort_by(f64::total_cmp);
            assert!(seen[0] >= 0.633 && seen[0] < 0.64, "{}", seen[0]);
            assert!(seen[999] <= 0.701 && seen[999] > 0.69, "{}", seen[999]);
        }
    }

    #[test]
    fn an_expired_certificate_is_renewed_at_once() {
        let from = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        assert_eq!(renew_at(from, SystemTime::UNIX_EPOCH, &mut Rng::with_seed(1)), from);
    }
}
