//! RateLimit, from its YAML to what it makes of calls.

use std::hash::RandomState;
use std::time::Duration;

use weft_core::authorize::{Asked, Call, Peer};
use weft_core::manifest::Spec;
use weft_core::model::RateLimit;
use weft_core::rate::{Limited, Limits, Usage};

use crate::access::{Request, claims, get};
use crate::documents::good;

const NOW: Duration = Duration::from_secs(1_000);

fn policy(name: &str, spec: &str) -> RateLimit {
    let text = format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: RateLimit\nmetadata: {{name: {name}}}\nspec: {{targetRef: {{kind: Mesh}}, {spec}}}\n"
    );
    let Spec::RateLimit(spec) = good(&text).remove(0).spec else { panic!("{text}") };
    let name = format!("default/{name}").parse().unwrap();
    let limits = spec.limits.into_iter().map(|(limit, _)| limit).collect();
    RateLimit { name, ports: Vec::new(), rules: spec.rules, limits }
}

fn limits(spec: &str) -> Limits {
    Limits::renew(&[policy("p", spec)], None, RandomState::new())
}

fn known(account: &str) -> Peer {
    Peer::Known(format!("spiffe://mesh.local/ns/default/sa/{account}").parse().unwrap())
}

fn admit(
    limits: &Limits,
    account: &str,
    request: Option<&Request<'_>>,
    now: Duration,
) -> Result<Option<Usage>, Limited> {
    let peer = known(account);
    let request = request.map(|request| request as &dyn Asked);
    limits.admit(&Call { peer: &peer, address: [10, 0, 0, 1].into(), port: 8080, request }, now)
}

/// How many of so many calls are let in.
fn passed(limits: &Limits, account: &str, request: &Request<'_>, calls: usize) -> usize {
    (0..calls).filter(|_| admit(limits, account, Some(request), NOW).is_ok()).count()
}

fn user<'a>(name: &'a str, value: &'a str) -> Request<'a> {
    let mut request = get("/");
    request.headers.push((name, value.as_bytes()));
    request
}

#[test]
fn callers_are_counted_apart_and_no_one_uses_up_anothers_share() {
    let limits = limits("limits: [{requests: 10, per: 1h, key: [caller]}]");
    assert_eq!(passed(&limits, "abuser", &get("/"), 1_000), 10);
    assert_eq!(passed(&limits, "web", &get("/"), 11), 10);
    let stranger = |address: [u8; 4]| {
        let call = Call { peer: &Peer::Anonymous, address: address.into(), port: 1, request: None };
        (0..20).filter(|_| limits.admit(&call, NOW).is_ok()).count()
    };
    assert_eq!((stranger([10, 0, 0, 1]), stranger([10, 0, 0, 2])), (10, 10));
}

#[test]
fn headers_and_paths_tell_calls_apart() {
    let limits = limits("limits: [{requests: 2, per: 1h, key: ['header:x-user', path]}]");
    assert_eq!(passed(&limits, "web", &user("x-user", "a"), 5), 2);
    assert_eq!(passed(&limits, "web", &user("x-user", "b"), 5), 2);
    assert_eq!(passed(&limits, "other", &user("x-user", "a"), 5), 0, "who calls is not asked");
    assert_eq!(passed(&limits, "web", &get("/"), 5), 2, "none is a value of its own");
    assert_eq!(passed(&limits, "web", &get("/x/../"), 5), 0, "the path is the same");
    assert_eq!(passed(&limits, "web", &get("/?query"), 5), 0);
    assert_eq!(passed(&limits, "web", &get("/b"), 5), 2);
}

#[test]
fn claims_tell_calls_apart() {
    let limits = limits("limits: [{requests: 2, per: 1h, key: ['claim:sub']}]");
    let user = |said: &str| Request { claims: Some(claims(said)), ..get("/") };
    assert_eq!(passed(&limits, "web", &user(r#"{"sub":"ann"}"#), 5), 2);
    assert_eq!(passed(&limits, "other", &user(r#"{"sub":"ann","x":1}"#), 5), 0);
    assert_eq!(passed(&limits, "web", &user(r#"{"sub":"bob"}"#), 5), 2);
    assert_eq!(passed(&limits, "web", &get("/"), 5), 2);
}

#[test]
fn every_limit_must_have_room_and_a_call_that_is_refused_uses_up_none() {
    let limits = limits("limits: [{requests: 100, per: 1h}, {requests: 5, per: 1h, key: [caller]}]");
    assert_eq!(passed(&limits, "abuser", &get("/"), 10_000), 5);
    // 95 of all are left.
    let others: usize = (0..30).map(|number| passed(&limits, &format!("web-{number}"), &get("/"), 10)).sum();
    assert_eq!(others, 95);
}

#[test]
fn only_calls_that_a_policy_is_about_are_counted() {
    let limits = limits(
        "rules: [{from: [{serviceAccounts: [web]}], to: [{paths: ['/a/*']}]}], limits: [{requests: 1, per: 1h}]",
    );
    assert_eq!(passed(&limits, "web", &get("/b"), 5), 5);
    assert_eq!(passed(&limits, "other", &get("/a/1"), 5), 5);
    assert_eq!(passed(&limits, "web", &get("/a/1"), 5), 1);
    assert!(admit(&limits, "web", None, NOW).is_err(), "what may be a call for it is counted");
    let probes = self::limits("rules: [{to: [{notPaths: [/healthz]}]}], limits: [{requests: 1, per: 1h}]");
    assert_eq!((passed(&probes, "web", &get("/"), 5), passed(&probes, "web", &get("/healthz"), 5)), (1, 5));
}

#[test]
fn the_header_fields_are_those_of_the_draft() {
    let limits = limits("limits: [{requests: 100, per: 1m, burst: 3}, {requests: 1, per: 250ms, burst: 9}]");
    let usage = admit(&limits, "web", Some(&get("/")), NOW).unwrap().unwrap();
    assert_eq!(usage.policy, "\"default/p\";q=100;w=60, \"default/p/2\";q=4;w=1");
    assert_eq!(usage.left, "\"default/p\";r=2;t=1, \"default/p/2\";r=8;t=1");
    assert_eq!(passed(&limits, "web", &get("/"), 5), 2);
    let limited = admit(&limits, "web", Some(&get("/")), NOW).unwrap_err();
    assert_eq!(limited.policy.to_string(), "default/p");
    assert_eq!(limited.retry_after, Duration::from_millis(600));
    assert_eq!(limited.retry_after_seconds(), 1);
    assert_eq!(limited.usage.policy, "\"default/p\";q=100;w=60");
    assert_eq!(limited.usage.left, "\"default/p\";r=0;t=1");
    assert!(admit(&limits, "web", Some(&get("/")), NOW + limited.retry_after).is_ok());
}

#[test]
fn what_was_used_up_stays_so_when_policies_change() {
    let before = Limits::renew(
        &[
            policy("a", "limits: [{requests: 3, per: 1h, key: [caller]}]"),
            policy("b", "limits: [{requests: 9, per: 1h}]"),
        ],
        None,
        RandomState::new(),
    );
    assert_eq!(passed(&before, "web", &get("/"), 9), 3);
    // Another limit before it, another number, another policy gone.
    let changed = policy("a", "limits: [{requests: 50, per: 1h}, {requests: 4, per: 1h, key: [caller]}]");
    let after = Limits::renew(&[changed], Some(&before), RandomState::new());
    assert_eq!(passed(&after, "web", &get("/"), 9), 0);
    assert_eq!(passed(&after, "other", &get("/"), 9), 4);
    // A policy of another name begins anew.
    let other = policy("c", "limits: [{requests: 4, per: 1h, key: [caller]}]");
    let other = Limits::renew(&[other], Some(&after), RandomState::new());
    assert_eq!(passed(&other, "web", &get("/"), 9), 4);
}

#[test]
fn threads_share_a_limit_to_the_last_call() {
    let limits = limits("limits: [{requests: 10000, per: 24h, key: [caller]}]");
    let passed: usize = std::thread::scope(|scope| {
        let count = || passed(&limits, "web", &get("/"), 5_000);
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(count)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(passed, 10_000);
}
