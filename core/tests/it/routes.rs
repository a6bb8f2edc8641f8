//! Routes in documents: each mistake with its line, which service a route is bound to, and what is said of it.

use weft_core::attachment::status;
use weft_core::compile::service;
use weft_core::manifest::Kind;
use weft_core::model::{BackendTarget, RouteRules};
use weft_core::world::World;

use crate::documents::read_text;
use crate::world::{documents, name, world};

/// A route's mistakes, each from its line on; the rules begin at line 6.
fn check(kind: &str, version: &str, rules: &str, expected: &[&str]) {
    let text = format!(
        "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: r}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: s}}]\n{rules}\n"
    );
    let problems: Vec<_> = read_text(&text).problems.iter().map(ToString::to_string).collect();
    let all = problems.iter().zip(expected).all(|(found, expected)| {
        let (line, words) = expected.split_once(' ').unwrap();
        found.starts_with(&format!("f.yaml:{line}:")) && found.contains(words)
    });
    assert!(all && problems.len() == expected.len(), "{rules}\nfound {problems:#?}\nexpected {expected:#?}");
}

fn http(rule: &str, expected: &[&str]) {
    check("HTTPRoute", "v1", &format!("  rules:\n  - {rule}"), expected);
}

#[test]
fn matches_that_cannot_be_meant_are_refused() {
    http("matches: [{path: {value: /a}, method: GET}]", &[]);
    http("matchs: []", &["7 unknown field \"spec.rules[0].matchs\""]);
    for (path, why) in [
        ("a", "does not begin with"),
        ("/a//b", "it holds \"//\""),
        ("/a/../b", "dot segment"),
        ("/a/.", "dot segment"),
        ("/a%2Fb", "encoded '/'"),
        ("\"/a#b\"", "character"),
        ("/a%zz", "hexadecimal"),
    ] {
        http(&format!("matches: [{{path: {{type: Exact, value: {path}}}}}]"), &[&format!("7 {why}")]);
    }
    http("matches: [{path: {type: RegularExpression, value: \"(a\"}}]", &["7 no regular expression"]);
    http("matches: [{path: {type: Prefix, value: /a}}]", &["7 is not one of Exact, PathPrefix"]);
    http("matches: [{method: get}]", &["7 is not one of GET"]);
    http("matches: [{headers: [{name: \"a b\", value: c}]}]", &["7 is no name of a header field"]);
    http("matches: [{headers: [{name: A, value: c}, {name: a, value: d}]}]", &["7 there twice"]);
    http("matches: [{queryParams: [{name: a, value: \"\"}]}]", &["7 1 to 1024 characters"]);
    http("matches: [{queryParams: [{name: A, value: c}, {name: a, value: d}]}]", &[]);
    let many = format!("matches: [{}]", vec!["{method: GET}"; 65].join(", "));
    http(&many, &["7 65 are more than 64"]);
    check("GRPCRoute", "v1", "  rules:\n  - matches: [{method: {}}]", &["7 one of service and method"]);
    check("GRPCRoute", "v1", "  rules:\n  - matches: [{method: {service: a/b}}]", &["7 no name of gRPC's"]);
    check("GRPCRoute", "v1", "  rules:\n  - matches: [{path: {value: /}}]", &["7 unknown field"]);
}

#[test]
fn filters_that_contradict_are_refused() {
    let filter = |kind: &str, field: &str, body: &str| format!("{{type: {kind}, {field}: {body}}}");
    let edits = |body: &str| filter("RequestHeaderModifier", "requestHeaderModifier", body);
    let redirect = |body: &str| filter("RequestRedirect", "requestRedirect", body);
    let rewrite = |body: &str| filter("URLRewrite", "urlRewrite", body);
    let cors = |body: &str| filter("CORS", "cors", body);
    let rule = |filters: &[String], rest: &str, expected: &[&str]| {
        http(&format!("filters: [{}]\n    {rest}", filters.join(", ")), expected);
    };
    let backends = "backendRefs: [{name: b, port: 80}]";
    rule(&[edits("{set: [{name: a, value: b}]}")], backends, &[]);
    rule(&[edits("{}"), edits("{}")], backends, &["7 there already"]);
    rule(&[edits("{set: [{name: a, value: b}], remove: [A]}")], backends, &["7 changed twice"]);
    rule(&[edits("{set: [{name: Content-Length, value: \"1\"}]}")], backends, &["7 framed"]);
    rule(&[edits("{add: [{name: a, value: \"b\\nc\"}]}")], backends, &["7 no value of a header field"]);
    rule(
        &[filter("RequestHeaderModifier", "urlRewrite", "{}")],
        backends,
        &["7 is missing", "7 this is for filters of type URLRewrite"],
    );
    rule(&[redirect("{}")], backends, &["7 a rule that redirects"]);
    rule(&[redirect("{}"), rewrite("{}")], "name: x", &["7 exclude each other"]);
    rule(&[redirect("{statusCode: 304}")], "name: x", &["7 304 is no redirect"]);
    rule(&[redirect("{hostname: 10.0.0.1}")], "name: x", &["7 no host name"]);
    let by_prefix = "{path: {type: ReplacePrefixMatch, replacePrefixMatch: /x}}";
    rule(&[rewrite(by_prefix)], backends, &[]);
    rule(
        &[rewrite(by_prefix)],
        &format!("{backends}\n    matches: [{{path: {{type: Exact, value: /a}}}}]"),
        &["7 exactly one match"],
    );
    rule(
        &[rewrite("{path: {type: ReplaceFullPath, replacePrefixMatch: /x}}")],
        backends,
        &["7 is missing", "7 other type"],
    );
    rule(&[cors("{allowOrigins: [\"*\", \"https://a.b\"]}")], backends, &["7 every origin"]);
    rule(&[cors("{allowOrigins: [a.b]}")], backends, &["7 is no origin"]);
    rule(&[filter("RequestMirror", "requestMirror", "{backendRef: {name: b, port: 1}}")], backends, &[]);
    let mirror = |to: &str, share: &str| {
        filter("RequestMirror", "requestMirror", &format!("{{backendRef: {{name: {to}, port: 80}}{share}}}"))
    };
    rule(
        &[mirror("c", ", percent: 20"), mirror("d", ", fraction: {numerator: 1, denominator: 3}")],
        backends,
        &[],
    );
    rule(&[mirror("b", "")], backends, &["7 default/b:80 is a backend and its own mirror"]);
    rule(&[mirror("c", ""), mirror("c", "")], backends, &["7 default/c:80 is a mirror twice"]);
    rule(&[mirror("c", ", percent: 101")], backends, &["7 from 0 to 100"]);
    rule(&[mirror("c", ", percent: 1, fraction: {numerator: 1}")], backends, &["7 exclude each other"]);
    rule(&[mirror("c", ", fraction: {numerator: 2, denominator: 1}")], backends, &["7 more than all"]);
    http(
        "backendRefs: [{name: b, port: 80, filters: [{type: RequestMirror, requestMirror: {backendRef: {name: b, port: 80}}}]}]",
        &["7 its own mirror"],
    );
    rule(&[filter("ExtensionRef", "extensionRef", "{}")], backends, &["7 no such filter"]);
    http(
        "backendRefs: [{name: b, port: 80, filters: [{type: RequestRedirect, requestRedirect: {}}]}]",
        &["7 a backend does not redirect"],
    );
    http("backendRefs: [{name: b}]", &["7 \"spec.rules[0].backendRefs[0].port\" is missing"]);
    http("backendRefs: [{name: b, port: 80, weight: -1}]", &["7 from 0 to 1000000"]);
    http("timeouts: {request: 1s, backendRequest: 2s}", &["7 longer than the whole"]);
    http("retry: {codes: [200]}", &["7 from 400 to 599"]);
}

#[test]
fn parents_and_rules_are_checked() {
    http("name: a\n  - name: a", &["8 there twice"]);
    check("HTTPRoute", "v1", "  hostnames: [a.b]", &[]);
    check(
        "TLSRoute",
        "v1alpha2",
        "  hostnames: [\"a.*.b\"]\n  rules: [{backendRefs: [{name: b, port: 1}]}]",
        &["6 no host name"],
    );
    check("TCPRoute", "v1alpha2", "  rules: [{}, {}]", &["6 nothing to choose between"]);
    check("TCPRoute", "v1alpha2", "", &["5 \"spec.rules\" is missing"]);
    let parent = |reference: &str| {
        let text = format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r}}\nspec: {{parentRefs: {reference}}}\n"
        );
        let reading = read_text(&text);
        let problems = reading.problems.iter().map(ToString::to_string);
        problems.chain(reading.notes.iter().map(ToString::to_string)).collect::<Vec<_>>().join("\n")
    };
    assert!(parent("[{kind: Service, name: s}]").contains("add group: \"\""));
    assert!(
        parent("[{name: gateway}]")
            .contains("ignored: the mesh attaches routes to a Service, not to a Gateway")
    );
    assert!(
        parent("[{group: \"\", kind: Service, name: s}, {group: \"\", kind: Service, name: s}]")
            .contains("twice")
    );
}

fn built(text: &str) -> World {
    let mut world = world();
    world.apply(documents("files", text));
    world
}

fn route(route: &str, namespace: &str, made: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {route}, namespace: {namespace}{made}}}\nspec: {{{rest}}}\n"
    )
}

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec:\n  ports: [{name: a, port: 80}, {name: b, port: 81}]\n";

#[test]
fn routes_are_bound_to_the_ports_that_they_name_the_oldest_first() {
    let to = |more: &str| {
        format!("parentRefs: [{{group: \"\", kind: Service, name: s, namespace: default{more}}}]")
    };
    let world = built(
        &[
            SERVICE.to_owned(),
            route("young", "default", "", &to("")),
            route("old", "shop", ", creationTimestamp: \"2024-01-01T00:00:00Z\"", &to(", port: 81")),
            route("named", "default", "", &to(", sectionName: b")),
            route("astray", "default", "", &to(", port: 82")),
        ]
        .concat(),
    );
    let bound = service(&world, &name("default/s")).unwrap().routes;
    let bound: Vec<_> = bound.iter().map(|route| format!("{} {:?}", route.name, route.ports)).collect();
    assert_eq!(bound, ["shop/old [81]", "default/named [81]", "default/young []"]);
}

#[test]
fn what_leads_to_another_namespace_needs_its_leave() {
    let to = "parentRefs: [{group: \"\", kind: Service, name: s, namespace: default}], rules: [{backendRefs: [{name: t, namespace: other, port: 80}, {name: s, namespace: default, port: 80}]}]";
    let grant = |from: &str, to: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: other}}\nspec:\n  \
             from: [{{group: gateway.networking.k8s.io, kind: {from}, namespace: shop}}]\n  to: [{{group: \"\", kind: Service{to}}}]\n"
        )
    };
    let check = |grant: &str, permitted: bool| {
        let text = [
            SERVICE,
            &SERVICE.replace("name: s", "name: t, namespace: other").replace("apiVersion", "---\napiVersion"),
            &route("r", "shop", "", to),
            grant,
        ]
        .concat();
        let world = built(&text);
        let routes = service(&world, &name("default/s")).unwrap().routes;
        let RouteRules::Http(rules) = &routes[0].rules else { panic!("{routes:?}") };
        let targets: Vec<_> = rules[0].backends.iter().map(|backend| &backend.target).collect();
        // Back to the service that it is bound to needs no leave.
        assert_eq!(targets[1], &BackendTarget::Service(name("default/s"), 80));
        assert_eq!(*targets[0] != BackendTarget::NotPermitted, permitted, "{grant}");
        let route = world.resources().find(|resource| resource.kind == Kind::HttpRoute).unwrap();
        let said = status(&world, route);
        assert_eq!(said[0].resolved.reason, if permitted { "ResolvedRefs" } else { "RefNotPermitted" });
    };
    check("", false);
    check(&grant("HTTPRoute", ""), true);
    check(&grant("HTTPRoute", ", name: t"), true);
    check(&grant("HTTPRoute", ", name: u"), false);
    check(&grant("GRPCRoute", ""), false);
}

#[test]
fn rules_that_say_the_same_are_told_of_where_the_later_one_stands() {
    let http = |name: &str, more: &str, rules: &str| {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}{more}}}\nspec:\n  \
             parentRefs: [{{group: \"\", kind: Service, name: s}}]\n  rules:\n{rules}"
        )
    };
    let rule =
        |matches: &str| format!("  - {{matches: [{matches}], backendRefs: [{{name: b, port: 80}}]}}\n");
    let check = |text: &str, expected: &[&str]| {
        let resources = read_text(text).resources;
        let keys: Vec<_> = resources.iter().map(|resource| resource.key()).collect();
        let notes = world().ties("apply", &resources, &keys);
        let notes: Vec<_> = notes.iter().map(ToString::to_string).collect();
        let fits = notes.len() == expected.len()
            && notes.iter().zip(expected).all(|(note, words)| note.contains(words));
        assert!(fits, "{text}\n{notes:#?}");
    };
    let (root, a) = (rule("{path: {value: /}}"), rule("{path: {value: /a}}"));
    check(&http("x", "", &(root.clone() + &a)), &[]);
    // Within one route, in other words, and against another.
    check(
        &http("x", "", &(root.clone() + &rule("{}"))),
        &[
            "f.yaml:9: this is also the match of HTTPRoute default/x at f.yaml:8; calls go by that at f.yaml:8",
        ],
    );
    let both = http("y", "", &a) + &http("x", "", &a);
    check(
        &both,
        &[
            "f.yaml:8: this is also the match of HTTPRoute default/x at f.yaml:16; calls go by that at f.yaml:16",
        ],
    );
    check(&(http("y", "", &a) + &http("x", ", namespace: shop", &a)), &[]);
    let headers = |names: [&str; 2]| {
        let field = |name: &str| format!("{{name: {name}, value: v}}");
        rule(&format!("{{headers: [{}, {}]}}", field(names[0]), field(names[1])))
    };
    check(&http("x", "", &(headers(["a", "b"]) + &headers(["b", "a"]))), &["f.yaml:9"]);
    check(&http("x", "", &(headers(["a", "b"]) + &headers(["b", "c"]))), &[]);
}

#[test]
fn a_route_touches_the_services_that_it_is_for_before_and_after() {
    use weft_core::model::ResourceName;
    let to = |service: &str| {
        route("r", "default", "", &format!("parentRefs: [{{group: \"\", kind: Service, name: {service}}}]"))
    };
    let mut world = built(&[SERVICE, &to("s")].concat());
    let effects = world.apply(documents("files", &[SERVICE, &to("t")].concat()));
    for touched in ["default/s", "default/t"] {
        assert!(effects.affected.contains(&ResourceName::Service(name(touched))), "{touched}");
    }
    assert!(service(&world, &name("default/s")).unwrap().routes.is_empty());
}
