//! Routes of Gateway API, attached to Services (GAMMA): each of its mesh conformance tests replayed from `weft apply`, with
//! pods in the place of a cluster's.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::{Duration, Instant};

use weft_tests::{App, HttpClient, Mesh, Options, Response, SidecarPod, eventually};

use crate::{in_pods, weft};

/// The Services of the conformance suite: `echo` is both versions, each version is one by itself.
const SERVICES: &str = "
apiVersion: v1
kind: Service
metadata: {name: echo}
spec:
  clusterIP: 10.96.0.1
  selector: {app: echo}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: http-alt, port: 8080}
---
apiVersion: v1
kind: Service
metadata: {name: echo-v1}
spec:
  clusterIP: 10.96.0.11
  selector: {app: echo, version: v1}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: http-alt, port: 8080}
---
apiVersion: v1
kind: Service
metadata: {name: echo-v2}
spec:
  clusterIP: 10.96.0.12
  selector: {app: echo, version: v2}
  ports:
  - {name: http, port: 80, targetPort: 8080}
  - {name: http-alt, port: 8080}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  ports: [{port: 80}]
";

const ECHO: &str = "10.96.0.1";
const ECHO_V1: &str = "10.96.0.11";
const ECHO_V2: &str = "10.96.0.12";

struct Rig {
    mesh: Mesh,
    v1: SidecarPod,
    v2: SidecarPod,
    consumer: SidecarPod,
    _apps: [App; 2],
}

impl Rig {
    fn start() -> Self {
        let mesh = Mesh::start(
            weft(),
            Options { config: vec![("services.yaml", SERVICES.to_owned())], ..Options::default() },
        );
        let pod = |name: &str, namespace: &str, labels: &str| {
            let token = ["token", "create", "--service-account", name, "-n", namespace];
            let token = mesh.weft_ok(&token);
            mesh.pod_with_token(name, "", &token, &[("WEFT_LABELS", labels)])
        };
        let v1 = pod("echo-v1", "default", "app=echo,version=v1");
        let v2 = pod("echo-v2", "default", "app=echo,version=v2");
        let consumer = pod("consumer", "consumers", "app=client");
        let apps = [App::echo_as(&v1, 8080, "echo-v1"), App::echo_as(&v2, 8080, "echo-v2")];
        Self { mesh, v1, v2, consumer, _apps: apps }
    }

    /// Applies documents and waits until every sidecar that they concern has taken them.
    fn apply(&self, text: &str) {
        let file = self.mesh.scratch().join("routes.yaml");
        fs::write(&file, text).expect("a file");
        self.mesh.weft_ok(&["apply", "-f", file.to_str().expect("a path")]);
        self.settle();
    }

    fn delete(&self, kind: &str, name: &str) {
        self.mesh.weft_ok(&["delete", kind, name]);
        self.settle();
    }

    fn settle(&self) {
        eventually("the sidecars have what was applied", Duration::from_secs(10), || {
            let status = self.mesh.weft_json(&["status", "-A"]);
            status.as_array().is_some_and(|all| all.iter().all(|sidecar| sidecar["in_sync"] == true))
        });
    }

    /// `GET path` of a Service's address, from the pod of version 1 as the suite does.
    fn get(&self, address: &str, path: &str, more: &str) -> Response {
        get(&self.v1, address, 80, path, more)
    }

    fn check(&self, path: &str, more: &str, expected: &str) {
        let answer = self.get(ECHO, path, more);
        assert_eq!(outcome(&answer), expected, "{path} {more:?}: {answer:?}\n{}", self.v1.sidecar_log());
    }

    /// How many of so many requests each version got.
    fn share(&self, requests: u32) -> u32 {
        self.v1.run(|| {
            let mut client = HttpClient::connect((ECHO, 80)).expect("a connection");
            let one = |_: &u32| {
                let answer = client.get("echo", "/", "").expect("an answer");
                answer.header("served-by") == Some("echo-v1")
            };
            u32::try_from((0..requests).filter(one).count()).expect("few")
        })
    }
}

fn get(from: &SidecarPod, address: &str, port: u16, path: &str, more: &str) -> Response {
    from.run(|| {
        let mut client = HttpClient::connect((address, port)).expect("a connection");
        client.get("echo", path, more).expect("an answer")
    })
}

/// Who answered, or with what else.
fn outcome(answer: &Response) -> String {
    match (answer.header("served-by"), answer.header("location"), answer.header("weft-error")) {
        (Some(name), _, _) => name.to_owned(),
        (None, Some(location), _) => format!("{} {location}", answer.status),
        (None, None, Some(code)) => format!("{} {code}", answer.status),
        (None, None, None) => answer.status.to_string(),
    }
}

/// An `HTTPRoute` on port 80 of `echo` with these rules.
fn route(name: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}}}\nspec:\n  \
         parentRefs: [{{group: \"\", kind: Service, name: echo, port: 80}}]\n  rules:\n{rules}\n"
    )
}

fn prefix(path: &str, rest: &str) -> String {
    format!("  - {{matches: [{{path: {{type: PathPrefix, value: {path}}}}}], {rest}}}\n")
}

const TO_V1: &str = "backendRefs: [{name: echo-v1, port: 8080}]";
const TO_V2: &str = "backendRefs: [{name: echo-v2, port: 8080}]";

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
fn redirects_say_what_the_filter_says() {
    in_pods!(redirects_say_what_the_filter_says, || {
        let rig = Rig::start();
        let redirect = |path: &str, filter: &str| {
            prefix(path, &format!("filters: [{{type: RequestRedirect, requestRedirect: {{{filter}}}}}]"))
        };
        let replace = "path: {type: ReplacePrefixMatch, replacePrefixMatch: /replacement-prefix}";
        let full = "path: {type: ReplaceFullPath, replaceFullPath: /full-path-replacement}";
        // Each row: a rule's prefix, its filter, what is asked, what is answered. The suite's
        // MeshHTTPRouteRedirectHostAndStatus, RedirectPath, RedirectPort, SchemeRedirect and 303, 307, 308.
        let rows: [(&str, String, &str, &str); 18] = [
            (
                "/hostname-redirect",
                "hostname: example.org".into(),
                "/hostname-redirect",
                "302 http://example.org/hostname-redirect",
            ),
            (
                "/host-and-status",
                "hostname: example.org, statusCode: 301".into(),
                "/host-and-status",
                "301 http://example.org/host-and-status",
            ),
            (
                "/original-prefix",
                replace.into(),
                "/original-prefix/lemon?a=b",
                "302 http://echo/replacement-prefix/lemon?a=b",
            ),
            ("/full", full.into(), "/full/path/original", "302 http://echo/full-path-replacement"),
            (
                "/path-and-host",
                format!("hostname: example.org, {replace}"),
                "/path-and-host",
                "302 http://example.org/replacement-prefix",
            ),
            (
                "/path-and-status",
                format!("statusCode: 301, {replace}"),
                "/path-and-status",
                "301 http://echo/replacement-prefix",
            ),
            (
                "/full-path-and-host",
                format!("hostname: example.org, {full}"),
                "/full-path-and-host",
                "302 http://example.org/full-path-replacement",
            ),
            (
                "/full-path-and-status",
                format!("statusCode: 301, {full}"),
                "/full-path-and-status",
                "301 http://echo/full-path-replacement",
            ),
            ("/port", "port: 8083".into(), "/port", "302 http://echo:8083/port"),
            (
                "/port-and-host",
                "port: 8083, hostname: example.org".into(),
                "/port-and-host",
                "302 http://example.org:8083/port-and-host",
            ),
            (
                "/port-and-status",
                "port: 8083, statusCode: 301".into(),
                "/port-and-status",
                "301 http://echo:8083/port-and-status",
            ),
            ("/scheme", "scheme: https".into(), "/scheme", "302 https://echo/scheme"),
            (
                "/scheme-and-host",
                "scheme: https, hostname: example.org".into(),
                "/scheme-and-host",
                "302 https://example.org/scheme-and-host",
            ),
            (
                "/scheme-and-status",
                "scheme: https, statusCode: 301".into(),
                "/scheme-and-status",
                "301 https://echo/scheme-and-status",
            ),
            (
                "/scheme-and-port",
                "scheme: https, port: 8443".into(),
                "/scheme-and-port",
                "302 https://echo:8443/scheme-and-port",
            ),
            ("/303", "statusCode: 303, hostname: a.org".into(), "/303", "303 http://a.org/303"),
            ("/307", "statusCode: 307, hostname: a.org".into(), "/307", "307 http://a.org/307"),
            ("/308", "statusCode: 308, hostname: a.org".into(), "/308", "308 http://a.org/308"),
        ];
        for rows in rows.chunks(16) {
            let rules: Vec<_> = rows.iter().map(|(path, filter, _, _)| redirect(path, filter)).collect();
            rig.apply(&route("r", &rules.concat()));
            for (_, _, path, expected) in rows {
                rig.check(path, "", expected);
            }
        }
        // To a port that is not the scheme's own, the redirect leads back there.
        rig.apply(&route("r", &redirect("/", "hostname: a.org")).replace(", port: 80}", ", port: 8080}"));
        let answer = get(&rig.v1, ECHO, 8080, "/x", "");
        assert_eq!(outcome(&answer), "302 http://a.org:8080/x");
    });
}

#[test]
fn headers_and_paths_become_what_the_filters_say() {
    in_pods!(headers_and_paths_become_what_the_filters_say, || {
        let rig = Rig::start();
        let modify = |edits: &str| {
            format!("filters: [{{type: RequestHeaderModifier, requestHeaderModifier: {{{edits}}}}}]")
        };
        let set = "set: [{name: X-Header-Set, value: set-overwrites-values}]";
        let add = "add: [{name: X-Header-Add, value: add-appends-values}]";
        let remove = "remove: [X-Header-Remove]";
        // MeshHTTPRouteRequestHeaderModifier, then MeshHTTPRouteBackendRequestHeaderModifier.
        for on_backend in [false, true] {
            let rule = |path: &str, edits: &str| {
                let filters = modify(edits);
                if on_backend {
                    prefix(path, &format!("backendRefs: [{{name: echo-v1, port: 8080, {filters}}}]"))
                } else {
                    prefix(path, &format!("{filters}, {TO_V1}"))
                }
            };
            rig.apply(&route(
                "r",
                &[
                    rule("/set", set),
                    rule("/add", add),
                    rule("/remove", remove),
                    rule("/multiple", &format!("{set}, {add}, {remove}")),
                ]
                .concat(),
            ));
            seen(
                &rig,
                "/set",
                "Some-Other-Header: val\r\n",
                &["some-other-header: val", "x-header-set: set-overwrites-values"],
                &[],
            );
            seen(
                &rig,
                "/set",
                "X-Header-Set: some-other-value\r\n",
                &["x-header-set: set-overwrites-values"],
                &["some-other-value"],
            );
            seen(&rig, "/add", "", &["x-header-add: add-appends-values"], &[]);
            seen(
                &rig,
                "/add",
                "X-Header-Add: some-other-value\r\n",
                &["x-header-add: some-other-value", "x-header-add: add-appends-values"],
                &[],
            );
            seen(&rig, "/remove", "X-Header-Remove: val\r\n", &[], &["x-header-remove"]);
            seen(
                &rig,
                "/multiple",
                "x-header-set: original\r\nx-header-add: original-add\r\nx-header-remove: gone\r\nAnother-Header: stays\r\n",
                &[
                    "x-header-set: set-overwrites-values",
                    "x-header-add: original-add",
                    "x-header-add: add-appends-values",
                    "another-header: stays",
                ],
                &["gone", "x-header-set: original"],
            );
        }
        rewrites(&rig, &modify(&format!("{set}, {add}, {remove}")));
    });
}

/// `MeshHTTPRouteRewritePath`, and the host.
fn rewrites(rig: &Rig, modify: &str) {
    let rewrite = |filter: &str| format!("{{type: URLRewrite, urlRewrite: {{{filter}}}}}");
    let to = |path: &str, filters: &str| prefix(path, &format!("filters: [{filters}], {TO_V1}"));
    let by_prefix =
        |path: &str| rewrite(&format!("path: {{type: ReplacePrefixMatch, replacePrefixMatch: {path}}}"));
    let full = |path: &str| rewrite(&format!("path: {{type: ReplaceFullPath, replaceFullPath: {path}}}"));
    let edits = modify.trim_start_matches("filters: [").trim_end_matches(']').to_owned() + "]";
    let edits = edits.trim_end_matches(']').to_owned();
    rig.apply(&route(
        "r",
        &[
            to("/prefix/one", &by_prefix("/one")),
            to("/strip-prefix", &by_prefix("/")),
            to("/full/one", &full("/one")),
            to("/full/modify", &format!("{}, {edits}", full("/test"))),
            to("/host", &rewrite("hostname: other.example")),
        ]
        .concat(),
    ));
    for (path, forwarded) in [
        ("/prefix/one/two", "GET /one/two HTTP/1.1"),
        ("/prefix/one?a=b", "GET /one?a=b HTTP/1.1"),
        ("/strip-prefix/three", "GET /three HTTP/1.1"),
        ("/strip-prefix", "GET / HTTP/1.1"),
        ("/full/one/two", "GET /one HTTP/1.1"),
        ("/full/modify/x?y", "GET /test?y HTTP/1.1"),
    ] {
        seen(rig, path, "", &[&forwarded.to_ascii_lowercase()], &[]);
    }
    seen(
        rig,
        "/full/modify",
        "X-Header-Remove: gone\r\n",
        &["x-header-set: set-overwrites-values", "x-header-add: add-appends-values"],
        &["gone"],
    );
    seen(rig, "/host", "", &["host: other.example"], &["host: echo\r\n"]);
}

/// What the app gets of a request.
fn seen(rig: &Rig, path: &str, more: &str, holds: &[&str], lacks: &[&str]) {
    let answer = rig.get(ECHO, path, more);
    assert_eq!(outcome(&answer), "echo-v1", "{path}");
    let head = answer.text().to_ascii_lowercase();
    for line in holds {
        assert!(head.contains(line), "{path}: {line:?} is not in {head}");
    }
    for text in lacks {
        assert!(!head.contains(text), "{path}: {text:?} is in {head}");
    }
}

#[test]
fn weights_are_kept_and_what_leads_nowhere_is_answered_with_500() {
    in_pods!(weights_are_kept_and_what_leads_nowhere_is_answered_with_500, || {
        let rig = Rig::start();
        // MeshHTTPRouteWeight.
        let weighted = |one: u32, two: u32| {
            format!(
                "backendRefs: [{{name: echo-v1, port: 8080, weight: {one}}}, {{name: echo-v2, port: 8080, weight: {two}}}]"
            )
        };
        rig.apply(&route("r", &format!("  - {{{}}}", weighted(70, 30))));
        let share = rig.share(1_000);
        assert!((640..=760).contains(&share), "{share} of 1000");
        rig.apply(&route("r", &format!("  - {{{}}}", weighted(0, 1))));
        assert_eq!(rig.share(50), 0);
        for (path, backends) in [
            ("/zero", weighted(0, 0)),
            ("/none", "backendRefs: []".to_owned()),
            ("/missing", "backendRefs: [{name: missing, port: 80}]".to_owned()),
            ("/port", "backendRefs: [{name: echo-v1, port: 81}]".to_owned()),
            ("/kind", "backendRefs: [{group: example.com, kind: Bucket, name: b}]".to_owned()),
            ("/theirs", "backendRefs: [{name: echo, namespace: other, port: 80}]".to_owned()),
        ] {
            rig.apply(&route("r", &prefix(path, &backends)));
            rig.check(path, "", "500 no-backend");
        }
        rig.apply(&route("r", &prefix("/", "backendRefs: [{name: nobody, port: 80}]")));
        rig.check("/", "", "503 no-endpoints");
        // What is missing comes to be: nothing needs to be applied again.
        rig.apply(&route("r", &prefix("/", "backendRefs: [{name: later, port: 80}]")));
        rig.check("/", "", "500 no-backend");
        rig.apply("apiVersion: v1\nkind: Service\nmetadata: {name: later}\nspec: {selector: {version: v2}, ports: [{port: 80, targetPort: 8080}]}");
        rig.check("/", "", "echo-v2");
    });
}

#[test]
fn a_route_is_for_who_calls_the_address_and_port_that_it_is_attached_to() {
    in_pods!(a_route_is_for_who_calls_the_address_and_port_that_it_is_attached_to, || {
        let rig = Rig::start();
        let marked = |name: &str, namespace: &str, service: &str, port: &str, value: &str| {
            format!(
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
                 parentRefs: [{{group: \"\", kind: Service, name: {service}, namespace: default{port}}}]\n  rules:\n  \
                 - filters: [{{type: ResponseHeaderModifier, responseHeaderModifier: {{set: [{{name: X-Header-Set, value: {value}}}]}}}}]\n    \
                 backendRefs: [{{name: {service}, namespace: default, port: 80}}]\n"
            )
        };
        let mark = |from: &SidecarPod, address: &str, port: u16, host: &str| {
            let host = host.to_owned();
            let answer = from.run(move || {
                HttpClient::connect((address, port))
                    .expect("a connection")
                    .get(&host, "/", "")
                    .expect("an answer")
            });
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.header("x-header-set").unwrap_or_default().to_owned()
        };
        // MeshPorts: with a port only that one, without one all.
        rig.apply(
            &(marked("one", "default", "echo-v1", ", port: 80", "v1")
                + &marked("two", "default", "echo-v2", "", "v2")),
        );
        assert_eq!(mark(&rig.v1, ECHO_V1, 80, "echo-v1"), "v1");
        assert_eq!(mark(&rig.v1, ECHO_V1, 8080, "echo-v1"), "");
        assert_eq!(mark(&rig.v1, ECHO_V2, 80, "echo-v2"), "v2");
        assert_eq!(mark(&rig.v1, ECHO_V2, 8080, "echo-v2"), "v2");
        // MeshFrontendHostname: by the address, never by what the caller calls it.
        assert_eq!(mark(&rig.v1, ECHO_V2, 80, "echo-v1"), "v2");
        assert_eq!(mark(&rig.v1, ECHO_V1, 80, "echo-v2"), "v1");
        // MeshFrontend: not for calls to the pod's own address, nor for those that another route sends there.
        let pod = rig.v2.address().to_string();
        assert_eq!(mark(&rig.v1, &pod, 8080, "echo-v2"), "");
        rig.apply(&route("through", "  - {backendRefs: [{name: echo-v2, port: 80}]}"));
        assert_eq!(mark(&rig.v1, ECHO, 80, "echo"), "");
        // MeshConsumerRoute: only for callers of its own namespace, for whom it replaces the service's own.
        assert_eq!(mark(&rig.consumer, ECHO_V2, 80, "echo-v2"), "v2");
        rig.apply(&marked("theirs", "consumers", "echo-v2", "", "consumer"));
        assert_eq!(mark(&rig.consumer, ECHO_V2, 80, "echo-v2"), "consumer");
        assert_eq!(mark(&rig.v1, ECHO_V2, 80, "echo-v2"), "v2");
        rig.mesh.weft_ok(&["delete", "httproute", "theirs", "-n", "consumers"]);
        rig.settle();
        assert_eq!(mark(&rig.consumer, ECHO_V2, 80, "echo-v2"), "v2");
    });
}

#[test]
fn connections_are_shared_out_by_tcp_routes_and_tls_routes() {
    in_pods!(connections_are_shared_out_by_tcp_routes_and_tls_routes, || {
        let rig = Rig::start();
        let kind = |kind: &str, version: &str, rest: &str| {
            format!(
                "apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\nmetadata: {{name: c}}\nspec:\n  \
                 parentRefs: [{{group: \"\", kind: Service, name: echo, port: 8080}}]\n  {rest}\n"
            )
        };
        let backends = |one: u32, two: u32| {
            format!(
                "rules: [{{backendRefs: [{{name: echo-v1, port: 8080, weight: {one}}}, {{name: echo-v2, port: 8080, weight: {two}}}]}}]"
            )
        };
        let of_hundred = || {
            let who = |_: &u8| outcome(&get(&rig.v1, ECHO, 8080, "/", "")) == "echo-v1";
            (0..100_u8).filter(who).count()
        };
        rig.apply(&kind("TCPRoute", "v1alpha2", &backends(3, 1)));
        let share = of_hundred();
        assert!((55..=92).contains(&share), "{share} of 100");
        rig.apply(&kind("TCPRoute", "v1alpha2", &backends(0, 1)));
        assert_eq!(of_hundred(), 0);
        rig.apply(&kind("TCPRoute", "v1alpha2", "rules: [{backendRefs: [{name: missing, port: 80}]}]"));
        // The reset may come before the client has looked at its new connection.
        let refused = rig.v1.run(|| HttpClient::connect((ECHO, 8080))?.get("echo", "/", ""));
        let reset = refused.expect_err("a route that leads nowhere ends the connection");
        assert_eq!(reset.kind(), ErrorKind::ConnectionReset, "{reset}");
        rig.delete("tcproute", "c");
        assert!(outcome(&get(&rig.v1, ECHO, 8080, "/", "")).starts_with("echo-v"));
    });
}

#[test]
fn what_is_wrong_with_a_route_is_said_in_its_status() {
    in_pods!(what_is_wrong_with_a_route_is_said_in_its_status, || {
        let rig = Rig::start();
        let conditions = |kind: &str, name: &str| {
            let routes = rig.mesh.weft_json(&["get", kind, name]);
            let parent = &routes[0]["status"]["parents"][0];
            assert_eq!(parent["controllerName"], "weft.mesh/controller", "{routes}");
            assert_eq!(parent["parentRef"]["kind"], "Service");
            let reason = |kind: &str| {
                let all = parent["conditions"].as_array().expect("conditions");
                let one = all.iter().find(|condition| condition["type"] == kind).expect("the condition");
                format!("{} {}", one["status"].as_str().unwrap_or(""), one["reason"].as_str().unwrap_or(""))
            };
            (reason("Accepted"), reason("ResolvedRefs"))
        };
        let fine = ("True Accepted".to_owned(), "True ResolvedRefs".to_owned());
        rig.apply(&route("r", &format!("  - {{{TO_V1}}}")));
        assert_eq!(conditions("httproutes", "r"), fine);
        for (backends, reason) in [
            ("{name: missing, port: 80}", "False BackendNotFound"),
            ("{name: echo-v1, port: 81}", "False BackendNotFound"),
            ("{group: example.com, kind: Bucket, name: b}", "False InvalidKind"),
            ("{name: echo, namespace: other, port: 80}", "False RefNotPermitted"),
        ] {
            rig.apply(&route("r", &format!("  - {{backendRefs: [{backends}]}}")));
            assert_eq!(conditions("httproute", "r"), (fine.0.clone(), reason.to_owned()), "{backends}");
        }
        for (from, to) in
            [(", name: echo,", ", name: nobody-here,"), ("port: 80}]\n  rules", "port: 81}]\n  rules")]
        {
            rig.apply(&route("r", &format!("  - {{{TO_V1}}}")).replace(from, to));
            assert_eq!(conditions("HTTPRoute", "r").0, "False NoMatchingParent", "{to}");
        }
        // With leave it is permitted.
        rig.apply(
            "apiVersion: v1\nkind: Service\nmetadata: {name: echo, namespace: other}\nspec: {ports: [{port: 80}]}\n---\n\
             apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {name: g, namespace: other}\nspec:\n  \
             from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: default}]\n  to: [{group: \"\", kind: Service}]\n",
        );
        rig.apply(&route("r", "  - {backendRefs: [{name: echo, namespace: other, port: 80}]}"));
        assert_eq!(conditions("httproute", "r"), fine);
        rig.check("/", "", "503 no-endpoints");
        rig.mesh.weft_ok(&["delete", "referencegrant", "g", "-n", "other"]);
        rig.settle();
        rig.check("/", "", "500 no-backend");
        // Of two kinds on one port the more specific one counts.
        rig.apply(
            "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: TCPRoute\nmetadata: {name: t}\nspec:\n  \
             parentRefs: [{group: \"\", kind: Service, name: echo, port: 80}]\n  rules: [{backendRefs: [{name: echo-v2, port: 80}]}]\n",
        );
        assert_eq!(conditions("tcproute", "t").0, "False Conflicted");
    });
}

#[test]
fn faults_strike_what_is_called_and_what_a_route_leads_to() {
    in_pods!(faults_strike_what_is_called_and_what_a_route_leads_to, || {
        let rig = Rig::start();
        let fault = |name: &str, status: u16| {
            format!(
                "---\napiVersion: weft.mesh/v1alpha1\nkind: FaultInjection\nmetadata: {{name: {name}}}\nspec:\n  \
                 targetRef: {{kind: Service, name: {name}}}\n  match: {{headers: [{{name: x-chaos, value: {name}}}]}}\n  \
                 abort: {{status: {status}}}\n"
            )
        };
        let rules = "  - {matches: [{path: {type: PathPrefix, value: /old}}], \
                     filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /new}}}]}\n  \
                     - {backendRefs: [{name: echo-v2, port: 8080}]}";
        rig.apply(
            &(route("r", rules) + &fault("echo", 418) + &fault("echo-v1", 501) + &fault("echo-v2", 507)),
        );
        rig.check("/", "", "echo-v2");
        rig.check("/", "x-chaos: echo\r\n", "418 fault-injected");
        rig.check("/", "x-chaos: echo-v2\r\n", "507 fault-injected");
        rig.check("/", "x-chaos: echo-v1\r\n", "echo-v2");
        rig.check("/", "x-chaos: echo\r\nx-chaos: echo-v2\r\n", "418 fault-injected");
        rig.check("/old", "x-chaos: echo\r\n", "302 http://echo/new");
    });
}

/// How long a changed route may take to hold everywhere, on a machine that runs other tests.
const TAKES_EFFECT: Duration = Duration::from_secs(2);

#[test]
fn a_route_changed_under_load_takes_effect_and_fails_nothing() {
    in_pods!(a_route_changed_under_load_takes_effect_and_fails_nothing, || {
        let rig = Rig::start();
        let to = |version: u8| {
            route("r", &format!("  - {{backendRefs: [{{name: echo-v{version}, port: 8080}}]}}"))
        };
        rig.apply(&to(1));
        let (done, serving) = (AtomicBool::new(false), AtomicU8::new(1));
        let (answered, mut late) = std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                rig.v1.run(|| {
                    let mut clients: Vec<_> =
                        (0..4).map(|_| HttpClient::connect((ECHO, 80)).expect("a connection")).collect();
                    let mut log = Vec::new();
                    while !done.load(Ordering::Relaxed) {
                        for client in &mut clients {
                            let begun = Instant::now();
                            let answer = client.get("echo", "/", "").expect("an answer");
                            assert_eq!(answer.status, 200, "{answer:?}");
                            let version = if answer.header("served-by") == Some("echo-v1") { 1 } else { 2 };
                            serving.store(version, Ordering::Relaxed);
                            log.push((begun, version));
                        }
                    }
                    log
                })
            });
            let mut applied = Vec::new();
            for round in 0..10_u8 {
                let version = 2 - round % 2;
                let file = rig.mesh.scratch().join("changed.yaml");
                fs::write(&file, to(version)).expect("a file");
                rig.mesh.weft_ok(&["apply", "-f", file.to_str().expect("a path")]);
                let at = Instant::now();
                eventually("the change takes effect", TAKES_EFFECT, || {
                    serving.load(Ordering::Relaxed) == version
                });
                applied.push((at, Instant::now(), version));
            }
            done.store(true, Ordering::Relaxed);
            let log = load.join().expect("the load ran");
            // The last request that still went where they went before, begun after `weft apply` had returned.
            let late = applied.iter().map(|(at, end, version)| {
                let stale = log.iter().filter(|(begun, to)| begun > at && begun < end && to != version);
                stale.map(|(begun, _)| *begun - *at).max().unwrap_or_default()
            });
            (log.len(), late.collect::<Vec<_>>())
        });
        late.sort_unstable();
        println!("{answered} requests; changes took effect {late:?} after they were applied");
        // How fast it is depends on what else the machine does; that it happens, and fails nothing, does not.
        assert!(answered > 100 && late.iter().all(|late| *late < TAKES_EFFECT), "{answered}, {late:?}");
    });
}

#[test]
fn pages_of_allowed_origins_may_call_and_others_may_not() {
    in_pods!(pages_of_allowed_origins_may_call_and_others_may_not, || {
        let rig = Rig::start();
        let cors = "filters: [{type: CORS, cors: {allowOrigins: [\"https://www.foo.com\", \"https://*.bar.com\"], \
                    allowMethods: [GET, PUT], allowHeaders: [x-one], exposeHeaders: [x-two], maxAge: 60, allowCredentials: true}}]";
        rig.apply(&route("r", &prefix("/", &format!("{cors}, {TO_V1}"))));
        let ask = |origin: &str| {
            rig.v1.run(|| {
                let mut client = HttpClient::connect((ECHO, 80)).expect("a connection");
                let request = format!(
                    "OPTIONS / HTTP/1.1\r\nhost: echo\r\norigin: {origin}\r\naccess-control-request-method: PUT\r\n\r\n"
                );
                client.send(request.as_bytes()).expect("an answer")
            })
        };
        let header = |answer: &Response, name: &str| {
            answer.header(&format!("access-control-{name}")).map(str::to_owned)
        };
        for origin in ["https://www.foo.com", "https://a.bar.com"] {
            let answer = ask(origin);
            assert_eq!(outcome(&answer), "204");
            assert_eq!(header(&answer, "allow-origin").as_deref(), Some(origin));
            assert_eq!(header(&answer, "allow-methods").as_deref(), Some("GET, PUT"));
            assert_eq!(header(&answer, "allow-headers").as_deref(), Some("x-one"));
            assert_eq!(header(&answer, "allow-credentials").as_deref(), Some("true"));
            assert_eq!(header(&answer, "max-age").as_deref(), Some("60"));
            let answer = rig.get(ECHO, "/", &format!("origin: {origin}\r\n"));
            assert_eq!(header(&answer, "allow-origin").as_deref(), Some(origin));
            assert_eq!(header(&answer, "expose-headers").as_deref(), Some("x-two"));
        }
        for origin in ["https://bar.com", "http://www.foo.com", "https://evil.com/.bar.com", "null"] {
            assert_eq!(header(&ask(origin), "allow-origin"), None, "{origin}");
        }
        assert_eq!(header(&rig.get(ECHO, "/", ""), "allow-origin"), None);
    });
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

#[test]
fn a_mistake_in_a_route_is_refused_with_its_line() {
    in_pods!(a_mistake_in_a_route_is_refused_with_its_line, || {
        let mesh = Mesh::start(weft(), Options::default());
        let check = |rules: &str, line: usize, says: &str| {
            let file = mesh.scratch().join("bad.yaml");
            fs::write(&file, route("r", rules)).expect("a file");
            let output = mesh.weft(&["apply", "-f", file.to_str().expect("a path")]);
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{rules}\n{error}");
            assert!(error.contains(&format!("bad.yaml:{line}")) && error.contains(says), "{says}: {error}");
        };
        check("  - matchs: []", 7, "matches");
        check("  - matches:\n    - path: {value: v2}", 8, "begin with '/'");
        check("  - matches:\n    - path: {type: RegularExpression, value: \"(a\"}", 8, "regular expression");
        check("  - timeouts: {request: 1s, backendRequest: 2s}", 7, "longer than the whole request");
    });
}

#[test]
fn connections_of_tls_are_told_apart_by_their_server_name() {
    in_pods!(connections_of_tls_are_told_apart_by_their_server_name, || {
        let rig = Rig::start();
        let tls = |pod: &SidecarPod, name: &'static str| {
            App::serve(pod, 8443, move |mut stream| {
                // Enough of a server: whoever says hello is told who took it.
                let mut hello = [0; 512];
                let _ = stream.read(&mut hello).and_then(|_| stream.write_all(name.as_bytes()));
            })
        };
        let _apps = [tls(&rig.v1, "echo-v1"), tls(&rig.v2, "echo-v2")];
        let service = |name: &str, selector: &str, protocol: &str| {
            format!(
                "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  clusterIP: 10.96.1.{}\n  \
                 selector: {selector}\n  ports: [{{port: 443, targetPort: 8443{protocol}}}]\n",
                name.len()
            )
        };
        let route = |name: &str, version: &str, hosts: &str, to: &str| {
            format!(
                "---\napiVersion: gateway.networking.k8s.io/{version}\nkind: TLSRoute\nmetadata: {{name: {name}}}\nspec:\n  \
                 parentRefs: [{{group: \"\", kind: Service, name: tls}}, {{group: \"\", kind: Service, name: found}}]\n  \
                 hostnames: [{hosts}]\n  rules: [{{backendRefs: [{{name: {to}, port: 443}}]}}]\n"
            )
        };
        // One port declares what is spoken, the other lets it be found out.
        let both = [
            service("tls", "{app: echo}", ", appProtocol: tls"),
            service("found", "{app: echo}", ""),
            service("tls-v1", "{version: v1}", ""),
            service("to-tls-v2", "{version: v2}", ""),
            route("one", "v1", "one.example.com", "tls-v1"),
            route("below", "v1alpha3", "\"*.example.com\"", "to-tls-v2"),
            route("old", "v1alpha2", "old.example.org", "missing"),
        ];
        rig.apply(&both.concat());
        let who = |service: usize, name: Option<&str>| {
            let hello = client_hello(name);
            rig.v1.run(move || {
                let address: SocketAddr = format!("10.96.1.{service}:443").parse().expect("an address");
                let mut stream = TcpStream::connect(address).expect("a connection");
                stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
                stream.write_all(&hello).expect("the hello is taken");
                let mut answer = String::new();
                match stream.read_to_string(&mut answer) {
                    Ok(_) => answer,
                    Err(error) => format!("{:?}", error.kind()),
                }
            })
        };
        for service in ["tls".len(), "found".len()] {
            assert_eq!(who(service, Some("one.example.com")), "echo-v1");
            assert_eq!(who(service, Some("ONE.example.com")), "echo-v1");
            assert_eq!(who(service, Some("two.example.com")), "echo-v2");
            assert_eq!(who(service, Some("a.b.example.com")), "echo-v2");
            for nowhere in [Some("example.com"), Some("other.org"), Some("old.example.org"), None] {
                assert_eq!(who(service, nowhere), "ConnectionReset", "{nowhere:?}");
            }
        }
    });
}

/// What a client of TLS says first, as far as the mesh looks at it.
fn client_hello(name: Option<&str>) -> Vec<u8> {
    fn sized<const N: usize>(bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).expect("short").to_be_bytes();
        [&length[4 - N..], bytes].concat()
    }
    let extension = |name: &str| {
        let entry = [&[0][..], &sized::<2>(name.as_bytes())].concat();
        [&[0, 0][..], &sized::<2>(&sized::<2>(&entry))].concat()
    };
    let extensions = sized::<2>(&name.map(extension).unwrap_or_default());
    let fixed = [&[3, 3][..], &[7; 32], &[0], &sized::<2>(&[0x13, 1]), &[1, 0]].concat();
    let hello = [&[1][..], &sized::<3>(&[fixed, extensions].concat())].concat();
    [&[0x16, 3, 1][..], &sized::<2>(&hello)].concat()
}
