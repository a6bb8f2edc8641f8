//! How an app is, as it is found out by asking it: when it counts as failing, when as mended, and how long to wait until
//! it is asked again.

use std::time::Duration;

use crate::model::HealthCheck;

/// Paths that are asked for an app's health by convention, and by gRPC's protocol (grpc/grpc, doc/health-checking.md).
const PATHS: [&str; 7] = [
    "/live",
    "/ready",
    "/livez",
    "/readyz",
    "/healthz",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
];

/// Checks of many apps are spread by this share of their interval, so that they do not all come at once.
const SPREAD: f64 = 0.1;

/// Whether a request for this path asks after the app's health.
pub fn asks_health(path: &str) -> bool {
    PATHS.contains(&path)
}

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The app answered as it should.
    Working,
    /// It did not, not in time, or not at all.
    Failing,
}

/// What is thought of an app after all its checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    thought: Option<Found>,
    /// Checks in a row that found otherwise.
    against: u32,
}

impl Health {
    /// Of an app that nobody is sent to yet: its first check decides alone.
    pub fn of_newcomer() -> Self {
        Self { thought: None, against: 0 }
    }

    /// Of an app that is called already: it is thought to work until enough checks say otherwise.
    pub fn of_known() -> Self {
        Self::thinking(Found::Working)
    }

    /// Of an app of which something is thought already.
    pub fn thinking(thought: Found) -> Self {
        Self { thought: Some(thought), against: 0 }
    }

    /// What is thought of it; none before its first check.
    pub fn thought(&self) -> Option<Found> {
        self.thought
    }

    /// Takes note of what a check found. True where something else is thought of the app now.
    pub fn note(&mut self, found: Found, settings: &HealthCheck) -> bool {
        let enough = match self.thought {
            None => 1,
            Some(thought) if thought == found => {
                self.against = 0;
                return false;
            }
            Some(Found::Working) => settings.unhealthy_after,
            Some(Found::Failing) => settings.healthy_after,
        };
        self.against = self.against.saturating_add(1);
        if self.against < enough {
            return false;
        }
        *self = Self { thought: Some(found), against: 0 };
        true
    }
}

/// How long it is from one check to the next: never longer than was said, or an app that fails would be called for longer.
pub fn rest(interval: Duration, rng: &mut fastrand::Rng) -> Duration {
    interval.mul_f64(1.0 - SPREAD * rng.f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Probe;

    fn settings() -> HealthCheck {
        HealthCheck { unhealthy_after: 3, healthy_after: 2, ..HealthCheck::new(Probe::Tcp) }
    }

    /// What is thought after each check: `+` works, `-` fails, `?` nobody knows.
    fn thoughts(mut health: Health, checks: &str) -> String {
        let show = |health: &Health| match health.thought() {
            None => '?',
            Some(Found::Working) => '+',
            Some(Found::Failing) => '-',
        };
        let mut all = String::from(show(&health));
        for check in checks.chars() {
            let found = if check == '+' { Found::Working } else { Found::Failing };
            let before = health.thought();
            assert_eq!(health.note(found, &settings()), health.thought() != before);
            all.push(show(&health));
        }
        all
    }

    #[test]
    fn it_takes_several_checks_in_a_row_to_think_otherwise() {
        assert_eq!(thoughts(Health::of_known(), "--+--+---"), "+++++++++-");
        assert_eq!(thoughts(Health::of_known(), "---+-+-++-"), "+++------++");
    }

    #[test]
    fn a_newcomer_s_first_check_decides_alone() {
        assert_eq!(thoughts(Health::of_newcomer(), "-++"), "?--+");
        assert_eq!(thoughts(Health::of_newcomer(), "+--"), "?+++");
    }

    #[test]
    fn checks_are_spread_and_never_late() {
        let mut rng = fastrand::Rng::with_seed(1);
        let second = Duration::from_secs(1);
        let rests: Vec<_> = (0..1000).map(|_| rest(second, &mut rng)).collect();
        assert!(rests.iter().all(|rest| *rest <= second && *rest >= second * 9 / 10));
        assert!(rests.iter().any(|rest| *rest < second * 92 / 100));
    }
}
