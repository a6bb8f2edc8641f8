//! What is explained is what is decided: table by table, against a world of documents and registrations.

use std::time::Duration;

use weft_core::explain::{
    Decision, ExplainError, Explanation, Question, RequestAsked, TokenAsked, account, explain,
};
use weft_core::model::{Name, SpiffeId};
use weft_core::world::{Change, World};

use crate::world::{documents, registration, world};

const DOCUMENTS: &str = "apiVersion: v1
kind: Service
metadata: {name: orders}
spec: {selector: {app: orders}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata: {name: two}
spec: {ports: [{name: a, port: 80}, {name: b, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: away, namespace: shop}
spec: {ports: [{port: 80}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: split}
spec:
  parentRefs: [{group: \"\", kind: Service, name: orders}]
  rules:
  - matches: [{path: {value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}, statusCode: 301}}]
  - name: main
    matches: [{path: {value: /orders}}]
    filters:
    - {type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /v1}}}
    - {type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-env, value: prod}]}}
    - {type: RequestMirror, requestMirror: {backendRef: {name: db, port: 5432}}}
    backendRefs: [{name: real, port: 8080, weight: 9}, {name: two, port: 80}]
  - matches: [{path: {value: /gone}}]
    backendRefs: [{name: missing, port: 80}]
  - matches: [{path: {value: /empty}}]
    backendRefs: [{name: two, port: 80}]
---
apiVersion: weft.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: real}
spec: {targetRef: {kind: Service, name: real}, timeouts: {connect: 250ms}, retries: {on: [503, grpc:unavailable]}, hedging: {after: p99}}
---
apiVersion: weft.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: split}
spec: {targetRef: {kind: HTTPRoute, name: split}, timeouts: {request: 2s}, retries: {attempts: 3}}
---
apiVersion: weft.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: everyone}
spec: {targetRef: {kind: Mesh}, timeouts: {request: 9s, idle: 1m}}
---
apiVersion: weft.mesh/v1alpha1
kind: FaultInjection
metadata: {name: others}
spec:
  targetRef: {kind: HTTPRoute, name: split}
  match: {from: [{serviceAccounts: [batch]}]}
  delay: {fixed: 1s}
---
apiVersion: weft.mesh/v1alpha1
kind: RateLimit
metadata: {name: calm}
spec: {targetRef: {kind: Service, name: real}, limits: [{requests: 100, per: 1s, burst: 20, key: [caller]}]}
---
apiVersion: weft.mesh/v1alpha1
kind: FaultInjection
metadata: {name: chaos}
spec:
  targetRef: {kind: Service, name: orders}
  match: {headers: [{name: x-chaos, value: \"1\"}]}
  abort: {status: 418}
---
apiVersion: weft.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: readers}
spec:
  targetRef: {kind: Service, name: real}
  rules:
  - from: [{serviceAccounts: [web]}]
    to: [{methods: [GET], paths: [\"/v1/*\"]}]
    when: [{header: x-env, values: [prod]}]
";

fn built() -> World {
    let mut world = world();
    world.apply(documents("files", DOCUMENTS));
    world.apply(Change::Registered(registration("default/real-1", "10.0.0.1", &["real:8080:http"])));
    world.apply(Change::Registered(registration("default/db-1", "10.0.0.2", &["db:5432:tcp"])));
    let mut web = registration("default/web-1", "10.0.0.3", &[]);
    web.service_account = "web".parse().unwrap();
    let domain = "mesh.local".parse().unwrap();
    web.identity = SpiffeId::of_service_account(&domain, &web.name.namespace, &web.service_account);
    world.apply(Change::Registered(web));
    world
}

/// A method, a path and header fields.
type Wanted<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

fn ask(from: &str, to: &str, request: Option<Wanted<'_>>) -> Result<Explanation, ExplainError> {
    let default: Name = "default".parse().unwrap();
    let (namespace, account) = account(from, &default)?;
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let request = request.map(|(method, path, headers)| RequestAsked {
        method: method.into(),
        path: path.into(),
        headers: headers.iter().map(pair).collect(),
    });
    let now = Duration::from_secs(1);
    let token = TokenAsked::Unknown;
    explain(&built(), &Question { namespace: &namespace, account: &account, to, request, now, token })
}

fn get(from: &str, path: &str, headers: &[(&str, &str)]) -> Explanation {
    ask(from, "orders", Some(("GET", path, headers))).unwrap()
}

fn check(told: &Explanation, decision: Decision, status: Option<u16>, error: &str) {
    assert_eq!((told.decision, told.status, told.error), (decision, status, error), "{told:#?}");
}

#[test]
fn a_call_is_followed_from_its_route_to_its_endpoints() {
    let told = get("web", "/orders/7?a=b", &[]);
    check(&told, Decision::Forward, None, "");
    assert_eq!((told.route.as_str(), told.rule.as_str()), ("default/split", "main"));
    assert_eq!(told.backend, "default/real:8080");
    assert_eq!(told.backends, [("default/real:8080".to_owned(), 0.9), ("default/two:80".to_owned(), 0.1)]);
    assert_eq!(told.mirrors, ["default/db:5432"]);
    assert_eq!(told.timeouts["connect"], "250ms");
    assert_eq!(
        (told.retries["on"].as_str(), told.retries["attempts"].as_str()),
        ("503, grpc:unavailable", "3")
    );
    assert_eq!(told.retries["budget"], "20% in 10s, 10 a second in any case");
    assert_eq!(told.retries["hedging"], "a second endpoint after p99");
    assert_eq!(told.endpoints[0].address, "10.0.0.1:8080");
    let policies: Vec<_> = told.policy.iter().map(|told| format!("{} {}", told.policy, told.does)).collect();
    assert_eq!(
        policies,
        [
            "TrafficPolicy default/split says timeouts, retries",
            "TrafficPolicy default/real says timeouts, retries, hedging",
            "TrafficPolicy default/everyone says timeouts",
            "AuthorizationPolicy default/readers allowed",
            "RateLimit default/calm lets in 100 in 1s, 20 at once, for each caller; more is answered with 429 rate-limited",
        ]
    );
    // What is decided on is what the route has made of it, and each decision names its line.
    assert!(told.steps.iter().any(|step| step.text.contains("/v1/7?a=b")), "{told:#?}");
    let rule = told.steps.iter().find(|step| step.text.contains("rule main")).unwrap();
    assert_eq!(rule.source, "HTTPRoute default/split (f.yaml:24)");
}

#[test]
fn which_policy_gave_what_is_told_field_by_field() {
    let told = get("web", "/orders/7", &[]);
    assert_eq!((told.timeouts["request"].as_str(), told.timeouts["idle"].as_str()), ("2s", "60s"));
    let of = |stage: &str| -> Vec<_> {
        let steps = told.steps.iter().filter(|step| step.stage == stage && !step.text.contains("two:80"));
        steps
            .map(|step| format!("{} / {}", step.text, step.source.split(' ').nth(1).unwrap_or_default()))
            .collect()
    };
    assert_eq!(
        of("traffic"),
        [
            "says timeouts.request, retries.attempts / default/split",
            "says timeouts.connect, retries.on, hedging.after / default/real",
            "says timeouts.idle; overruled: timeouts.request / default/everyone",
        ]
    );
    assert_eq!(
        of("faults"),
        ["is for other callers / default/others", "is for requests with other header fields / default/chaos"]
    );
    let batch = get("batch", "/orders/7", &[]);
    assert!(batch.steps.iter().any(|step| step.text == "holds up 100% of such requests by 1s"), "{batch:#?}");
}

#[test]
fn every_backend_of_a_split_is_judged() {
    let told = get("web", "/orders/7", &[]);
    let aside: Vec<_> = told
        .steps
        .iter()
        .filter(|step| step.text.contains("two:80"))
        .map(|step| step.text.as_str())
        .collect();
    assert_eq!(aside[0], "default/real:8080 90%, default/two:80 10%");
    assert_eq!(aside[1], "the 10% for default/two:80 are answered with 503 no-endpoints");
    assert!(aside.contains(&"default/two:80: default/two has no workloads"), "{aside:#?}");
    // What is told of most calls is not touched by it.
    assert_eq!(told.endpoints.len(), 1);
    check(&told, Decision::Forward, None, "");
}

#[test]
fn who_is_not_let_in_is_told_why() {
    let told = get("other", "/orders/7", &[]);
    check(&told, Decision::Deny, Some(403), "denied");
    assert!(told.endpoints[0].denied.contains("none allows this one"));
    assert!(told.steps.iter().any(|step| step.text.contains("no workload runs as it now")));
    let told = ask("web", "orders", Some(("POST", "/orders/7", &[]))).unwrap();
    check(&told, Decision::Deny, Some(403), "denied");
}

#[test]
fn what_the_mesh_answers_itself_is_told() {
    let told = get("web", "/old/7", &[]);
    check(&told, Decision::Answer, Some(301), "");
    assert!(told.steps.iter().any(|step| step.text.contains("http://orders/new/7, 301")), "{told:#?}");
    check(&get("web", "/orders/7", &[("x-chaos", "1")]), Decision::Answer, Some(418), "fault-injected");
    check(&get("web", "/nothing", &[]), Decision::Refuse, Some(404), "no-route");
    check(&get("web", "/gone", &[]), Decision::Refuse, Some(500), "no-backend");
    check(&get("web", "/empty", &[]), Decision::Refuse, Some(503), "no-endpoints");
    check(&get("web", "/..", &[]), Decision::Refuse, Some(400), "bad-request");
    check(&get("web", "orders", &[]), Decision::Refuse, Some(400), "bad-request");
}

#[test]
fn without_a_route_and_for_bytes_the_service_itself_is_asked() {
    let told = ask("web", "db", None).unwrap();
    check(&told, Decision::Forward, None, "");
    assert_eq!((told.route.as_str(), told.backend.as_str()), ("", "default/db:5432"));
}

#[test]
fn a_question_about_nothing_says_how_to_ask() {
    let check = |to: &str, expected: &str| {
        let error = ask("web", to, None).unwrap_err().to_string();
        assert!(error.contains(expected), "{to}: {error}");
    };
    check("ordres", "did you mean orders?");
    check("away", "did you mean away.shop?");
    check("nothing-like-it", "weft get services -A");
    check("orders:81", "has no port 81; it has port 80");
    check("two", "ports 80, 81: write which, as in two:80");
    check("orders:http", "names no service");
    check("a/b", "names no service");
    assert!(matches!(ask("a/b", "orders", None), Err(ExplainError::NoAccount(_))));
}
