//! The endpoints of one destination, ready to be chosen from as its policy says.

use std::time::Instant;

use super::{
    Candidate, Group, Member, Rotation, RoundRobin, Side, consistent, two_choices, two_choices_by_measure,
};
use crate::model::{Balancing, BalancingPolicy};

/// Chooses among endpoints; made anew whenever one of them comes, goes, or is thought of otherwise.
#[derive(Debug, Clone)]
pub struct Balancer {
    policy: BalancingPolicy,
    rotation: Rotation,
    turns: Option<Turns>,
}

#[derive(Debug, Clone)]
struct Turns {
    near: RoundRobin,
    far: RoundRobin,
}

/// What is known of the endpoints at the moment of a choice, each by where it stands among all.
#[derive(Clone, Copy)]
pub struct Load<'a> {
    /// What one more request would cost, against others.
    pub cost: &'a dyn Fn(usize) -> f64,
    /// Requests in flight.
    pub in_flight: &'a dyn Fn(usize) -> u32,
    /// What tells it from others, the same for all callers.
    pub id: &'a dyn Fn(usize) -> u64,
    /// Whether another one is to be preferred: this one has just failed.
    pub avoid: &'a dyn Fn(usize) -> bool,
}

impl Balancer {
    /// For these endpoints, as they are at `now`.
    pub fn new(members: &[Member], settings: &Balancing, now: Instant, rng: &mut fastrand::Rng) -> Self {
        let rotation = Rotation::new(members, settings, now);
        let mut round = |side| RoundRobin::new(rotation.group(side).shares().iter().copied(), rng);
        let turns = matches!(settings.policy, BalancingPolicy::RoundRobin)
            .then(|| Turns { near: round(Side::Near), far: round(Side::Far) });
        Self { policy: settings.policy.clone(), rotation, turns }
    }

    /// Whether it is to be made anew because time has passed.
    pub fn is_stale(&self, now: Instant) -> bool {
        self.rotation.is_stale(now)
    }

    /// The endpoint for a request whose key hashes to `key`; none where none takes part.
    pub fn choose(&mut self, key: Option<u64>, load: Load<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
        let side = self.rotation.side(rng);
        let group = self.rotation.group(side);
        let known = |index: usize, say: &dyn Fn(usize) -> f64| match group.member(index) {
            Some(member) if !(load.avoid)(member) => say(member),
            Some(_) | None => f64::INFINITY,
        };
        let weights = group.weights();
        let index = match &self.policy {
            BalancingPolicy::PeakEwma => {
                two_choices_by_measure(weights, rng, |index| known(index, load.cost))
            }
            BalancingPolicy::LeastRequest => two_choices(weights, rng, |index| {
                let share = group.shares().get(index).copied().unwrap_or(1).max(1);
                // Idle ones cost the same, so that weights alone decide among them.
                known(index, &|member| f64::from((load.in_flight)(member)) / f64::from(share))
            }),
            BalancingPolicy::RoundRobin => {
                let turns = match (&mut self.turns, side) {
                    (Some(turns), Side::Near) => &mut turns.near,
                    (Some(turns), Side::Far) => &mut turns.far,
                    (None, _) => return None,
                };
                let next = turns.take();
                let avoided = next.and_then(|index| group.member(index)).is_some_and(load.avoid);
                if avoided { turns.take().or(next) } else { next }
            }
            BalancingPolicy::ConsistentHash(_) if let Some(key) = key => by_key(key, group, load),
            // What has no key is as good anywhere.
            BalancingPolicy::Random | BalancingPolicy::ConsistentHash(_) => {
                two_choices(weights, rng, |index| known(index, &|_| 0.0))
            }
        };
        group.member(index?)
    }
}

fn by_key(key: u64, group: &Group, load: Load<'_>) -> Option<usize> {
    let candidates = group.shares().iter().enumerate().map(|(index, share)| {
        let member = group.member(index);
        Candidate {
            id: member.map_or(0, load.id),
            weight: *share,
            in_flight: member.map_or(u32::MAX, load.in_flight),
        }
    });
    consistent(key, candidates, |index| group.member(index).is_some_and(load.avoid))
}

impl std::fmt::Debug for Load<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Load")
    }
}
