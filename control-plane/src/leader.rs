//! Which of several control planes over one store does what one alone must do.
//!
//! To lead saves work, and nothing more rests on it: whatever is written says what must stand there before, so that two who both
//! think that they lead do no harm.

use tokio::sync::watch;

/// Whether we lead, now and later.
#[derive(Debug, Clone)]
pub(crate) struct Leadership(watch::Receiver<bool>);

impl Leadership {
    /// Of who is alone, and always leads.
    pub(crate) fn alone() -> Self {
        Self(watch::channel(true).1)
    }

    /// As somebody else will tell.
    pub(crate) fn told_by(sender: &watch::Sender<bool>) -> Self {
        Self(sender.subscribe())
    }

    /// As this says.
    pub(crate) fn of(leads: watch::Receiver<bool>) -> Self {
        Self(leads)
    }

    /// Whether we lead at this moment.
    pub(crate) fn holds(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until we lead.
    pub(crate) async fn begins(&mut self) {
        if self.0.wait_for(|leads| *leads).await.is_err() {
            // Nobody will tell any more.
            std::future::pending::<()>().await;
        }
    }

    /// Waits until we do not lead any more.
    pub(crate) async fn ends(&mut self) {
        if self.0.wait_for(|leads| !*leads).await.is_err() {
            // Who is alone leads for ever.
            std::future::pending::<()>().await;
        }
    }
}
