//! Ending in good order: told to drain, everything that holds a [`DrainWatch`] finishes what it has begun and drops it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Draining,
    Stopped,
}

/// Starts the drain and waits for its end.
#[derive(Debug)]
pub struct Drain {
    phase: watch::Sender<Phase>,
    begun: Arc<AtomicBool>,
}

/// Hears of the drain, and holds it up while it exists. Cheap to clone: one for each connection, one for each loop.
#[derive(Debug, Clone)]
pub struct DrainWatch {
    phase: watch::Receiver<Phase>,
    /// Each request asks: a flag that is only read lies in every core's cache, a lock of the channel's moves between them.
    begun: Arc<AtomicBool>,
}

/// Work was still going on at the deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{watches} connections and tasks were still busy after {deadline:?}")]
pub struct DrainTimeout {
    /// How many watches were held.
    pub watches: usize,
    /// How long they were given.
    pub deadline: Duration,
}

/// A drain and the first of its watches.
pub fn channel() -> (Drain, DrainWatch) {
    let (sender, receiver) = watch::channel(Phase::Running);
    let begun = Arc::<AtomicBool>::default();
    (Drain { phase: sender, begun: Arc::clone(&begun) }, DrainWatch { phase: receiver, begun })
}

impl Drain {
    /// Another watch.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch { phase: self.phase.subscribe(), begun: Arc::clone(&self.begun) }
    }

    /// Tells the watches to finish, without waiting.
    pub fn start(&self) {
        self.advance(Phase::Draining);
    }

    /// Tells the watches to finish and waits until the last is dropped. After the deadline those that are left are told
    /// to stop at once.
    pub async fn finish(self, deadline: Duration) -> Result<(), DrainTimeout> {
        self.start();
        if timeout(deadline, self.phase.closed()).await.is_ok() {
            return Ok(());
        }
        let watches = self.phase.receiver_count();
        self.advance(Phase::Stopped);
        Err(DrainTimeout { watches, deadline })
    }

    fn advance(&self, to: Phase) {
        self.begun.store(true, Ordering::Release);
        self.phase.send_if_modified(|phase| {
            let later = *phase < to;
            *phase = to.max(*phase);
            later
        });
    }
}

impl DrainWatch {
    /// Whether to begin nothing new.
    pub fn is_draining(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Waits for the drain to begin. A [`Drain`] that is gone has begun.
    pub async fn draining(&mut self) {
        self.reached(Phase::Draining).await;
    }

    /// Waits for the drain's deadline: time to break off.
    pub async fn stopped(&mut self) {
        self.reached(Phase::Stopped).await;
    }

    async fn reached(&mut self, wanted: Phase) {
        let _ = self.phase.wait_for(|phase| *phase >= wanted).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_ends_when_the_last_watch_is_dropped() {
        let (drain, mut watch) = channel();
        let idle = drain.watch();
        assert!(!watch.is_draining());
        drain.start();
        watch.draining().await;
        assert!(idle.is_draining());
        drop((watch, idle));
        assert_eq!(drain.finish(Duration::MAX).await, Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_deadline_watches_are_told_to_stop() {
        let (drain, mut watch) = channel();
        let deadline = Duration::from_secs(30);
        assert_eq!(drain.finish(deadline).await, Err(DrainTimeout { watches: 1, deadline }));
        watch.stopped().await;
    }

    #[tokio::test]
    async fn a_lost_drain_has_begun() {
        let (drain, mut watch) = channel();
        drop(drain);
        watch.draining().await;
        watch.stopped().await;
    }
}
