//! How long a request may take.

use std::time::Duration;

use weft_core::limits::{Each, Late, Limits, Progress, Until};
use weft_core::model::{RoutePolicy, Timeouts, Traffic};

use crate::balancing::virtual_start;

const SECOND: Duration = Duration::from_secs(1);

fn traffic(request: Option<Duration>) -> Traffic {
    Traffic { timeouts: Timeouts { connect: None, request, idle: None }, ..Traffic::default() }
}

fn route(request: Option<Duration>, backend: Option<Duration>) -> RoutePolicy {
    RoutePolicy { request_timeout: request, backend_timeout: backend, ..RoutePolicy::default() }
}

#[test]
fn a_route_says_before_the_policy_and_nothing_is_no_limit() {
    let whole = |policy, said| Limits::of(&traffic(policy), Some(&route(said, None))).whole;
    assert_eq!(whole(Some(SECOND), None), Some(SECOND));
    assert_eq!(whole(Some(SECOND), Some(2 * SECOND)), Some(2 * SECOND));
    assert_eq!(whole(Some(SECOND), Some(Duration::ZERO)), None, "0s is no limit (GEP-1742)");
    assert_eq!(whole(Some(Duration::ZERO), None), None);
    assert!(Limits::of(&traffic(None), Some(&route(None, Some(Duration::ZERO)))).is_none());
    assert!(Limits::of(&traffic(None), None).is_none());
}

#[test]
fn the_shorter_of_what_caller_and_policy_allow_holds() {
    let within = |allowed| Limits::of(&traffic(Some(SECOND)), None).within(allowed).whole;
    assert_eq!(within(None), Some(SECOND));
    assert_eq!(within(Some(SECOND / 2)), Some(SECOND / 2));
    assert_eq!(within(Some(2 * SECOND)), Some(SECOND));
    assert_eq!(Limits::default().within(Some(SECOND)).whole, Some(SECOND));
}

#[test]
fn what_passes_first_is_what_is_late() {
    let begun = virtual_start();
    let each = |until| Some(Each { limit: SECOND, until });
    let mut limits = Limits { whole: Some(3 * SECOND), each: each(Until::Head), idle: Some(2 * SECOND) };
    let mut progress = Progress { begun, tried: None, is_answered: false, moved: begun };
    let check = |limits: &Limits, progress: &Progress, after: u32, late| {
        assert_eq!(limits.next(progress), Some((begun + after * SECOND, late)));
    };
    check(&limits, &progress, 2, Late::Idle);
    progress.tried = Some(begun);
    check(&limits, &progress, 1, Late::Try);
    progress.is_answered = true;
    check(&limits, &progress, 2, Late::Idle);
    progress.moved = begun + 2 * SECOND;
    check(&limits, &progress, 3, Late::Whole);
    limits.each = each(Until::End);
    check(&limits, &progress, 1, Late::Try);
    assert_eq!(Limits::default().next(&progress), None);
    let endless = Limits { whole: Some(Duration::MAX), ..Limits::default() };
    assert_eq!(endless.next(&progress), None, "beyond the clock's end is never");
}

#[test]
fn what_is_left_is_told_of_the_whole_and_of_the_try() {
    let begun = virtual_start();
    let left = |each: Option<Until>, spent: u32| {
        let each = each.map(|until| Each { limit: SECOND, until });
        Limits { whole: Some(3 * SECOND), each, idle: None }.left(begun, begun + spent * SECOND)
    };
    assert_eq!(left(None, 1), Some(2 * SECOND));
    assert_eq!(left(Some(Until::End), 1), Some(SECOND));
    assert_eq!(left(Some(Until::Head), 1), Some(2 * SECOND), "the answer may take longer than its head");
    assert_eq!(left(Some(Until::End), 9), Some(Duration::ZERO));
    assert_eq!(Limits::default().left(begun, begun), None);
}
