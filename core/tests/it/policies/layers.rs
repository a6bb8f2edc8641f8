//! Which of several policies holds, and what a change of one touches.

use std::time::Duration;

use weft_core::model::{
    BalancingPolicy, Bulkhead, CircuitBreaker, HealthCheck, Probe, ResourceName, Traffic,
};

use super::{policy, traffic, with_services};
use crate::documents::good;
use crate::world::{documents, name, world};

#[test]
fn what_nobody_says_is_as_by_default() {
    assert_eq!(traffic(&with_services(""), "default/orders"), Traffic::default());
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

fn outside(spec: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: ExternalService\nmetadata: {{name: api}}\nspec: {spec}\n---\n"
    )
}

#[test]
fn what_no_sidecar_could_do_cannot_be_said_of_a_host_outside_the_mesh() {
    let problems = |host: &str, spec: &str| -> Vec<String> {
        let text = [outside(host), policy("a", "{kind: Service, name: api}", spec)].concat();
        world().check("files", &good(&text)).iter().map(ToString::to_string).collect()
    };
    let plain = "{hosts: [api.example.com], ports: [{port: 80}]}";
    let sealed = "{hosts: [api.example.com], ports: [{port: 80}, {port: 443, protocol: tls}]}";
    let below = "{hosts: [\"*.example.com\"], ports: [{port: 443, protocol: tls}]}";
    for (host, spec) in [
        (plain, "circuitBreaker: {}"),
        (plain, "healthCheck: {path: /healthz}"),
        (sealed, "healthCheck: {tcp: {}, port: 443}"),
    ] {
        assert_eq!(problems(host, spec), Vec::<String>::new());
    }
    for (host, spec, why) in [
        (
            plain,
            "concurrency: {mode: Adaptive}",
            "concurrency: ExternalService default/api at f.yaml:1 is outside the mesh, where no sidecar could do it",
        ),
        (
            plain,
            "mtls: {mode: Strict}",
            "mtls: ExternalService default/api at f.yaml:1 is outside the mesh, where no sidecar could do it",
        ),
        (
            sealed,
            "healthCheck: {path: /, port: 443}",
            "healthCheck: ExternalService default/api at f.yaml:1 is outside the mesh, where only apps speak TLS on this port",
        ),
        (
            below,
            "healthCheck: {tcp: {}}",
            "healthCheck: ExternalService default/api at f.yaml:1 is outside the mesh, and none of its hosts has a name",
        ),
    ] {
        let found = problems(host, spec);
        assert!(found.len() == 1 && found[0].contains(why), "{found:?}");
    }
}

#[test]
fn only_its_own_policy_says_how_a_host_outside_is_asked() {
    let everyone = policy("a", "{kind: Mesh}", "healthCheck: {path: /healthz, interval: 1s}");
    let own = policy("b", "{kind: Service, name: api}", "healthCheck: {tcp: {}}");
    let host = outside("{hosts: [api.example.com], ports: [{port: 80}]}");
    let check = |text: &[&str]| traffic(&with_services(&text.concat()), "default/api").health_check;
    assert_eq!(check(&[&host, &everyone]), None);
    assert_eq!(check(&[&host, &everyone, &own]), Some(HealthCheck::new(Probe::Tcp)));
    let orders = traffic(&with_services(&[host, everyone].concat()), "default/orders");
    assert!(orders.health_check.is_some());
}
