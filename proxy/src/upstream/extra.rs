//! What may be sent to a service beside what its callers ask for: a share of it, of each worker by itself, and a little in any
//! case, of all workers together.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::Instant;

use weft_core::model::{QualifiedName, RetryBudget};
use weft_core::retry::{Budget, Floor};

/// When the clock of floors began.
static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What all workers may send in any case, by service. Asked when a policy changes, never by a request.
#[derive(Debug, Clone, Default)]
pub struct Extras(Arc<Mutex<HashMap<QualifiedName, Weak<AtomicU64>>>>);

/// What one worker may send to a service.
#[derive(Debug)]
pub(super) struct Extra {
    settings: RetryBudget,
    budget: Budget,
    floor: Arc<AtomicU64>,
}

impl Extras {
    fn floor(&self, service: &QualifiedName) -> Arc<AtomicU64> {
        let mut floors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(floor) = floors.get(service).and_then(Weak::upgrade) {
            return floor;
        }
        floors.retain(|_, floor| floor.strong_count() > 0);
        let floor = Arc::default();
        floors.insert(service.clone(), Arc::downgrade(&floor));
        floor
    }
}

impl Extra {
    /// What may be sent to a service; to a workload that is called by its own address: by this worker alone.
    pub(super) fn new(extras: &Extras, service: Option<&QualifiedName>, settings: RetryBudget) -> Self {
        let floor = service.map_or_else(Arc::default, |service| extras.floor(service));
        Self { settings, budget: Budget::default(), floor }
    }

    /// A caller asks for something.
    pub(super) fn asked(&mut self) {
        self.budget.asked(&self.settings, Instant::now());
    }

    /// Whether one more may be sent.
    pub(super) fn take(&mut self) -> bool {
        let now = Instant::now();
        if self.budget.take(&self.settings, now) {
            return true;
        }
        let since = now.saturating_duration_since(*BEGAN);
        let next = |bits| Floor::from_bits(bits).take(&self.settings, since).map(Floor::to_bits);
        self.floor.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use weft_core::model::Ratio;

    use super::*;

    #[test]
    fn workers_share_what_there_is_in_any_case() {
        let extras = Extras::default();
        let service = "default/orders".parse().unwrap();
        let settings = RetryBudget { ratio: Ratio::NONE, min_per_second: 4, ..RetryBudget::default() };
        let mut workers = [(); 3].map(|()| Extra::new(&extras, Some(&service), settings));
        let taken = (0..60).filter(|turn| workers[turn % 3].take()).count();
        assert!((4..=5).contains(&taken), "{taken}");
        let mut other = Extra::new(&extras, Some(&"default/web".parse().unwrap()), settings);
        assert!(other.take());
    }
}
