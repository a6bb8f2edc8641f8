//! TrafficPolicy: how it is read, which of several holds, and what a change of one touches.

use std::time::Duration;

use weft_core::compile::compile_one;
use weft_core::model::{
    Abort, Balancing, BalancingPolicy, Bulkhead, CircuitBreaker, ConcurrencyMode, Fault, HashCookie, HashKey,
    HedgeAfter, Hedging, MtlsMode, Ratio, Resource, ResourceName, Retries, RetryBudget, RetryMethods,
    RetryOn, StatusCode, Timeouts, Traffic, Workload,
};
use weft_core::plan::Plan;
use weft_core::route::{Request, Routes, Table};
use weft_core::world::{Change, World};

use crate::documents::{good, read_text};
use crate::world::{documents, name, registration, world};

/// A policy as a document: `policy("a", "{kind: Mesh}", "timeouts: {connect: 1s}")`.
fn policy(name: &str, target: &str, spec: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {name}}}\nspec:\n  targetRef: {target}\n  {spec}\n---\n"
    )
}

fn refused(spec: &str, expected: &[&str]) {
    let text = policy("a", "{kind: Service, name: orders}", spec);
    let problems: Vec<_> = read_text(&text).problems.iter().map(ToString::to_string).collect();
    let starts = |(problem, expected): (&String, &&str)| problem.starts_with(&format!("f.yaml:{expected}"));
    let all = problems.len() == expected.len() && problems.iter().zip(expected).all(starts);
    assert!(all, "{text}found {problems:#?}\nexpected {expected:#?}");
}

fn traffic(world: &World, service: &str) -> Traffic {
    match compile_one(world, &ResourceName::Service(name(service))) {
        Some(Resource::Service(service)) => *service.traffic,
        other => panic!("{other:?}"),
    }
}

fn with_services(policies: &str) -> World {
    let mut world = world();
    for (workload, address) in
        [("default/orders", "10.0.0.1"), ("default/web", "10.0.0.2"), ("shop/web", "10.0.0.3")]
    {
        let service = format!("{}:80", name(workload).name);
        world.apply(Change::Registered(registration(workload, address, &[&service])));
    }
    world.apply(documents("files", policies));
    world
}

#[test]
fn what_nobody_says_is_as_by_default() {
    assert_eq!(traffic(&with_services(""), "default/orders"), Traffic::default());
}

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
    let Balancing { policy, locality, slow_start, panic_threshold } = traffic.balancing;
    assert_eq!(policy, BalancingPolicy::LeastRequest);
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
fn a_section_that_is_there_is_on_and_its_parts_come_from_where_they_are_said() {
    let text = [
        policy("a", "{kind: Mesh}", "circuitBreaker: {openFor: 7s}"),
        policy("b", "{kind: Service, name: orders}", "circuitBreaker: {consecutiveFailures: 3}"),
        policy("c", "{kind: Service, name: web}", "bulkhead: {}"),
    ];
    let world = with_services(&text.concat());
    let orders = traffic(&world, "default/orders");
    let expected = CircuitBreaker {
        consecutive_failures: Some(3),
        open_for: Duration::from_secs(7),
        ..CircuitBreaker::default()
    };
    assert_eq!((orders.circuit_breaker, orders.bulkhead), (Some(expected), None));
    assert_eq!(traffic(&world, "default/web").bulkhead, Some(Bulkhead::default()));
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
fn the_most_specific_policy_wins_field_by_field() {
    let world = with_services(
        &[
            policy(
                "mesh",
                "{kind: Mesh}",
                "loadBalancing: {policy: Random, slowStart: 9s}\n  timeouts: {connect: 3s}",
            ),
            policy(
                "here",
                "{kind: Namespace, name: default}",
                "loadBalancing: {policy: RoundRobin, panicThreshold: 1%}",
            ),
            policy("orders", "{kind: Service, name: orders}", "loadBalancing: {policy: LeastRequest}"),
        ]
        .concat(),
    );
    let said = |service: &str| {
        let Traffic { balancing, timeouts, .. } = traffic(&world, service);
        (
            balancing.policy,
            balancing.panic_threshold.is_some(),
            balancing.slow_start.is_some(),
            timeouts.connect,
        )
    };
    let connect = Some(Duration::from_secs(3));
    assert_eq!(said("default/orders"), (BalancingPolicy::LeastRequest, true, true, connect));
    assert_eq!(said("default/web"), (BalancingPolicy::RoundRobin, true, true, connect));
    assert_eq!(said("shop/web"), (BalancingPolicy::Random, false, true, connect));
}

#[test]
fn a_change_of_a_policy_touches_the_services_it_is_for_and_no_endpoints() {
    let check = |target: &str, expected: &[&str]| {
        let mut world = with_services("");
        let text = policy("a", target, "timeouts: {connect: 1s}");
        let services: Vec<_> = expected.iter().map(|service| ResourceName::Service(name(service))).collect();
        for change in [documents("files", &text), documents("files", "")] {
            let affected: Vec<_> = world.apply(change).affected.into_iter().collect();
            assert_eq!(affected, services, "{target}");
        }
        assert_eq!(traffic(&world, "default/orders"), Traffic::default());
    };
    check("{kind: Service, name: orders}", &["default/orders"]);
    check("{kind: Namespace}", &["default/orders", "default/web"]);
    check("{kind: Mesh, name: default}", &["default/orders", "default/web", "shop/web"]);
    check("{kind: Service, name: absent}", &["default/absent"]);
}

#[test]
fn a_policy_that_changes_its_target_lets_go_of_the_first() {
    let on = |service: &str| {
        policy("a", &format!("{{kind: Service, name: {service}}}"), "timeouts: {connect: 1s}")
    };
    let mut world = with_services(&on("orders"));
    let effects = world.apply(documents("files", &on("web")));
    let touched = ["default/orders", "default/web"].map(|service| ResourceName::Service(name(service)));
    assert_eq!(effects.affected, touched.into());
    assert_eq!(traffic(&world, "default/orders"), Traffic::default());
    assert_ne!(traffic(&world, "default/web"), Traffic::default());
}

#[test]
fn two_policies_for_the_same_must_not_speak_of_the_same() {
    let target = "{kind: Service, name: orders}";
    let problems = |first: &str, second: &str| -> Vec<String> {
        let text = [policy("a", target, first), policy("b", target, second)].concat();
        world().check("files", &good(&text)).iter().map(ToString::to_string).collect()
    };
    let found = problems("timeouts: {connect: 1s}", "timeouts: {connect: 2s}");
    assert!(
        found[1].starts_with("f.yaml:13:13: spec.timeouts: TrafficPolicy default/a at f.yaml:1 says it for Service default/orders as well"),
        "{found:?}"
    );
    assert_eq!(problems("timeouts: {connect: 1s}", "loadBalancing: {policy: Random}"), Vec::<String>::new());
    let elsewhere = [
        policy("a", target, "timeouts: {connect: 1s}"),
        policy("b", "{kind: Mesh}", "timeouts: {connect: 2s}"),
    ];
    assert_eq!(world().check("files", &good(&elsewhere.concat())), []);
}

#[test]
fn what_is_said_of_apps_cannot_be_said_of_a_host_outside_the_mesh() {
    let outside = "apiVersion: weft.mesh/v1alpha1\nkind: ExternalService\nmetadata: {name: api}\nspec: {hosts: [api.example.com], ports: [{port: 80}]}\n---\n";
    let problems = |spec: &str| -> Vec<String> {
        let text = [outside, &policy("a", "{kind: Service, name: api}", spec)].concat();
        world().check("files", &good(&text)).iter().map(ToString::to_string).collect()
    };
    assert_eq!(problems("circuitBreaker: {}"), Vec::<String>::new());
    for (spec, place) in [("healthCheck: {tcp: {}}", "11:16"), ("concurrency: {mode: Adaptive}", "11:16")] {
        let found = problems(spec);
        let says = "ExternalService default/api at f.yaml:1 is outside the mesh";
        assert!(found.len() == 1 && found[0].contains(says) && found[0].contains(place), "{found:?}");
    }
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

/// A route by this name on the Service orders.
fn route(kind: &str, name: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n  parentRefs: [{{group: \"\", kind: Service, name: orders}}]\n  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]\n---\n"
    )
}

/// What holds for requests to default/web that fall under the only rule of the routes of default/orders.
fn plan(world: &World) -> Option<Plan> {
    let Some(Resource::Service(orders)) = compile_one(world, &ResourceName::Service(name("default/orders")))
    else {
        panic!("no service")
    };
    let routes = Routes::compile(&orders.name, &orders.routes, &"default".parse().unwrap());
    let Table::Requests(requests) = routes.on(80) else { panic!("no rules") };
    let any_value = |_: &str, _: &dyn Fn(&[u8]) -> bool| false;
    let request = Request {
        method: "POST",
        path: b"/a/b",
        query: None,
        any_value: &any_value,
        any_claim: &|_, _| false,
    };
    requests.find(&request).unwrap().rule.plan(&traffic(world, "default/web"))
}

#[test]
fn what_is_said_of_a_route_goes_before_what_is_said_of_the_service_it_leads_to_field_by_field() {
    for kind in ["HTTPRoute", "GRPCRoute"] {
        let of_route = "timeouts: {request: 3s}\n  retries: {attempts: 5, on: [503], methods: any}\n  hedging: {after: 50ms}";
        let documents_of = |of_route: &str| {
            [
                route(kind, "r"),
                policy("a", &format!("{{kind: {kind}, name: r}}"), of_route),
                policy(
                    "b",
                    "{kind: Service, name: web}",
                    "timeouts: {request: 9s, idle: 1m}\n  retries: {perTryTimeout: 1s, maxBodyBytes: 7}",
                ),
                policy("c", "{kind: Mesh}", "hedging: {after: p99, max: 1}"),
            ]
            .concat()
        };
        let mut world = with_services(&documents_of(of_route));
        let found = plan(&world).unwrap();
        assert_eq!(found.limits.whole, Some(Duration::from_secs(3)), "the route's");
        assert_eq!(found.limits.idle, Some(Duration::from_secs(60)), "the service's");
        assert_eq!(found.limits.each.unwrap().limit, Duration::from_secs(1), "the service's");
        let retry = found.retry.unwrap();
        assert_eq!(
            retry.describe()[..3],
            [("attempts", "5".to_owned()), ("on", "503".to_owned()), ("methods", "any".to_owned()),]
        );
        assert_eq!(retry.max_body, 7, "the service's");
        let after = HedgeAfter::Time(Duration::from_millis(50));
        assert_eq!(found.hedging, Some(Hedging { after, max: 1 }), "the route's over the mesh's");

        // A change of it touches what is said of the services that the route is for, and nothing else.
        let effects = world.apply(documents("files", &documents_of("timeouts: {request: 4s}")));
        assert_eq!(effects.affected, [ResourceName::Service(name("default/orders"))].into());
        let changed = plan(&world).unwrap();
        assert_eq!(changed.limits.whole, Some(Duration::from_secs(4)));
        assert_eq!(
            changed.hedging.unwrap().after,
            HedgeAfter::Quantile(Ratio::percent(99)),
            "the mesh's again"
        );
    }
}

#[test]
fn a_route_s_own_words_go_before_a_policy_for_it() {
    let rule = "rules: [{timeouts: {request: 1s}, retry: {attempts: 2}, backendRefs";
    let text = [
        route("HTTPRoute", "r").replace("rules: [{backendRefs", rule),
        policy(
            "a",
            "{kind: HTTPRoute, name: r}",
            "timeouts: {request: 3s, idle: 2s}\n  retries: {attempts: 5, on: [503]}",
        ),
    ];
    let found = plan(&with_services(&text.concat())).unwrap();
    assert_eq!(found.limits.whole, Some(Duration::from_secs(1)));
    assert_eq!(found.limits.idle, Some(Duration::from_secs(2)));
    assert_eq!(
        found.retry.unwrap().describe()[..2],
        [("attempts", "2".to_owned()), ("on", "503".to_owned())]
    );
}

#[test]
fn what_routes_share_cannot_be_said_of_one() {
    let spec = "loadBalancing: {policy: Random}
  timeouts: {connect: 1s, request: 2s}
  retries: {budget: {ratio: 10%}}
  circuitBreaker: {}
  bulkhead: {}
  concurrency: {mode: Off}
  healthCheck: {tcp: {}}";
    let problems = read_text(&policy("a", "{kind: GRPCRoute, name: r}", spec)).problems;
    let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
    for (place, field) in [
        ("6:18", "spec.loadBalancing: is about a service's pods"),
        ("7:23", "spec.timeouts.connect: is what all routes to a service share"),
        ("8:21", "spec.retries.budget: is what all routes to a service share"),
        ("9:19", "spec.circuitBreaker: is about a service's pods"),
        ("10:13", "spec.bulkhead: is about a service's pods"),
        ("11:16", "spec.concurrency: is about a service's pods"),
        ("12:16", "spec.healthCheck: is about a service's pods"),
    ] {
        let expected = format!("f.yaml:{place}: {field}");
        assert!(problems.iter().any(|problem| problem.starts_with(&expected)), "{expected}: {problems:#?}");
    }
    assert_eq!(problems.len(), 7, "{problems:#?}");
}

#[test]
fn a_fault_may_be_for_one_route() {
    let fault = "apiVersion: weft.mesh/v1alpha1\nkind: FaultInjection\nmetadata: {name: f}\nspec: {targetRef: {kind: GRPCRoute, name: r}, abort: {grpcStatus: 14}}\n---\n";
    let world = with_services(&[route("GRPCRoute", "r"), fault.to_owned()].concat());
    let Some(Resource::Service(orders)) = compile_one(&world, &ResourceName::Service(name("default/orders")))
    else {
        panic!("no service")
    };
    assert_eq!(orders.traffic.faults, []);
    assert_eq!(orders.routes[0].traffic.as_ref().unwrap().faults.len(), 1);
}

fn workload(world: &World, of: &str) -> Workload {
    match compile_one(world, &ResourceName::Workload(name(of))) {
        Some(Resource::Workload(workload)) => workload,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_said_of_apps_reaches_their_own_sidecars_the_workload_s_own_policy_first() {
    let text = [
        policy("a", "{kind: Service, name: orders}", "concurrency: {mode: Adaptive}"),
        policy("b", "{kind: Namespace, name: default}", "concurrency: {mode: Off}"),
        policy("c", "{kind: Mesh}", "concurrency: {mode: Adaptive}"),
    ];
    let modes = |text: &str| {
        let world = with_services(text);
        ["default/orders", "default/web", "shop/web"].map(|of| workload(&world, of).concurrency(80))
    };
    let (on, off) = (ConcurrencyMode::Adaptive, ConcurrencyMode::Off);
    assert_eq!(modes(""), [off; 3]);
    assert_eq!(modes(&text.concat()), [on, off, on]);
    let own = policy("d", "{kind: Workload, name: orders}", "concurrency: {mode: Off}");
    assert_eq!(modes(&[text.concat(), own].concat()), [off, off, on]);
    // Where a port serves nothing that is known, what is said of the workload itself holds.
    let world =
        with_services(&policy("d", "{kind: Workload, name: orders}", "concurrency: {mode: Adaptive}"));
    assert_eq!(workload(&world, "default/orders").concurrency(81), on);
    assert_eq!(workload(&world, "default/web").concurrency(81), off);
}

#[test]
fn a_policy_about_apps_touches_the_workloads_it_is_for() {
    let mut world = with_services("");
    for (target, services, workloads) in [
        ("{kind: Service, name: orders}", &["default/orders"][..], &["default/orders"][..]),
        ("{kind: Workload, name: web}", &[], &["default/web"]),
        ("{kind: Namespace}", &["default/orders", "default/web"], &["default/orders", "default/web"]),
    ] {
        let services = services.iter().map(|service| ResourceName::Service(name(service)));
        let workloads = workloads.iter().map(|workload| ResourceName::Workload(name(workload)));
        let expected = services.chain(workloads).collect();
        for text in [policy("a", target, "concurrency: {mode: Adaptive}"), String::new()] {
            assert_eq!(world.apply(documents("files", &text)).affected, expected, "{target}");
        }
    }
}

#[test]
fn whether_an_app_takes_plaintext_the_most_specific_says_and_the_mesh_where_none_does() {
    use MtlsMode::{Permissive, Strict};
    let text = [
        policy("a", "{kind: Service, name: orders}", "mtls: {mode: Permissive}"),
        policy("b", "{kind: Namespace}", "mtls: {mode: Strict}"),
    ];
    let own = policy("c", "{kind: Workload, name: web}", "mtls: {mode: Permissive}");
    let modes = |text: &str, mesh: MtlsMode| {
        let world = with_services(text);
        ["default/orders", "default/web", "shop/web"].map(|of| workload(&world, of).mtls(80, mesh))
    };
    assert_eq!(modes("", Permissive), [Permissive; 3]);
    assert_eq!(modes(&text[1], Permissive), [Strict, Strict, Permissive]);
    assert_eq!(modes(&text.concat(), Strict), [Permissive, Strict, Strict]);
    assert_eq!(modes(&[text.concat(), own].concat(), Strict), [Permissive, Permissive, Strict]);
    // What is said of a service is not said of its workloads' other ports.
    let world = with_services(&text.concat());
    assert_eq!(workload(&world, "default/orders").mtls(81, Permissive), Strict);
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

fn faults(spec: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: FaultInjection\nmetadata: {{name: a}}\nspec:\n  {spec}\n---\n"
    )
}

#[test]
fn a_fault_is_read_as_the_contract_spells_it() {
    let text = faults(
        "targetRef: {kind: Service, name: orders}
  match: {headers: [{name: X-Chaos, value: \"1\"}]}
  delay: {fixed: 2s, percent: 10}
  abort: {status: 503, percent: 5}
  expires: \"1970-01-02T00:00:00Z\"",
    );
    let world = with_services(&text);
    let expected = Fault {
        from: Vec::new(),
        headers: vec![("x-chaos".into(), "1".into())],
        delay: Some((Duration::from_secs(2), Ratio::percent(10))),
        abort: Some((Abort { status: 503, grpc_status: 14 }, Ratio::percent(5))),
        expires: Some(Duration::from_secs(86_400)),
    };
    assert_eq!(traffic(&world, "default/orders").faults, [expected]);
    assert_eq!(traffic(&world, "default/web").faults, []);
}

#[test]
fn what_is_wrong_with_a_fault_is_refused_with_its_line() {
    let check = |spec: &str, expected: &str| {
        let text = faults(&format!("targetRef: {{kind: Mesh}}\n  {spec}"));
        let problems: Vec<_> = read_text(&text).problems.iter().map(ToString::to_string).collect();
        assert!(
            problems.len() == 1 && problems[0].starts_with(&format!("f.yaml:{expected}")),
            "{problems:?}"
        );
    };
    check("match: {}", "5:3: spec: does nothing; write delay");
    check("abort: {percent: 5}", "6:10: spec.abort: does not say with what; write status: 503");
    check("abort: {status: 100}", "6:19: spec.abort.status: 100 is not a whole number from 200 to 599");
    check("abort: {status: 500, percent: 101}", "6:33: spec.abort.percent: is no percentage");
    check("delay: {fixed: 6m}", "6:18: spec.delay.fixed: is longer than five minutes");
    check("delay: {percent: 6}", "6:10: \"spec.delay.fixed\" is missing");
    check("delay: {fixed: 1s}\n  expires: soon", "7:12: spec.expires: \"soon\" is no time");
}

#[test]
fn retries_are_read_as_the_contract_spells_them() {
    let text = policy(
        "orders",
        "{kind: Service, name: orders}",
        "retries:
    attempts: 2
    on: [5xx, connect-failure, reset, refused-stream, 429, grpc:unavailable, gateway-error, grpc:4, grpc:DATA_LOSS]
    perTryTimeout: 1s
    backoff: {base: 25ms, max: 250ms}
    budget: {ratio: 20%, minPerSecond: 10, window: 10s}
    maxBodyBytes: 65536
    methods: idempotent",
    );
    let said = traffic(&with_services(&text), "default/orders").retries.unwrap();
    let on = vec![
        RetryOn::ServerErrors,
        RetryOn::ConnectFailure,
        RetryOn::Reset,
        RetryOn::RefusedStream,
        RetryOn::Status(StatusCode::try_from(429).unwrap()),
        RetryOn::Grpc(14),
        RetryOn::GatewayErrors,
        RetryOn::Grpc(4),
        RetryOn::Grpc(15),
    ];
    let expected = Retries { on, per_try: Some(Duration::from_secs(1)), ..Retries::default() };
    assert_eq!(*said, expected, "the rest are the defaults as well");
    let methods = |spelt: &str| {
        let text = policy("a", "{kind: Mesh}", &format!("retries: {{methods: {spelt}}}"));
        traffic(&with_services(&text), "default/orders").retries.unwrap().methods
    };
    assert_eq!(methods("any"), RetryMethods::Any);
    assert_eq!(methods("[GET, POST]"), RetryMethods::These(vec!["GET".into(), "POST".into()]));
    let layers = [
        policy("a", "{kind: Mesh}", "retries: {attempts: 7, budget: {ratio: 5%}}"),
        policy("b", "{kind: Service, name: orders}", "retries: {budget: {window: 1m}}"),
    ];
    let said = traffic(&with_services(&layers.concat()), "default/orders").retries.unwrap();
    let RetryBudget { ratio, window, .. } = said.budget;
    assert_eq!((said.attempts, ratio, window), (7, Ratio::percent(5), Duration::from_secs(60)));
}

#[test]
fn retries_that_cannot_be_meant_are_refused() {
    let field = |field: &str, expected: &str| refused(&format!("retries: {{{field}}}"), &[expected]);
    field("attempts: 11", "6:23: spec.retries.attempts: 11 is not a whole number from 0 to 10");
    field("on: [200]", "6:18: spec.retries.on[0]: \"200\" is no reason to try again");
    field("on: [\"grpc:ok\"]", "6:18: spec.retries.on[0]: \"grpc:ok\" is no reason");
    field("on: [5xx, 5xx]", "6:23: spec.retries.on[1]: 5xx is there twice");
    field("on: []", "6:17: spec.retries.on: names nothing");
    field("backoff: {base: 1s, max: 1ms}", "6:38: spec.retries.backoff.max: is less than base");
    field("budget: {window: 1h}", "6:30: spec.retries.budget.window: is not from 1s to 1m");
    field("maxBodyBytes: 2000000", "6:27: spec.retries.maxBodyBytes: 2000000 is not a whole number");
    field("methods: [get]", "6:23: spec.retries.methods[0]: \"get\" is no method");
    field("methods: some", "6:22: spec.retries.methods: \"some\" is not one of idempotent, any");
    refused(
        "retries: {perTryTimeout: 2s}\n  timeouts: {request: 1s}",
        &["6:28: spec.retries.perTryTimeout: one try may not take longer than the whole request"],
    );
}

#[test]
fn hedging_is_after_a_time_or_a_share_of_the_answers() {
    let said = |spelt: &str| {
        let text = policy("a", "{kind: Mesh}", &format!("hedging: {spelt}"));
        traffic(&with_services(&text), "default/orders").hedging.unwrap()
    };
    let quantile = |percent| HedgeAfter::Quantile(Ratio::percent(percent));
    assert_eq!(said("{after: p95, max: 1}"), Hedging { after: quantile(95), max: 1 });
    assert_eq!(said("{}"), Hedging { after: quantile(95), max: 1 });
    assert_eq!(said("{after: p50}").after, quantile(50));
    assert_eq!(said("{after: 50ms}").after, HedgeAfter::Time(Duration::from_millis(50)));
    for bad in ["p49", "p100", "p", "95", "0s", "soon"] {
        refused(&format!("hedging: {{after: \"{bad}\"}}"), &["6:20: spec.hedging.after: "]);
    }
    assert_eq!(said("{max: 3}").max, 3);
    refused("hedging: {max: 4}", &["6:18: spec.hedging.max: 4 is not a whole number from 1 to 3"]);
}
