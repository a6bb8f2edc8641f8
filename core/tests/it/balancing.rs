//! Balancing, simulated on a virtual clock: who gets how much, under every policy.

use std::time::{Duration, Instant};

use weft_core::balance::{Balancer, Load, Member, PeakEwma, hash};
use weft_core::model::{Balancing, BalancingPolicy, HashKey, Locality, Priority, Ratio};

const MS: Duration = Duration::from_millis(1);

/// An endpoint that works, far away.
const AVAILABLE: Member = Member { weight: 1, near: false, rank: 0, available: true, since: None };

/// Where the virtual clock begins.
#[expect(clippy::disallowed_methods, reason = "any instant will do to start a virtual clock at")]
pub(crate) fn virtual_start() -> Instant {
    Instant::now()
}

/// An endpoint of the simulation: how long it takes, and what it has done.
struct Simulated {
    load: PeakEwma,
    takes: Duration,
    member: Member,
    served: usize,
}

/// Some endpoints and their caller, on a clock of their own.
struct Simulation {
    endpoints: Vec<Simulated>,
    settings: Balancing,
    balancer: Balancer,
    rng: fastrand::Rng,
    now: Instant,
    in_flight: Vec<(Instant, usize, Duration)>,
    most: Vec<u32>,
    /// Whether all requests have the same key.
    same_key: bool,
}

impl Simulation {
    fn new(seed: u64, settings: Balancing, takes_ms: &[u32]) -> Self {
        let now = virtual_start();
        let member = AVAILABLE;
        let endpoint =
            |ms: &u32| Simulated { load: PeakEwma::new(10 * MS, now), takes: *ms * MS, member, served: 0 };
        let endpoints: Vec<_> = takes_ms.iter().map(endpoint).collect();
        let mut rng = fastrand::Rng::with_seed(seed);
        let members: Vec<_> = endpoints.iter().map(|endpoint| endpoint.member).collect();
        let balancer = Balancer::new(&members, &settings, now, &mut rng);
        let most = vec![0; endpoints.len()];
        Self { endpoints, settings, balancer, rng, now, in_flight: Vec::new(), most, same_key: false }
    }

    fn rebalance(&mut self) {
        let members: Vec<_> = self.endpoints.iter().map(|endpoint| endpoint.member).collect();
        self.balancer = Balancer::new(&members, &self.settings, self.now, &mut self.rng);
    }

    fn add(&mut self, takes: Duration) {
        let typical = PeakEwma::typical(self.endpoints.iter().map(|endpoint| &endpoint.load), self.now);
        let member = Member { since: Some(self.now), ..AVAILABLE };
        self.endpoints.push(Simulated { load: PeakEwma::new(typical, self.now), takes, member, served: 0 });
        self.most.push(0);
        self.rebalance();
    }

    /// Sends `requests`, `gap` apart; the `n`th has the key of `n`.
    fn run(&mut self, requests: usize, gap: Duration) -> Vec<usize> {
        let before: Vec<usize> = self.endpoints.iter().map(|endpoint| endpoint.served).collect();
        for number in 0..requests {
            self.now += gap;
            self.finish();
            if self.balancer.is_stale(self.now) {
                self.rebalance();
            }
            let (endpoints, now) = (&self.endpoints, self.now);
            let load = Load {
                cost: &|index| endpoints[index].load.cost(now, endpoints[index].member.weight),
                in_flight: &|index| endpoints[index].load.in_flight(),
                id: &|index| hash(format!("orders-{index}").as_bytes()),
                avoid: &|_| false,
                failed: 0,
            };
            let number = if self.same_key { 0 } else { number };
            let key = Some(hash(&number.to_be_bytes()));
            let chosen = self.balancer.choose(key, load, &mut self.rng).expect("an endpoint");
            let took = self.endpoints[chosen].takes.mul_f64(0.8 + 0.4 * self.rng.f64());
            let endpoint = &mut self.endpoints[chosen];
            endpoint.load.start();
            endpoint.served += 1;
            self.most[chosen] = self.most[chosen].max(endpoint.load.in_flight());
            self.in_flight.push((self.now + took, chosen, took));
        }
        self.endpoints
            .iter()
            .zip(before.iter().chain(std::iter::repeat(&0)))
            .map(|(e, b)| e.served - b)
            .collect()
    }

    fn finish_all(&mut self) {
        self.now += Duration::from_secs(1);
        self.finish();
    }

    fn finish(&mut self) {
        let (now, endpoints) = (self.now, &mut self.endpoints);
        self.in_flight.retain(|(end, index, took)| {
            if *end <= now {
                endpoints[*index].load.finish(*end, Some(*took));
            }
            *end > now
        });
    }
}

fn by(policy: BalancingPolicy) -> Balancing {
    Balancing { policy, ..Balancing::default() }
}

fn policies() -> [Balancing; 5] {
    [
        BalancingPolicy::PeakEwma,
        BalancingPolicy::LeastRequest,
        BalancingPolicy::RoundRobin,
        BalancingPolicy::Random,
        BalancingPolicy::ConsistentHash(HashKey::SourceIp),
    ]
    .map(by)
}

#[test]
fn equal_endpoints_get_equal_shares_within_five_percent_under_every_policy() {
    for settings in policies() {
        for seed in 0..3 {
            let mut simulation = Simulation::new(seed, settings.clone(), &[10; 10]);
            let served = simulation.run(100_000, MS / 5);
            let fair = served.iter().all(|count| (9_500..=10_500).contains(count));
            assert!(fair, "{:?} seed {seed}: {served:?}", settings.policy);
        }
    }
}

#[test]
fn weights_are_shares_under_every_policy() {
    for settings in policies() {
        let mut simulation = Simulation::new(3, settings.clone(), &[10; 3]);
        for (endpoint, weight) in simulation.endpoints.iter_mut().zip([3, 1, 0]) {
            endpoint.member.weight = weight;
        }
        simulation.rebalance();
        let served = simulation.run(40_000, 20 * MS);
        // What looks at costs also evens them out a little: who rests is forgiven.
        assert!((26_000..=33_000).contains(&served[0]), "{:?}: {served:?}", settings.policy);
        assert_eq!(served[2], 0, "{:?}", settings.policy);
    }
}

#[test]
fn a_slow_endpoint_gets_less_where_the_policy_looks_at_it() {
    for (settings, most) in
        [(by(BalancingPolicy::PeakEwma), 2_500), (by(BalancingPolicy::LeastRequest), 6_000)]
    {
        for seed in 0..3 {
            let mut simulation = Simulation::new(seed, settings.clone(), &[10, 10, 10, 100]);
            let served = simulation.run(40_000, MS);
            assert!(served[3] > 0 && served[3] < most, "{:?} seed {seed}: {served:?}", settings.policy);
        }
    }
}

#[test]
fn a_newcomer_gets_its_share_and_no_herd() {
    for settings in policies() {
        let mut simulation = Simulation::new(5, settings.clone(), &[10; 4]);
        simulation.run(10_000, MS / 2);
        simulation.add(10 * MS);
        let served = simulation.run(500, MS / 2);
        assert!((60..=150).contains(&served[4]), "{:?}: {served:?}", settings.policy);
        // Twenty requests are in flight among five: nobody ever has all of them.
        assert!(simulation.most[4] <= 14, "{:?}: {}", settings.policy, simulation.most[4]);
    }
}

#[test]
fn a_newcomer_is_started_slowly_where_that_is_said() {
    for policy in [BalancingPolicy::PeakEwma, BalancingPolicy::RoundRobin, BalancingPolicy::Random] {
        let settings = Balancing { slow_start: Some(Duration::from_secs(30)), ..by(policy) };
        let mut simulation = Simulation::new(8, settings, &[10; 4]);
        simulation.run(1_000, MS);
        simulation.add(10 * MS);
        let first = simulation.run(3_000, MS)[4];
        let middle = {
            simulation.run(12_000, MS);
            simulation.run(1_000, MS)[4]
        };
        let last = {
            simulation.run(15_000, MS);
            simulation.run(10_000, MS)[4]
        };
        assert!(first < 160, "of 3,000 in its first 3 s: {first}");
        assert!((70..=190).contains(&middle), "of 1,000 about its 15th second: {middle}");
        assert!((1_850..=2_150).contains(&last), "of 10,000 when it has grown: {last}");
    }
}

/// One request after another, for so long; how many each endpoint got.
fn one_after_another(seed: u64, takes_ms: &[u32], within: Duration) -> Vec<usize> {
    let mut simulation = Simulation::new(seed, Balancing::default(), takes_ms);
    let until = simulation.now + within;
    while simulation.now < until {
        simulation.run(1, Duration::from_micros(1));
        let (end, ..) = simulation.in_flight[0];
        simulation.now = end;
        simulation.finish();
    }
    simulation.endpoints.iter().map(|endpoint| endpoint.served).collect()
}

#[test]
fn a_caller_that_sends_one_request_after_another_does_not_stay_with_one_endpoint() {
    for seed in 0..5 {
        // Two seconds are about 200 requests.
        let served = one_after_another(seed, &[10; 2], Duration::from_secs(2));
        assert!(served.iter().all(|count| *count > 50), "seed {seed}: {served:?}");
        let served = one_after_another(seed, &[10; 4], Duration::from_secs(60));
        let all: usize = served.iter().sum();
        assert!(
            served.iter().all(|count| (all / 5..=all * 3 / 10).contains(count)),
            "seed {seed}: {served:?}"
        );
        let slow = one_after_another(seed, &[10, 10, 40], Duration::from_secs(60));
        assert!(slow[2] > 0 && slow[2] * 20 < slow[0], "seed {seed}: {slow:?}");
    }
}

#[test]
fn below_the_panic_threshold_all_are_called_and_above_it_only_who_works() {
    let settings = Balancing { panic_threshold: Some(Ratio::percent(50)), ..Balancing::default() };
    let mut simulation = Simulation::new(6, settings, &[10; 10]);
    for endpoint in &mut simulation.endpoints[..5] {
        endpoint.member.available = false;
    }
    simulation.rebalance();
    let served = simulation.run(10_000, MS);
    assert_eq!(served[..5].iter().sum::<usize>(), 0, "{served:?}");
    simulation.endpoints[5].member.available = false;
    simulation.rebalance();
    let served = simulation.run(10_000, MS);
    assert!(served.iter().all(|count| (850..=1_150).contains(count)), "{served:?}");
}

#[test]
fn a_key_that_all_ask_for_is_shared_by_who_has_room() {
    let mut simulation = Simulation::new(7, by(BalancingPolicy::ConsistentHash(HashKey::SourceIp)), &[10; 5]);
    simulation.same_key = true;
    let served = simulation.run(10_000, MS / 5);
    // Fifty are in flight: a quarter more than its share is what one may have.
    assert!(simulation.most.iter().all(|most| *most <= 17), "{:?}", simulation.most);
    assert!(served.iter().filter(|count| **count > 1_000).count() >= 4, "{served:?}");
    simulation.finish_all();
    let calm = simulation.run(200, 20 * MS);
    assert_eq!(calm.iter().filter(|count| **count > 0).count(), 1, "one after another: {calm:?}");
}

#[test]
fn a_zone_keeps_its_traffic_until_too_few_are_left_there() {
    let locality = Some(Locality { failover_below: Ratio::percent(70) });
    let settings = Balancing { locality, ..Balancing::default() };
    let mut simulation = Simulation::new(2, settings, &[10; 8]);
    for endpoint in &mut simulation.endpoints[..4] {
        endpoint.member.near = true;
    }
    simulation.rebalance();
    let near = |served: &[usize]| served[..4].iter().sum::<usize>();
    assert_eq!(near(&simulation.run(10_000, MS)), 10_000);
    // Half of the zone is left: 50 / 70 of the traffic stays.
    for endpoint in &mut simulation.endpoints[..2] {
        endpoint.member.available = false;
    }
    simulation.rebalance();
    let served = simulation.run(10_000, MS);
    assert!((7_000..=7_300).contains(&near(&served)) && served[0] + served[1] == 0, "{served:?}");
    for endpoint in &mut simulation.endpoints[..4] {
        endpoint.member.available = false;
    }
    simulation.rebalance();
    assert_eq!(near(&simulation.run(10_000, MS)), 0);
}

#[test]
fn a_priority_keeps_its_traffic_until_too_few_are_left_in_it_and_gets_it_back() {
    let group = |labels: &str| Priority {
        labels: [("site".to_owned(), labels.to_owned())].into(),
        place: None,
        failover_below: Ratio::percent(70),
    };
    for settings in policies() {
        let priorities = vec![group("main"), group("standby")];
        let mut simulation = Simulation::new(2, Balancing { priorities, ..settings.clone() }, &[10; 10]);
        for (index, endpoint) in simulation.endpoints.iter_mut().enumerate() {
            endpoint.member.rank = index / 4;
        }
        let mut served = |available: [usize; 3]| {
            for (index, endpoint) in simulation.endpoints.iter_mut().enumerate() {
                endpoint.member.available = index % 4 < available[index / 4];
            }
            simulation.rebalance();
            let served = simulation.run(10_000, MS);
            [served[..4].iter().sum::<usize>(), served[4..8].iter().sum(), served[8..].iter().sum()]
        };
        assert_eq!(served([4, 4, 2]), [10_000, 0, 0], "{:?}", settings.policy);
        let half = served([2, 4, 2]);
        assert!((6_950..=7_350).contains(&half[0]) && half[2] == 0, "{:?}: {half:?}", settings.policy);
        assert_eq!(served([0, 4, 2]), [0, 10_000, 0], "{:?}", settings.policy);
        assert_eq!(served([0, 0, 2]), [0, 0, 10_000], "{:?}", settings.policy);
        assert_eq!(served([4, 0, 0]), [10_000, 0, 0], "{:?}", settings.policy);
    }
}

/// Whom requests with keys are sent to that these have failed, of members of two priorities.
fn chosen(settings: Balancing, members: &[Member], failed: &[usize]) -> Vec<usize> {
    let priority = Priority { labels: [].into(), place: None, failover_below: Ratio::percent(70) };
    let settings = Balancing { priorities: vec![priority], ..settings };
    let mut rng = fastrand::Rng::with_seed(4);
    let mut balancer = Balancer::new(members, &settings, virtual_start(), &mut rng);
    let load = Load {
        cost: &|_| 1.0,
        in_flight: &|_| 0,
        id: &|index| index as u64,
        avoid: &|index| failed.contains(&index),
        failed: failed.len(),
    };
    (0..100).map(|key| balancer.choose(Some(key), load, &mut rng).expect("an endpoint")).collect()
}

#[test]
fn when_all_of_a_group_have_failed_a_request_goes_to_the_next_one() {
    let locality = Some(Locality { failover_below: Ratio::percent(70) });
    let members = [(0, true), (0, true), (0, false), (1, true)];
    let members = members.map(|(rank, near)| Member { rank, near, ..AVAILABLE });
    for settings in policies() {
        let chosen = |failed: &[usize]| {
            chosen(Balancing { locality, ..settings.clone() }, &members, failed).into_iter()
        };
        assert!(chosen(&[]).all(|index| index < 2), "{:?}", settings.policy);
        // Who is of the same priority comes before who is near, and each before who has failed.
        assert!(chosen(&[0, 1]).all(|index| index == 2), "{:?}", settings.policy);
        assert!(chosen(&[0, 1, 2]).all(|index| index == 3), "{:?}", settings.policy);
        assert!(chosen(&[0, 1, 2, 3]).all(|index| index < 2), "{:?}", settings.policy);
    }
}

#[test]
fn a_request_that_two_of_a_group_have_failed_goes_to_the_next_one() {
    let members = [0, 0, 0, 0, 0, 1].map(|rank| Member { rank, ..AVAILABLE });
    for settings in policies() {
        let chosen = |failed: &[usize]| chosen(settings.clone(), &members, failed).into_iter();
        assert!(chosen(&[]).chain(chosen(&[2])).all(|index| index < 5), "{:?}", settings.policy);
        assert!(chosen(&[2, 4]).all(|index| index == 5), "{:?}", settings.policy);
        assert!(chosen(&[2, 4, 5]).all(|index| index < 5), "{:?}", settings.policy);
    }
}

#[test]
fn the_same_key_goes_to_the_same_endpoint() {
    let mut one = Simulation::new(1, by(BalancingPolicy::ConsistentHash(HashKey::SourceIp)), &[1; 5]);
    let mut other = Simulation::new(99, by(BalancingPolicy::ConsistentHash(HashKey::SourceIp)), &[1; 5]);
    for _ in 0..3 {
        assert_eq!(one.run(1_000, 10 * MS), other.run(1_000, 10 * MS));
    }
}

#[test]
fn who_has_just_failed_is_avoided_under_every_policy() {
    for settings in policies() {
        let mut rng = fastrand::Rng::with_seed(4);
        let member = AVAILABLE;
        let mut balancer = Balancer::new(&[member; 3], &settings, virtual_start(), &mut rng);
        for key in 0..200 {
            let load = Load {
                cost: &|_| 1.0,
                in_flight: &|_| 0,
                id: &|index| index as u64,
                avoid: &|index| index == 1,
                failed: 1,
            };
            assert_ne!(balancer.choose(Some(key), load, &mut rng), Some(1), "{:?}", settings.policy);
        }
        let mut alone = Balancer::new(&[member], &settings, virtual_start(), &mut rng);
        let load = Load { cost: &|_| 1.0, in_flight: &|_| 0, id: &|_| 0, avoid: &|_| true, failed: 1 };
        assert_eq!(alone.choose(Some(1), load, &mut rng), Some(0), "{:?}", settings.policy);
    }
}
