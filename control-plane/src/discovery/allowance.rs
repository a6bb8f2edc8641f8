//! How much a sidecar may ask for: what costs us, or everybody, something is counted, and who asks for too much is cut off.

use std::time::{Duration, Instant};

/// What may be asked for at once: all that a sidecar may subscribe to, three times over.
const BURST: f64 = 60_000.0;
/// What may be asked for in a second after that.
const PER_SECOND: f64 = 2_000.0;
/// What a word on readiness or health costs: everybody who calls the workload is told of it.
pub(super) const NEWS: usize = 10;

/// What one sidecar may still ask for.
#[derive(Debug)]
pub(super) struct Allowance {
    left: f64,
    at: Instant,
}

/// It is used up.
#[derive(Debug, thiserror::Error)]
#[error("asks for more than {PER_SECOND} names a second")]
pub(super) struct Exhausted;

impl Allowance {
    /// The whole of it.
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, at: now }
    }

    /// Takes so much of it away.
    pub(super) fn spend(&mut self, cost: usize, now: Instant) -> Result<(), Exhausted> {
        let passed = now.checked_duration_since(self.at).unwrap_or(Duration::ZERO);
        self.at = now;
        // What is asked for in one message is bounded by its length, far below where this is inexact.
        let cost = f64::from(u32::try_from(cost).unwrap_or(u32::MAX));
        self.left = (self.left + passed.as_secs_f64() * PER_SECOND).min(BURST) - cost;
        if self.left < 0.0 { Err(Exhausted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_uses_it_up_and_what_a_sidecar_needs_does_not() {
        let begun = Instant::now();
        let mut allowance = Allowance::new(begun);
        for round in 0..3 {
            assert!(allowance.spend(20_000, begun).is_ok(), "{round}");
        }
        assert!(allowance.spend(1, begun).is_err());
        let mut allowance = Allowance::new(begun);
        for second in 1..1_000 {
            assert!(allowance.spend(1_999, begun + Duration::from_secs(second)).is_ok(), "{second}");
        }
    }
}
