//! What a rule makes of a request, or answers it itself.

use weft_tests::{HttpClient, Response};

use super::{ECHO, Rig, TO_V1, get, outcome, prefix, route};
use crate::in_pods;

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
