//! Further endpoints that are asked while the first is slow.

use std::time::{Duration, Instant};

use weft_core::model::{BalancingPolicy, HedgeAfter, Hedging, Ratio, Retries, RetryBudget, Traffic};

use crate::apps::{App, Does, OK, VERSIONS, Version};
use crate::pair::Pair;
use crate::wire;

const AFTER: Duration = Duration::from_millis(100);

/// After a tenth of a second, within this budget; by chance, so that the slow one is asked as often as the other.
fn hedging(min_per_second: u32) -> Traffic {
    let budget = RetryBudget { ratio: Ratio::NONE, min_per_second, ..RetryBudget::default() };
    let mut traffic = Traffic {
        hedging: Some(Hedging { after: HedgeAfter::Time(AFTER), max: 1 }),
        retries: Some(Box::new(Retries { attempts: 0, budget, ..Retries::default() })),
        ..Traffic::default()
    };
    traffic.balancing.policy = BalancingPolicy::RoundRobin;
    traffic
}

#[tokio::test]
async fn a_slow_endpoint_is_overtaken_and_its_request_cancelled() {
    for version in VERSIONS {
        let (slow, quick) = (App::start(|_| Does::Hang).await, App::start(|_| OK).await);
        let mut pair = Pair::before(&[&slow, &quick], hedging(1000));
        for method in ["GET", "PUT"] {
            for _ in 0..2 {
                let begun = Instant::now();
                let answer = pair.says(version, method, b"body").await;
                assert_eq!(answer.says(), (200, None, "ok"), "{version:?} {method}");
                assert!(begun.elapsed() < 20 * AFTER, "{:?}", begun.elapsed());
                drop(pair.caller.record().await);
            }
        }
        // A second request takes a turn as well: only the very first may have begun with the quick one.
        assert_eq!(quick.count(), 4, "{version:?}");
        assert!((3..=4).contains(&slow.count()), "{version:?}: {}", slow.count());
        assert!(quick.seen().iter().chain(&slow.seen()).all(|seen| seen.body == b"body"));
        slow.cancelled(3).await;
    }
}

#[tokio::test]
async fn nothing_is_asked_twice_that_may_do_harm_or_that_there_is_no_budget_for() {
    for version in VERSIONS {
        for (traffic, method) in [(hedging(1000), "POST"), (hedging(0), "GET")] {
            let slow = App::start(|_| Does::Late(3 * AFTER)).await;
            let other = App::start(|_| Does::Late(3 * AFTER)).await;
            let pair = Pair::before(&[&slow, &other], traffic);
            for _ in 0..2 {
                assert_eq!(pair.says(version, method, b"").await.says(), (200, None, "late"));
            }
            assert_eq!((slow.count(), other.count()), (1, 1), "{version:?} {method}");
        }
    }
}

#[tokio::test]
async fn whoever_fails_meanwhile_is_not_waited_for() {
    for version in VERSIONS {
        // The second breaks off: the first still answers.
        let slow = App::start(|_| Does::Late(3 * AFTER)).await;
        let broken = App::start(|_| Does::BreakOff).await;
        let pair = Pair::before(&[&slow, &broken], hedging(1000));
        let mut answers = Vec::new();
        for _ in 0..2 {
            if version == Version::One {
                answers.push(pair.says(version, "GET", b"").await.status);
            } else {
                let mut sender = wire::client(pair.connect().await).await;
                std::future::poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
                let (response, _) = sender.send_request(wire::request("GET", "/"), true).unwrap();
                answers.push(response.await.map_or(502, |response| response.status().as_u16()));
            }
        }
        // Where the broken one was asked first nobody was asked second; the next request then begins with the slow one.
        assert_eq!(answers.last(), Some(&200), "{version:?}: {answers:?}");
        assert!(broken.count() > 0, "{version:?}");
    }
}

#[tokio::test]
async fn further_endpoints_are_asked_one_after_the_other_and_the_losers_are_cancelled() {
    for version in VERSIONS {
        let quick = App::start(|_| OK).await;
        let mut stuck = Vec::new();
        for _ in 0..3 {
            stuck.push(App::start(|_| Does::Hang).await);
        }
        let mut traffic = hedging(1000);
        traffic.hedging = Some(Hedging { after: HedgeAfter::Time(AFTER), max: 3 });
        let pair = Pair::before(&[&stuck[0], &stuck[1], &stuck[2], &quick], traffic);
        let mut most = 0;
        for _ in 0..4 {
            let before: usize = stuck.iter().map(App::count).sum();
            let begun = Instant::now();
            assert_eq!(pair.says(version, "GET", b"body").await.says(), (200, None, "ok"), "{version:?}");
            let asked = stuck.iter().map(App::count).sum::<usize>() - before;
            assert!(
                begun.elapsed() >= AFTER * u32::try_from(asked).unwrap(),
                "{asked} {:?}",
                begun.elapsed()
            );
            most = most.max(asked);
        }
        // Each of four requests begins with another one, so that one has asked all three before the quick one.
        assert!(most >= 2, "{version:?}: {most}");
        for app in &mut stuck {
            assert!(app.seen().iter().all(|seen| seen.body == b"body"));
            let count = app.count();
            app.cancelled(u32::try_from(count).unwrap()).await;
        }
    }
}

#[tokio::test]
async fn no_more_are_asked_than_is_said_and_none_twice() {
    for version in VERSIONS {
        for (max, pods, expected) in [(1, 4, 2), (3, 4, 4), (3, 2, 2)] {
            let mut apps = Vec::new();
            for _ in 0..pods {
                apps.push(App::start(|_| Does::Late(10 * AFTER)).await);
            }
            let mut traffic = hedging(1000);
            traffic.hedging = Some(Hedging { after: HedgeAfter::Time(AFTER), max });
            let pair = Pair::before(&apps.iter().collect::<Vec<_>>(), traffic);
            assert_eq!(pair.says(version, "GET", b"").await.says(), (200, None, "late"));
            assert_eq!(apps.iter().map(App::count).sum::<usize>(), expected, "{version:?} {max} {pods}");
            assert!(apps.iter().all(|app| app.count() <= 1), "{version:?} {max} {pods}");
        }
    }
}

#[tokio::test]
async fn what_is_usual_is_learnt_from_the_answers() {
    for version in VERSIONS {
        // The first thirty are quick, then the one hangs.
        let one = App::start(|number| if number < 15 { OK } else { Does::Hang }).await;
        let two = App::start(|_| OK).await;
        let mut traffic = hedging(1000);
        traffic.hedging = Some(Hedging { after: HedgeAfter::Quantile(Ratio::percent(95)), max: 1 });
        let mut pair = Pair::before(&[&one, &two], traffic);
        for number in 0..34 {
            assert_eq!(pair.says(version, "GET", b"").await.says(), (200, None, "ok"), "{number}");
            drop(pair.caller.record().await);
        }
        assert!(one.count() >= 16, "{}", one.count());
    }
}

#[tokio::test]
async fn hedges_are_told_of() {
    for version in VERSIONS {
        let (slow, quick) = (App::start(|_| Does::Hang).await, App::start(|_| OK).await);
        let mut pair = Pair::before(&[&slow, &quick], hedging(1000));
        let mut retries = 0;
        for _ in 0..2 {
            assert_eq!(pair.says(version, "GET", b"").await.status, 200);
            let record = pair.caller.record().await;
            assert_eq!(record.upstream, Some(quick.address));
            retries += record.retries;
        }
        assert_eq!(retries as usize, slow.count(), "{version:?}");
    }
}
