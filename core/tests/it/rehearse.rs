//! What a change would do to calls that were made.

use std::time::Duration;

use weft_core::rehearse::{Carried, Effect, EffectKind, rehearse};
use weft_core::world::{Change, World};

use crate::world::{documents, name, registration, world};

const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split}
spec:
  parentRefs: [{group: \"\", kind: Service, name: orders}]
  rules:
  - matches: [{path: {value: /v2}}]
    backendRefs: [{name: new, port: 80}]
  - backendRefs: [{name: orders, port: 80}]
";

const GET_ONLY: &str = "apiVersion: weft.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  targetRef: {kind: Service, name: orders}
  rules: [{to: [{methods: [GET]}]}]
";

const LIMIT: &str = "apiVersion: weft.mesh/v1alpha1
kind: RateLimit
metadata: {name: orders}
spec: {targetRef: {kind: Service, name: orders}, limits: [{requests: 5, per: 1s, key: [caller]}]}
";

fn built(text: &str) -> World {
    let mut known = world();
    for (workload, address, offers) in [
        ("default/web-1", "10.0.0.1", ["web:80:http"].as_slice()),
        ("default/orders-1", "10.0.0.2", &["orders:80:http"]),
        ("default/new-1", "10.0.0.3", &["new:80:http"]),
    ] {
        known.apply(Change::Registered(registration(workload, address, offers)));
    }
    if !text.is_empty() {
        known.apply(documents("apply", text));
    }
    known
}

fn effect(before: &str, after: &str, method: &str, path: &str) -> Result<Option<Effect>, String> {
    let carried = Carried {
        caller: name("default/web"),
        service: name("default/orders"),
        port: Some(if method == "GET" { 80 } else { 8443 }),
        method: method.into(),
        path: path.into(),
    };
    rehearse(&built(before), &built(after), &carried, Duration::from_secs(1))
}

fn check(before: &str, after: &str, method: &str, path: &str, expected: Option<(EffectKind, &str, &str)>) {
    let found = effect(before, after, method, path).unwrap();
    let found = found.as_ref().map(|found| (found.kind, found.was.as_str(), found.becomes.as_str()));
    assert_eq!(found, expected, "{method} {path}");
}

#[test]
fn what_would_be_denied_allowed_or_rerouted_is_told() {
    let forwarded = "goes to default/orders:80";
    check("", GET_ONLY, "GET", "/", None);
    check("", GET_ONLY, "POST", "/", Some((EffectKind::Denied, forwarded, "403 denied")));
    check(GET_ONLY, "", "POST", "/", Some((EffectKind::Allowed, "403 denied", forwarded)));
    check("", ROUTE, "GET", "/v1", None);
    check("", ROUTE, "GET", "/v2/x", Some((EffectKind::Rerouted, forwarded, "goes to default/new:80")));
    let nowhere = ROUTE.replace("name: new", "name: missing");
    check("", &nowhere, "GET", "/v2", Some((EffectKind::Refused, forwarded, "500 no-backend")));
}

#[test]
fn other_limits_are_told() {
    let limited = "5 requests per 1s of each caller";
    check("", LIMIT, "GET", "/", Some((EffectKind::Limited, "without this limit", limited)));
    check(LIMIT, "", "GET", "/", Some((EffectKind::Limited, limited, "without this limit")));
    let tighter = LIMIT.replace('5', "3");
    let becomes = "3 requests per 1s of each caller";
    check(LIMIT, &tighter, "GET", "/", Some((EffectKind::Limited, limited, becomes)));
    check(LIMIT, LIMIT, "GET", "/", None);
}

#[test]
fn the_rule_that_would_decide_is_named_with_its_place() {
    let no_posts = GET_ONLY
        .replace("rules: [{to: [{methods: [GET]}]}]", "action: Deny\n  rules: [{to: [{methods: [POST]}]}]");
    let found = effect("", &no_posts, "POST", "/").unwrap().unwrap();
    assert!(found.rule.contains("AuthorizationPolicy") && found.rule.contains("readers"), "{}", found.rule);
    // Where no rule lets it in there is none to be named.
    let found = effect("", GET_ONLY, "POST", "/").unwrap().unwrap();
    assert!(found.rule.starts_with("denied by every endpoint: "), "{}", found.rule);
}

#[test]
fn about_a_service_that_is_gone_nothing_is_said() {
    let carried = Carried {
        caller: name("default/web"),
        service: name("default/nothing"),
        port: None,
        method: "GET".into(),
        path: "/".into(),
    };
    assert!(rehearse(&built(""), &built(""), &carried, Duration::from_secs(1)).is_err());
}
