//! Two counts of the last while, such as requests and failures: what is older than the window is forgotten, a tenth of it
//! at a time.

use std::time::{Duration, Instant};

/// Into how many parts the window is cut; the oldest part is forgotten at once.
const PARTS: u32 = 10;

/// Two counts of the last while.
#[derive(Debug, Clone, Default)]
pub struct Window {
    parts: [(u32, u32); PARTS as usize],
    /// When the newest part began, and which it is.
    newest: Option<(Instant, usize)>,
}

impl Window {
    /// Counts at `now`, in a window as long as `whole`.
    pub fn count(&mut self, counts: (u32, u32), whole: Duration, now: Instant) {
        let at = self.advance(whole, now);
        if let Some((first, second)) = self.parts.get_mut(at) {
            *first = first.saturating_add(counts.0);
            *second = second.saturating_add(counts.1);
        }
    }

    /// Forgets what is too old at `now`; the part that is the newest then.
    pub fn advance(&mut self, whole: Duration, now: Instant) -> usize {
        let part = (whole / PARTS).max(Duration::from_millis(1));
        let (mut began, mut at) = self.newest.unwrap_or((now, 0));
        if now.saturating_duration_since(began) > whole {
            self.parts = Default::default();
            began = now;
        }
        while now.saturating_duration_since(began) >= part {
            began += part;
            at = at.saturating_add(1) % self.parts.len();
            if let Some(oldest) = self.parts.get_mut(at) {
                *oldest = (0, 0);
            }
        }
        self.newest = Some((began, at));
        at
    }

    /// Both counts.
    pub fn sum(&self) -> (u32, u32) {
        self.parts.iter().fold((0, 0), |(first, second), part| {
            (first.saturating_add(part.0), second.saturating_add(part.1))
        })
    }
}
