//! `restart`: whether a program that ended is started again, and when.

use std::time::Duration;

use super::super::decode::Field;
use super::super::node::Value;

/// The first pause before a restart, and the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A program that ran so long is not one that fails again and again.
pub const RAN_WELL: Duration = Duration::from_secs(10);

const HINT: &str = "write no, on-failure, on-failure:TIMES, always or unless-stopped";

/// Whether a program that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// Where it failed; so many times at most, where that is said.
    OnFailure(Option<u32>),
    /// However it ended.
    Always,
}

impl Restart {
    /// Whether one that ended so, and was started again so many times already, is started again.
    pub fn again(self, succeeded: bool, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure(most) => !succeeded && most.is_none_or(|most| restarts < most),
            Self::Always => true,
        }
    }
}

/// How long to wait before a restart, when so many were in vain: twice as long each time.
pub fn pause(in_vain: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(in_vain)).min(LONGEST_PAUSE)
}

pub(super) fn read(field: &Field<'_>) -> Option<Restart> {
    if field.node().value == Value::Bool(false) {
        return Some(Restart::No);
    }
    let text = field.text()?;
    let restart = match text.split_once(':') {
        None => match text {
            "no" => Some(Restart::No),
            "on-failure" => Some(Restart::OnFailure(None)),
            "always" | "unless-stopped" => Some(Restart::Always),
            _ => None,
        },
        Some(("on-failure", times)) => times.parse().ok().map(|times| Restart::OnFailure(Some(times))),
        Some(_) => None,
    };
    if restart.is_none() {
        field.mistake(format!("{text:?} cannot be done"), HINT);
    }
    restart
}
