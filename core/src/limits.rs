//! How long a request may take: what its route's rule and its service's policy say, and when which of it has passed.

use std::time::{Duration, Instant};

use crate::model::{RoutePolicy, Traffic};

/// How long a request may take; what is not said is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// From its first byte to the last of its answer, however often it is tried.
    pub whole: Option<Duration>,
    /// Each try.
    pub each: Option<Each>,
    /// How long nothing may move, either way.
    pub idle: Option<Duration>,
}

/// How long a try may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Each {
    /// So long.
    pub limit: Duration,
    /// Up to here.
    pub until: Until,
}

/// Up to where a try is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Until {
    /// The head of its answer: then no other can be tried.
    Head,
    /// The last byte of its answer (GEP-1742, `backendRequest`).
    End,
}

/// What has passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// The time for all of it.
    Whole,
    /// The time for one try.
    Try,
    /// Nothing has moved for too long.
    Idle,
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// When it began.
    pub begun: Instant,
    /// When the try that is under way began.
    pub tried: Option<Instant>,
    /// Whether the head of its answer has come.
    pub is_answered: bool,
    /// When something last moved.
    pub moved: Instant,
}

impl Limits {
    /// What holds for a request: what the rule says that it falls under, and the rest as its service's policy says.
    pub fn of(traffic: &Traffic, route: Option<&RoutePolicy>) -> Self {
        let timeouts = &traffic.timeouts;
        let whole = route.and_then(|route| route.request_timeout).or(timeouts.request);
        let each = route.and_then(|route| route.backend_timeout);
        let limited = |limit: &Duration| !limit.is_zero();
        Self {
            whole: whole.filter(limited),
            each: each.map(|limit| Each { limit, until: Until::End }).filter(|each| limited(&each.limit)),
            idle: timeouts.idle,
        }
    }

    /// The same, where the caller itself allows no more than this.
    #[must_use]
    pub fn within(self, allowed: Option<Duration>) -> Self {
        Self { whole: [self.whole, allowed].into_iter().flatten().min(), ..self }
    }

    /// Whether it may take as long as it likes.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// What will have passed first, and when; none: nothing ever will.
    pub fn next(&self, progress: &Progress) -> Option<(Instant, Late)> {
        let whole = self.whole.and_then(|limit| progress.begun.checked_add(limit));
        let each = self.each.filter(|each| each.until == Until::End || !progress.is_answered);
        let tried = progress.tried.zip(each);
        let tried = tried.and_then(|(tried, each)| tried.checked_add(each.limit));
        let idle = self.idle.and_then(|limit| progress.moved.checked_add(limit));
        let all = [(whole, Late::Whole), (tried, Late::Try), (idle, Late::Idle)];
        // Of those that pass at once the first counts.
        all.into_iter().filter_map(|(at, late)| Some((at?, late))).min_by_key(|(at, _)| *at)
    }

    /// What is left at `now` for a try that is about to begin, and of the whole; none: not limited.
    pub fn left(&self, begun: Instant, now: Instant) -> Option<Duration> {
        let each = self.each.filter(|each| each.until == Until::End).map(|each| each.limit);
        [self.remaining(begun, now), each].into_iter().flatten().min()
    }

    /// What is left of the whole at `now`; none: not limited.
    pub fn remaining(&self, begun: Instant, now: Instant) -> Option<Duration> {
        self.whole.map(|limit| limit.saturating_sub(now.saturating_duration_since(begun)))
    }
}
