//! The endpoints of one destination, ready to be chosen from as its policy says.

use std::time::Instant;

use super::{
    Candidate, Group, Member, Rotation, RoundRobin, consistent, two_choices, two_choices_by_measure,
};
use crate::model::{Balancing, BalancingPolicy};

/// After so many of a group have failed a request, it goes to another group: a request is given few tries, and what has befallen
/// them, a zone or a site, may have befallen all.
const ENOUGH: usize = 2;

/// Chooses among endpoints; made anew whenever one of them comes, goes, or is thought of otherwise.
#[derive(Debug, Clone)]
pub struct Balancer {
    policy: BalancingPolicy,
    rotation: Rotation,
    /// Whose turn it is in each group.
    turns: Vec<RoundRobin>,
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
    /// How many there are of those.
    pub failed: usize,
}

impl Balancer {
    /// For these endpoints, as they are at `now`.
    pub fn new(members: &[Member], settings: &Balancing, now: Instant, rng: &mut fastrand::Rng) -> Self {
        let rotation = Rotation::new(members, settings, now);
        let mut turns = Vec::new();
        if matches!(settings.policy, BalancingPolicy::RoundRobin) {
            turns.extend(rotation.groups().map(|group| RoundRobin::new(group.shares().iter().copied(), rng)));
        }
        Self { policy: settings.policy.clone(), rotation, turns }
    }

    /// Whether it is to be made anew because time has passed.
    pub fn is_stale(&self, now: Instant) -> bool {
        self.rotation.is_stale(now)
    }

    /// The endpoint for a request whose key hashes to `key`; none where none takes part.
    pub fn choose(&mut self, key: Option<u64>, load: Load<'_>, rng: &mut fastrand::Rng) -> Option<usize> {
        let number = match (&self.policy, key) {
            (BalancingPolicy::ConsistentHash(_), Some(key)) => self.rotation.draw_by_key(key),
            _ => self.rotation.draw(rng),
        };
        let chosen = self.choose_among(number, key, load, rng);
        if load.failed < ENOUGH && !chosen.is_some_and(load.avoid) {
            return chosen;
        }
        self.elsewhere(number, key, load, rng).or(chosen)
    }

    /// The endpoint of another group, where all of this one have just failed, or so many that it may be all.
    fn elsewhere(
        &mut self,
        number: usize,
        key: Option<u64>,
        load: Load<'_>,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let is_given_up = |group: &Group| {
            let failed = group.members().filter(|member| (load.avoid)(*member)).count();
            failed >= ENOUGH || failed == group.shares().len()
        };
        if !self.rotation.group(number).is_some_and(is_given_up) {
            return None;
        }
        let next = self.rotation.groups().position(|group| !is_given_up(group))?;
        self.choose_among(next, key, load, rng)
    }

    fn choose_among(
        &mut self,
        number: usize,
        key: Option<u64>,
        load: Load<'_>,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let group = self.rotation.group(number)?;
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
                let turns = self.turns.get_mut(number)?;
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
