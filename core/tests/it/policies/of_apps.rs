//! What is said of apps, and told to their own sidecars.

use weft_core::compile::compile_one;
use weft_core::model::{ConcurrencyMode, MtlsMode, Ratio, Resource, ResourceName, Workload};
use weft_core::world::{Change, World};

use super::{policy, with_services};
use crate::world::{documents, name, registration};

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
fn an_app_is_asked_on_the_port_that_is_said_or_on_the_first() {
    let asked = |spec: &str| {
        let mut world = with_services(&policy("a", "{kind: Service, name: orders}", spec));
        let offers = ["orders:80->8080", "orders:81->8081"];
        world.apply(Change::Registered(registration("default/orders", "10.0.0.1", &offers)));
        let checks = workload(&world, "default/orders").checks;
        checks.iter().map(|check| check.port).collect::<Vec<_>>()
    };
    assert_eq!(asked("healthCheck: {tcp: {}}"), [8080]);
    assert_eq!(asked("healthCheck: {tcp: {}, port: 81}"), [8081]);
    // No service's port is no port of the app's.
    assert_eq!(asked("healthCheck: {tcp: {}, port: 82}"), Vec::<u16>::new());
}

#[test]
fn what_is_said_of_traces_reaches_the_sidecars_that_requests_without_a_decision_come_to() {
    let route = |name: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  parentRefs: [{{group: \"\", kind: Service, name: orders}}]\n  rules: [{{matches: [{{path: {{value: /{name}}}}}], backendRefs: [{{name: web, port: 80}}]}}]\n---\n"
        )
    };
    let of_service = policy("a", "{kind: Service, name: orders}", "tracing: {sampling: 50%}");
    let of_route = policy("b", "{kind: HTTPRoute, name: pay}", "tracing: {sampling: 100%}");
    let sampling = |text: &str| {
        let world = with_services(text);
        let orders = workload(&world, "default/orders");
        assert_eq!(workload(&world, "default/web").sampling(80), None);
        orders.sampling(80).map(|(service, sampling)| (service.clone(), (**sampling).clone()))
    };
    assert_eq!(sampling(&[route("pay"), route("look")].concat()), None);
    let (service, said) = sampling(&[&*of_service, &*route("pay")].concat()).unwrap();
    assert_eq!(
        (service, said.service, said.routes.len()),
        (name("default/orders"), Some(Ratio::percent(50)), 0)
    );
    let (_, said) = sampling(&[of_route.clone(), route("pay"), route("look")].concat()).unwrap();
    let routes: Vec<_> = said.routes.iter().map(|it| (it.name.name.as_str(), it.traffic.is_some())).collect();
    assert_eq!((said.service, routes.as_slice()), (None, [("look", false), ("pay", true)].as_slice()));
    // What is not asked for is not sent.
    assert_eq!(said.routes[0].rules.targets().count(), 0);

    // Whoever is to decide is told when another is said.
    let mut world = with_services(&[route("pay"), route("look")].concat());
    let orders = ResourceName::Workload(name("default/orders"));
    for text in [
        [of_service.clone(), route("pay"), route("look")].concat(),
        [of_route.clone(), route("pay"), route("look")].concat(),
        [of_route.clone(), route("pay")].concat(),
        String::new(),
    ] {
        let affected = world.apply(documents("files", &text)).affected;
        assert!(affected.contains(&orders), "{text}: {affected:?}");
    }
}
