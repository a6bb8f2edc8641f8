//! What sidecars are told of each arrangement of documents and registrations.

use weft_core::compile::{address, compile, endpoints, mesh, service, workload};
use weft_core::model::{
    Address, KeyMaterial, KeySource, MtlsMode, Propagation, Protocol, Resource, ResourceName, TokenKey, Trust,
};
use weft_core::world::{Change, World};

use crate::documents::good;
use crate::world::{documents, labelled, name, registration, world};

fn built(text: &str, registrations: impl IntoIterator<Item = weft_core::world::Registration>) -> World {
    let mut world = world();
    world.apply(documents("files", text));
    for registration in registrations {
        world.apply(Change::Registered(registration));
    }
    world
}

/// The service's ports as `port[=name]/protocol`, then each endpoint as `workload port->target ..`.
fn check(world: &World, name_: &str, ports: &[&str], members: &[&str]) {
    let service = service(world, &name(name_)).unwrap();
    let port = |port: &weft_core::model::ServicePort| match port.name.as_str() {
        "" => format!("{}/{:?}", port.port, port.protocol),
        name => format!("{}={name}/{:?}", port.port, port.protocol),
    };
    assert_eq!(service.ports.iter().map(port).collect::<Vec<_>>(), ports);
    let endpoint = |endpoint: &weft_core::model::Endpoint| {
        let maps = endpoint.ports.iter().map(|map| format!(" {}->{}", map.port, map.target_port));
        format!("{}{}", endpoint.workload.name, maps.collect::<String>())
    };
    let endpoints = endpoints(world, &name(name_)).unwrap();
    assert_eq!(endpoints.iter().map(endpoint).collect::<Vec<_>>(), members);
}

fn doc(name: &str, spec: &str) -> String {
    format!("{{apiVersion: v1, kind: Service, metadata: {{name: {name}}}, spec: {spec}}}\n---\n")
}

#[test]
fn a_service_exists_as_soon_as_a_workload_offers_it() {
    let world = built(
        "",
        [
            registration("default/b", "10.0.0.2", &["web:80->8081:http"]),
            registration("default/a", "10.0.0.1", &["web:80->8080:http", "web:90:grpc", "other:1"]),
        ],
    );
    check(&world, "default/web", &["80/Http", "90/Grpc"], &["a 80->8080 90->90", "b 80->8081"]);
    check(&world, "default/other", &["1/Detect"], &["a 1->1"]);
    assert_eq!(service(&world, &name("default/web")).unwrap().addresses.len(), 2);
    assert_eq!((service(&world, &name("shop/web")), endpoints(&world, &name("shop/web"))), (None, None));
}

#[test]
fn a_service_exists_as_soon_as_a_document_names_it() {
    let world = built(&doc("web", "{ports: [{port: 80, appProtocol: http}]}"), []);
    check(&world, "default/web", &["80/Http"], &[]);
    assert_eq!(service(&world, &name("default/web")).unwrap().addresses.len(), 2);
}

#[test]
fn the_documents_ports_stand_and_offers_say_the_apps_port() {
    let text =
        doc("web", "{ports: [{name: a, port: 80, targetPort: 9}, {name: b, port: 81, appProtocol: tcp}]}");
    let offers = ["web:80->8080:http", "web:81->8081:http", "web:82"];
    let world = built(&text, [registration("default/a", "10.0.0.1", &offers)]);
    check(&world, "default/web", &["80=a/Http", "81=b/Tcp"], &["a 80->8080 81->8081"]);
}

#[test]
fn members_are_those_offering_and_those_selected_each_once() {
    let text = doc(
        "web",
        "{selector: {app: web}, ports: [{name: a, port: 80, targetPort: 9}, {name: b, port: 81}]}",
    );
    let web = [("app", "web"), ("other", "label")];
    let world = built(
        &text,
        [
            registration("default/offers", "10.0.0.1", &["web:80->8080"]),
            labelled(registration("default/both", "10.0.0.2", &["web:80->8080"]), &web),
            labelled(registration("default/selected", "10.0.0.3", &[]), &web),
            labelled(registration("default/not", "10.0.0.4", &[]), &[("app", "other")]),
            labelled(registration("shop/elsewhere", "10.0.0.5", &[]), &web),
            registration("default/wrong-port", "10.0.0.6", &["web:99"]),
        ],
    );
    let members = ["both 80->8080 81->81", "offers 80->8080", "selected 80->9 81->81"];
    check(&world, "default/web", &["80=a/Detect", "81=b/Detect"], &members);
}

#[test]
fn a_selector_of_nothing_selects_nothing() {
    let web = labelled(registration("default/a", "10.0.0.1", &[]), &[("app", "web")]);
    let world = built(&doc("web", "{selector: {}, ports: [{port: 80}]}"), [web]);
    check(&world, "default/web", &["80/Detect"], &[]);
}

#[test]
fn a_protocol_is_told_only_where_all_who_tell_agree() {
    let told = |offers: &[&str]| {
        let registration = |(index, offer): (usize, &&str)| {
            registration(&format!("default/w{index}"), &format!("10.0.0.{index}"), &[offer])
        };
        let world = built("", offers.iter().enumerate().map(registration));
        service(&world, &name("default/s")).unwrap().ports[0].protocol
    };
    assert_eq!(told(&["s:1:http", "s:1:http", "s:1"]), Protocol::Http);
    assert_eq!(told(&["s:1:http", "s:1:grpc"]), Protocol::Detect);
    assert_eq!(told(&["s:1", "s:1"]), Protocol::Detect);
}

#[test]
fn a_workload_that_is_not_ready_is_no_endpoint_but_still_there() {
    let mut away = registration("default/a", "10.0.0.1", &["web:80->8080:http"]);
    away.ready = false;
    let mut world = built("", [away]);
    check(&world, "default/web", &["80/Http"], &[]);
    assert!(workload(&world, &name("default/a")).is_some());
    assert!(address(&world, "10.0.0.1".parse().unwrap()).is_some());
    world.apply(documents("files", &doc("web", "{publishNotReadyAddresses: true, ports: [{port: 80}]}")));
    check(&world, "default/web", &["80/Http"], &["a 80->8080"]);
    world.apply(documents("files", ""));
    world.apply(Change::Ready { workload: name("default/a"), ready: true });
    check(&world, "default/web", &["80/Http"], &["a 80->8080"]);
}

#[test]
fn a_documented_workload_is_selected_and_called_as_its_document_says() {
    let text = "
apiVersion: weft.mesh/v1alpha1
kind: Workload
metadata: {name: pg-1, labels: {app: pg}}
spec: {address: 10.0.0.9, ports: [{port: 5432, name: postgres, protocol: tcp}], zone: a, weight: 3}
---
apiVersion: weft.mesh/v1alpha1
kind: Workload
metadata: {name: pg-2, labels: {app: pg}}
spec: {address: 10.0.0.8, ports: [{port: 5433, name: postgres}], serviceAccount: pg, mtls: true}
---
apiVersion: weft.mesh/v1alpha1
kind: Workload
metadata: {name: pg-3, labels: {app: pg}}
spec: {address: 10.0.0.7, ports: [{port: 5433, name: postgres}], weight: 0}
---
";
    let service = doc("pg", "{selector: {app: pg}, ports: [{port: 1, targetPort: postgres}]}");
    let world = built(&format!("{text}{service}"), []);
    check(&world, "default/pg", &["1/Tcp"], &["pg-1 1->5432", "pg-2 1->5433"]);
    let [plain, meshed] = &endpoints(&world, &name("default/pg")).unwrap()[..] else { panic!() };
    assert_eq!(
        (&plain.identity, plain.inbound_port, plain.zone.as_str(), plain.weight),
        (&None, None, "a", 3)
    );
    assert_eq!(meshed.identity.as_ref().unwrap().as_str(), "spiffe://mesh.local/ns/default/sa/pg");
    assert_eq!((meshed.inbound_port, meshed.weight), (Some(4143), 1));
    assert!(workload(&world, &name("default/pg-1")).is_none());
    let Some(Address::Workload { service, target_ports, .. }) = address(&world, "10.0.0.9".parse().unwrap())
    else {
        panic!()
    };
    assert_eq!(service, Some(name("default/pg")));
    assert_eq!(
        (target_ports[0].port, target_ports[0].name.as_str(), target_ports[0].protocol),
        (5432, "postgres", Protocol::Tcp)
    );
}

#[test]
fn a_registered_workload_goes_before_a_documented_one_of_its_name() {
    let text =
        "{apiVersion: weft.mesh/v1alpha1, kind: Workload, metadata: {name: a}, spec: {address: 10.0.0.9}}";
    let mut world = built(text, [registration("default/a", "10.0.0.1", &[])]);
    assert!(address(&world, "10.0.0.9".parse().unwrap()).is_none());
    world.apply(Change::Unregistered(name("default/a")));
    assert!(address(&world, "10.0.0.9".parse().unwrap()).is_some());
}

#[test]
fn addresses_lead_to_services_and_workloads() {
    let text = doc("db", "{clusterIP: 10.96.0.1, ports: [{port: 80}]}") + &doc("none", "{clusterIP: None}");
    let world = built(&text, [registration("default/a", "10.0.0.1", &["web:80->8080:http", "alt:81->8080"])]);
    let at = |ip: &str| address(&world, ip.parse().unwrap());
    assert_eq!(at("10.96.0.1"), Some(Address::Service(name("default/db"))));
    assert_eq!(at("10.0.0.2"), None);
    for given in service(&world, &name("default/web")).unwrap().addresses {
        assert_eq!(address(&world, given), Some(Address::Service(name("default/web"))));
    }
    assert_eq!(
        service(&world, &name("default/db")).unwrap().addresses,
        ["10.96.0.1".parse::<std::net::IpAddr>().unwrap()]
    );
    assert!(service(&world, &name("default/none")).unwrap().addresses.is_empty());
    let Some(Address::Workload { endpoint, service, target_ports }) = at("10.0.0.1") else { panic!() };
    assert_eq!((endpoint.ports.len(), service), (0, Some(name("default/web"))));
    assert_eq!(
        (target_ports.len(), target_ports[0].port, target_ports[0].protocol),
        (1, 8080, Protocol::Http)
    );
}

#[test]
fn a_headless_service_without_ports_has_those_offered() {
    let world = built(
        &doc("web", "{clusterIP: None}"),
        [registration("default/a", "10.0.0.1", &["web:80->8080:http"])],
    );
    check(&world, "default/web", &["80/Http"], &["a 80->8080"]);
}

#[test]
fn a_service_offered_without_a_port_is_called_on_every_port() {
    let world = built("", [registration("default/a", "10.0.0.1", &["db"])]);
    check(&world, "default/db", &[], &["a"]);
    let endpoint = endpoints(&world, &name("default/db")).unwrap().remove(0);
    assert_eq!(endpoint.target_port(5432), Some(5432));

    let text = doc("db", "{ports: [{port: 3306, appProtocol: tcp}]}");
    let world = built(&text, [registration("default/a", "10.0.0.1", &["db"])]);
    check(&world, "default/db", &["3306/Tcp"], &["a 3306->3306"]);
}

#[test]
fn a_workload_is_told_what_its_ports_serve() {
    let text = doc("web", "{selector: {app: web}, ports: [{port: 80, targetPort: 9, appProtocol: grpc}]}")
        + &doc("all", "{selector: {app: web}, ports: [{port: 1, targetPort: 9}]}");
    let offers = ["mine:80->8080:http"];
    let world = built(&text, [labelled(registration("default/a", "10.0.0.1", &offers), &[("app", "web")])]);
    let told = workload(&world, &name("default/a")).unwrap();
    let ports: Vec<_> = told
        .ports
        .iter()
        .map(|port| format!("{} {} {:?}", port.port, port.service.name, port.protocol))
        .collect();
    assert_eq!(ports, ["9 all Detect", "9 web Grpc", "8080 mine Http"]);
    assert_eq!(told.service_account.as_str(), "app");
}

#[test]
fn the_meshs_settings_are_the_defaults_and_what_the_document_says() {
    let mut world = world();
    let defaults = mesh(&world);
    assert_eq!((defaults.mtls, defaults.tracing.sampling_per_million), (MtlsMode::Strict, 1_000_000));
    assert_eq!(defaults.service_cidrs.len(), 2);
    world.apply(documents(
        "f",
        "{apiVersion: weft.mesh/v1alpha1, kind: MeshConfig, metadata: {name: default}, spec: {mtls: {mode: Permissive}, tracing: {sampling: 1%, propagation: [b3]}}}",
    ));
    let told = mesh(&world);
    assert_eq!((told.mtls, told.tracing.sampling_per_million), (MtlsMode::Permissive, 10_000));
    assert_eq!(told.tracing.propagation, [Propagation::W3c, Propagation::B3]);
    assert_eq!(told.outbound, defaults.outbound);
}

#[test]
fn an_empty_world_has_settings_and_trust_only() {
    let mut world = world();
    world.apply(Change::Trust(Trust::new("mesh.local".parse().unwrap(), vec![vec![1]])));
    let all: Vec<_> = compile(&world).into_values().collect();
    assert!(matches!(&all[..], [Resource::Mesh(_), Resource::Trust(trust)] if trust.anchors == [vec![1]]));
}

#[test]
fn a_policy_reaches_the_workloads_of_its_target_with_the_ports_it_is_about() {
    let policy = |name: &str, target: &str| {
        format!(
            "{{apiVersion: weft.mesh/v1alpha1, kind: AuthorizationPolicy, metadata: {{name: {name}}}, \
             spec: {{{target}rules: [{{}}]}}}}\n---\n"
        )
    };
    let text = [
        doc("web", "{selector: {app: a}, ports: [{port: 80, targetPort: 8080}]}"),
        policy("mesh", "targetRef: {kind: Mesh}, "),
        policy("own", "targetRef: {kind: Namespace}, "),
        policy("service", "targetRef: {kind: Service, name: web}, "),
        policy("workload", "targetRef: {kind: Workload, name: b}, "),
        policy("absent", "targetRef: {kind: Service, name: absent}, "),
    ];
    let a = labelled(registration("default/a", "10.0.0.1", &["other:9"]), &[("app", "a")]);
    let elsewhere = registration("shop/c", "10.0.0.3", &["web:80"]);
    let world = built(&text.concat(), [a, registration("default/b", "10.0.0.2", &["b:1"]), elsewhere]);
    let check = |of: &str, expected: &[(&str, &[u16])]| {
        let workload = workload(&world, &name(of)).unwrap();
        let found: Vec<_> = workload
            .policies
            .iter()
            .map(|policy| (policy.name.name.as_str(), policy.ports.as_slice()))
            .collect();
        assert_eq!(found, expected, "{of}");
    };
    check("default/a", &[("mesh", &[]), ("own", &[]), ("service", &[8080])]);
    check("default/b", &[("mesh", &[]), ("own", &[]), ("workload", &[])]);
    check("shop/c", &[("mesh", &[])]);
}

#[test]
fn limits_go_the_way_of_policies() {
    let text = "{apiVersion: weft.mesh/v1alpha1, kind: RateLimit, metadata: {name: p}, \
                spec: {targetRef: {kind: Service, name: web}, limits: [{requests: 5, per: 1s}]}}";
    let world = built(text, [registration("default/a", "10.0.0.1", &["web:80->8080"])]);
    let limits = workload(&world, &name("default/a")).unwrap().limits;
    assert_eq!((limits.len(), limits[0].ports.as_slice()), (1, &[8080][..]));
    let limit = &limits[0].limits[0];
    assert_eq!((limit.requests, limit.burst, limit.key.as_slice()), (5, 5, &[][..]));
}

#[test]
fn of_a_global_limit_each_that_takes_traffic_has_an_even_share_and_hears_when_that_is_another() {
    let text = "{apiVersion: weft.mesh/v1alpha1, kind: RateLimit, metadata: {name: p}, spec: {targetRef: {kind: Service, name: web}, \
                limits: [{requests: 90, per: 1s, burst: 20, scope: Global}, {requests: 7, per: 1s}]}}";
    let pods =
        ["a", "b", "c"].map(|pod| registration(&format!("default/{pod}"), "10.0.0.1", &["web:80->8080"]));
    let mut world = built(text, pods);
    let check = |world: &World, pod: &str, seconds: u64, burst: u32| {
        let limits = workload(world, &name(pod)).unwrap().limits.remove(0).limits;
        let shared = (limits[0].requests, limits[0].per.as_secs(), limits[0].burst);
        assert_eq!(shared, (90, seconds, burst), "{pod}");
        assert_eq!((limits[1].requests, limits[1].per.as_secs(), limits[1].burst), (7, 1, 7), "{pod}");
    };
    for pod in ["default/a", "default/b", "default/c"] {
        check(&world, pod, 3, 6);
    }
    let effects = world.apply(Change::Ready { workload: name("default/c"), ready: false });
    for pod in ["default/a", "default/b"] {
        assert!(effects.affected.contains(&ResourceName::Workload(name(pod))), "{pod}");
        check(&world, pod, 2, 10);
    }
    let effects = world.apply(Change::Unregistered(name("default/b")));
    assert!(effects.affected.contains(&ResourceName::Workload(name("default/a"))));
    check(&world, "default/a", 1, 20);
    // No share is less than a call at once.
    let many =
        (0..30).map(|number| registration(&format!("default/m{number}"), "10.0.0.1", &["web:80->8080"]));
    many.for_each(|pod| drop(world.apply(Change::Registered(pod))));
    check(&world, "default/a", 31, 1);
}

fn token_policy(name: &str, target: &str, jwks: &str) -> String {
    format!(
        "{{apiVersion: weft.mesh/v1alpha1, kind: JwtAuthentication, metadata: {{name: {name}}}, spec: {{targetRef: {target}, \
         providers: [{{issuer: https://id, audiences: [web]{jwks}}}]}}}}\n---\n"
    )
}

#[test]
fn of_policies_about_tokens_the_most_precise_comes_first_and_fetched_keys_come_with_it() {
    let text = [
        token_policy("a", "{kind: Mesh}", ""),
        token_policy("b", "{kind: Workload, name: a}", ", jwks: {uri: https://id/keys}"),
        token_policy("c", "{kind: Service, name: web}", ""),
        token_policy("d", "{kind: Namespace}", ""),
    ];
    let mut world = built(&text.concat(), [registration("default/a", "10.0.0.1", &["web:80"])]);
    let tokens = |world: &World| workload(world, &name("default/a")).unwrap().tokens;
    let names: Vec<_> = tokens(&world).iter().map(|policy| policy.name.name.as_str().to_owned()).collect();
    assert_eq!(names, ["b", "c", "d", "a"]);
    assert_eq!(tokens(&world)[1].ports, [80]);
    assert_eq!(world.key_sources().len(), 2);

    let source = KeySource::At { uri: "https://id/keys".to_owned(), authorities: String::new() };
    let key = TokenKey { id: None, algorithm: None, material: KeyMaterial::Ed25519(vec![1; 32]) };
    let change = |keys| Change::Keys { source: source.clone(), keys };
    let affected = world.apply(change(vec![key.clone()])).affected;
    assert_eq!(affected, [ResourceName::Workload(name("default/a"))].into());
    let keys: Vec<_> = tokens(&world).iter().map(|policy| policy.providers[0].keys.len()).collect();
    assert_eq!(keys, [1, 0, 0, 0]);
    assert!(world.apply(change(vec![key])).affected.is_empty(), "nothing new");
    assert_eq!(world.apply(change(Vec::new())).affected.len(), 1);
    assert!(tokens(&world)[0].providers[0].keys.is_empty());
}

#[test]
fn two_policies_about_tokens_of_the_same_calls_are_refused() {
    let text = [token_policy("a", "{kind: Mesh}", ""), token_policy("b", "{kind: Mesh}", "")].concat();
    let problems = world().check("files", &good(&text));
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(
        problems[0].message.contains("JwtAuthentication default/b at f.yaml:3 says whose tokens"),
        "{problems:?}"
    );
}

#[test]
fn a_policy_that_comes_or_goes_touches_the_workloads_of_its_target() {
    let policy = |kind: &str, rest: &str| {
        format!(
            "{{apiVersion: weft.mesh/v1alpha1, kind: {kind}, metadata: {{name: p}}, spec: {{targetRef: {{kind: Service, name: web}}, {rest}}}}}"
        )
    };
    let access = policy("AuthorizationPolicy", "rules: []");
    let limit = policy("RateLimit", "limits: [{requests: 1, per: 1s}]");
    let mut world = built("", [registration("default/a", "10.0.0.1", &["web:80"])]);
    world.apply(Change::Registered(registration("default/b", "10.0.0.2", &["other:80"])));
    for text in [&access, "", &limit, ""] {
        let change = documents("files", text);
        let affected = world.apply(change).affected;
        let workloads: Vec<_> =
            affected.iter().filter(|name| matches!(name, ResourceName::Workload(_))).collect();
        assert_eq!(workloads.len(), 1, "{affected:?}");
    }
}
