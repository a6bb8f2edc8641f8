//! When an endpoint is left alone: closed while it works, open for a time that grows after it has failed too often,
//! then tried with a few requests before it is believed again.

use std::time::{Duration, Instant};

use crate::model::CircuitBreaker;
use crate::window::Window;

/// How much longer than the first time it may stay open.
const LONGEST: u32 = 10;

/// The breaker of one endpoint.
#[derive(Debug, Clone)]
pub struct Breaker {
    state: State,
    consecutive: u32,
    /// Requests, and failures among them.
    window: Window,
    /// How often it has opened without having been closed for long in between.
    openings: u32,
    closed_since: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed,
    Open { since: Instant, until: Instant },
    HalfOpen { since: Instant, under_way: u32, worked: u32 },
}

/// What an endpoint may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Anything.
    Closed,
    /// One request more, to see whether it works again.
    Trial {
        /// Since when it has been thought not to work.
        since: Instant,
    },
    /// Nothing.
    Open {
        /// Since when.
        since: Instant,
        /// When it is tried again; none: when a trial that is under way has ended.
        until: Option<Instant>,
    },
}

impl Standing {
    /// When it is another by itself.
    pub fn until(&self) -> Option<Instant> {
        match self {
            Self::Open { until, .. } => *until,
            Self::Closed | Self::Trial { .. } => None,
        }
    }
}

/// How an endpoint stands, in a word; the worse is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// It is sent anything.
    Closed,
    /// It is being tried, or will be with the next request.
    HalfOpen,
    /// It is left alone.
    Open,
}

impl Phase {
    /// As `weft_circuit_state` has it.
    pub fn number(self) -> u8 {
        match self {
            Self::Closed => 0,
            Self::HalfOpen => 1,
            Self::Open => 2,
        }
    }

    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }
}

/// A request that was sent to an endpoint. What came of it is told once. The default is one to an endpoint that is
/// closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sent {
    /// Where it is a trial: after which opening.
    trial: Option<u32>,
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint works.
    Worked,
    /// It does not.
    Failed,
    /// Nothing is known of it: the caller went away.
    Unknown,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            state: State::Closed,
            consecutive: 0,
            window: Window::default(),
            openings: 0,
            closed_since: None,
        }
    }
}

impl Breaker {
    /// What the endpoint may be sent at `now`.
    pub fn standing(&self, settings: &CircuitBreaker, now: Instant) -> Standing {
        match self.state {
            State::Closed => Standing::Closed,
            State::Open { since, until } if now < until => Standing::Open { since, until: Some(until) },
            State::Open { since, .. } => Standing::Trial { since },
            State::HalfOpen { since, under_way, worked } => {
                if under_way.saturating_add(worked) < settings.half_open_requests {
                    Standing::Trial { since }
                } else {
                    Standing::Open { since, until: None }
                }
            }
        }
    }

    /// How the endpoint stands at `now`.
    pub fn phase(&self, now: Instant) -> Phase {
        match self.state {
            State::Closed => Phase::Closed,
            State::Open { until, .. } if now < until => Phase::Open,
            State::Open { .. } | State::HalfOpen { .. } => Phase::HalfOpen,
        }
    }

    /// Whether there is nothing against the endpoint: that a request worked tells nothing new of it, and may be told of
    /// later together with others.
    pub fn is_quiet(&self) -> bool {
        self.state == State::Closed && self.consecutive == 0 && self.window.sum().1 == 0
    }

    /// So many requests worked that were sent while it was closed.
    pub fn worked(&mut self, count: u32, settings: &CircuitBreaker, now: Instant) {
        if count > 0 && self.state == State::Closed {
            self.consecutive = 0;
            self.window.count((count, 0), settings.window, now);
        }
    }

    /// A request is sent.
    pub fn send(&mut self, now: Instant) -> Sent {
        match &mut self.state {
            State::Open { since, until } if now >= *until => {
                self.state = State::HalfOpen { since: *since, under_way: 1, worked: 0 };
            }
            State::HalfOpen { under_way, .. } => *under_way = under_way.saturating_add(1),
            // Who is open and still sent something may not be left out, for too many others are.
            State::Closed | State::Open { .. } => return Sent { trial: None },
        }
        Sent { trial: Some(self.openings) }
    }

    /// Takes note of what came of a request. True where the standing is another now.
    pub fn judge(&mut self, sent: Sent, verdict: Verdict, settings: &CircuitBreaker, now: Instant) -> bool {
        match (&mut self.state, sent.trial) {
            (State::Closed, None) => {
                self.count(verdict, settings, now);
                self.trips(settings, now)
            }
            (State::HalfOpen { under_way, worked, since }, Some(opening)) if opening == self.openings => {
                *under_way = under_way.saturating_sub(1);
                match verdict {
                    Verdict::Unknown => {}
                    Verdict::Failed => {
                        let since = *since;
                        self.open(since, settings, now);
                    }
                    Verdict::Worked => {
                        *worked = worked.saturating_add(1);
                        if *worked >= settings.half_open_requests {
                            self.close(now);
                        }
                    }
                }
                true
            }
            // What was begun in an earlier state says nothing of this one.
            _ => false,
        }
    }

    fn count(&mut self, verdict: Verdict, settings: &CircuitBreaker, now: Instant) {
        match verdict {
            Verdict::Unknown => return,
            Verdict::Worked => self.consecutive = 0,
            Verdict::Failed => self.consecutive = self.consecutive.saturating_add(1),
        }
        self.window.count((1, u32::from(verdict == Verdict::Failed)), settings.window, now);
    }

    fn trips(&mut self, settings: &CircuitBreaker, now: Instant) -> bool {
        let in_a_row = settings.consecutive_failures.is_some_and(|limit| self.consecutive >= limit);
        let (requests, failures) = self.window.sum();
        let too_many = settings.failure_ratio.is_some_and(|ratio| {
            let share = u64::from(failures).saturating_mul(1_000_000);
            requests >= settings.min_requests.max(1)
                && failures > 0
                && share >= u64::from(requests).saturating_mul(u64::from(ratio.per_million()))
        });
        if in_a_row || too_many {
            let rested = self.closed_since.is_none_or(|since| {
                now.saturating_duration_since(since) > open_time(settings, self.openings)
            });
            if rested {
                self.openings = 0;
            }
            self.open(now, settings, now);
        }
        in_a_row || too_many
    }

    fn open(&mut self, since: Instant, settings: &CircuitBreaker, now: Instant) {
        self.openings = self.openings.saturating_add(1);
        self.state = State::Open { since, until: now + open_time(settings, self.openings) };
        self.consecutive = 0;
        self.window = Window::default();
    }

    fn close(&mut self, now: Instant) {
        self.state = State::Closed;
        self.closed_since = Some(now);
    }
}

/// How long it stays open the `openings`th time in a row: twice as long each time, ten times as long at most.
fn open_time(settings: &CircuitBreaker, openings: u32) -> Duration {
    let factor = 1_u32.checked_shl(openings.saturating_sub(1)).unwrap_or(LONGEST).min(LONGEST);
    settings.open_for.saturating_mul(factor)
}

/// Which endpoints are left out: those that are open, the longest first, but never more than `max_ejected` of them all;
/// and whether the whole service is, for none of them works.
pub fn eject(standings: &[Standing], settings: &CircuitBreaker) -> Ejection {
    let mut open: Vec<(Instant, usize)> = Vec::new();
    let mut works = false;
    for (index, standing) in standings.iter().enumerate() {
        match standing {
            Standing::Open { since, .. } => open.push((*since, index)),
            Standing::Closed | Standing::Trial { .. } => works = true,
        }
    }
    if !works && !standings.is_empty() {
        return Ejection::All;
    }
    open.sort_unstable();
    let count = u64::try_from(standings.len()).unwrap_or(u64::MAX);
    let most = count.saturating_mul(u64::from(settings.max_ejected.per_million())) / 1_000_000;
    open.truncate(usize::try_from(most).unwrap_or(usize::MAX));
    Ejection::Some(open.into_iter().map(|(_, index)| index).collect())
}

/// Which endpoints are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ejection {
    /// These, by where they stand.
    Some(Vec<usize>),
    /// All of them: the service's circuit is open.
    All,
}
