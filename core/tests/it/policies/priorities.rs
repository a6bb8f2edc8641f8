//! `loadBalancing.priorities`: how they are read, and which endpoints fit them.

use weft_core::compile::compile_one;
use weft_core::model::{Endpoint, PlaceWanted, Priority, Ratio, Resource, ResourceName};
use weft_core::world::{Change, World};

use super::{policy, refused, traffic, with_services};
use crate::documents::good;
use crate::world::{documents, name, registration, world};

const SPEC: &str = "loadBalancing:
    priorities:
    - {labels: {site: main, tier: a}, failoverBelow: 50%}
    - {zoneOf: Caller}
    - {labels: {site: standby}, zone: eu-1}";

fn labels(labels: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn endpoints(world: &World) -> Vec<Endpoint> {
    match compile_one(world, &ResourceName::Endpoints(name("default/orders"))) {
        Some(Resource::Endpoints(endpoints)) => endpoints,
        other => panic!("{other:?}"),
    }
}

/// Another workload of `orders`, with labels, in a zone.
fn joins(workload: &str, of: &[(&str, &str)], zone: &str) -> Change {
    let mut joins = registration(&format!("default/{workload}"), "10.0.1.1", &["orders:80"]);
    joins.labels = labels(of);
    zone.clone_into(&mut joins.zone);
    Change::Registered(joins)
}

#[test]
fn priorities_are_read_as_the_contract_spells_them() {
    let text = policy("a", "{kind: Service, name: orders}", SPEC);
    let said = traffic(&with_services(&text), "default/orders").balancing.priorities;
    let group = |of: &[(&str, &str)], place: Option<PlaceWanted>, percent: u32| Priority {
        labels: labels(of),
        place,
        failover_below: Ratio::percent(percent),
    };
    let expected = [
        group(&[("site", "main"), ("tier", "a")], None, 50),
        group(&[], Some(PlaceWanted::CallersZone), 70),
        group(&[("site", "standby")], Some(PlaceWanted::Zone("eu-1".into())), 70),
    ];
    assert_eq!(said, expected);
    // A more specific policy says all of them anew, or that there are none.
    let none = policy("b", "{kind: Service, name: web}", "loadBalancing: {priorities: []}");
    let world = with_services(&[policy("a", "{kind: Mesh}", SPEC), none].concat());
    let of = |service: &str| traffic(&world, service).balancing.priorities.len();
    assert_eq!((of("default/orders"), of("default/web"), of("shop/web")), (3, 0, 3));
}

#[test]
fn endpoints_say_which_priorities_they_fit_as_labels_zones_and_policies_change() {
    let mut world = with_services("");
    world.apply(joins("two", &[("site", "main"), ("tier", "a"), ("more", "x")], "eu-2"));
    world.apply(joins("three", &[("site", "standby")], "eu-1"));
    let fits = |world: &World| -> Vec<(String, u8)> {
        let told = endpoints(world).into_iter();
        told.map(|endpoint| (endpoint.workload.name.to_string(), endpoint.fits.bits())).collect()
    };
    let of = |orders: u8, three: u8, two: u8| {
        [("orders", orders), ("three", three), ("two", two)]
            .map(|(name, bits)| (name.to_owned(), bits))
            .to_vec()
    };
    assert_eq!(fits(&world), of(0, 0, 0));

    let orders = name("default/orders");
    let text = policy("a", "{kind: Service, name: orders}", SPEC);
    let affected = world.apply(documents("files", &text)).affected;
    let touched = [ResourceName::Service(orders.clone()), ResourceName::Endpoints(orders)];
    assert_eq!(affected, touched.clone().into(), "callers are told of both");
    assert_eq!(fits(&world), of(0b010, 0b110, 0b011));

    // In another zone it has another place among them.
    let affected = world.apply(joins("three", &[("site", "standby")], "eu-2")).affected;
    assert!(affected.contains(&touched[1]));
    assert_eq!(fits(&world), of(0b010, 0b010, 0b011));
    assert_eq!(world.apply(documents("files", "")).affected, touched.into());
    assert_eq!(fits(&world), of(0, 0, 0));
}

#[test]
fn priorities_that_cannot_be_meant_are_refused() {
    let one = |item: &str, expected: &str| {
        refused(&format!("loadBalancing: {{priorities: [{item}]}}"), &[expected]);
    };
    let at = "spec.loadBalancing.priorities[0]";
    one("{}", &format!("6:32: {at}: does not say which endpoints it is about; write {{labels:"));
    one("{failoverBelow: 50%}", &format!("6:32: {at}: does not say which endpoints it is about"));
    one("{labels: {}}", &format!("6:32: {at}: does not say which endpoints it is about"));
    one("{zone: a, zoneOf: Caller}", &format!("6:39: {at}.zone: is one zone, and zoneOf another"));
    one("{zone: \"\"}", &format!("6:39: {at}.zone: no zone is called so"));
    one("{zoneOf: Callee}", &format!("6:41: {at}.zoneOf: \"Callee\" is not one of Caller"));
    one("{zone: a, label: {a: b}}", &format!("6:42: unknown field \"{at}.label\"; did you mean \"labels\"?"));
    one("{labels: {a: 'b c'}}", &format!("6:45: {at}.labels[\"a\"]: no label's value"));
    one("{zone: a, failoverBelow: 101%}", &format!("6:57: {at}.failoverBelow: \"101%\" is no ratio"));
    let twice = "{zone: a}, {zone: b}, {zone: a, failoverBelow: 10%}";
    one(twice, "6:54: spec.loadBalancing.priorities[2]: these endpoints have an earlier priority already");
    let many: Vec<_> = (0..9).map(|index| format!("{{zone: z{index}}}")).collect();
    one(&many.join(", "), "6:31: spec.loadBalancing.priorities: more than 8 priorities");
}

#[test]
fn addresses_outside_the_mesh_have_no_priorities() {
    let outside = "apiVersion: weft.mesh/v1alpha1\nkind: ExternalService\nmetadata: {name: api}\nspec: {hosts: [api.example.com], ports: [{port: 80}]}\n---\n";
    for said in ["priorities: [{zone: a}]", "locality: {prefer: Zone}"] {
        let spec = format!("loadBalancing: {{{said}}}");
        let text = [outside, &policy("a", "{kind: Service, name: api}", &spec)].concat();
        let found = world().check("files", &good(&text));
        let field = said.split(':').next().unwrap();
        let expected = format!(
            "f.yaml:11:18: spec.loadBalancing.{field}: ExternalService default/api at f.yaml:1 is outside the mesh, where addresses have no labels and no zones; take it out"
        );
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
    }
}
