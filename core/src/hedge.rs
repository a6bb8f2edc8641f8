//! When a second endpoint is asked although the first may still answer: after a fixed time, or when the first has taken longer
//! than most answers take.

use std::time::{Duration, Instant};

use crate::model::{HedgeAfter, Hedging, Ratio};

/// The least that is told apart.
const FINEST: Duration = Duration::from_micros(100);

/// How much longer each kind of answer takes than the one before, in hundredths.
const STEP: u64 = 110;

/// Kinds of answers: from a ten thousandth of a second to some minutes.
const KINDS: usize = 160;

/// Of fewer answers nothing is known.
const ENOUGH: u32 = 20;

/// After so long what is known counts half as much.
const HALF_LIFE: Duration = Duration::from_secs(10);

/// What is known of how long answers take, forgotten slowly.
#[derive(Debug, Clone)]
pub struct Latencies {
    counts: Box<[u32]>,
    total: u32,
    halved: Instant,
}

impl Latencies {
    /// Nothing is known yet.
    pub fn new(now: Instant) -> Self {
        Self { counts: vec![0; KINDS].into_boxed_slice(), total: 0, halved: now }
    }

    /// An answer took so long, or at least so long.
    pub fn record(&mut self, took: Duration, now: Instant) {
        self.forget(now);
        let mut kind = 0;
        let mut bound = FINEST;
        while bound < took && kind < KINDS - 1 {
            bound = longer(bound);
            kind += 1;
        }
        if let Some(count) = self.counts.get_mut(kind) {
            *count = count.saturating_add(1);
            self.total = self.total.saturating_add(1);
        }
    }

    /// What this share of answers does not exceed, to a tenth; none: too little is known.
    pub fn quantile(&mut self, share: Ratio, now: Instant) -> Option<Duration> {
        self.forget(now);
        if self.total < ENOUGH {
            return None;
        }
        let wanted = u64::from(self.total).saturating_mul(share.per_million().into()).div_ceil(1_000_000);
        let (mut seen, mut bound) = (0_u64, FINEST);
        for count in &self.counts {
            seen = seen.saturating_add((*count).into());
            if seen >= wanted {
                break;
            }
            bound = longer(bound);
        }
        Some(bound)
    }

    fn forget(&mut self, now: Instant) {
        while now.saturating_duration_since(self.halved) >= HALF_LIFE {
            self.halved += HALF_LIFE;
            if self.total == 0 {
                // Nothing is left to forget.
                self.halved = now;
                return;
            }
            self.total = 0;
            for count in &mut self.counts {
                *count /= 2;
                self.total = self.total.saturating_add(*count);
            }
        }
    }
}

/// After how long a second endpoint is asked; none: not, for it is not known yet how long answers take.
pub fn wait(hedging: &Hedging, latencies: Option<&mut Latencies>, now: Instant) -> Option<Duration> {
    match hedging.after {
        HedgeAfter::Time(time) => Some(time),
        HedgeAfter::Quantile(share) => latencies?.quantile(share, now),
    }
}

fn longer(bound: Duration) -> Duration {
    let nanoseconds = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(nanoseconds.saturating_mul(STEP) / 100)
}
