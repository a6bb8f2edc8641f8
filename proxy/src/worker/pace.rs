//! When a worker lets others run before it sleeps.
//!
//! A worker that has nothing left to do sleeps, and whoever sends to it wakes it: for one event, where much goes on, and each
//! time it changes places with another program twice. Where it is asked that often, those that would wake it wait for its core:
//! it lets them run first, while it is still awake, and then finds what all of them have sent, for which nobody had to wake it.
//! Asked seldom, it sleeps at once, for there is nothing to find; and so it does beside programs that compute for long when it
//! lets them, since it then counts as asked seldom.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A worker that has nothing left to do more often than this, in the mean, lets others run.
const OFTEN: u64 = 150;

/// What counts as long, however long it was: after a rest a worker is soon as quick as before.
const LONG: u64 = 1000;

/// What each time weighs in the mean: an eighth.
const WEIGHT: u64 = 8;

/// How often a worker has nothing left to do. The worker's own: that these are atomics is for the hook's type alone.
#[derive(Debug)]
pub(super) struct Pace {
    started: Instant,
    /// When it last had nothing left to do, in microseconds.
    last: AtomicU64,
    /// Microseconds from one such time to the next, in the mean, times [`WEIGHT`].
    mean: AtomicU64,
}

impl Pace {
    /// Of a worker that was never asked for anything.
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), last: AtomicU64::new(0), mean: AtomicU64::new(LONG * WEIGHT) }
    }

    /// The worker has nothing left to do.
    pub(super) fn rest(&self) {
        let now = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        if self.is_often(now) {
            std::thread::yield_now();
        }
    }

    /// Whether it has nothing left to do so often that others are let run, the last time at `now`.
    fn is_often(&self, now: u64) -> bool {
        let since = now.saturating_sub(self.last.swap(now, Ordering::Relaxed)).min(LONG);
        let before = self.mean.load(Ordering::Relaxed);
        let mean = before - before / WEIGHT + since;
        self.mean.store(mean, Ordering::Relaxed);
        mean < OFTEN * WEIGHT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `times` with so many microseconds between them are often.
    fn often(pace: &Pace, now: &mut u64, times: usize, apart: u64) -> usize {
        (0..times)
            .filter(|_| {
                *now += apart;
                pace.is_often(*now)
            })
            .count()
    }

    #[test]
    fn who_is_asked_often_lets_others_run_and_who_is_asked_seldom_sleeps() {
        let (pace, mut now) = (Pace::new(), 0);
        assert_eq!(often(&pace, &mut now, 1000, 300), 0);
        let quick = often(&pace, &mut now, 1000, 50);
        assert!(quick > 980, "{quick} of 1000");
        let slow = often(&pace, &mut now, 1000, 300);
        assert!(slow < 20, "{slow} of 1000");
    }

    #[test]
    fn who_computes_for_long_is_let_only_now_and_then() {
        let (pace, mut now) = (Pace::new(), 0);
        often(&pace, &mut now, 100, 20);
        let mut let_run = 0;
        for _ in 0..1000 {
            // Who was let run kept the core for as long as the kernel gives it.
            let kept = if pace.is_often(now) { 3000 } else { 0 };
            let_run += usize::from(kept > 0);
            now += 20 + kept;
        }
        assert!(let_run < 200, "{let_run} of 1000");
    }
}
