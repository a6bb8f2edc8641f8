//! Every kind of mistake is refused with its line, what is wrong, and what to do; and all of them at once.

use weft_core::manifest::{SourceFile, read};

use crate::documents::read_text;

/// Each expectation is a problem from its line on: `5:3: message; hint`, matched from its beginning.
fn check(text: &str, expected: &[&str]) {
    let problems: Vec<_> = read_text(text).problems.iter().map(ToString::to_string).collect();
    let matches = problems.iter().zip(expected);
    let all = matches.clone().all(|(problem, expected)| problem.starts_with(&format!("f.yaml:{expected}")));
    assert!(all && problems.len() == expected.len(), "{text}\nfound {problems:#?}\nexpected {expected:#?}");
}

fn service(spec: &str, expected: &[&str]) {
    check(&format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec:\n{spec}\n"), expected);
}

fn mesh_config(spec: &str, expected: &[&str]) {
    let head = "apiVersion: weft.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec:\n";
    check(&format!("{head}{spec}\n"), expected);
}

fn workload(spec: &str, expected: &[&str]) {
    let head = "apiVersion: weft.mesh/v1alpha1\nkind: Workload\nmetadata: {name: a}\nspec:\n";
    check(&format!("{head}{spec}\n"), expected);
}

fn policy(spec: &str, expected: &[&str]) {
    let head = "apiVersion: weft.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec:\n";
    check(&format!("{head}{spec}\n"), expected);
}

#[test]
fn access_rules_that_would_not_do_what_they_seem_to_are_refused() {
    policy("  {targetRef: {kind: Mesh}}", &["5:3: \"spec.rules\" is missing; write a list of rules"]);
    policy(
        "  {action: Alow, targetRef: {kind: Mesh}, rules: []}",
        &["5:12: spec.action: \"Alow\" is not one of Allow, Deny; did you mean"],
    );
    policy(
        "  {targetRef: {kind: HTTPRoute, name: a}, rules: []}",
        &["5:22: spec.targetRef.kind: a policy for a HTTPRoute is not enforced by this version yet"],
    );
    policy("  {targetRef: {kind: Service}, rules: []}", &["5:15: \"spec.targetRef.name\" is missing"]);
    for (rule, expected) in [
        ("{from: [{}]}", "spec.rules[0].from[0]: it says nothing"),
        ("{from: [{serviceAccounts: []}]}", "spec.rules[0].from[0].serviceAccounts: an empty list"),
        ("{from: [{acounts: [a]}]}", "unknown field \"spec.rules[0].from[0].acounts\""),
        ("{from: [{principals: [web]}]}", "spec.rules[0].from[0].principals[0]: web is no SPIFFE identity"),
        ("{from: [{cidrs: [10.0.0.1/8]}]}", "spec.rules[0].from[0].cidrs[0]: "),
        ("{to: [{methods: [get]}]}", "spec.rules[0].to[0].methods[0]: methods are told apart by case"),
        ("{to: [{paths: [orders]}]}", "spec.rules[0].to[0].paths[0]: \"orders\" does not begin with '/'"),
        ("{to: [{paths: ['/a*b']}]}", "spec.rules[0].to[0].paths[0]: \"/a*b\" has a '*' that is neither"),
        ("{to: [{paths: [/a/../b]}]}", "spec.rules[0].to[0].paths[0]: /a/../b would never match"),
        ("{to: [{hosts: ['Orders']}]}", "spec.rules[0].to[0].hosts[0]: Orders would never match"),
        ("{to: [{hosts: ['orders:80']}]}", "spec.rules[0].to[0].hosts[0]: orders:80 would never match"),
        ("{to: [{ports: [0]}]}", "spec.rules[0].to[0].ports[0]: 0 is not a whole number"),
        (
            "{when: [{header: 'x y', values: [a]}]}",
            "spec.rules[0].when[0].header: \"x y\" is no header's name",
        ),
        ("{when: [{header: x}]}", "spec.rules[0].when[0]: a condition selects nothing"),
        ("{when: [{claim: '', values: [a]}]}", "spec.rules[0].when[0].claim: \"\" is no claim"),
        (
            "{when: [{claim: scope, header: x, values: [a]}]}",
            "spec.rules[0].when[0].claim: a condition is about a header or a claim",
        ),
    ] {
        let head = "apiVersion: weft.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: a}\nspec:\n  targetRef: {kind: Mesh}\n  rules:\n  - ";
        let problems = read_text(&format!("{head}{rule}\n")).problems;
        assert_eq!(problems.len(), 1, "{rule}: {problems:#?}");
        assert!(problems[0].line == 7 && problems[0].message.starts_with(expected), "{rule}: {problems:#?}");
    }
}

#[test]
fn limits_that_would_not_do_what_they_seem_to_are_refused() {
    let check = |spec: &str, expected: &[&str]| {
        let head = "apiVersion: weft.mesh/v1alpha1\nkind: RateLimit\nmetadata: {name: a}\nspec:\n";
        check(&format!("{head}{spec}\n"), expected);
    };
    let target = "  targetRef: {kind: Mesh}\n";
    check(&format!("{target}  limits: []"), &["6:11: spec.limits: 0 limits, where from 1 to 16"]);
    check(target, &["5:3: \"spec.limits\" is missing; write limits: [{requests: 100, per: 1s}]"]);
    check(
        "  targetRef: {kind: HTTPRoute, name: a}\n  limits: [{requests: 1, per: 1s}]",
        &["5:21: spec.targetRef.kind: a policy for a HTTPRoute is not enforced"],
    );
    for (limit, expected) in [
        ("{requests: 0, per: 1s}", "23: spec.limits[0].requests: 0 is not a whole number"),
        ("{requests: 1}", "12: \"spec.limits[0].per\" is missing"),
        ("{requests: 1, per: 0s}", "31: spec.limits[0].per: must be longer than nothing"),
        ("{requests: 1, per: 25h}", "31: spec.limits[0].per: is longer than a day"),
        ("{requests: 1, per: 1s, burst: 0}", "42: spec.limits[0].burst: 0 is not"),
        (
            "{requests: 1, per: 1s, scope: Global}",
            "42: spec.limits[0].scope: Global is not for the whole mesh",
        ),
        ("{requests: 1, per: 1s, scope: global}", "42: spec.limits[0].scope: \"global\" is not one of"),
        ("{requests: 1, per: 1s, key: [user]}", "41: spec.limits[0].key[0]: \"user\" is nothing that"),
        ("{requests: 1, per: 1s, key: [path, path]}", "47: spec.limits[0].key[1]: path is there twice"),
        ("{requests: 1, per: 1s, rate: 1}", "35: unknown field \"spec.limits[0].rate\""),
    ] {
        check(&format!("{target}  limits: [{limit}]"), &[&format!("6:{expected}")]);
    }
    check(
        &format!("{target}  rules: []\n  limits: [{{requests: 1, per: 1s}}]"),
        &["6:10: spec.rules: an empty list is about no call; leave it out"],
    );
}

#[test]
fn tokens_that_would_prove_nothing_or_too_much_are_refused() {
    let check = |provider: &str, expected: &str| {
        let head = "apiVersion: weft.mesh/v1alpha1\nkind: JwtAuthentication\nmetadata: {name: a}\nspec:\n  targetRef: {kind: Mesh}\n";
        let text = format!("{head}  providers:\n  - {provider}\n");
        let problems = read_text(&text).problems;
        assert_eq!(problems.len(), 1, "{text}{problems:#?}");
        assert!(problems[0].line == 7 && problems[0].message.starts_with(expected), "{text}{problems:#?}");
    };
    let id = "issuer: https://id, audiences: [web]";
    check("{audiences: [web]}", "\"spec.providers[0].issuer\" is missing");
    check("{issuer: https://id}", "\"spec.providers[0].audiences\" is missing");
    check("{issuer: https://id, audiences: []}", "spec.providers[0].audiences: 0 members, where from 1");
    check("{issuer: id, audiences: [web]}", "spec.providers[0].issuer: \"id\" is no address that keys are");
    for (jwks, expected) in [
        ("{uri: 'http://id/jwks'}", "spec.providers[0].jwks.uri: \"http://id/jwks\" is no address that"),
        ("{uri: 'https://a@id/jwks'}", "spec.providers[0].jwks.uri: \"https://a@id/jwks\" is no address"),
        ("{uri: 'https://'}", "spec.providers[0].jwks.uri: \"https://\" is no address"),
        ("{inline: '{}'}", "spec.providers[0].jwks.inline: it has no list \"keys\""),
        ("{inline: '{\"keys\":[]}'}", "spec.providers[0].jwks.inline: none of its keys can prove a token"),
        (
            "{inline: '{\"keys\":[{\"kty\":\"EC\",\"d\":\"x\"}]}'}",
            "spec.providers[0].jwks.inline: key 0 is private",
        ),
        ("{inline: '{}', uri: 'https://id'}", "spec.providers[0].jwks.uri: the keys stand in the document"),
        ("{ca: none}", "spec.providers[0].jwks.ca: is no certificate in PEM"),
        ("{}", "spec.providers[0].jwks: it says nothing"),
    ] {
        check(&format!("{{{id}, jwks: {jwks}}}"), expected);
    }
    for (more, expected) in [
        ("forward: Maybe", "spec.providers[0].forward: \"Maybe\" is not one of Keep, Strip"),
        (
            "fromHeaders: [{name: 'x y'}]",
            "spec.providers[0].fromHeaders[0].name: \"x y\" is no header's name",
        ),
        ("fromParams: ['a=b']", "spec.providers[0].fromParams[0]: \"a=b\" is no parameter's name"),
        ("clockSkew: 1h", "spec.providers[0].clockSkew: is longer than ten minutes"),
        ("claimHeaders: [{claim: sub, header: Host}]", "spec.providers[0].claimHeaders[0].header: \"host\""),
        (
            "claimHeaders: [{claim: sub, header: weft-client-id}]",
            "spec.providers[0].claimHeaders[0].header: \"weft-client-id\" is no header that a claim may be in",
        ),
    ] {
        check(&format!("{{{id}, {more}}}"), expected);
    }
    check(&format!("{{{id}, forward: 1}}"), "spec.providers[0].forward: expected a text");
}

#[test]
fn what_is_no_resource_is_refused() {
    check("just text", &["1:1: expected a resource, found the text \"just text\"; a resource begins with"]);
    check("- a", &["1:1: expected a resource, found a list"]);
    check("a: [", &["2:1: this is not YAML"]);
    check("{}", &["1:1: \"apiVersion\" is missing", "1:1: \"kind\" is missing"]);
    check(
        "apiVersion: 1\nkind: Service",
        &["1:13: apiVersion: expected a text, found the number 1; quote it: \"1\""],
    );
    check("apiVersion: v1\nkind: List", &["1:1: \"items\" is missing"]);
    check("apiVersion: v1\nkind: List\nitems: [5]", &["3:9: expected a resource, found the number 5"]);
}

#[test]
fn unknown_kinds_are_refused_with_a_suggestion() {
    check(
        "apiVersion: v1\nkind: Servce",
        &["2:7: unknown kind Servce of apiVersion v1; did you mean Service?"],
    );
    check(
        "apiVersion: example.com/v1\nkind: Thing",
        &["2:7: unknown kind Thing of apiVersion example.com/v1; kinds are"],
    );
    check(
        "apiVersion: weft.mesh/v1\nkind: Workload",
        &["2:7: Workload is not of apiVersion weft.mesh/v1; write apiVersion: weft.mesh/v1alpha1"],
    );
    check(
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: HTTPRoute",
        &[
            "2:7: HTTPRoute is not of apiVersion gateway.networking.k8s.io/v1beta1; write apiVersion: gateway.networking.k8s.io/v1",
        ],
    );
}

#[test]
fn metadata_must_name_the_resource() {
    let check = |metadata: &str, expected: &[&str]| {
        check(
            &format!("apiVersion: v1\nkind: Service\nspec: {{ports: [{{port: 1}}]}}\nmetadata: {metadata}"),
            expected,
        );
    };
    check("{}", &["4:11: \"metadata.name\" is missing"]);
    check(
        "{name: Or_ders}",
        &[
            "4:18: metadata.name: \"Or_ders\" may hold only lower-case letters, digits and inner '-'; did you mean \"or-ders\"?",
        ],
    );
    check("{name: 5}", &["4:18: metadata.name: expected a text, found the number 5; quote it: \"5\""]);
    check("{name: a.b}", &["4:18: metadata.name: \"a.b\" is no DNS label"]);
    check("{name: a, namespace: A}", &["4:32: metadata.namespace: \"A\" may hold only"]);
    check("{name: a, lables: {}}", &["4:21: unknown field \"metadata.lables\"; did you mean \"labels\"?"]);
    check(
        "{name: a, labels: {x: 1}}",
        &["4:33: metadata.labels[\"x\"]: expected a text, found the number 1; quote it: \"1\""],
    );
    check("{name: a, labels: {x: a b}}", &["4:33: metadata.labels[\"x\"]: no label's value"]);
    check("{name: a, labels: {'x y': a}}", &["4:37: metadata.labels[\"x y\"]: \"x y\" is no key"]);
    check("{name: a, annotations: [a]}", &["4:34: metadata.annotations: expected a mapping, found a list"]);
    check("{name: a, name: b}", &["4:21: the key \"name\" is there twice, first at line 4"]);
}

#[test]
fn resources_of_the_whole_mesh_have_no_namespace_and_their_own_names() {
    let text = |kind: &str, metadata: &str| {
        let version = if kind == "Namespace" { "v1" } else { "weft.mesh/v1alpha1" };
        format!("apiVersion: {version}\nkind: {kind}\nmetadata: {metadata}\nspec: {{}}\n")
    };
    check(
        &text("Namespace", "{name: a, namespace: b}"),
        &["3:32: metadata.namespace: a Namespace belongs to no namespace"],
    );
    check(
        &text("MeshConfig", "{name: mine}"),
        &["3:18: metadata.name: a MeshConfig must be named \"default\""],
    );
    check(
        &text("MeshConfig", "{name: default, namespace: b}"),
        &["3:38: metadata.namespace: a MeshConfig belongs to no"],
    );
}

#[test]
fn unknown_fields_and_wrong_types_of_a_service_are_refused() {
    service(
        "  prots: []\n  ports: [{port: 1}]",
        &["5:3: unknown field \"spec.prots\"; did you mean \"ports\"?"],
    );
    service("  []", &["5:3: spec: expected a mapping, found a list"]);
    service("", &["1:1: \"spec\" is missing"]);
    service("  selector: {a: b}", &["5:3: \"spec.ports\" is missing"]);
    service("  ports: []", &["5:10: spec.ports: a service has at least one port"]);
    service("  ports: 80", &["5:10: spec.ports: expected a list, found the number 80"]);
    service("  ports: [80]", &["5:11: spec.ports[0]: expected a mapping, found the number 80"]);
    service(
        "  ports: [{prot: 80}]",
        &[
            "5:11: \"spec.ports[0].port\" is missing",
            "5:12: unknown field \"spec.ports[0].prot\"; did you mean \"port\"?",
        ],
    );
    service(
        "  ports:\n  - port: abc",
        &[
            "6:11: spec.ports[0].port: expected a number, found the text \"abc\"; write a number from 1 to 65535",
        ],
    );
    service("  ports: [{port: 0}]", &["5:18: spec.ports[0].port: 0 is not a whole number from 1 to 65535"]);
    service("  ports: [{port: 65536}]", &["5:18: spec.ports[0].port: 65536 is not"]);
    service("  ports: [{port: 80.5}]", &["5:18: spec.ports[0].port: 80.5 is not"]);
    service(
        "  ports: [{port: '80'}]",
        &["5:18: spec.ports[0].port: expected a number, found the text \"80\""],
    );
    service(
        "  ports: [{port: 1, targetPort: '80'}]",
        &["5:33: spec.ports[0].targetPort: \"80\" is a text; write 80 without quotes"],
    );
    service(
        "  ports: [{port: 1, targetPort: A}]",
        &["5:33: spec.ports[0].targetPort: \"A\" is no port's name"],
    );
    service(
        "  ports: [{port: 1, protocol: tcp}]",
        &["5:31: spec.ports[0].protocol: \"tcp\" is not one of TCP, UDP, SCTP; did you mean \"TCP\"?"],
    );
    service(
        "  ports: [{port: 1}]\n  publishNotReadyAddresses: yes",
        &["6:29: spec.publishNotReadyAddresses: expected true or false, found the text \"yes\""],
    );
    service(
        "  ports: [{port: 1}]\n  selector: {a: true}",
        &["6:17: spec.selector[\"a\"]: expected a text, found true; quote it: \"true\""],
    );
    service("  ports: [{port: 1}]\n  type: ExternalName", &["6:9: spec.type: ExternalName is not supported"]);
    service(
        "  ports: [{port: 1}]\n  type: Clusterip",
        &["6:9: spec.type: \"Clusterip\" is not one of ClusterIP, NodePort"],
    );
}

#[test]
fn ports_of_a_service_are_told_apart() {
    service(
        "  ports:\n  - port: 80\n  - port: 81",
        &["6:5: \"spec.ports[0].name\" is missing", "7:5: \"spec.ports[1].name\" is missing"],
    );
    service(
        "  ports:\n  - {name: a, port: 80}\n  - {name: b, port: 80}",
        &["7:5: spec.ports[1]: port 80 is there twice, first as spec.ports[0]"],
    );
    service(
        "  ports:\n  - {name: a, port: 80}\n  - {name: a, port: 81}",
        &["7:5: spec.ports[1]: the name \"a\" is there twice"],
    );
}

#[test]
fn addresses_of_a_service_are_addresses() {
    let ports = "  ports: [{port: 1}]\n";
    service(
        &format!("{ports}  clusterIP: nowhere"),
        &["6:14: spec.clusterIP: invalid IP address syntax; write an IP address, or None"],
    );
    service(&format!("{ports}  clusterIP: 0.0.0.0"), &["6:14: spec.clusterIP: 0.0.0.0 cannot be"]);
    service(&format!("{ports}  clusterIP: 127.0.0.1"), &["6:14: spec.clusterIP: 127.0.0.1 cannot be"]);
    service(
        &format!("{ports}  clusterIP: 10.0.0.1\n  clusterIPs: [10.0.0.2]"),
        &["7:16: spec.clusterIPs[0]: the first of clusterIPs must be clusterIP"],
    );
    service(
        &format!("{ports}  clusterIPs: [10.0.0.1, 10.0.0.2]"),
        &["6:26: spec.clusterIPs[1]: 10.0.0.2 is a second address of its family"],
    );
}

#[test]
fn mistakes_in_a_mesh_config_are_refused() {
    mesh_config(
        "  trustDomain: Mesh_Local!",
        &["5:16: spec.trustDomain: the trust domain of \"Mesh_Local!\""],
    );
    mesh_config(
        "  mtls: Strict",
        &["5:9: spec.mtls: expected a mapping, found the text \"Strict\"; its fields are mode"],
    );
    mesh_config(
        "  mtls: {mode: strict}",
        &["5:16: spec.mtls.mode: \"strict\" is not one of Strict, Permissive; did you mean \"Strict\"?"],
    );
    mesh_config("  mtls: {mod: Strict}", &["5:10: unknown field \"spec.mtls.mod\"; did you mean \"mode\"?"]);
    mesh_config(
        "  outbound: {mode: All}",
        &["5:20: spec.outbound.mode: \"All\" is not one of AllowAny, RegistryOnly"],
    );
    mesh_config(
        "  authorization: {default: Allow}",
        &["5:28: spec.authorization.default: \"Allow\" is not one of"],
    );
    mesh_config(
        "  accessLog: {format: off}\n  tracing: {sampling: 101%}",
        &["6:23: spec.tracing.sampling: \"101%\" is no ratio"],
    );
    mesh_config("  tracing: {sampling: 5}", &["5:23: spec.tracing.sampling: \"5\" is no ratio from 0 to 1"]);
    mesh_config("  tracing: {sampling: [1]}", &["5:23: spec.tracing.sampling: expected a ratio"]);
    mesh_config(
        "  tracing: {propagation: [b4]}",
        &["5:27: spec.tracing.propagation[0]: \"b4\" is not one of w3c, b3"],
    );
    mesh_config(
        "  tracing: {export: [{otlp: collector}]}",
        &["5:29: spec.tracing.export[0].otlp: \"collector\" is no URL"],
    );
    mesh_config(
        "  tracing: {export: [{}]}",
        &["5:22: spec.tracing.export[0]: exactly one of otlp and zipkin"],
    );
    for bad in ["http://", "http://:80", "http://a:0", "http://a:b", "ftp://a", "http://u@a", "'http://a b'"]
    {
        mesh_config(
            &format!("  tracing: {{export: [{{zipkin: {bad}}}]}}"),
            &["5:31: spec.tracing.export[0].zipkin:"],
        );
    }
}

#[test]
fn mistakes_in_a_workload_are_refused() {
    workload("  ports: []", &["5:3: \"spec.address\" is missing"]);
    workload(
        "  address: 10.0.0.300",
        &["5:12: spec.address: \"10.0.0.300\" is no DNS name; write an IP address, or a name that DNS knows"],
    );
    workload(
        "  address: 10.0.0.9\n  srv: _pg._tcp.example.com",
        &["5:12: spec.address: spec.srv says where it is as well; keep one of them"],
    );
    workload(
        "  srv: _pg._tcp.example.com\n  ports: [{port: 5432}]",
        &["6:18: spec.ports[0].port: the SRV record says which port it is; leave port out"],
    );
    workload("  address: 0.0.0.0", &["5:12: spec.address: 0.0.0.0 is nobody's address"]);
    workload(
        "  address: 10.0.0.9\n  ports: [{port: -1}]",
        &["6:18: spec.ports[0].port: -1 is not a whole number"],
    );
    workload(
        "  address: 10.0.0.9\n  ports: [{port: 1}, {port: 1}]",
        &["6:22: spec.ports[1]: port 1 is there twice"],
    );
    workload(
        "  address: 10.0.0.9\n  ports: [{port: 1, protocol: htp}]",
        &[
            "6:31: spec.ports[0].protocol: \"htp\" is not one of http, http2, grpc, tcp, tls; did you mean \"http\"?",
        ],
    );
    workload(
        "  address: 10.0.0.9\n  serviceAccount: Pg",
        &["6:19: spec.serviceAccount: \"Pg\" may hold only"],
    );
    workload(
        "  address: 10.0.0.9\n  weight: heavy",
        &["6:11: spec.weight: expected a number, found the text \"heavy\""],
    );
    workload("  address: 10.0.0.9\n  mtls: true", &["6:9: spec.mtls: mtls needs the service account"]);
    workload(
        "  address: 10.0.0.9\n  adress: 10.0.0.9",
        &["6:3: unknown field \"spec.adress\"; did you mean \"address\"?"],
    );
}

#[test]
fn every_mistake_of_every_document_is_told_in_order() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: A, lables: {}}
spec: {ports: [{port: x}], selectr: {}}
---
a: [1
---
apiVersion: v1
kind: Srvice
---
apiVersion: weft.mesh/v1alpha1
kind: Workload
metadata: {name: w}
spec: {address: a..b, weight: -1}
";
    check(
        text,
        &[
            "4:18: metadata.name",
            "4:21: unknown field",
            "5:23: spec.ports[0].port",
            "5:28: unknown field",
            "8:1: this is not YAML",
            "10:7: unknown kind",
            "15:17: spec.address",
            "15:31: spec.weight",
        ],
    );
}

#[test]
fn a_resource_that_is_there_twice_is_refused_and_the_other_named() {
    let document = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1}]}}\n";
    let other = document.replace("name: a", "name: a, namespace: default");
    let files = [
        SourceFile { name: "one.yaml", text: document },
        SourceFile { name: "two.yaml", text: &format!("\n{other}") },
    ];
    let reading = read(&files, &"default".parse().unwrap());
    let problems: Vec<_> = reading.problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "two.yaml:2:1: Service default/a is there twice, first at one.yaml:1; keep one of them, or name it otherwise"
        ]
    );
    let apart = document.replace("name: a", "name: a, namespace: other");
    assert!(read_text(&format!("{document}---\n{apart}")).problems.is_empty());
}
