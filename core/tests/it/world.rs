//! What a change touches, what is refused among others, and that increments add up to the whole.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;
use weft_core::compile::{compile, compile_one};
use weft_core::model::{Protocol, QualifiedName, Resource, ResourceName, SpiffeId, Trust};
use weft_core::world::{Change, Defaults, Effects, Holder, Offer, OfferedPort, Registration, World};

use crate::documents::good;

pub(crate) fn world() -> World {
    let service_cidrs = vec!["240.64.0.0/12".parse().unwrap(), "fd57:eff7::/64".parse().unwrap()];
    World::new(Defaults { trust_domain: "mesh.local".parse().unwrap(), service_cidrs }, BTreeMap::new())
}

pub(crate) fn name(text: &str) -> QualifiedName {
    text.parse().unwrap()
}

pub(crate) fn documents(source: &str, text: &str) -> Change {
    Change::Documents { source: source.into(), resources: good(text) }
}

/// A ready workload: `registration("default/web-1", "10.0.0.1", &["web:80->8080:http"])`.
pub(crate) fn registration(workload: &str, address: &str, offers: &[&str]) -> Registration {
    let workload = name(workload);
    let offer = |text: &&str| {
        let Some((service, rest)) = text.split_once(':') else {
            let service = QualifiedName::new(workload.namespace.clone(), text.parse().unwrap());
            return Offer { service, port: None };
        };
        let (ports, protocol) = rest.split_once(':').unwrap_or((rest, ""));
        let (port, target) = ports.split_once("->").unwrap_or((ports, ports));
        let protocol = match protocol {
            "http" => Protocol::Http,
            "grpc" => Protocol::Grpc,
            "tcp" => Protocol::Tcp,
            _ => Protocol::Detect,
        };
        let service = QualifiedName::new(workload.namespace.clone(), service.parse().unwrap());
        let (port, target_port) = (port.parse().unwrap(), target.parse().unwrap());
        Offer { service, port: Some(OfferedPort { port, target_port, protocol }) }
    };
    let account = "app".parse().unwrap();
    Registration {
        identity: SpiffeId::of_service_account(&"mesh.local".parse().unwrap(), &workload.namespace, &account),
        service_account: account,
        addresses: vec![address.parse().unwrap()],
        inbound_port: 4143,
        offers: offers.iter().map(offer).collect(),
        labels: BTreeMap::new(),
        zone: String::new(),
        ready: true,
        unhealthy: BTreeSet::new(),
        name: workload,
    }
}

pub(crate) fn labelled(mut registration: Registration, labels: &[(&str, &str)]) -> Registration {
    registration.labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    registration
}

#[test]
fn addresses_that_somebody_else_gives_out_are_taken_over_and_nobody_keeps_anothers() {
    let (mut world, a, b) = (world(), name("default/a"), name("default/b"));
    for service in ["a", "b"] {
        let workload = format!("default/{service}-1");
        world.apply(Change::Registered(registration(&workload, "10.0.0.1", &[&format!("{service}:80")])));
    }
    let (of_a, of_b) = (world.service_addresses(&a).to_vec(), world.service_addresses(&b).to_vec());
    let allocated = |service: &QualifiedName, addresses: &[std::net::IpAddr]| Change::Allocated {
        service: service.clone(),
        addresses: addresses.to_vec(),
    };
    assert_eq!(world.apply(allocated(&a, &of_a)), Effects::default());
    // The other way round, one after the other: for a moment both have the same.
    let effects = world.apply(allocated(&a, &of_b));
    assert!(effects.allocated.is_empty());
    for address in [of_a[0], of_b[0]] {
        assert!(effects.affected.contains(&ResourceName::Address(address)), "{address}");
    }
    world.apply(allocated(&b, &of_a));
    assert_eq!((world.service_addresses(&a), world.service_addresses(&b)), (&of_b[..], &of_a[..]));
    assert_eq!(world.holder(of_a[0]), Some(Holder::Service(&b)));
    assert_eq!(world.holder(of_b[0]), Some(Holder::Service(&a)));
    // Taken back while it is there: it is given some again, of which none is another's.
    let effects = world.apply(allocated(&b, &[]));
    assert!(!effects.allocated[&b].is_empty() && effects.allocated[&b].iter().all(|it| !of_b.contains(it)));
}

#[test]
fn virtual_addresses_stay_when_a_service_goes_and_comes_back() {
    let mut world = world();
    let effects = world.apply(Change::Registered(registration("default/a-1", "10.0.0.1", &["a:80"])));
    let given = effects.allocated[&name("default/a")].clone();
    assert_eq!(given.len(), 2);
    assert!(effects.affected.contains(&ResourceName::Address(given[0])));
    let effects = world.apply(Change::Unregistered(name("default/a-1")));
    assert!(effects.allocated.is_empty() && effects.affected.contains(&ResourceName::Address(given[0])));
    assert_eq!((world.has_service(&name("default/a")), world.holder(given[0])), (false, None));
    let effects = world.apply(documents(
        "f",
        "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1}]}}",
    ));
    assert!(effects.allocated.is_empty());
    assert_eq!(world.service_addresses(&name("default/a")), given);
}

#[test]
fn virtual_addresses_given_out_before_a_restart_are_kept_and_not_given_again() {
    let mut before = world();
    let given =
        before.apply(Change::Registered(registration("default/a-1", "10.0.0.1", &["a:80"]))).allocated;
    // Another name got the address that ours would have had.
    let stolen = BTreeMap::from([(name("default/other"), given[&name("default/a")].clone())]);
    let mut after = World::new(before.defaults().clone(), stolen.clone());
    let effects = after.apply(Change::Registered(registration("default/a-1", "10.0.0.1", &["a:80"])));
    let ours = &effects.allocated[&name("default/a")];
    assert!(ours.iter().all(|address| !stolen[&name("default/other")].contains(address)), "{ours:?}");
}

#[test]
fn allocations_of_services_that_are_gone_are_forgotten_before_they_grow_without_bound() {
    let mut world = world();
    let stays = registration("default/stays", "10.0.0.1", &["stays:80"]);
    let kept = world.apply(Change::Registered(stays)).allocated;
    let mut forgotten = 0;
    for number in 0..65_536 {
        let mut passing = registration("default/passing", "10.0.0.2", &[]);
        let service = name(&format!("default/s{number}"));
        passing.offers = vec![Offer { service, port: None }];
        let allocated = world.apply(Change::Registered(passing)).allocated;
        forgotten += allocated.values().filter(|addresses| addresses.is_empty()).count();
    }
    assert_eq!(forgotten, 65_535);
    assert_eq!(world.service_addresses(&name("default/stays")), kept[&name("default/stays")]);
}

#[test]
fn a_change_that_changes_nothing_has_no_effects() {
    let mut world = world();
    let text = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1}]}}";
    world.apply(documents("f", text));
    world.apply(Change::Registered(registration("default/a-1", "10.0.0.1", &["a:80"])));
    assert!(world.apply(documents("f", text)).affected.is_empty());
    let again = registration("default/a-1", "10.0.0.1", &["a:80"]);
    assert!(world.apply(Change::Registered(again)).affected.is_empty());
    // It still is at a line.
    world.apply(documents("f", &format!("\n\n{text}")));
    assert_eq!(world.resources().next().unwrap().line, 3);
}

#[test]
fn readiness_touches_the_workload_and_its_services_only() {
    let mut world = world();
    for (workload, address, offers) in [
        ("default/a-1", "10.0.0.1", ["a:80"]),
        ("default/a-2", "10.0.0.2", ["a:80"]),
        ("default/b-1", "10.0.0.3", ["b:80"]),
    ] {
        world.apply(Change::Registered(registration(workload, address, &offers)));
    }
    let effects = world.apply(Change::Ready { workload: name("default/a-1"), ready: false });
    let names: BTreeSet<_> = effects.affected.iter().map(ToString::to_string).collect();
    let addresses = world.service_addresses(&name("default/a")).iter().map(ToString::to_string);
    let expected = ["default/a", "default/a-1", "10.0.0.1"].map(str::to_owned).into_iter().chain(addresses);
    assert_eq!(names, expected.collect());
    assert!(world.apply(Change::Ready { workload: name("x/unknown"), ready: true }).allocated.is_empty());
}

#[test]
fn of_two_sources_the_first_by_name_is_in_force() {
    let text = |port: u16| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: a}}, spec: {{ports: [{{port: {port}}}]}}}}"
        )
    };
    let mut world = world();
    let port = |world: &World| world.documented_service(&name("default/a")).map(|spec| spec.ports[0].port);
    world.apply(documents("b", &text(2)));
    assert_eq!(port(&world), Some(2));
    world.apply(documents("a", &text(1)));
    assert_eq!(port(&world), Some(1));
    world.apply(documents("a", ""));
    assert_eq!(port(&world), Some(2));
    assert_eq!(world.source("a").count(), 0);
}

#[test]
fn a_service_goes_before_a_workload_at_the_same_address() {
    let mut world = world();
    world.apply(Change::Registered(registration("default/z", "10.0.0.1", &[])));
    world.apply(Change::Registered(registration("default/y", "10.0.0.1", &[])));
    let address = "10.0.0.1".parse().unwrap();
    assert_eq!(world.holder(address), Some(Holder::Workload(&name("default/y"))));
    world.apply(documents("f", "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.0.0.1, ports: [{port: 1}]}}"));
    assert_eq!(world.holder(address), Some(Holder::Service(&name("default/a"))));
    world.apply(documents("f", ""));
    world.apply(Change::Unregistered(name("default/y")));
    assert_eq!(world.holder(address), Some(Holder::Workload(&name("default/z"))));
}

fn check(world: &World, source: &str, text: &str, expected: &[&str]) {
    let problems: Vec<_> = world.check(source, &good(text)).iter().map(ToString::to_string).collect();
    assert_eq!(problems, expected, "{text}");
}

#[test]
fn what_contradicts_the_others_is_refused() {
    let mut world = world();
    let fixed = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.96.0.1, ports: [{port: 1}]}}";
    world.apply(documents("files", fixed));
    world.apply(Change::Registered(registration("default/w", "10.0.0.1", &["given:80"])));
    let given = world.service_addresses(&name("default/given"))[0];
    check(&world, "files", fixed, &[]);
    check(
        &world,
        "applied",
        fixed,
        &["f.yaml:1:1: Service default/a is also at f.yaml:1; delete it there first, or leave it out here"],
    );
    let other = |address: &str| fixed.replace("name: a", "name: b").replace("10.96.0.1", address);
    let hint = "choose another address, or leave it to the mesh";
    check(
        &world,
        "applied",
        &other("10.96.0.1"),
        &[&format!("f.yaml:1:72: 10.96.0.1 is that of Service default/a at f.yaml:1; {hint}")],
    );
    check(&world, "files", &other("10.96.0.1"), &[]);
    check(
        &world,
        "applied",
        &other("10.0.0.1"),
        &[&format!("f.yaml:1:72: 10.0.0.1 is that of the workload default/w; {hint}")],
    );
    check(
        &world,
        "applied",
        &other(&given.to_string()),
        &[&format!("f.yaml:1:72: {given} is that of the service default/given; {hint}")],
    );
    check(
        &world,
        "files",
        &format!("{fixed}\n---\n{}", other("10.96.0.1")),
        &[&format!("f.yaml:3:72: 10.96.0.1 is that of Service default/a at f.yaml:1; {hint}")],
    );
    check(
        &world,
        "applied",
        "{apiVersion: weft.mesh/v1alpha1, kind: MeshConfig, metadata: {name: default}, spec: {trustDomain: other.local}}",
        &[
            "f.yaml:1:99: spec.trustDomain is other.local, but this control plane's authority is that of mesh.local; write mesh.local, or start a new control plane with --trust-domain other.local",
        ],
    );
    check(
        &world,
        "applied",
        "{apiVersion: weft.mesh/v1alpha1, kind: Workload, metadata: {name: x}, spec: {address: 240.64.0.9}}",
        &[
            "f.yaml:1:87: spec.address: 240.64.0.9 is in 240.64.0.0/12, which is the mesh's own; write the address where it is reached",
        ],
    );
}

#[test]
fn a_reference_to_nothing_is_refused() {
    let workload = "{apiVersion: weft.mesh/v1alpha1, kind: Workload, metadata: {name: pg, labels: {app: pg}}, spec: {address: 10.0.0.9, ports: [{port: 5432, name: postgres}]}}";
    let service = |target: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: pg}}, spec: {{selector: {{app: pg}}, ports: [{{port: 1, targetPort: {target}}}]}}}}"
        )
    };
    let mut world = world();
    check(&world, "f", &service("postgrs"), &[]);
    check(&world, "f", &format!("{workload}\n---\n{}", service("postgres")), &[]);
    let problem = "f.yaml:1:113: target port 1: no workload that the service selects has a port named \"postgrs\"; did you mean \"postgres\"?";
    check(&world, "f", &format!("{}\n---\n{workload}", service("postgrs")), &[problem]);
    world.apply(documents("files", workload));
    check(&world, "applied", &service("postgrs"), &[problem]);
}

/// Few names, so that changes meet.
fn any_change() -> impl Strategy<Value = Change> {
    let workload = || prop_oneof!["n/w[0-3]", "m/w[0-1]"].prop_map(|text| name(&text));
    let address = || "10\\.0\\.0\\.[1-5]";
    let labels =
        || vec(("[ab]", "[xy]"), 0..3).prop_map(|labels| labels.into_iter().collect::<BTreeMap<_, _>>());
    let offer = ("[st]", 80..83_u16, 80..83_u16, 0..3_usize);
    let registered = (workload(), address(), vec(offer, 0..4), labels(), any::<bool>()).prop_map(
        |(workload, address, offers, labels, ready)| {
            let offer = |(service, port, target, protocol): (String, u16, u16, usize)| {
                format!("{service}:{port}->{target}:{}", ["", "http", "tcp"][protocol])
            };
            let offers: Vec<_> = offers.into_iter().map(offer).collect();
            let offers: Vec<_> = offers.iter().map(String::as_str).collect();
            let registration = registration(&workload.to_string(), &address, &offers);
            Change::Registered(Registration { labels, ready, ..registration })
        },
    );
    let service = (
        "[mn]",
        "[stu]",
        prop_oneof![Just("{}"), Just("{a: x}"), Just("{b: y}"), Just("{a: x, b: y}")],
        prop_oneof![Just("''"), Just("None"), Just("10.0.0.4"), Just("10.9.9.9")],
        btree_set((80..83_u16, prop_oneof![Just("81"), Just("pg")], any::<bool>()), 1..3),
    )
        .prop_map(|(namespace, service, selector, address, ports)| {
            let mut seen = BTreeSet::new();
            let ports = ports.into_iter().filter(|(port, ..)| seen.insert(*port)).map(|(port, target, http)| {
                let protocol = if http { ", appProtocol: http" } else { "" };
                format!("{{name: p{port}, port: {port}, targetPort: {target}{protocol}}}")
            });
            let ports: Vec<_> = ports.collect();
            let key = format!("s/{namespace}/{service}");
            (key, format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {service}, namespace: {namespace}}}, spec: {{clusterIP: {address}, selector: {selector}, ports: [{}]}}}}",
                ports.join(", ")
            ))
        });
    let documented = ("w[0-4]", address(), "[xy]", 0..2_u32, any::<bool>()).prop_map(|(workload, address, label, weight, mtls)| {
        (format!("w/{workload}"), format!(
            "{{apiVersion: weft.mesh/v1alpha1, kind: Workload, metadata: {{name: {workload}, namespace: n, labels: {{a: {label}}}}}, spec: {{address: {address}, weight: {weight}, mtls: {mtls}, serviceAccount: sa, ports: [{{port: 81, name: pg, protocol: tcp}}]}}}}"
        ))
    });
    let settings = prop_oneof![Just("{}"), Just("{mtls: {mode: Permissive}}")].prop_map(|spec| {
        (String::from("m"), format!("{{apiVersion: weft.mesh/v1alpha1, kind: MeshConfig, metadata: {{name: default}}, spec: {spec}}}"))
    });
    let document = prop_oneof![4 => service, 2 => documented, 1 => settings];
    let replaced = ("[fg]", vec(document, 0..5)).prop_map(|(source, texts)| {
        let texts: BTreeMap<_, _> = texts.into_iter().collect();
        documents(&source, &texts.into_values().collect::<Vec<_>>().join("\n---\n"))
    });
    prop_oneof![
        4 => registered,
        2 => workload().prop_map(Change::Unregistered),
        2 => (workload(), any::<bool>()).prop_map(|(workload, ready)| Change::Ready { workload, ready }),
        4 => replaced,
        1 => vec(vec(any::<u8>(), 1..3), 0..2).prop_map(|anchors| Change::Trust(Trust::new("mesh.local".parse().unwrap(), anchors))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn increments_add_up_to_the_whole(changes in vec(any_change(), 0..25)) {
        let mut world = world();
        let mut known: BTreeMap<ResourceName, Resource> = compile(&world);
        for change in changes {
            let effects = world.apply(change.clone());
            for name in effects.affected {
                match compile_one(&world, &name) {
                    Some(resource) => known.insert(name, resource),
                    None => known.remove(&name),
                };
            }
            prop_assert_eq!(&known, &compile(&world), "after {:?}", change);
        }
    }

    #[test]
    fn what_is_told_follows_from_what_there_is_and_not_from_how_it_came(changes in vec(any_change(), 0..25)) {
        let mut world = world();
        let mut stored = BTreeMap::new();
        let mut trust = world.trust().clone();
        for change in changes {
            if let Change::Trust(latest) = &change {
                trust.clone_from(latest);
            }
            stored.extend(world.apply(change).allocated);
        }
        let mut anew = World::new(world.defaults().clone(), stored);
        anew.apply(Change::Trust(trust));
        for registration in world.registrations() {
            anew.apply(Change::Registered(registration.clone()));
        }
        for source in ["g", "f"] {
            let resources = world.source(source).cloned().collect();
            anew.apply(Change::Documents { source: source.into(), resources });
        }
        prop_assert_eq!(compile(&world), compile(&anew));
    }

    #[test]
    fn virtual_addresses_are_within_the_ranges_and_one_services_alone(changes in vec(any_change(), 0..25)) {
        let mut world = world();
        let mut stored: BTreeMap<QualifiedName, Vec<std::net::IpAddr>> = BTreeMap::new();
        for change in changes {
            stored.extend(world.apply(change).allocated);
        }
        let all: Vec<_> = stored.values().flatten().collect();
        prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
        for address in all {
            prop_assert!(world.defaults().service_cidrs.iter().any(|range| range.contains(*address)));
        }
        for service in world.service_names() {
            let addresses = world.service_addresses(&service);
            let fixed = addresses.iter().any(|address| address.to_string().starts_with("10."));
            prop_assert!(fixed || addresses.is_empty() || stored.get(&service).map(Vec::as_slice) == Some(addresses));
        }
    }
}
