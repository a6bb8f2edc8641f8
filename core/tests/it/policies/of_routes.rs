//! Policies and faults for one route.

use std::time::Duration;

use weft_core::compile::compile_one;
use weft_core::model::{HedgeAfter, Hedging, PolicyTarget, Ratio, Resource, ResourceName};
use weft_core::plan::Plan;
use weft_core::route::{Request, Routes, Table};
use weft_core::world::World;

use super::{policy, refused, traffic, with_services};
use crate::documents::read_text;
use crate::world::{documents, name};

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

#[test]
fn of_how_many_requests_there_are_traces_a_route_says_before_its_service_and_that_before_its_namespace() {
    let text = [
        policy("a", "{kind: Namespace}", "tracing: {sampling: 1%}"),
        policy("b", "{kind: Service, name: orders}", "tracing: {sampling: 0.5}"),
        policy("c", "{kind: HTTPRoute, name: pay}", "tracing: {sampling: 100%}"),
    ];
    let world = with_services(&text.concat());
    let sampling = |service: &str| traffic(&world, service).sampling;
    assert_eq!(sampling("default/orders"), Some(Ratio::percent(50)));
    assert_eq!((sampling("default/web"), sampling("shop/web")), (Some(Ratio::percent(1)), None));
    let of_route = world.route_traffic(&PolicyTarget::HttpRoute(name("default/pay"))).unwrap();
    assert_eq!(of_route.sampling, Some(Ratio::WHOLE));
    assert_eq!(of_route.over(&traffic(&world, "default/orders")).sampling, Some(Ratio::WHOLE));

    refused("tracing: {}", &["6:12: \"spec.tracing.sampling\" is missing; write sampling: 1%"]);
    refused("tracing: {sampling: 101%}", &["6:23: "]);
    let problems = read_text(&policy("a", "{kind: Mesh}", "tracing: {sampling: 1%}")).problems;
    assert!(problems.len() == 1 && problems[0].to_string().contains("spec.tracing there"), "{problems:?}");
    let problems = read_text(&policy("a", "{kind: Workload, name: web}", "tracing: {sampling: 1%}")).problems;
    assert!(problems.len() == 1, "{problems:?}");
}
