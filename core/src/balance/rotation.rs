//! Who takes part at all: the first priority before the next, within each the near zone before the far ones, newcomers little
//! by little, who is ejected not at all, and everybody where too few would be left.

use std::time::{Duration, Instant};

use super::Weights;
use crate::model::{Balancing, Priority, Ratio};

const ONE_MILLION: u32 = Ratio::WHOLE.per_million();

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
    /// Which priority it has, from 0 on.
    pub rank: usize,
    /// Whether it is thought to work.
    pub available: bool,
    /// When it came, or came back; none: it was there before we were.
    pub since: Option<Instant>,
}

/// Which endpoints take part, until something changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// Those that are asked first stand first.
    parts: Vec<Part>,
    stale_at: Option<Instant>,
}

/// Endpoints that are alike to the caller, and how much of the traffic they get.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    /// Up to where on the way from nothing to a million its share goes.
    until: u32,
    group: Group,
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
        let growing = settings.slow_start.filter(|_| {
            members.iter().any(|member| takes_part(member) && share(member, settings.slow_start, now) < 1.0)
        });
        // Where it is better to believe in all, none goes before the others.
        let rank_of = |member: &Member| if panics { 0 } else { member.rank };
        let group = |wanted: &dyn Fn(&Member) -> bool| Group::new(members, wanted, growing, now);
        let mut parts = Vec::new();
        let mut until = 0;
        let shares = match panics {
            true => vec![Ratio::WHOLE],
            false => priority_shares(members, &settings.priorities),
        };
        for (rank, whole) in shares.into_iter().enumerate() {
            let here = |member: &Member| rank_of(member) == rank;
            let prefers = settings.locality.is_some()
                && members.iter().any(|member| here(member) && member.near && member.weight > 0);
            let is_near = |member: &Member| member.near || !prefers;
            let near = group(&|member| here(member) && takes_part(member) && is_near(member));
            let far = group(&|member| here(member) && takes_part(member) && !is_near(member));
            let near_share = match settings.locality {
                _ if near.shares.is_empty() => Ratio::NONE,
                Some(locality) if prefers && !far.shares.is_empty() => {
                    let near = members.iter().filter(|member| here(member) && member.near);
                    capacity(near, &takes_part, locality.failover_below)
                }
                Some(_) | None => Ratio::WHOLE,
            };
            let near_share = whole.of(near_share);
            let far_share = whole.per_million() - near_share.per_million();
            for (group, share) in [(near, near_share.per_million()), (far, far_share)] {
                if !group.shares.is_empty() {
                    until += share;
                    parts.push(Part { until, group });
                }
            }
        }
        Self { parts, stale_at: growing.map(|whole| now + whole / STEPS) }
    }

    /// The number of the group that the next request goes to; the same for all but where groups share them.
    pub fn draw(&self, rng: &mut fastrand::Rng) -> usize {
        match self.parts.first() {
            // Without a draw where there is no doubt.
            Some(first) if first.until < ONE_MILLION => self.at(rng.u32(..ONE_MILLION)),
            Some(_) | None => 0,
        }
    }

    /// The number of the group that requests with this key go to: as shares change, only so many keys go elsewhere.
    pub fn draw_by_key(&self, key: u64) -> usize {
        // The key itself says who of a group is chosen.
        let point = (u64::from(ONE_MILLION) * (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40)) >> 24;
        self.at(u32::try_from(point).unwrap_or_default())
    }

    fn at(&self, point: u32) -> usize {
        self.parts.iter().position(|part| point < part.until).unwrap_or_default()
    }

    /// The groups, in the order in which they are asked.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.parts.iter().map(|part| &part.group)
    }

    /// A group by its number.
    pub fn group(&self, number: usize) -> Option<&Group> {
        self.parts.get(number).map(|part| &part.group)
    }

    /// Whether it is to be made anew because time has passed.
    pub fn is_stale(&self, now: Instant) -> bool {
        self.stale_at.is_some_and(|at| at <= now)
    }
}

/// How much of the traffic each priority gets, and behind them those that have none: the first as much as it can take, the
/// next of what is left, and so on. What is too much for all of them together is theirs in the same proportion.
pub fn priority_shares(members: &[Member], priorities: &[Priority]) -> Vec<Ratio> {
    let available = |member: &Member| member.available;
    let of_rank = |rank: usize| {
        let below = priorities.get(rank).map_or(Priority::FAILOVER_BELOW, |priority| priority.failover_below);
        capacity(members.iter().filter(|member| member.rank == rank), &available, below).per_million()
    };
    let capacities: Vec<u32> = (0..=priorities.len()).map(of_rank).collect();
    let all = capacities.iter().sum::<u32>().max(1);
    let mut taken = 0;
    let share = |capacity: u32| {
        let before = upto(taken, all);
        taken += capacity;
        Ratio::from_millionths(upto(taken, all) - before)
    };
    capacities.into_iter().map(share).collect()
}

/// How far `taken` of `all` reaches on the way to a million, where nobody takes more than a million.
fn upto(taken: u32, all: u32) -> u32 {
    if all >= ONE_MILLION {
        return taken.min(ONE_MILLION);
    }
    let millionths = u64::from(taken) * u64::from(ONE_MILLION) / u64::from(all);
    u32::try_from(millionths).unwrap_or(ONE_MILLION)
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

    /// Where they all stand among all, in order.
    pub fn members(&self) -> impl Iterator<Item = usize> {
        (0..self.shares.len()).filter_map(|index| self.member(index))
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

/// Whether so few are available that it is better to believe in all of them: in every priority there is.
fn panics(members: &[Member], threshold: Option<Ratio>) -> bool {
    let Some(threshold) = threshold else { return false };
    let ranks = members.iter().map(|member| member.rank).max().unwrap_or_default();
    (0..=ranks).all(|rank| {
        let here = members.iter().filter(|member| member.rank == rank);
        let (all, available) = weigh(here, |member| member.available);
        all == 0
            || available.saturating_mul(u64::from(ONE_MILLION))
                < all.saturating_mul(u64::from(threshold.per_million()))
    })
}

/// How much of the traffic some endpoints can take: all of it while enough of them take part, then ever less.
fn capacity<'m>(
    members: impl Iterator<Item = &'m Member>,
    takes_part: &dyn Fn(&Member) -> bool,
    failover_below: Ratio,
) -> Ratio {
    let (all, available) = weigh(members, takes_part);
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
        Member { weight: 1, near, rank: 0, available, since: None }
    }

    fn shares_of(rotation: &Rotation) -> Vec<u32> {
        rotation.group(0).map(|group| group.shares().to_vec()).unwrap_or_default()
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
            let group = rotation.group(rotation.draw(&mut rng)).unwrap();
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
        assert_eq!(shares_of(&rotation), [1, 1]);
        let only_near = [member(true, true)];
        assert_eq!(near_share_of(&only_near, &zone(100)), 100);
    }

    #[test]
    fn who_is_not_available_is_left_out_unless_too_few_are_left() {
        let settings = Balancing { panic_threshold: Some(Ratio::percent(50)), ..Balancing::default() };
        let shares = |up: usize| {
            let members: Vec<_> = (0..4).map(|index| member(false, index < up)).collect();
            shares_of(&Rotation::new(&members, &settings, Instant::now())).len()
        };
        assert_eq!((shares(4), shares(3), shares(2), shares(1), shares(0)), (4, 3, 2, 4, 4));
        let members = [member(false, false), member(false, true), member(false, true)];
        let rotation = Rotation::new(&members, &Balancing::default(), Instant::now());
        let group = rotation.group(0).unwrap();
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
            (shares_of(&rotation), stale)
        };
        assert_eq!(shares(0), (vec![100, 10], true));
        assert_eq!(shares(15), (vec![100, 50], true));
        assert_eq!(shares(30), (vec![1, 1], false));
    }

    /// Members of three ranks, four each, of which so many work; and the shares of the ranks in hundredths.
    fn ranked(up: [usize; 3], below: [u32; 2]) -> (Vec<Member>, Balancing, Vec<u32>) {
        let of = |(rank, up): (usize, usize)| {
            (0..4).map(move |index| Member { rank, ..member(false, index < up) })
        };
        let members: Vec<_> = up.into_iter().enumerate().flat_map(of).collect();
        let priority = |below: u32| Priority {
            labels: std::collections::BTreeMap::new(),
            place: None,
            failover_below: Ratio::percent(below),
        };
        let priorities = below.map(priority).to_vec();
        let shares = priority_shares(&members, &priorities);
        let shares = shares.into_iter().map(|share| share.per_million() / 10_000).collect();
        (members, Balancing { priorities, ..Balancing::default() }, shares)
    }

    #[test]
    fn the_next_priority_helps_out_by_degrees_and_takes_over_when_the_first_is_gone() {
        let check = |up: [usize; 3], below: [u32; 2], expected: &[u32]| {
            let (members, settings, shares) = ranked(up, below);
            assert_eq!(shares, expected, "{up:?}");
            let rotation = Rotation::new(&members, &settings, Instant::now());
            let mut rng = fastrand::Rng::with_seed(11);
            let mut drawn = [0; 3];
            for _ in 0..10_000 {
                let group = rotation.group(rotation.draw(&mut rng)).unwrap();
                let one = members[group.member(group.weights().draw(&mut rng).unwrap()).unwrap()];
                assert!(one.available);
                drawn[one.rank] += 1;
            }
            for (count, share) in drawn.iter().zip(expected) {
                assert!((share * 100).abs_diff(*count) < 250, "{up:?}: {drawn:?}");
            }
        };
        check([4, 4, 4], [70, 70], &[100, 0, 0]);
        check([3, 4, 4], [70, 70], &[100, 0, 0]);
        // Half of the first is left: 50 / 70 stay, or half where it must be whole.
        check([2, 4, 4], [70, 70], &[71, 28, 0]);
        check([2, 4, 4], [100, 70], &[50, 50, 0]);
        check([0, 4, 4], [70, 70], &[0, 100, 0]);
        check([1, 1, 4], [100, 100], &[25, 25, 50]);
        check([0, 0, 4], [70, 70], &[0, 0, 100]);
        // What is too much for all is shared as they can bear it.
        check([1, 2, 0], [100, 100], &[33, 66, 0]);
        check([1, 0, 0], [100, 100], &[100, 0, 0]);
    }

    #[test]
    fn shares_of_priorities_are_the_whole_whatever_works() {
        let mut rng = fastrand::Rng::with_seed(23);
        for _ in 0..2_000 {
            let up = [rng.usize(..5), rng.usize(..5), rng.usize(..5)];
            let (members, settings, _) = ranked(up, [rng.u32(..=100), rng.u32(..=100)]);
            let shares = priority_shares(&members, &settings.priorities);
            let whole: u32 = shares.iter().map(|share| share.per_million()).sum();
            assert_eq!(whole, if up == [0; 3] { 0 } else { ONE_MILLION }, "{up:?}: {shares:?}");
            for (share, up) in shares.iter().zip(up) {
                assert!(up > 0 || *share == Ratio::NONE, "{shares:?}");
            }
            // More that work in the first never leave it less.
            if up[0] < 4 {
                let (more, ..) = ranked([up[0] + 1, up[1], up[2]], [70, 70]);
                assert!(priority_shares(&more, &settings.priorities)[0] >= shares[0], "{up:?}");
            }
        }
    }

    #[test]
    fn within_a_priority_the_callers_zone_goes_first() {
        let of = |rank: usize, near: bool, available: bool| Member { rank, ..member(near, available) };
        let mut settings = zone(70);
        settings.priorities = ranked([0; 3], [50, 70]).1.priorities;
        let drawn = |members: &[Member]| {
            let rotation = Rotation::new(members, &settings, Instant::now());
            let group = rotation.group(rotation.draw(&mut fastrand::Rng::with_seed(3))).unwrap();
            group.members().collect::<Vec<_>>()
        };
        assert_eq!(drawn(&[of(0, false, true), of(0, true, true), of(1, true, true)]), [1]);
        // Of the first priority, far away, before who is near and comes second.
        assert_eq!(drawn(&[of(0, false, true), of(0, true, false), of(1, true, true)]), [0]);
        assert_eq!(drawn(&[of(0, false, false), of(1, false, true), of(1, true, true)]), [2]);
    }

    #[test]
    fn panic_is_for_when_too_few_are_left_in_every_priority() {
        let threshold = |up: [usize; 3]| {
            let (members, mut settings, _) = ranked(up, [70, 70]);
            settings.panic_threshold = Some(Ratio::percent(50));
            let rotation = Rotation::new(&members, &settings, Instant::now());
            let group = rotation.group(rotation.draw(&mut fastrand::Rng::with_seed(3))).unwrap();
            group.members().count()
        };
        assert_eq!(threshold([0, 4, 0]), 4);
        assert_eq!(threshold([1, 0, 1]), 12);
    }

    #[test]
    fn keys_move_only_as_far_as_shares_do() {
        let placed = |up: usize| -> Vec<usize> {
            let (members, settings, _) = ranked([up, 4, 4], [100, 70]);
            let rotation = Rotation::new(&members, &settings, Instant::now());
            let rank = |key: u64| {
                let group =
                    rotation.group(rotation.draw_by_key(super::super::hash(&key.to_be_bytes()))).unwrap();
                members[group.member(0).unwrap()].rank
            };
            (0..4_000).map(rank).collect()
        };
        let (whole, three, half) = (placed(4), placed(3), placed(2));
        assert!(whole.iter().all(|rank| *rank == 0));
        let moved =
            |from: &[usize], to: &[usize]| from.iter().zip(to).filter(|(from, to)| from != to).count();
        assert!((850..=1_150).contains(&moved(&whole, &three)), "{}", moved(&whole, &three));
        assert!((850..=1_150).contains(&moved(&three, &half)), "{}", moved(&three, &half));
    }

    #[test]
    fn nobody_is_nobody() {
        let rotation = Rotation::new(&[], &zone(50), Instant::now());
        let mut rng = fastrand::Rng::with_seed(1);
        assert_eq!(rotation.group(rotation.draw(&mut rng)), None);
        assert_eq!(rotation.group(rotation.draw_by_key(7)), None);
    }
}
