//! TrafficPolicy and FaultInjection: how they are read, which of several holds, and what a change of one touches.

mod faults;
mod layers;
mod of_apps;
mod of_routes;
mod priorities;
mod reading;
mod retries;

use weft_core::compile::compile_one;
use weft_core::model::{Resource, ResourceName, Traffic};
use weft_core::world::{Change, World};

use crate::documents::read_text;
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
