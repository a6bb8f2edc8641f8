//! No field of a route, a policy, a fault or a host outside is lost on its way from a document to a sidecar: for each there are
//! two documents that differ in it alone, and what goes over the wire must differ too. `fields.txt` has them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use weft_core::compile::compile;
use weft_core::manifest::schema::spec;
use weft_core::manifest::{Kind, SourceFile, read};
use weft_core::model::{QualifiedName, Resource, ResourceName, SpiffeId};
use weft_core::world::{Change, Defaults, Offer, OfferedPort, Registration, World};
use weft_proto::convert::{decode, encode};
use weft_proto::v1;

/// A field, and two ways to write what it stands in.
type Pair = [&'static str; 3];

/// What the file says under a heading.
fn pairs(heading: &str) -> Vec<Pair> {
    let sections = include_str!("fields.txt").split("\n## ");
    let section =
        sections.filter_map(|section| section.split_once('\n')).find(|(title, _)| *title == heading);
    let lines = section.unwrap().1.lines().filter(|line| !line.is_empty());
    let pair = |line: &'static str| line.split(" | ").collect::<Vec<_>>().try_into().unwrap();
    let pairs: Vec<Pair> = lines.map(pair).collect();
    assert!(!pairs.is_empty(), "{heading}");
    pairs
}

const ROUTES: [(&str, &str); 4] =
    [("HTTPRoute", "v1"), ("GRPCRoute", "v1"), ("TLSRoute", "v1alpha3"), ("TCPRoute", "v1alpha2")];

/// The workloads behind the services `orders`, `web` and `other` of two namespaces.
fn world(text: &str) -> World {
    let service_cidrs = vec!["240.64.0.0/12".parse().unwrap()];
    let defaults = Defaults { trust_domain: "mesh.local".parse().unwrap(), service_cidrs };
    let mut world = World::new(defaults, BTreeMap::new());
    let services = ["default/orders", "default/web", "default/other", "shop/orders", "shop/web"];
    for (number, service) in (1..).zip(services) {
        let name: QualifiedName = service.parse().unwrap();
        let offer = |port: u16| Offer {
            service: name.clone(),
            port: Some(OfferedPort { port, target_port: port, protocol: Default::default() }),
        };
        let account = "app".parse().unwrap();
        world.apply(Change::Registered(Registration {
            identity: SpiffeId::of_service_account(&"mesh.local".parse().unwrap(), &name.namespace, &account),
            service_account: account,
            addresses: vec![[10, 0, 0, number].into()],
            inbound_port: 4143,
            offers: vec![offer(80), offer(81)],
            labels: [("site".to_owned(), "main".to_owned())].into(),
            zone: "a".to_owned(),
            ready: true,
            unhealthy: BTreeSet::new(),
            name,
        }));
    }
    let named = "{apiVersion: v1, kind: Service, metadata: {name: orders}, spec: {ports: [{name: http, port: 80}, {name: more, port: 81}]}}\n---\n";
    // Whose tokens are taken is told with what asks for claims.
    let users = "{apiVersion: weft.mesh/v1alpha1, kind: JwtAuthentication, metadata: {name: users}, spec: {targetRef: {kind: Mesh}, providers: [{issuer: https://id, audiences: [a]}]}}\n---\n";
    let text = format!("{named}{users}{text}");
    let reading = read(&[SourceFile { name: "f.yaml", text: &text }], &"default".parse().unwrap());
    let problems: Vec<_> = reading.problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems, Vec::<String>::new(), "{text}");
    world.apply(Change::Documents { source: "files".into(), resources: reading.resources });
    world
}

/// What goes over the wire, which says all that was meant.
fn on_the_wire(text: &str) -> BTreeMap<ResourceName, Vec<u8>> {
    let told = |(name, resource): (ResourceName, Resource)| {
        let body = encode(&resource);
        let kind = v1::Kind::try_from(v1::ResourceName::from(&name).kind).unwrap();
        assert_eq!(decode(kind, &body).unwrap(), resource, "{text}");
        (name, body)
    };
    compile(&world(text)).into_iter().map(told).collect()
}

fn check(kind: &str, api: &str, field: &str, specs: [String; 2]) {
    let [one, other] = specs.map(|spec| {
        on_the_wire(&format!("{{apiVersion: {api}, kind: {kind}, metadata: {{name: a}}, spec: {{{spec}}}}}"))
    });
    assert_ne!(one, other, "{kind}: {field} says nothing to anyone");
}

/// The fields that a schema has, down to those that have none themselves.
fn fields(schema: &Value, at: &str, found: &mut BTreeSet<String>) {
    if let Some(properties) = schema["properties"].as_object() {
        for (key, below) in properties {
            fields(below, &if at.is_empty() { key.clone() } else { format!("{at}.{key}") }, found);
        }
    } else if let Some(items) = schema.get("items") {
        fields(items, &format!("{at}[]"), found);
    } else {
        found.insert(at.to_owned());
    }
}

#[test]
fn every_field_of_policies_faults_and_hosts_outside_reaches_sidecars() {
    for kind in [Kind::TrafficPolicy, Kind::FaultInjection, Kind::ExternalService] {
        let whole = |said: &str| match kind == Kind::ExternalService || said.contains("targetRef") {
            true => said.to_owned(),
            false => format!("targetRef: {{kind: Service, name: orders}}, {said}"),
        };
        let mut checked = BTreeSet::new();
        for [field, one, other] in pairs(kind.as_str()) {
            check(kind.as_str(), "weft.mesh/v1alpha1", field, [one, other].map(whole));
            checked.insert(field.to_owned());
        }
        let mut known = BTreeSet::new();
        fields(&spec(kind), "", &mut known);
        let missing: Vec<_> = known.difference(&checked).collect();
        assert!(missing.is_empty(), "{kind}: nothing checks {missing:?}");
    }
}

#[test]
fn every_field_of_routes_reaches_sidecars() {
    const BACKEND: &str = "backendRefs: [{name: web, port: 80}]";
    let parent = "parentRefs: [{group: \"\", kind: Service, name: orders}]";
    let rule = |rule: String| format!("{parent}, rules: [{{{rule}}}]");
    for (kind, version) in ROUTES {
        let check = |heading: &str, whole: &dyn Fn(&str) -> String| {
            for [field, one, other] in pairs(heading) {
                check(kind, &format!("gateway.networking.k8s.io/{version}"), field, [one, other].map(whole));
            }
        };
        check("parents", &|parent| format!("parentRefs: [{parent}], rules: [{{{BACKEND}}}]"));
        let backends = |backends: &str| rule(format!("backendRefs: [{backends}]"));
        check("backends", &backends);
        match kind {
            "HTTPRoute" | "GRPCRoute" => {
                check("filters of backends", &backends);
                check(kind, &|said| rule(format!("{said}, {BACKEND}")));
            }
            "TLSRoute" => check(kind, &|host| format!("{}, hostnames: [{host}]", rule(BACKEND.to_owned()))),
            _ => {}
        }
        if kind == "HTTPRoute" {
            let redirect = |said: &str| {
                rule(format!("filters: [{{type: RequestRedirect, requestRedirect: {{{said}}}}}]"))
            };
            check("redirects", &redirect);
        }
    }
}
