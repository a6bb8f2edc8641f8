//! What becomes of an endpoint's requests, as far as its circuit breaker must know.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Instant;

use weft_core::breaker::{Breaker, Sent, Standing, Verdict};
use weft_core::model::CircuitBreaker;

/// The breaker of one endpoint; without settings it lets everything pass, and counts nothing.
#[derive(Debug, Default)]
pub(super) struct Watched {
    settings: Cell<Option<CircuitBreaker>>,
    breaker: RefCell<Breaker>,
    /// Set when the endpoint's standing is another.
    changed: RefCell<Rc<Cell<bool>>>,
}

/// A request whose outcome the breaker waits for. What is dropped without one says nothing.
#[derive(Debug)]
pub struct Ticket {
    watched: Rc<Watched>,
    sent: Option<Sent>,
}

impl Watched {
    /// Puts other settings in force, and says whom to tell of changes.
    pub(super) fn set(&self, settings: Option<CircuitBreaker>, changed: &Rc<Cell<bool>>) {
        *self.changed.borrow_mut() = Rc::clone(changed);
        if settings.is_none() {
            *self.breaker.borrow_mut() = Breaker::default();
        }
        self.settings.set(settings);
    }

    pub(super) fn standing(&self, settings: &CircuitBreaker, now: Instant) -> Standing {
        self.breaker.borrow().standing(settings, now)
    }

    /// A request is sent; none where nobody waits for what becomes of it.
    pub(super) fn send(self: &Rc<Self>, now: Instant) -> Option<Ticket> {
        let settings = self.settings.get()?;
        let mut breaker = self.breaker.borrow_mut();
        if breaker.standing(&settings, now) != Standing::Closed {
            self.changed.borrow().set(true);
        }
        Some(Ticket { watched: Rc::clone(self), sent: Some(breaker.send(now)) })
    }
}

impl Ticket {
    /// Says what became of it.
    pub fn judge(mut self, verdict: Verdict) {
        self.tell(verdict);
    }

    fn tell(&mut self, verdict: Verdict) {
        let Watched { settings, breaker, changed } = &*self.watched;
        if let (Some(sent), Some(settings)) = (self.sent.take(), settings.get())
            && breaker.borrow_mut().judge(sent, verdict, &settings, Instant::now())
        {
            changed.borrow().set(true);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tell(Verdict::Unknown);
    }
}
