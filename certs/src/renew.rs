//! When to ask for the next certificate.

use std::time::{Duration, SystemTime};

use fastrand::Rng;

use crate::Credentials;

/// The part of its life after which a certificate that is still in use is a reason to worry.
const LATE: f64 = 0.8;

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

/// When the holder of a certificate asks for the next one, and how it proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    not_before: SystemTime,
    not_after: SystemTime,
    renew_at: SystemTime,
    late_at: SystemTime,
}

/// How one proves who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// By the certificate that it has.
    Certificate,
    /// By its token: the certificate proves nothing, for it has ended or not yet begun.
    Token,
}

impl Schedule {
    /// For a certificate that comes into use now.
    pub fn new(credentials: &Credentials, now: SystemTime, rng: &mut Rng) -> Self {
        let (not_before, not_after) = (credentials.not_before(), credentials.not_after());
        let life = not_after.duration_since(now).unwrap_or(Duration::ZERO);
        let late_at = now + life.mul_f64(LATE);
        Self { not_before, not_after, renew_at: renew_at(now, not_after, rng), late_at }
    }

    /// When to ask, seen from now: at once where the certificate is not valid now, because it was slept through or because
    /// the clock was set.
    pub fn due(&self, now: SystemTime) -> SystemTime {
        match self.proof(now) {
            Proof::Certificate => self.renew_at,
            Proof::Token => now,
        }
    }

    /// How to prove it now.
    pub fn proof(&self, now: SystemTime) -> Proof {
        if (self.not_before..self.not_after).contains(&now) { Proof::Certificate } else { Proof::Token }
    }

    /// Whether it should have been renewed long ago.
    pub fn is_late(&self, now: SystemTime) -> bool {
        now >= self.late_at || self.proof(now) == Proof::Token
    }

    /// Asks within that time, at a moment of chance, lest all who hear of it ask at once.
    pub fn hasten(&mut self, now: SystemTime, within: Duration, rng: &mut Rng) {
        self.renew_at = self.renew_at.min(now + within.mul_f64(rng.f64()));
    }
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
