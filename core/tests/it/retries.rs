//! What is tried again, when, and how much of it.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use weft_core::model::{
    Ratio, Retries, RetryBudget, RetryMethods, RetryOn, RetryPolicy, RoutePolicy, StatusCode, Traffic,
};
use weft_core::retry::{Attempt, Budget, Failed, Floor, LONGEST_PAUSE, Pushback, Retry, Stop, Twice};

use crate::balancing::virtual_start;

const MS: Duration = Duration::from_millis(1);

fn retry(retries: Retries) -> Retry {
    Retry::of(&Traffic { retries: Some(Box::new(retries)), ..Traffic::default() }, None).unwrap()
}

fn answered(status: u16) -> Failed {
    Failed::Answered { status, grpc_status: None }
}

fn call(grpc_status: u8) -> Failed {
    Failed::Answered { status: 200, grpc_status: Some(grpc_status) }
}

fn wants(retry: &Retry, failed: Failed, method: &str) -> bool {
    retry.wants(failed, retry.twice(method))
}

fn attempt(failed: Failed) -> Attempt {
    Attempt { failed, twice: Twice::Harmless, before: 0, pushback: Pushback::None, left: None }
}

fn decide(retry: &Retry, attempt: &Attempt) -> Result<Duration, Stop> {
    retry.decide(attempt, || true, &mut fastrand::Rng::with_seed(1))
}

fn route(retry: RetryPolicy) -> RoutePolicy {
    RoutePolicy { retry: Some(retry), ..RoutePolicy::default() }
}

#[test]
fn nothing_is_tried_again_unless_someone_asks_for_it() {
    assert_eq!(Retry::of(&Traffic::default(), None), None);
    assert_eq!(Retry::of(&Traffic::default(), Some(&RoutePolicy::default())), None);
    let none = Traffic {
        retries: Some(Box::new(Retries { attempts: 0, ..Retries::default() })),
        ..Traffic::default()
    };
    assert_eq!(Retry::of(&none, None), None);
    let one = RetryPolicy { attempts: Some(1), ..RetryPolicy::default() };
    assert!(Retry::of(&none, Some(&route(one))).is_some(), "the route says otherwise");
    let never = RetryPolicy { attempts: Some(0), ..RetryPolicy::default() };
    let policy = Traffic { retries: Some(Box::default()), ..Traffic::default() };
    assert_eq!(Retry::of(&policy, Some(&route(never))), None);
}

#[test]
fn what_is_named_is_tried_again_and_only_where_that_does_no_harm() {
    let all = [
        (RetryOn::ServerErrors, answered(500), answered(499)),
        (RetryOn::GatewayErrors, answered(504), answered(500)),
        (RetryOn::Status(StatusCode::try_from(429).unwrap()), answered(429), answered(428)),
        (RetryOn::Reset, Failed::Reset, answered(503)),
    ];
    for (on, is, is_not) in all {
        let retry = retry(Retries { on: vec![on], ..Retries::default() });
        assert!(wants(&retry, is, "GET") && wants(&retry, is, "DELETE"), "{on:?}");
        assert!(!wants(&retry, is, "POST") && !wants(&retry, is, "PATCH"), "{on:?}");
        assert!(!wants(&retry, is_not, "GET"), "{on:?}");
        assert!(wants(&retry, Failed::Late, "GET") && !wants(&retry, Failed::Late, "POST"), "{on:?}");
    }
    let any = retry(Retries { methods: RetryMethods::Any, ..Retries::default() });
    assert!(wants(&any, answered(503), "POST"));
    let some = retry(Retries { methods: RetryMethods::These(vec!["POST".into()]), ..Retries::default() });
    assert!(wants(&some, answered(503), "POST") && !wants(&some, answered(503), "GET"));
}

#[test]
fn a_status_of_grpc_is_heeded_where_it_is_named() {
    let unavailable = retry(Retries { on: vec![RetryOn::Grpc(14)], ..Retries::default() });
    assert!(unavailable.heeds_grpc() && wants(&unavailable, call(14), "POST"));
    assert!(!wants(&unavailable, call(13), "POST") && !wants(&unavailable, answered(503), "POST"));
    let default = retry(Retries::default());
    assert!(!default.heeds_grpc() && !wants(&default, call(14), "POST"));
}

#[test]
fn a_routes_own_words_go_before_the_policys_field_by_field() {
    let policy = Traffic {
        retries: Some(Box::new(Retries {
            attempts: 5,
            methods: RetryMethods::Any,
            max_body: 7,
            ..Retries::default()
        })),
        ..Traffic::default()
    };
    let codes = vec![StatusCode::try_from(418).unwrap()];
    let said = RetryPolicy { attempts: None, codes, backoff: Some(100 * MS) };
    let retry = Retry::of(&policy, Some(&route(said))).unwrap();
    assert!(wants(&retry, answered(418), "POST"), "methods stay the policy's");
    assert!(!wants(&retry, answered(503), "POST"), "codes are the route's");
    assert!(wants(&retry, Failed::Reset, "POST"), "connections that fail count in any case");
    assert_eq!(retry.max_body, 7);
    let mut rng = fastrand::Rng::with_seed(3);
    for before in 0..5 {
        let again = retry.decide(&Attempt { before, ..attempt(answered(418)) }, || true, &mut rng).unwrap();
        let most = 100 * MS + 100 * MS * 2_u32.pow(before);
        assert!((100 * MS..=most.min(1100 * MS)).contains(&again), "{before}: {again:?}");
    }
    let over = Attempt { before: 5, ..attempt(answered(418)) };
    assert_eq!(decide(&retry, &over), Err(Stop::Attempts), "attempts are the policy's");
}

#[test]
fn what_an_endpoint_asks_for_is_honoured_as_long_as_there_is_time() {
    let retry = retry(Retries::default());
    let asked = |pushback, left| decide(&retry, &Attempt { pushback, left, ..attempt(answered(503)) });
    let second = Duration::from_secs(1);
    assert_eq!(asked(Pushback::After(second), None), Ok(second));
    assert_eq!(asked(Pushback::After(second), Some(2 * second)), Ok(second));
    assert_eq!(asked(Pushback::After(second), Some(second)), Err(Stop::Time));
    assert_eq!(asked(Pushback::After(LONGEST_PAUSE + MS), None), Err(Stop::Time));
    assert_eq!(asked(Pushback::Never, None), Err(Stop::Unwanted));
    assert_eq!(asked(Pushback::None, Some(Duration::ZERO)), Err(Stop::Time));
}

#[test]
fn the_budget_is_asked_last_and_only_where_it_matters() {
    let retry = retry(Retries { attempts: 1, ..Retries::default() });
    let mut asked = 0;
    let mut rng = fastrand::Rng::with_seed(1);
    let over = Attempt { before: 1, ..attempt(answered(503)) };
    for attempt in [attempt(answered(200)), over, Attempt { twice: Twice::Harmful, ..attempt(answered(503)) }]
    {
        let decided = retry.decide(
            &attempt,
            || {
                asked += 1;
                true
            },
            &mut rng,
        );
        assert!(decided.is_err());
    }
    assert_eq!(asked, 0);
    assert_eq!(retry.decide(&attempt(answered(503)), || false, &mut rng), Err(Stop::Budget));
}

#[test]
fn a_storm_of_failures_adds_no_more_than_the_budget_says() {
    // Every request fails, each may be tried ten times; a thousand a second for half a minute.
    let settings = RetryBudget { min_per_second: 0, ..RetryBudget::default() };
    let retry = retry(Retries { attempts: 10, budget: settings, ..Retries::default() });
    let (mut budget, mut now) = (Budget::default(), virtual_start());
    let mut rng = fastrand::Rng::with_seed(5);
    let mut retries = 0;
    for _ in 0..30_000 {
        now += MS;
        budget.asked(&settings, now);
        let mut before = 0;
        while retry
            .decide(&Attempt { before, ..attempt(answered(503)) }, || budget.take(&settings, now), &mut rng)
            .is_ok()
        {
            before += 1;
            retries += 1;
        }
    }
    assert!((5_900..=6_000).contains(&retries), "{retries} of 30,000 are not a fifth");
}

#[test]
fn some_are_allowed_in_any_case_and_no_more() {
    let settings = RetryBudget { ratio: Ratio::NONE, min_per_second: 10, ..RetryBudget::default() };
    let mut floor = Floor::default();
    let mut taken = 0;
    for ms in 0..30_000 {
        if let Some(next) = floor.take(&settings, ms * MS) {
            floor = Floor::from_bits(next.to_bits());
            taken += 1;
        }
    }
    // Ten a second, and those of one second at once.
    assert!((300..=310).contains(&taken), "{taken}");
    let none = RetryBudget { min_per_second: 0, ..settings };
    assert_eq!(Floor::default().take(&none, Duration::from_secs(9)), None);
}

proptest! {
    #[test]
    fn pauses_are_drawn_from_nothing_to_what_has_been_doubled(seed: u64, before in 0_u32..40) {
        let retry = retry(Retries { attempts: 100, ..Retries::default() });
        let mut rng = fastrand::Rng::with_seed(seed);
        let pause = retry.decide(&Attempt { before, ..attempt(answered(503)) }, || true, &mut rng).unwrap();
        let most = (25 * MS).saturating_mul(2_u32.saturating_pow(before)).min(250 * MS);
        prop_assert!(pause <= most, "{pause:?}");
    }

    /// Whatever comes when: in no window were more taken than the share of what was asked in twice that time.
    #[test]
    fn the_share_is_never_exceeded(steps in prop::collection::vec((0_u64..2_000, any::<bool>()), 1..500), percent in 0_u32..=100) {
        let settings = RetryBudget { ratio: Ratio::percent(percent), min_per_second: 0, window: Duration::from_secs(10) };
        let (mut budget, start) = (Budget::default(), virtual_start());
        let mut now = start;
        let (mut asked, mut taken): (Vec<Instant>, Vec<Instant>) = Default::default();
        for (ms, asks) in steps {
            now += Duration::from_millis(ms);
            if asks {
                budget.asked(&settings, now);
                asked.push(now);
            } else if budget.take(&settings, now) {
                taken.push(now);
            }
            let since = |at: &&Instant| now.saturating_duration_since(**at);
            let recent = taken.iter().filter(|at| since(at) < settings.window * 9 / 10).count();
            let of = asked.iter().filter(|at| since(at) <= settings.window * 2).count();
            prop_assert!(recent * 100 <= of * percent as usize, "{recent} of {of}");
        }
    }
}
