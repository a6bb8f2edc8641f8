//! Pods and those behind services, as an orchestrator tells of them.

use std::collections::BTreeMap;

use weft_core::compile::{compile, endpoints, service, workload};
use weft_core::manifest::{Kind, ResourceKey};
use weft_core::model::{Endpoint, Protocol};
use weft_core::world::{Backend, Change, Pod, Readiness, World};

use crate::documents::good;
use crate::world::{documents, name, registration, world};

const ORDERS: &str = "{apiVersion: v1, kind: Service, metadata: {name: orders}, spec: {clusterIP: 10.96.0.9, \
    selector: {app: orders}, ports: [{name: http, port: 80, targetPort: web}, {name: db, port: 3306, targetPort: 3306}]}}";

fn pod(workload: &str, has_sidecar: bool) -> Change {
    let pod = Pod {
        name: name(workload),
        service_account: "orders".parse().unwrap(),
        labels: BTreeMap::from([("app".into(), "orders".into())]),
        addresses: vec!["10.1.0.1".parse().unwrap()],
        ports: BTreeMap::from([("web".into(), 8080)]),
        opaque: vec![3306..=3306],
        has_sidecar,
        node: "n1".into(),
        is_leaving: false,
    };
    Change::Pod { name: pod.name.clone(), pod: Some(pod) }
}

fn backend(pod: Option<&str>, readiness: Readiness) -> Backend {
    let ports = BTreeMap::from([("http".to_owned(), 8080), ("db".to_owned(), 3306)]);
    Backend {
        pod: pod.map(name),
        addresses: vec!["10.1.0.1".parse().unwrap()],
        ports,
        readiness,
        zone: "a".into(),
        node: "n2".into(),
    }
}

fn behind(service: &str, backends: Vec<Backend>) -> Change {
    Change::Backends { service: name(service), backends: Some(backends) }
}

/// Applies a change, and finds that what it said was affected is all that became another.
fn apply(world: &mut World, change: Change) {
    let before = compile(world);
    let affected = world.apply(change).affected;
    let after = compile(world);
    for name in before.keys().chain(after.keys()) {
        assert!(before.get(name) == after.get(name) || affected.contains(name), "{name:?} was not told of");
    }
}

fn of_orders(world: &World) -> Vec<Endpoint> {
    endpoints(world, &name("default/orders")).unwrap()
}

#[test]
fn who_is_called_is_what_the_orchestrator_says_and_who_is_unknown_is_not() {
    let mut world = world();
    apply(&mut world, documents("kubernetes", ORDERS));
    apply(&mut world, behind("default/orders", vec![backend(Some("default/o-1"), Readiness::Ready)]));
    assert!(of_orders(&world).is_empty(), "whether it has a sidecar is not known");
    apply(&mut world, pod("default/o-1", true));
    let found = of_orders(&world);
    assert_eq!(found[0].identity.as_ref().unwrap().as_str(), "spiffe://mesh.local/ns/default/sa/orders");
    assert_eq!(
        (found[0].zone.as_str(), found[0].node.as_ref()),
        ("a", "n1"),
        "where the pod is, the pod says first"
    );
    assert_eq!(
        (found[0].target_port(80), found[0].target_port(3306), found[0].inbound_port),
        (Some(8080), Some(3306), Some(4143))
    );
    apply(&mut world, pod("default/o-1", false));
    assert_eq!((&of_orders(&world)[0].identity, of_orders(&world)[0].inbound_port), (&None, None));
    let leaving = vec![backend(Some("default/o-1"), Readiness::Leaving), backend(None, Readiness::Not)];
    apply(&mut world, behind("default/orders", leaving.clone()));
    assert_eq!(of_orders(&world).len(), 1, "nobody else is there");
    let ready = [leaving, vec![backend(None, Readiness::Ready)]].concat();
    apply(&mut world, behind("default/orders", ready));
    let found = of_orders(&world);
    assert_eq!((found.len(), found[0].workload.to_string().as_str()), (1, "default/orders.10-1-0-1"));
    assert_eq!(found[0].node.as_ref(), "n2", "it has no pod that says more");
    apply(&mut world, behind("default/orders", vec![backend(Some("default/o-1"), Readiness::Not)]));
    assert!(of_orders(&world).is_empty());
    apply(&mut world, Change::Pod { name: name("default/o-1"), pod: None });
    apply(&mut world, Change::Backends { service: name("default/orders"), backends: None });
    assert!(of_orders(&world).is_empty());
}

#[test]
fn a_pod_s_own_word_on_its_ports_and_policies_hold_before_anyone_calls_it() {
    let mut world = world();
    apply(&mut world, documents("kubernetes", ORDERS));
    apply(&mut world, pod("default/o-1", true));
    // Its sidecar knows nothing of labels: those of the pod count.
    apply(&mut world, Change::Registered(registration("default/o-1", "10.1.0.1", &[])));
    let deny = "{apiVersion: weft.mesh/v1alpha1, kind: AuthorizationPolicy, metadata: {name: no}, spec: \
        {targetRef: {kind: Service, name: orders}, action: Deny, rules: [{}]}}";
    let policy = good(deny).remove(0);
    let key = policy.key();
    let put =
        Change::Document { source: "kubernetes".into(), key: key.clone(), resource: Some(Box::new(policy)) };
    apply(&mut world, put);
    let told = workload(&world, &name("default/o-1")).unwrap();
    let ports: Vec<_> = told.ports.iter().map(|port| (port.port, port.protocol)).collect();
    assert_eq!(ports, [(3306, Protocol::Tcp), (8080, Protocol::Detect)]);
    assert_eq!(told.policies.len(), 1, "no slice tells of it yet");
    apply(&mut world, Change::Document { source: "kubernetes".into(), key, resource: None });
    assert!(workload(&world, &name("default/o-1")).unwrap().policies.is_empty());
    let ports: Vec<_> = service(&world, &name("default/orders")).unwrap().ports;
    assert_eq!((ports[0].protocol, ports[1].protocol), (Protocol::Detect, Protocol::Tcp));
}

#[test]
fn one_document_comes_and_goes_as_all_of_them_would() {
    let mut world = world();
    apply(&mut world, documents("kubernetes", ORDERS));
    let key = ResourceKey {
        kind: Kind::Service,
        namespace: Some("default".parse().unwrap()),
        name: "orders".parse().unwrap(),
    };
    let other = "{apiVersion: v1, kind: Service, metadata: {name: orders}, spec: {clusterIP: 10.96.0.8, ports: [{port: 1}]}}";
    // A source whose name comes first goes first.
    let first = Change::Document {
        source: "apply".into(),
        key: key.clone(),
        resource: Some(Box::new(good(other).remove(0))),
    };
    apply(&mut world, first);
    assert_eq!(service(&world, &name("default/orders")).unwrap().ports.len(), 1);
    apply(&mut world, Change::Document { source: "apply".into(), key: key.clone(), resource: None });
    assert_eq!(service(&world, &name("default/orders")).unwrap().ports.len(), 2);
    apply(&mut world, Change::Document { source: "kubernetes".into(), key, resource: None });
    assert!(!world.has_service(&name("default/orders")));
}
