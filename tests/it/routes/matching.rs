//! What of a request decides on its rule.

use super::{ECHO, Rig, TO_V1, TO_V2, outcome, prefix, route};
use crate::in_pods;

#[test]
fn requests_are_matched_as_the_specification_has_it() {
    in_pods!(requests_are_matched_as_the_specification_has_it, || {
        let rig = Rig::start();
        // MeshBasic: no configuration.
        assert!(outcome(&rig.get(ECHO, "/", "")).starts_with("echo-v"));
        // MeshHTTPRouteSimpleSameNamespace.
        rig.apply(&route("r", &format!("  - {{{TO_V1}}}")));
        assert_eq!(rig.share(20), 20);
        // MeshHTTPRouteMatching.
        rig.apply(&route(
            "r",
            &format!(
                "  - {{matches: [{{path: {{type: PathPrefix, value: /}}}}, {{headers: [{{name: version, value: one}}]}}], {TO_V1}}}\n  \
                 - {{matches: [{{path: {{type: PathPrefix, value: /v2}}}}, {{headers: [{{name: version, value: two}}]}}], {TO_V2}}}"
            ),
        ));
        for (path, headers, expected) in [
            ("/", "", "echo-v1"),
            ("/example", "", "echo-v1"),
            ("/", "Version: one\r\n", "echo-v1"),
            ("/v2", "", "echo-v2"),
            ("/v2/example", "", "echo-v2"),
            ("/", "Version: two\r\n", "echo-v2"),
            ("/v2/", "", "echo-v2"),
            ("/v2example", "", "echo-v1"),
            ("/foo/v2/example", "", "echo-v1"),
            // Not in the suite: no spelling gets around a rule.
            ("/foo/../v2/example", "", "echo-v2"),
            ("/%76%32", "", "echo-v2"),
            ("//v2", "", "echo-v2"),
        ] {
            rig.check(path, headers, expected);
        }
        // MeshTrafficSplit.
        rig.apply(&route("r", &(prefix("/v1", TO_V1) + &prefix("/v2", TO_V2))));
        rig.check("/v1", "", "echo-v1");
        rig.check("/v2", "", "echo-v2");
        rig.check("/v3", "", "404 no-route");
        query_parameters(&rig);
        // MeshHTTPRouteNamedRule.
        let named = |name: &str, path: &str, to: &str| {
            format!("  - {{name: {name}, matches: [{{path: {{type: PathPrefix, value: {path}}}}}], {to}}}\n")
        };
        rig.apply(&route("r", &(named("named-rule", "/named", TO_V1) + &prefix("/unnamed", TO_V2))));
        rig.check("/named", "", "echo-v1");
        rig.check("/unnamed", "", "echo-v2");
        let label = "route=\"default/r/named-rule\"";
        assert!(rig.v1.metric("weft_requests_total", &[label]) >= 1.0, "{label}");
    });
}

/// `MeshHTTPRouteQueryParamMatching`.
fn query_parameters(rig: &Rig) {
    let animal = |value: &str| format!("queryParams: [{{name: animal, value: {value}}}]");
    let rule = |matches: &[String], to: &str| {
        let matches: Vec<_> = matches.iter().map(|wanted| format!("{{{wanted}}}")).collect();
        format!("  - {{matches: [{}], {to}}}\n", matches.join(", "))
    };
    let path = |path: &str, rest: &str| format!("path: {{type: PathPrefix, value: {path}}}, {rest}");
    let version = |value: &str| format!("headers: [{{name: version, value: {value}}}], ");
    rig.apply(&route(
        "r",
        &[
            rule(&[animal("whale")], TO_V1),
            rule(&[animal("dolphin")], TO_V2),
            rule(&[path("/path1", &animal("whale"))], TO_V1),
            rule(&[version("one") + &animal("whale")], TO_V2),
            rule(
                &[path("/path3", &animal("shark")), path("/path4", &(version("three") + &animal("kraken")))],
                TO_V1,
            ),
            rule(&["path: {type: PathPrefix, value: /path5}".to_owned()], TO_V1),
            rule(&[animal("hydra")], TO_V2),
        ]
        .concat(),
    ));
    for (path, headers, expected) in [
        ("/?animal=whale", "", "echo-v1"),
        ("/?animal=dolphin", "", "echo-v2"),
        ("/?animal=whale&otherparam=irrelevant", "", "echo-v1"),
        ("/?animal=dolphin&color=yellow", "", "echo-v2"),
        ("/?color=blue", "", "404 no-route"),
        ("/?animal=dog", "", "404 no-route"),
        ("/?animal=whaledolphin", "", "404 no-route"),
        ("/", "", "404 no-route"),
        ("/path1?animal=whale", "", "echo-v1"),
        ("/?animal=whale", "version: one\r\n", "echo-v2"),
        ("/path3?animal=shark", "", "echo-v1"),
        ("/path4?animal=kraken", "version: three\r\n", "echo-v1"),
        ("/?animal=shark", "", "404 no-route"),
        ("/path4?animal=kraken", "", "404 no-route"),
        ("/path5?animal=hydra", "", "echo-v1"),
    ] {
        rig.check(path, headers, expected);
    }
}

#[test]
fn grpc_calls_are_routed_by_service_and_method() {
    in_pods!(grpc_calls_are_routed_by_service_and_method, || {
        let rig = Rig::start();
        rig.apply(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {name: g}\nspec:\n  \
             parentRefs: [{group: \"\", kind: Service, name: echo, port: 80}]\n  rules:\n  \
             - matches: [{method: {service: echo.Echo, method: One}}]\n    filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-set, value: v}]}}]\n    \
             backendRefs: [{name: echo-v1, port: 8080}]\n  \
             - matches: [{method: {service: echo.Echo}}, {method: {type: RegularExpression, method: \"T.*\"}}]\n    backendRefs: [{name: echo-v2, port: 8080}]\n",
        );
        let grpc = "content-type: application/grpc\r\nte: trailers\r\n";
        rig.check("/echo.Echo/One", grpc, "echo-v1");
        rig.check("/echo.Echo/Other", grpc, "echo-v2");
        rig.check("/another.Service/Two", grpc, "echo-v2");
        assert!(rig.get(ECHO, "/echo.Echo/One", grpc).text().contains("x-set: v"));
        let answer = rig.get(ECHO, "/another.Service/One", grpc);
        let unimplemented = (answer.status, answer.header("grpc-status"), answer.header("weft-error"));
        assert_eq!(unimplemented, (200, Some("12"), Some("no-route")));
        // An HTTPRoute beside it on the same port does not count.
        rig.apply(&route("r", &format!("  - {{{TO_V2}}}")));
        rig.check("/echo.Echo/One", grpc, "echo-v1");
    });
}
