//! Services that several sources know: a cluster's pods, sidecars elsewhere, documents, DNS.

use std::collections::BTreeMap;

use weft_core::compile::sourced_endpoints;
use weft_core::world::{Backend, Change, Pod, Readiness, World};

use crate::documents::good;
use crate::world::{name, registration, world};

fn pod(pod_name: &str, address: &str) -> Change {
    let pod = Pod {
        name: name(pod_name),
        service_account: "app".parse().unwrap(),
        labels: [("app".to_owned(), "orders".to_owned())].into(),
        addresses: vec![address.parse().unwrap()],
        ports: BTreeMap::new(),
        opaque: Vec::new(),
        has_sidecar: true,
        is_leaving: false,
    };
    Change::Pod { name: name(pod_name), pod: Some(pod) }
}

fn behind(pods: &[(&str, &str, Readiness)]) -> Change {
    let backend = |(pod, address, readiness): &(&str, &str, Readiness)| Backend {
        pod: Some(name(pod)),
        addresses: vec![address.parse().unwrap()],
        ports: [("http".to_owned(), 8080)].into(),
        readiness: *readiness,
        zone: String::new(),
    };
    Change::Backends { service: name("default/orders"), backends: Some(pods.iter().map(backend).collect()) }
}

/// A service that all four know somebody behind.
fn known_by_all(sources: &str) -> World {
    let mut world = world();
    let service = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: orders{sources}}}\nspec: {{selector: {{app: orders}}, ports: [{{name: http, port: 80, targetPort: 8080}}]}}\n"
    );
    let workload = |name: &str, address: &str| {
        format!(
            "apiVersion: weft.mesh/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, labels: {{app: orders}}}}\nspec: {{address: {address}, ports: [{{port: 8080}}]}}\n"
        )
    };
    let documents =
        |source: &str, text: &str| Change::Documents { source: source.into(), resources: good(text) };
    world.apply(documents("kubernetes", &service));
    world.apply(documents("config-dir", &workload("written", "10.0.3.1")));
    world.apply(documents("dns", &workload("asked.10-0-4-1", "10.0.4.1")));
    world.apply(pod("default/pod", "10.0.1.1"));
    world.apply(behind(&[("default/pod", "10.0.1.1", Readiness::Ready)]));
    world.apply(Change::Registered(registration("default/vm", "10.0.2.1", &["orders:80->9090:http"])));
    // The sidecar of a pod that the cluster does not say is ready yet: labels alone make no endpoint of it.
    let mut starting = registration("default/starting", "10.0.1.2", &[]);
    starting.labels = [("app".to_owned(), "orders".to_owned())].into();
    world.apply(Change::Registered(starting));
    world
}

fn called(world: &World) -> Vec<String> {
    let all = sourced_endpoints(world, &name("default/orders")).unwrap();
    all.iter().map(|(source, endpoint)| format!("{source} {}", endpoint.workload.name)).collect()
}

#[test]
fn those_of_all_sources_are_called_where_nothing_is_said() {
    for sources in ["", ", annotations: {weft.mesh/sources: merge}"] {
        let all = ["dns asked.10-0-4-1", "kubernetes pod", "registry vm", "documents written"];
        assert_eq!(called(&known_by_all(sources)), all);
    }
    let world = known_by_all("");
    let all = sourced_endpoints(&world, &name("default/orders")).unwrap();
    let ports: Vec<_> = all.iter().map(|(_, endpoint)| endpoint.ports[0].target_port).collect();
    assert_eq!(ports, [8080, 8080, 9090, 8080]);
}

#[test]
fn the_first_source_that_has_somebody_who_works_is_called_and_the_next_when_it_has_none() {
    let mut world = known_by_all(", annotations: {weft.mesh/sources: \"kubernetes, registry\"}");
    assert_eq!(called(&world), ["kubernetes pod"]);
    world.apply(behind(&[("default/pod", "10.0.1.1", Readiness::Not)]));
    assert_eq!(called(&world), ["registry vm"]);
    // Where nobody works, somebody of the first source that has anyone is still better than nobody.
    let unhealthy = [name("default/orders")].into();
    world.apply(Change::Health { workload: name("default/vm"), unhealthy });
    assert_eq!(called(&world), ["registry vm"]);
    world.apply(Change::Unregistered(name("default/vm")));
    assert_eq!(called(&world), Vec::<String>::new());
    world.apply(behind(&[("default/pod", "10.0.1.1", Readiness::Ready)]));
    assert_eq!(called(&world), ["kubernetes pod"]);
}

#[test]
fn traffic_distribution_prefers_the_callers_zone_unless_a_policy_says_otherwise() {
    let locality = |distribution: &str, policy: &str| {
        let mut world = world();
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: orders}}\nspec: {{ports: [{{port: 80}}]{distribution}}}\n{policy}"
        );
        world.apply(Change::Documents { source: "config-dir".into(), resources: good(&text) });
        let service = weft_core::compile::service(&world, &name("default/orders")).unwrap();
        service.traffic.balancing.locality.map(|locality| locality.failover_below.per_million())
    };
    assert_eq!(locality("", ""), None);
    for distribution in ["PreferClose", "PreferSameZone", "PreferSameNode"] {
        assert_eq!(locality(&format!(", trafficDistribution: {distribution}"), ""), Some(0));
    }
    let policy = "---\napiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: orders}\nspec: {targetRef: {kind: Service, name: orders}, loadBalancing: {locality: {prefer: Zone, failoverBelow: 70%}}}\n";
    assert_eq!(locality(", trafficDistribution: PreferClose", policy), Some(700_000));
}
