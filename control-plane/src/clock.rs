//! A clock for what is forgotten: one that was set ahead by mistake, and back, must not have cost certificates, tokens or
//! revocations that are still good.

use std::time::{Duration, Instant, SystemTime};

/// What the clock said when we began, from where time is counted that nobody can set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Steady {
    begun: Instant,
    said: SystemTime,
}

impl Steady {
    /// From now on.
    pub(crate) fn begin() -> Self {
        Self { begun: Instant::now(), said: SystemTime::now() }
    }

    /// A time that is surely past.
    pub(crate) fn past(&self) -> SystemTime {
        past(self.said, self.begun.elapsed(), SystemTime::now())
    }
}

/// The earlier one of what the clock says and of what it would say if nobody had set it.
fn past(said: SystemTime, passed: Duration, says: SystemTime) -> SystemTime {
    said.checked_add(passed).map_or(says, |unset| unset.min(says))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_makes_nothing_past_that_is_not() {
        let (hour, year) = (Duration::from_hours(1), Duration::from_hours(365 * 24));
        let said = SystemTime::UNIX_EPOCH + 50 * year;
        assert_eq!(past(said, hour, said + hour), said + hour);
        // Ahead by mistake, and put right again, and set back.
        assert_eq!(past(said, hour, said + year), said + hour);
        assert_eq!(past(said, 2 * hour, said + 2 * hour), said + 2 * hour);
        assert_eq!(past(said, 2 * hour, said - year), said - year);
    }
}
