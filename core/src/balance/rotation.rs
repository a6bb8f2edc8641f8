//! Who takes part at all: the near zone before the far ones, newcomers little by little, who is ejected not at all, and
//! everybody where too few would be left.

use std::time::{Duration, Instant};

use super::Weights;
use crate::model::{Balancing, Ratio};

/// How small a newcomer's first share is, of what it will be.
const FIRST_SHARE: f64 = 0.1;

/// In how many steps a newcomer's share grows.
const STEPS: u32 = 20;

/// An endpoint, as far as it matters to whether it takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its share of the traffic, against others'.
    pub weight: u32,
    /// Whether it is in the caller's zone.
    pub near: bool,
    /// Whether it is thought to work.
    pub available: bool,
    /// When it came, or came back; none: it was there before we were.
    pub since: Option<Instant>,
}

/// Which endpoints take part, until something changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    near: Group,
    far: Group,
    near_share: Ratio,
    stale_at: Option<Instant>,
}

/// Which of the two groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Those in the caller's zone; where zones do not matter, all.
    Near,
    /// The others.
    Far,
}

/// Some of the endpoints, to choose from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Where they stand among all; none: they are all.
    indices: Option<Vec<usize>>,
    shares: Vec<u32>,
    weights: Weights,
}

impl Rotation {
    /// Who of `members` takes part at `now`.
    pub fn new(members: &[Member], settings: &Balancing, now: Instant) -> Self {
        let panics = panics(members, settings.panic_threshold);
        let takes_part = |member: &Member| member.available || panics;
        let prefers =
            settings.locality.is_some() && members.iter().any(|member| member.near && member.weight > 0);
        let is_near = |member: &Member| member.near || !prefers;
        let growing = settings.slow_start.filter(|_| {
            members.iter().any(|member| takes_part(member) && share(member, settings.slow_start, now) < 1.0)
        });
        let group = |wanted: &dyn Fn(&Member) -> bool| Group::new(members, wanted, growing, now);
        let near = group(&|member| takes_part(member) && is_near(member));
        let far = group(&|member| takes_part(member) && !is_near(member));
        let near_share = match settings.locality {
            Some(locality) if prefers => near_share(members, &takes_part, locality.failover_below),
            Some(_) | None => Ratio::WHOLE,
        };
        let near_share = match (near.shares.is_empty(), far.shares.is_empty()) {
            (_, true) => Ratio::WHOLE,
            (true, false) => Ratio::NONE,
            (false, false) => near_share,
        };
        Self { near, far, near_share, stale_at: growing.map(|whole| now + whole / STEPS) }
    }

    /// Whom the next request may go to; the same for all requests except where near and far share them.
    pub fn side(&self, rng: &mut fastrand::Rng) -> Side {
        if self.near_share.strikes(rng) { Side::Near } else { Side::Far }
    }

    /// The endpoints of one side.
    pub fn group(&self, side: Side) -> &Group {
        match side {
            Side::Near => &self.near,
            Side::Far => &self.far,
        }
    }

    /// Whether it is to be made anew because time has passed.
    pub fn is_stale(&self, now: Instant) -> bool {
        self.stale_at.is_some_and(|at| at <= now)
    }
}

impl Group {
    fn new(
        members: &[Member],
        wanted: &dyn Fn(&Member) -> bool,
        growing: Option<Duration>,
        now: Instant,
    ) -> Self {
        let indices: Vec<usize> =
            members.iter().enumerate().filter(|(_, member)| wanted(member)).map(|(index, _)| index).collect();
        let shares: Vec<u32> = indices
            .iter()
            .filter_map(|index| members.get(*index))
            .map(|member| if growing.is_some() { grown(member, growing, now) } else { member.weight })
            .collect();
        let weights = Weights::new(shares.iter().copied());
        let all = indices.len() == members.len();
        Self { indices: (!all).then_some(indices), shares, weights }
    }

    /// Where the group's `index`th endpoint stands among all.
    pub fn member(&self, index: usize) -> Option<usize> {
        match &self.indices {
            None => Some(index),
            Some(indices) => indices.get(index).copied(),
        }
    }

    /// The shares of the group's endpoints, in order.
    pub fn shares(&self) -> &[u32] {
        &self.shares
    }

    /// To draw from.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }
}

/// Whether so few are available that it is better to believe in all of them.
fn panics(members: &[Member], threshold: Option<Ratio>) -> bool {
    let Some(threshold) = threshold else { return false };
    let (all, available) = weigh(members.iter(), |member| member.available);
    available.saturating_mul(1_000_000) < all.saturating_mul(u64::from(threshold.per_million()))
}

/// How much of the traffic stays near: all of it while enough of the near endpoints take part, then ever less.
fn near_share(members: &[Member], takes_part: &dyn Fn(&Member) -> bool, failover_below: Ratio) -> Ratio {
    let (all, available) = weigh(members.iter().filter(|member| member.near), takes_part);
    let wanted = all.saturating_mul(u64::from(failover_below.per_million()));
    if wanted == 0 {
        return if available > 0 { Ratio::WHOLE } else { Ratio::NONE };
    }
    let millionths = available.saturating_mul(1_000_000).saturating_mul(1_000_000) / wanted;
    Ratio::from_millionths(u32::try_from(millionths).unwrap_or(u32::MAX))
}

fn weigh<'m>(members: impl Iterator<Item = &'m Member>, counts: impl Fn(&Member) -> bool) -> (u64, u64) {
    members.fold((0, 0), |(all, some), member| {
        let weight = u64::from(member.weight);
        (all + weight, if counts(member) { some + weight } else { some })
    })
}

/// A newcomer's share of its weight, from a tenth to the whole.
fn share(member: &Member, slow_start: Option<Duration>, now: Instant) -> f64 {
    let (Some(since), Some(whole)) = (member.since, slow_start) else { return 1.0 };
    let age = now.saturating_duration_since(since);
    if age >= whole {
        return 1.0;
    }
    (age.as_secs_f64() / whole.as_secs_f64()).max(FIRST_SHARE)
}

/// A weight a hundred times as fine, so that a share of it is a whole number.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share from 10 to 100")]
fn grown(member: &Member, slow_start: Option<Duration>, now: Instant) -> u32 {
    member.weight.saturating_mul((share(member, slow_start, now) * 100.0) as u32)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "any instant will do to start a virtual clock at")]
mod tests {
    use super::*;
    use crate::model::Locality;

    fn member(near: bool, available: bool) -> Member {
        Member { weight: 1, near, available, since: None }
    }

    fn zone(failover_below: u32) -> Balancing {
        let failover_below = Ratio::percent(failover_below);
        Balancing { locality: Some(Locality { failover_below }), ..Balancing::default() }
    }

    fn near_share_of(members: &[Member], settings: &Balancing) -> u32 {
        let rotation = Rotation::new(members, settings, Instant::now());
        let mut rng = fastrand::Rng::with_seed(5);
        let mut near = 0;
        for _ in 0..10_000 {
            let group = rotation.group(rotation.side(&mut rng));
            let drawn = group.member(group.weights().draw(&mut rng).unwrap()).unwrap();
            near += u32::from(members[drawn].near);
        }
        near / 100
    }

    #[test]
    fn traffic_stays_near_until_too_few_are_left_there_and_then_fails_over_by_degrees() {
        let members = |up: usize| -> Vec<Member> {
            let near = (0..10).map(|index| member(true, index < up));
            near.chain((0..10).map(|_| member(false, true))).collect()
        };
        for (up, expected) in [(10, 100..=100), (7, 100..=100), (6, 84..=87), (3, 41..=44), (0, 0..=0)] {
            let share = near_share_of(&members(up), &zone(70));
            assert!(expected.contains(&share), "{up} of 10 near: {share} %");
        }
        assert!((48..=52).contains(&near_share_of(&members(10), &Balancing::default())));
    }

    #[test]
    fn without_anyone_near_all_take_part() {
        let far = [member(false, true), member(false, true)];
        let rotation = Rotation::new(&far, &zone(70), Instant::now());
        assert_eq!(rotation.group(Side::Near).shares(), [1, 1]);
        let only_near = [member(true, true)];
        assert_eq!(near_share_of(&only_near, &zone(100)), 100);
    }

    #[test]
    fn who_is_not_available_is_left_out_unless_too_few_are_left() {
        let settings = Balancing { panic_threshold: Some(Ratio::percent(50)), ..Balancing::default() };
        let shares = |up: usize| {
            let members: Vec<_> = (0..4).map(|index| member(false, index < up)).collect();
            Rotation::new(&members, &settings, Instant::now()).group(Side::Near).shares().len()
        };
        assert_eq!((shares(4), shares(3), shares(2), shares(1), shares(0)), (4, 3, 2, 4, 4));
        let members = [member(false, false), member(false, true), member(false, true)];
        let rotation = Rotation::new(&members, &Balancing::default(), Instant::now());
        let group = rotation.group(Side::Near);
        assert_eq!((group.member(0), group.member(1), group.member(2)), (Some(1), Some(2), None));
    }

    #[test]
    fn a_newcomer_s_share_grows_to_the_whole() {
        let start = Instant::now();
        let settings = Balancing { slow_start: Some(Duration::from_secs(30)), ..Balancing::default() };
        let members = [member(false, true), Member { since: Some(start), ..member(false, true) }];
        let shares = |after: u64| {
            let rotation = Rotation::new(&members, &settings, start + Duration::from_secs(after));
            let stale = rotation.is_stale(start + Duration::from_secs(after + 2));
            (rotation.group(Side::Near).shares().to_vec(), stale)
        };
        assert_eq!(shares(0), (vec![100, 10], true));
        assert_eq!(shares(15), (vec![100, 50], true));
        assert_eq!(shares(30), (vec![1, 1], false));
    }

    #[test]
    fn nobody_is_nobody() {
        let rotation = Rotation::new(&[], &zone(50), Instant::now());
        let mut rng = fastrand::Rng::with_seed(1);
        assert_eq!(rotation.group(rotation.side(&mut rng)).weights().draw(&mut rng), None);
    }
}
