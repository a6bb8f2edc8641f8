//! How each section is read, and what cannot be meant.

use std::time::Duration;

use weft_core::model::{
    Balancing, BalancingPolicy, Bulkhead, CircuitBreaker, HashCookie, HashKey, Ratio, Timeouts,
};

use super::{policy, refused, traffic, with_services};
use crate::documents::read_text;

#[test]
fn a_policy_is_read_as_the_contract_spells_it() {
    let text = policy(
        "orders",
        "{kind: Service, name: orders}",
        "loadBalancing:
    policy: LeastRequest
    locality: {prefer: Zone, failoverBelow: 70%}
    slowStart: 30s
    panicThreshold: 50%
  timeouts: {connect: 1s, request: 15s, idle: 1h}
  circuitBreaker: {consecutiveFailures: 5, failureRatio: 50%, minRequests: 10, window: 10s, openFor: 30s, halfOpenRequests: 1, maxEjected: 50%}
  bulkhead: {maxConnections: 1024, maxConcurrentRequests: 1024, maxPendingRequests: 1024}",
    );
    let traffic = traffic(&with_services(&text), "default/orders");
    let Balancing { policy, locality, priorities, slow_start, panic_threshold } = traffic.balancing;
    assert_eq!((policy, priorities.len()), (BalancingPolicy::LeastRequest, 0));
    assert_eq!(locality.unwrap().failover_below, Ratio::percent(70));
    assert_eq!((slow_start, panic_threshold), (Some(Duration::from_secs(30)), Some(Ratio::percent(50))));
    let Timeouts { connect, request, idle } = traffic.timeouts;
    assert_eq!((connect, request), (Some(Duration::from_secs(1)), Some(Duration::from_secs(15))));
    assert_eq!(idle, Some(Duration::from_secs(3600)));
    // What the contract spells out are the defaults as well.
    assert_eq!(traffic.circuit_breaker, Some(CircuitBreaker::default()));
    assert_eq!(traffic.bulkhead, Some(Bulkhead::default()));
}

#[test]
fn what_is_hashed_is_a_header_a_cookie_or_the_source() {
    let check = |hash: &str, expected: HashKey| {
        let spec = format!("loadBalancing: {{policy: ConsistentHash, consistentHash: {hash}}}");
        let world = with_services(&policy("a", "{kind: Mesh}", &spec));
        let said = traffic(&world, "default/orders").balancing.policy;
        assert_eq!(said, BalancingPolicy::ConsistentHash(expected));
    };
    check("{header: X-User}", HashKey::Header("x-user".into()));
    let cookie = |path: &str, ttl: Option<u64>| {
        let (name, path) = ("user".to_owned(), path.to_owned());
        HashKey::Cookie(HashCookie { name, path, ttl: ttl.map(Duration::from_secs) })
    };
    check("{cookie: user}", cookie("/", None));
    check("{cookie: {name: user, path: /shop, ttl: 1h}}", cookie("/shop", Some(3600)));
    refused(
        "loadBalancing: {policy: ConsistentHash, consistentHash: {cookie: {name: x, path: '/;a'}}}",
        &["6:84: spec.loadBalancing.consistentHash.cookie.path: \"/;a\" is no path of a cookie"],
    );
    check("{sourceIp: true}", HashKey::SourceIp);
    refused(
        "loadBalancing: {policy: ConsistentHash}",
        &["6:27: spec.loadBalancing.policy: does not say what to hash"],
    );
    refused(
        "loadBalancing: {consistentHash: {header: x}}",
        &["6:18: \"spec.loadBalancing.policy\" is missing; write policy: ConsistentHash beside it"],
    );
    refused(
        "loadBalancing: {policy: ConsistentHash, consistentHash: {header: x, sourceIp: true}}",
        &["6:59: spec.loadBalancing.consistentHash: exactly one of header, cookie and sourceIp is expected"],
    );
    refused(
        "loadBalancing: {policy: ConsistentHash, consistentHash: {header: 'x y'}}",
        &["6:68: spec.loadBalancing.consistentHash.header: \"x y\" is no name"],
    );
    let unused = policy("a", "{kind: Mesh}", "loadBalancing: {policy: Random, consistentHash: {header: x}}");
    let reading = read_text(&unused);
    assert_eq!(
        reading.notes[0].to_string(),
        "f.yaml:6: spec.loadBalancing.consistentHash: says nothing, for the policy is Random"
    );
}

#[test]
fn what_is_wrong_is_refused_with_its_line() {
    refused(
        "timeouts: {conect: 1s}",
        &["6:14: unknown field \"spec.timeouts.conect\"; did you mean \"connect\"?"],
    );
    refused("timeouts: {connect: 0s}", &["6:23: spec.timeouts.connect: must be longer than nothing"]);
    refused("timeouts: {connect: 5}", &["6:23: spec.timeouts.connect: \"5\" is no duration"]);
    refused("timeouts: {idle: 3h}", &["6:20: spec.timeouts.idle: is longer than 2h"]);
    refused("timeouts: {idle: 0s}", &["6:20: spec.timeouts.idle: must be longer than nothing"]);
    refused("timeouts: {connect: 2h}", &["6:23: spec.timeouts.connect: is longer than 1m"]);
    refused(
        "loadBalancing: {policy: RoundRobbin}",
        &["6:27: spec.loadBalancing.policy: \"RoundRobbin\" is not one of PeakEwma, LeastRequest"],
    );
    refused(
        "loadBalancing: {locality: {failoverBelow: 70%}}",
        &["6:29: \"spec.loadBalancing.locality.prefer\" is missing; write prefer: Zone"],
    );
    refused(
        "loadBalancing: {panicThreshold: 150%}",
        &["6:35: spec.loadBalancing.panicThreshold: \"150%\" is no ratio"],
    );
    refused("concurrency: {}", &["6:16: \"spec.concurrency.mode\" is missing; write mode: Adaptive"]);
    refused("bulkhead: {maxConnections: 0}", &["6:30: spec.bulkhead.maxConnections: 0 is not a whole"]);
}

#[test]
fn a_target_is_something_that_is_enforced() {
    let check = |target: &str, expected: &str| {
        let problems = read_text(&policy("a", target, "timeouts: {connect: 1s}")).problems;
        let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert!(
            problems.len() == 1
                && (problems[0].starts_with(&format!("f.yaml:5:{expected}"))
                    || problems[0].starts_with(&format!("f.yaml:{expected}"))),
            "{problems:?}"
        );
    };
    check("{kind: HTTPRoute, name: a}", "6:23: spec.timeouts.connect: is what all routes to a service share");
    check("{kind: Pod, name: a}", "21: spec.targetRef.kind: \"Pod\" is not one of Service, Namespace, Mesh");
    check("{kind: Workload, name: a}", "6:13: spec.timeouts: is about calls of a service, not about one");
    check("{kind: Service}", "14: \"spec.targetRef.name\" is missing");
    check("{kind: Namespace, name: shop}", "38: spec.targetRef.name: shop is not the policy's own namespace");
    check("{name: a}", "14: \"spec.targetRef.kind\" is missing");
    let text = "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: a}\nspec: {}";
    assert!(read_text(text).problems[0].to_string().contains("\"spec.targetRef\" is missing"));
}

#[test]
fn what_is_said_of_mtls_is_a_mode_and_of_the_whole_mesh_the_mesh_config_says_it() {
    refused("mtls: {}", &["6:9: \"spec.mtls.mode\" is missing; write mode: Strict or mode: Permissive"]);
    refused(
        "mtls: {mode: strict}",
        &["6:16: spec.mtls.mode: \"strict\" is not one of Strict, Permissive; did you mean \"Strict\"?"],
    );
    let problems = read_text(&policy("a", "{kind: Mesh}", "mtls: {mode: Strict}")).problems;
    let expected = "f.yaml:6:9: spec.mtls: what holds for the whole mesh is the MeshConfig's; write it as spec.mtls there";
    assert_eq!(problems.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
}
