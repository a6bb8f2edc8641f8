//! Services that several sources know: a cluster's pods, sidecars elsewhere, documents, DNS.

use std::collections::{BTreeMap, BTreeSet};

use weft_core::balance::{Member, Rotation};
use weft_core::compile::sourced_endpoints;
use weft_core::model::{Endpoint, Location};
use weft_core::world::{Backend, Change, Pod, Readiness, World};

use crate::documents::good;
use crate::world::{name, registration, world};

fn pod(pod_name: &str, address: &str) -> Change {
    on_node(pod_name, address, "")
}

fn on_node(pod_name: &str, address: &str, node: &str) -> Change {
    let pod = Pod {
        name: name(pod_name),
        service_account: "app".parse().unwrap(),
        labels: [("app".to_owned(), "orders".to_owned())].into(),
        addresses: vec![address.parse().unwrap()],
        ports: BTreeMap::new(),
        opaque: Vec::new(),
        has_sidecar: true,
        node: node.into(),
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
        node: "".into(),
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

/// A service of a cluster with pods on nodes of zones, of which some work; and what a policy says of it.
fn on_nodes(pods: &[(&str, &str, &str, bool)], policy: &str) -> World {
    let mut world = world();
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: orders}}\nspec: {{ports: [{{port: 80}}], trafficDistribution: PreferSameNode}}\n{policy}"
    );
    world.apply(Change::Documents { source: "kubernetes".into(), resources: good(&text) });
    let mut backends = Vec::new();
    for (index, (pod, zone, node, works)) in pods.iter().enumerate() {
        let (name, address) = (name(&format!("default/{pod}")), format!("10.0.1.{index}"));
        world.apply(on_node(&name.to_string(), &address, node));
        backends.push(Backend {
            pod: Some(name),
            addresses: vec![address.parse().unwrap()],
            ports: BTreeMap::from([(String::new(), 8080)]),
            readiness: if *works { Readiness::Ready } else { Readiness::Not },
            zone: (*zone).into(),
            node: "".into(),
        });
    }
    world.apply(Change::Backends { service: name("default/orders"), backends: Some(backends) });
    world
}

/// Who gets calls from a node of a zone.
#[expect(clippy::disallowed_methods, reason = "nobody is new, so any instant will do")]
fn called_from(world: &World, zone: &str, node: &str) -> Vec<String> {
    let orders = name("default/orders");
    let balancing = &weft_core::compile::service(world, &orders).unwrap().traffic.balancing;
    let endpoints = weft_core::compile::endpoints(world, &orders).unwrap();
    let from = Location { zone, node };
    let member = |endpoint: &Endpoint| Member {
        weight: endpoint.weight,
        near: endpoint.location().is_in_zone_of(from),
        rank: endpoint.fits.rank(&balancing.priorities, endpoint.location(), from),
        available: endpoint.healthy,
        since: None,
    };
    let members: Vec<_> = endpoints.iter().map(member).collect();
    let rotation = Rotation::new(&members, balancing, std::time::Instant::now());
    let mut rng = fastrand::Rng::with_seed(5);
    let drawn = (0..1000).map(|_| {
        let group = rotation.group(rotation.draw(&mut rng)).unwrap();
        let index = group.member(group.weights().draw(&mut rng).unwrap()).unwrap();
        endpoints[index].workload.name.to_string()
    });
    drawn.collect::<BTreeSet<_>>().into_iter().collect()
}

#[test]
fn prefer_same_node_calls_those_of_the_callers_node_then_of_its_zone_then_all() {
    let world = |works: [bool; 4]| {
        let pods = [("one", "a", "n1"), ("two", "a", "n2"), ("three", "a", "n2"), ("four", "b", "n3")];
        let pods: Vec<_> =
            pods.iter().zip(works).map(|((pod, zone, node), works)| (*pod, *zone, *node, works)).collect();
        on_nodes(&pods, "")
    };
    let all = world([true; 4]);
    assert_eq!(called_from(&all, "a", "n1"), ["one"]);
    assert_eq!(called_from(&all, "a", "n2"), ["three", "two"]);
    assert_eq!(called_from(&all, "b", "n3"), ["four"]);
    // On a node without any of them the zone counts, and without a zone nothing does.
    assert_eq!(called_from(&all, "a", "n9"), ["one", "three", "two"]);
    assert_eq!(called_from(&all, "c", "n9"), ["four", "one", "three", "two"]);
    assert_eq!(called_from(&all, "", ""), ["four", "one", "three", "two"]);
    // Kubernetes tells no pod of its zone before 1.35, and every one of its node.
    assert_eq!(called_from(&all, "", "n1"), ["one"]);
    // Those of the node are not ready, those of the zone neither.
    assert_eq!(called_from(&world([false, true, true, true]), "a", "n1"), ["three", "two"]);
    assert_eq!(called_from(&world([true, false, true, true]), "a", "n2"), ["three"]);
    assert_eq!(called_from(&world([false, false, false, true]), "a", "n1"), ["four"]);
    // What the checks of an app say counts as well.
    let mut failing = all;
    failing.apply(Change::Registered(registration("default/one", "10.0.1.0", &[])));
    failing
        .apply(Change::Health { workload: name("default/one"), unhealthy: [name("default/orders")].into() });
    assert_eq!(called_from(&failing, "a", "n1"), ["three", "two"]);
}

#[test]
fn where_a_policy_says_who_goes_first_the_node_does_not_count() {
    let policy = |says: &str| {
        let text = format!(
            "---\napiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: orders}}\nspec: {{targetRef: {{kind: Service, name: orders}}, loadBalancing: {{{says}}}}}\n"
        );
        on_nodes(&[("one", "a", "n1", true), ("two", "a", "n2", true), ("three", "b", "n3", true)], &text)
    };
    assert_eq!(called_from(&policy("locality: {prefer: Zone}"), "a", "n1"), ["one", "two"]);
    assert_eq!(called_from(&policy("priorities: [{zone: b}]"), "a", "n1"), ["three"]);
    assert_eq!(called_from(&policy("policy: RoundRobin"), "a", "n1"), ["one"]);
}
