//! How many requests the app is given at once, all workers together. What is decided, [`weft_core::concurrency`] decides.
//!
//! Requests count until their answer begins: what then takes long is its size or its nature, not the app's plight.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use weft_core::concurrency::{Concurrency, Window};

use crate::failure::ErrorCode;

/// More often than this nobody looks whether there is something to learn.
const WINDOW: Duration = Duration::from_millis(100);

/// The limiters of the app's ports. Asked when the configuration changes, never by a request.
#[derive(Debug, Clone, Default)]
pub struct Limiters(Arc<Mutex<HashMap<u16, Weak<Limiter>>>>);

/// The limit of one port.
#[derive(Debug)]
pub(super) struct Limiter {
    limit: AtomicU32,
    in_flight: AtomicU32,
    born: Instant,
    /// When the window began, in microseconds since then.
    began: AtomicU64,
    answered: AtomicU32,
    taken: AtomicU64,
    fastest: AtomicU64,
    refused: AtomicU32,
    /// Nobody waits for it: who finds it held goes on.
    learning: Mutex<Concurrency>,
}

/// A request's place among those that the app works on, until dropped.
#[derive(Debug)]
pub(super) struct Admission {
    limiter: Arc<Limiter>,
    since: Instant,
}

impl Limiters {
    /// The limiter of a port, the same for all workers.
    pub(super) fn of_port(&self, port: u16) -> Arc<Limiter> {
        let mut limiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(limiter) = limiters.get(&port).and_then(Weak::upgrade) {
            return limiter;
        }
        let limiter = Arc::new(Limiter::new());
        limiters.insert(port, Arc::downgrade(&limiter));
        limiter
    }

    /// The limits that are in force: each port, how many requests, and how many are under way.
    pub fn list(&self) -> Vec<(u16, u32, u32)> {
        let limiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = limiters.iter().filter_map(|(port, limiter)| Some((*port, limiter.upgrade()?)));
        let mut listed: Vec<_> = known
            .map(|(port, limiter)| (port, limiter.limit.load(Relaxed), limiter.in_flight.load(Relaxed)))
            .collect();
        listed.sort_unstable();
        listed
    }
}

impl Limiter {
    fn new() -> Self {
        let concurrency = Concurrency::default();
        Self {
            limit: AtomicU32::new(concurrency.limit()),
            in_flight: AtomicU32::default(),
            born: Instant::now(),
            began: AtomicU64::default(),
            answered: AtomicU32::default(),
            taken: AtomicU64::default(),
            fastest: AtomicU64::new(u64::MAX),
            refused: AtomicU32::default(),
            learning: Mutex::new(concurrency),
        }
    }

    /// A place, where there is one.
    pub(super) fn try_enter(self: &Arc<Self>) -> Result<Admission, ErrorCode> {
        let now = Instant::now();
        if self.in_flight.fetch_add(1, Relaxed) < self.limit.load(Relaxed) {
            return Ok(Admission { limiter: Arc::clone(self), since: now });
        }
        self.in_flight.fetch_sub(1, Relaxed);
        self.refused.fetch_add(1, Relaxed);
        self.learn(now);
        Err(ErrorCode::Overloaded)
    }

    fn learn(&self, now: Instant) {
        let at = micros(now.saturating_duration_since(self.born));
        let elapsed = Duration::from_micros(at.saturating_sub(self.began.load(Relaxed)));
        if elapsed < WINDOW {
            return;
        }
        let Ok(mut concurrency) = self.learning.try_lock() else { return };
        let seen = Window {
            elapsed,
            answered: self.answered.load(Relaxed),
            taken: Duration::from_micros(self.taken.load(Relaxed)),
            fastest: Duration::from_micros(self.fastest.load(Relaxed)),
            refused: self.refused.load(Relaxed),
        };
        if !concurrency.is_whole(&seen) {
            return;
        }
        self.began.store(at, Relaxed);
        self.answered.fetch_sub(seen.answered, Relaxed);
        self.taken.fetch_sub(micros(seen.taken), Relaxed);
        self.fastest.store(u64::MAX, Relaxed);
        self.refused.fetch_sub(seen.refused, Relaxed);
        concurrency.learn(&seen);
        self.limit.store(concurrency.limit(), Relaxed);
    }
}

impl Admission {
    /// The app answered.
    pub(super) fn answered(self) {
        let now = Instant::now();
        let took = micros(now.saturating_duration_since(self.since));
        self.limiter.taken.fetch_add(took, Relaxed);
        self.limiter.fastest.fetch_min(took, Relaxed);
        self.limiter.answered.fetch_add(1, Relaxed);
        self.limiter.learn(now);
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.limiter.in_flight.fetch_sub(1, Relaxed);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_workers_share_a_port_s_limit_and_places_come_back() {
        let limiters = Limiters::default();
        let (one, other) = (limiters.of_port(80), limiters.of_port(80));
        let limit = one.limit.load(Relaxed);
        let mut places: Vec<_> = (0..limit).map(|_| one.try_enter().unwrap()).collect();
        assert_eq!(other.try_enter().err(), Some(ErrorCode::Overloaded));
        assert!(limiters.of_port(81).try_enter().is_ok());
        places.pop().unwrap().answered();
        let place = other.try_enter().unwrap();
        assert_eq!(limiters.list()[0], (80, limit, limit));
        drop((place, places));
        assert_eq!(limiters.list()[0], (80, limit, 0));
    }

    #[test]
    fn a_limiter_that_no_cluster_has_is_forgotten() {
        let limiters = Limiters::default();
        drop(limiters.of_port(80));
        assert_eq!(limiters.list(), []);
    }
}
