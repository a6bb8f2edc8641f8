//! What is tried again, where a policy or a route says so, and what the caller gets.

use std::time::{Duration, Instant};

use weft_core::model::{
    Backoff, Ratio, Retries, RetryBudget, RetryMethods, RetryOn, StatusCode, Timeouts, Traffic,
};

use crate::apps::{App, BUSY, Does, OK, VERSIONS, Version};
use crate::pair::Pair;
use crate::wire;

fn traffic(retries: Retries) -> Traffic {
    Traffic { retries: Some(Box::new(retries)), ..Traffic::default() }
}

/// Tries again at once.
fn at_once() -> Retries {
    let backoff = Backoff { base: Duration::from_millis(1), max: Duration::from_millis(1) };
    Retries { backoff, ..Retries::default() }
}

fn on(on: RetryOn) -> Retries {
    Retries { on: vec![on], ..at_once() }
}

#[tokio::test]
async fn another_endpoint_is_asked_where_the_first_fails() {
    for version in VERSIONS {
        for failure in [BUSY, Does::BreakOff, Does::Babble] {
            let (broken, working) = (App::start(move |_| failure).await, App::start(|_| OK).await);
            let pair = Pair::before(&[&broken, &working], traffic(at_once()));
            for _ in 0..10 {
                let answer = pair.says(version, "GET", b"").await;
                assert_eq!(answer.says(), (200, None, "ok"), "{version:?} {failure:?}");
            }
            assert_eq!(working.count(), 10);
            assert!(broken.count() > 0, "by chance never asked first");
        }
    }
}

#[tokio::test]
async fn nothing_is_sent_twice_by_default_and_a_post_only_where_a_policy_allows_it() {
    for version in VERSIONS {
        for (retries, method, times) in [
            (None, "GET", 1),
            (None, "POST", 1),
            (Some(at_once()), "POST", 1),
            (Some(at_once()), "PATCH", 1),
            (Some(at_once()), "GET", 3),
            (Some(at_once()), "PUT", 3),
            (Some(Retries { methods: RetryMethods::Any, ..at_once() }), "POST", 3),
            (Some(Retries { methods: RetryMethods::These(vec!["POST".into()]), ..at_once() }), "POST", 3),
            (Some(Retries { methods: RetryMethods::These(vec!["POST".into()]), ..at_once() }), "GET", 1),
        ] {
            let app = App::start(|_| BUSY).await;
            let pair = Pair::before(&[&app], retries.map(traffic).unwrap_or_default());
            let answer = pair.says(version, method, b"").await;
            // The last answer is the app's own, and so is what the caller gets.
            assert_eq!(answer.says(), (503, None, "busy"), "{version:?} {method}");
            assert_eq!(answer.field("x-app"), Some("yes"));
            assert_eq!(app.count(), times, "{version:?} {method}");
        }
    }
}

#[tokio::test]
async fn only_what_is_named_is_tried_again() {
    let status = |code| RetryOn::Status(StatusCode::try_from(code).unwrap());
    for version in VERSIONS {
        for (reason, code, times) in [
            (RetryOn::ServerErrors, 500, 3),
            (RetryOn::GatewayErrors, 500, 1),
            (RetryOn::GatewayErrors, 504, 3),
            (status(429), 429, 3),
            (status(429), 503, 1),
            (RetryOn::Reset, 503, 1),
            (RetryOn::ConnectFailure, 503, 1),
        ] {
            let app = App::start(move |_| Does::Answer(code, ("x-app", "yes"), "no")).await;
            let pair = Pair::before(&[&app], traffic(on(reason)));
            assert_eq!(pair.says(version, "GET", b"").await.status, code);
            assert_eq!(app.count(), times, "{version:?} {reason:?} {code}");
        }
    }
}

#[tokio::test]
async fn every_endpoint_failing_costs_no_more_than_the_budget() {
    for version in VERSIONS {
        let budget = RetryBudget { ratio: Ratio::percent(20), min_per_second: 0, ..RetryBudget::default() };
        let apps = [App::start(|_| BUSY).await, App::start(|_| BUSY).await];
        let retries = Retries { attempts: 10, budget, ..at_once() };
        let mut pair = Pair::before(&[&apps[0], &apps[1]], traffic(retries));
        for _ in 0..100 {
            assert_eq!(pair.says(version, "GET", b"").await.says(), (503, None, "busy"));
        }
        let sent = apps[0].count() + apps[1].count();
        assert!((115..=120).contains(&sent), "{version:?}: {sent} for 100");
        drop(pair.caller.record().await);
    }
}

#[tokio::test]
async fn a_body_is_sent_again_whole_or_not_at_all() {
    let small = vec![b'x'; 1000];
    for version in VERSIONS {
        for (length, times) in [(1000, 3), (1001, 1), (200_000, 1)] {
            let app = App::start(|_| BUSY).await;
            let pair = Pair::before(&[&app], traffic(Retries { max_body: 1000, ..at_once() }));
            let body = vec![b'x'; length];
            assert_eq!(pair.says(version, "PUT", &body).await.status, 503);
            let seen = app.seen();
            assert_eq!(seen.len(), times, "{version:?} {length}");
            assert!(seen.iter().all(|seen| seen.body == body), "{version:?} {length}");
        }
        // More than is kept where no policy speaks of it.
        let app = App::start(|number| if number < 2 { BUSY } else { OK }).await;
        let pair = Pair::before(&[&app], traffic(Retries { max_body: 1 << 20, ..at_once() }));
        let large = small.repeat(300);
        assert_eq!(pair.says(version, "PUT", &large).await.status, 200);
        assert!(app.seen().iter().all(|seen| seen.body == large) && app.count() == 3, "{version:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_asks_for_time_gets_it_where_there_is_enough() {
    for version in VERSIONS {
        let pause = |value| {
            move |number| match number {
                0 => Does::Answer(503, ("retry-after", value), "later"),
                _ => OK,
            }
        };
        let app = App::start(pause("1")).await;
        let pair = Pair::before(&[&app], traffic(at_once()));
        let begun = Instant::now();
        assert_eq!(pair.says(version, "GET", b"").await.says(), (200, None, "ok"));
        assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());

        let timeouts = Timeouts { request: Some(Duration::from_millis(900)), ..Timeouts::default() };
        for (value, timeouts) in [("1", timeouts), ("3600", Timeouts::default())] {
            let app = App::start(pause(value)).await;
            let pair = Pair::before(&[&app], Traffic { timeouts, ..traffic(at_once()) });
            let begun = Instant::now();
            assert_eq!(pair.says(version, "GET", b"").await.says(), (503, None, "later"));
            assert!(begun.elapsed() < Duration::from_millis(900), "nobody waits for nothing");
        }
    }
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_followed_by_another() {
    let per_try = Some(Duration::from_millis(150));
    for version in VERSIONS {
        let (stuck, working) = (App::start(|_| Does::Hang).await, App::start(|_| OK).await);
        let pair = Pair::before(&[&stuck, &working], traffic(Retries { per_try, ..at_once() }));
        for _ in 0..6 {
            assert_eq!(pair.says(version, "GET", b"").await.says(), (200, None, "ok"));
        }
        let pair = Pair::before(&[&stuck], traffic(Retries { per_try, ..at_once() }));
        let before = stuck.count();
        let answer = pair.says(version, "GET", b"").await;
        assert_eq!((answer.status, answer.field("weft-error")), (504, Some("timeout")));
        assert_eq!(stuck.count() - before, 3, "{version:?}");
        let answer = pair.says(version, "POST", b"").await;
        assert_eq!((answer.status, answer.field("weft-error")), (504, Some("timeout")));
        assert_eq!(stuck.count() - before, 4, "{version:?}");
    }
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_sensible_is_answered_for_by_the_mesh() {
    for version in VERSIONS {
        let app = App::start(|_| Does::Babble).await;
        let pair = Pair::before(&[&app], traffic(at_once()));
        match version {
            Version::One => {
                let answer = pair.says(version, "GET", b"").await;
                assert_eq!((answer.status, answer.field("weft-error")), (502, Some("protocol-error")));
            }
            Version::Two => {
                let mut sender = wire::client(pair.connect().await).await;
                std::future::poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
                let (response, _) = sender.send_request(wire::request("GET", "/"), true).unwrap();
                assert_eq!(response.await.unwrap_err().reason(), Some(h2::Reason::INTERNAL_ERROR));
            }
        }
        assert_eq!(app.count(), 3, "{version:?}");
    }
}

#[tokio::test]
async fn a_call_is_tried_again_by_its_status_as_long_as_no_message_has_gone_to_its_caller() {
    let unavailable = || traffic(on(RetryOn::Grpc(14)));
    for (failure, status, times) in [
        (Does::Refuse("14"), "14", 3),
        (Does::Refuse("13"), "13", 1),
        (Does::Stream(0, "14"), "14", 3),
        (Does::Stream(2, "14"), "14", 1),
        (Does::Stream(2, "0"), "0", 1),
    ] {
        let app = App::start(move |_| failure).await;
        let pair = Pair::before(&[&app], unavailable());
        let answer = pair.calls(wire::call(), b"ask").await;
        assert_eq!((answer.status, answer.field("grpc-status")), (200, Some(status)), "{failure:?}");
        assert_eq!(answer.field("weft-error"), None);
        assert_eq!(app.count(), times, "{failure:?}");
        assert!(app.seen().iter().all(|seen| seen.body == b"ask"));
    }
    // Where nothing is said of calls none is sent twice.
    let app = App::start(|_| Does::Refuse("14")).await;
    let pair = Pair::before(&[&app], traffic(at_once()));
    assert_eq!(pair.calls(wire::call(), b"ask").await.field("grpc-status"), Some("14"));
    assert_eq!(app.count(), 1);
}

#[tokio::test]
async fn what_is_tried_again_is_told_of() {
    for version in VERSIONS {
        let app = App::start(|number| if number == 0 { BUSY } else { OK }).await;
        let mut pair = Pair::before(&[&app], traffic(at_once()));
        assert_eq!(pair.says(version, "GET", b"").await.status, 200);
        let record = pair.caller.record().await;
        assert_eq!((record.status, record.retries, record.error), (Some(200), 1, None));
    }
}

#[tokio::test]
async fn a_connection_whose_answer_was_not_wanted_is_used_again() {
    let app = App::start(|number| if number % 2 == 0 { BUSY } else { OK }).await;
    let pair = Pair::before(&[&app], traffic(at_once()));
    for _ in 0..3 {
        assert_eq!(pair.says(Version::One, "GET", b"").await.status, 200);
    }
    assert_eq!(app.count(), 6);
    assert!(app.connections() <= 2, "{}", app.connections());
}
