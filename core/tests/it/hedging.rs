//! When a second endpoint is asked.

use std::time::Duration;

use proptest::prelude::*;
use weft_core::hedge::{Latencies, wait};
use weft_core::model::{HedgeAfter, Hedging, Ratio};

use crate::balancing::virtual_start;

const MS: Duration = Duration::from_millis(1);

#[test]
fn nothing_is_asked_before_it_is_known_how_long_answers_take() {
    let now = virtual_start();
    let mut known = Latencies::new(now);
    let hedging = Hedging { after: HedgeAfter::Quantile(Ratio::percent(95)), max: 1 };
    assert_eq!(wait(&hedging, None, now), None);
    for _ in 0..19 {
        known.record(10 * MS, now);
        assert_eq!(wait(&hedging, Some(&mut known), now), None);
    }
    known.record(10 * MS, now);
    let after = wait(&hedging, Some(&mut known), now).unwrap();
    assert!((10 * MS..=11 * MS).contains(&after), "{after:?}");
    let fixed = Hedging { after: HedgeAfter::Time(7 * MS), max: 1 };
    assert_eq!(wait(&fixed, None, now), Some(7 * MS));
}

#[test]
fn what_has_become_slower_is_noticed_and_what_was_is_forgotten() {
    let mut now = virtual_start();
    let mut known = Latencies::new(now);
    let p95 = Ratio::percent(95);
    let mut run = |takes: Duration, seconds: u32| {
        for _ in 0..seconds * 100 {
            now += 10 * MS;
            known.record(takes, now);
        }
        known.quantile(p95, now)
    };
    assert!(run(10 * MS, 60).unwrap() <= 11 * MS);
    assert!(run(100 * MS, 2).unwrap() >= 100 * MS, "two seconds of a minute are more than a twentieth");
    assert!(run(10 * MS, 60).unwrap() <= 11 * MS, "a minute later it is over");
    now += Duration::from_secs(3600);
    assert_eq!(known.quantile(p95, now), None, "what was an hour ago says nothing");
}

#[test]
fn asking_a_second_one_cuts_the_tail_for_a_twentieth_more() {
    // One answer in fifty takes a second, the others about ten milliseconds.
    let mut rng = fastrand::Rng::with_seed(11);
    let mut now = virtual_start();
    let mut known = Latencies::new(now);
    let hedging = Hedging { after: HedgeAfter::Quantile(Ratio::percent(95)), max: 1 };
    let mut draw = move || if rng.u32(..50) == 0 { 1000 * MS } else { MS * (8 + rng.u32(..5)) };
    let (mut hedges, mut slow) = (0, 0);
    for _ in 0..20_000 {
        now += MS;
        let first = draw();
        let mut took = first;
        if let Some(after) = wait(&hedging, Some(&mut known), now).filter(|after| *after < first) {
            hedges += 1;
            took = first.min(after + draw());
        }
        known.record(took, now);
        slow += u32::from(took > 50 * MS);
    }
    assert!(slow < 40, "of 400 slow ones {slow} are left");
    assert!((300..=1_200).contains(&hedges), "{hedges} of 20,000");
}

proptest! {
    #[test]
    fn the_quantile_is_that_of_what_was_recorded_to_a_tenth(mut took in prop::collection::vec(1_u64..10_000_000, 20..300), percent in 50_u32..100) {
        let now = virtual_start();
        let mut known = Latencies::new(now);
        for micros in &took {
            known.record(Duration::from_micros(*micros), now);
        }
        took.sort_unstable();
        let index = (took.len() * percent as usize).div_ceil(100) - 1;
        let exact = Duration::from_micros(took[index]);
        let found = known.quantile(Ratio::percent(percent), now).unwrap();
        prop_assert!(found >= exact && found <= (exact + exact / 9).max(Duration::from_micros(100)), "{found:?} {exact:?}");
    }
}
