//! What was decided about a request stands in its spans: by which policy, whether there are any, and who we say that we are.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use weft_tests::{App, HttpClient, Mesh, Options, Response, SidecarPod, eventually};

use crate::{in_pods, weft};

const SOON: Duration = Duration::from_secs(30);

const DOCUMENTS: &str = r#"apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: quiet}
spec:
  parentRefs: [{group: "", kind: Service, name: orders}]
  rules: [{matches: [{path: {value: /quiet}}], backendRefs: [{name: orders, port: 8080}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: plain}
spec:
  parentRefs: [{group: "", kind: Service, name: orders}]
  rules:
  - {matches: [{path: {value: /never}}], backendRefs: [{name: orders, port: 8080}]}
  - {backendRefs: [{name: orders, port: 8080}]}
---
apiVersion: weft.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: no-deletes}
spec:
  targetRef: {kind: Service, name: orders}
  action: Deny
  rules: [{to: [{methods: [DELETE]}]}]
---
apiVersion: weft.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: no-patches}
spec:
  targetRef: {kind: Service, name: orders}
  action: Deny
  mode: Audit
  rules: [{to: [{methods: [PATCH]}]}]
---
apiVersion: weft.mesh/v1alpha1
kind: RateLimit
metadata: {name: once}
spec: {targetRef: {kind: Service, name: limited}, limits: [{requests: 1, per: 1h, key: [caller]}]}
---
apiVersion: weft.mesh/v1alpha1
kind: FaultInjection
metadata: {name: slow}
spec:
  targetRef: {kind: Service, name: orders}
  match: {headers: [{name: x-chaos, value: slow}]}
  delay: {fixed: 10ms}
---
apiVersion: weft.mesh/v1alpha1
kind: FaultInjection
metadata: {name: broken}
spec:
  targetRef: {kind: Service, name: orders}
  match: {headers: [{name: x-chaos, value: broken}]}
  abort: {status: 503}
"#;

fn sampled(share: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: quiet}}\n\
         spec: {{targetRef: {{kind: HTTPRoute, name: quiet}}, tracing: {{sampling: {share}}}}}\n"
    )
}

fn logged(access_log: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {{name: default}}\n\
         spec: {{mtls: {{mode: Permissive}}, authorization: {{default: Any}}, accessLog: {access_log}}}\n"
    )
}

fn ask(pod: &SidecarPod, to: &str, line: &str, more: &str) -> Response {
    let request = format!("{line} HTTP/1.1\r\nhost: {to}\r\ncontent-length: 0\r\n{more}\r\n");
    pod.run(|| {
        let mut client = HttpClient::connect(to).expect("a connection");
        client.send(request.as_bytes()).expect("an answer")
    })
}

/// The spans of the one trace with a request for this path; empty: there is none yet.
fn spans(mesh: &Mesh, path: &str) -> Vec<Value> {
    let found = mesh.weft_json(&["traces", "--attribute", &format!("url.path={path}")]);
    let Some(id) = found[0]["trace_id"].as_str() else { return Vec::new() };
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    mesh.weft_json(&["trace", id])["spans"].as_array().cloned().unwrap_or_default()
}

/// The span of this kind, once it is there.
fn span(mesh: &Mesh, path: &str, kind: &str) -> Value {
    let mut found = Value::Null;
    eventually(&format!("the {kind} has told of {path}"), SOON, || {
        found = spans(mesh, path).into_iter().find(|span| span["kind"] == kind).unwrap_or_default();
        !found.is_null()
    });
    found
}

fn told(span: &Value, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(span["attributes"][key], *value, "{key} of {span}");
    }
}

#[test]
fn what_was_decided_about_a_request_stands_in_its_spans() {
    in_pods!(what_was_decided_about_a_request_stands_in_its_spans, || {
        let config = vec![
            ("all.yaml", DOCUMENTS.to_owned()),
            ("sampling.yaml", sampled("0%")),
            ("mesh.yaml", logged("{format: json}")),
        ];
        // Spans are taken from everywhere, for a sidecar is to bring them that way as well.
        let flags = vec!["--otlp-addr=0.0.0.0:4317".to_owned()];
        let mesh = Mesh::start(weft(), Options { config, flags, ..Options::default() });
        let orders = mesh.pod("orders", "orders:8080:http,limited:8081:http");
        let _apps = (App::echo(&orders, 8080), App::echo(&orders, 8081));
        let collector = format!("{}:4317", mesh.address());
        let web = environment(
            &mesh,
            "web",
            &[
                ("OTEL_SERVICE_NAME", "shopfront"),
                ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://{collector}")),
                ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
            ],
        );
        eventually("the policies are in force", SOON, || {
            ask(&web, "orders:8080", "DELETE /0", "").status == 403
        });
        policies(&mesh, &web);
        access_log(&mesh, &web, &orders);
        sampling(&mesh, &web, &orders);
        let exported = format!("exporter=\"{collector}\"");
        eventually("the collector of the environment has spans", SOON, || {
            web.metric("weft_spans_exported_total", &[&exported]) >= 1.0
        });
        silence(&mesh, &orders);
    });
}

fn environment(mesh: &Mesh, name: &str, variables: &[(&str, &str)]) -> SidecarPod {
    let token = mesh.weft_ok(&["token", "create", "--service-account", name]);
    mesh.pod_with_token(name, "", &token, variables)
}

fn policies(mesh: &Mesh, web: &SidecarPod) {
    assert_eq!(ask(web, "orders:8080", "DELETE /denied", "").status, 403);
    let server = span(mesh, "/denied", "server");
    let by = [("weft.authorization.policy", "default/no-deletes"), ("weft.authorization.decision", "denied")];
    told(&server, &by);
    told(
        &server,
        &[("weft.denial", "AuthorizationPolicy default/no-deletes denies it"), ("weft.error", "denied")],
    );
    let client = span(mesh, "/denied", "client");
    told(
        &client,
        &[("http.route", "default/plain"), ("weft.route.rule", "1"), ("http.response.status_code", "403")],
    );
    assert_eq!(client["service"], "shopfront");

    assert_eq!(ask(web, "orders:8080", "PATCH /audited", "").status, 200);
    told(
        &span(mesh, "/audited", "server"),
        &[("weft.audit.policy", "default/no-patches"), ("weft.audit.decision", "would-deny")],
    );

    assert_eq!(ask(web, "limited:8081", "GET /first", "").status, 200);
    assert_eq!(ask(web, "limited:8081", "GET /limited", "").status, 429);
    told(
        &span(mesh, "/limited", "server"),
        &[("weft.rate_limit.policy", "default/once"), ("weft.error", "rate-limited")],
    );
    let id = mesh.weft_json(&["traces", "--attribute", "weft.rate_limit.policy=default/once"])[0]["trace_id"]
        .clone();
    let why = mesh.weft(&["why", id.as_str().expect("an id"), "-o", "json"]);
    let why: Value = serde_json::from_slice(&why.stdout).expect("JSON");
    assert!(why["rule"].as_str().is_some_and(|rule| rule.contains("RateLimit default/once")), "{why}");

    assert_eq!(ask(web, "orders:8080", "GET /slow", "x-chaos: slow\r\n").status, 200);
    let slow = [("weft.fault.policy", "default/slow"), ("weft.fault.delay_ms", "10")];
    told(&span(mesh, "/slow", "client"), &slow);
    assert_eq!(ask(web, "orders:8080", "GET /broken", "x-chaos: broken\r\n").status, 503);
    told(
        &span(mesh, "/broken", "client"),
        &[("weft.fault.policy", "default/broken"), ("weft.error", "fault-injected")],
    );
}

/// Both forms name the trace, so that a line leads to it.
fn access_log(mesh: &Mesh, web: &SidecarPod, orders: &SidecarPod) {
    let logged_of = |path: &str| {
        let log = orders.sidecar_log();
        log.lines().find(|line| line.contains(path)).map(str::to_owned)
    };
    let trace = mesh.weft_json(&["traces", "--attribute", "url.path=/denied"])[0]["trace_id"].clone();
    eventually("a line tells of it", SOON, || logged_of("/denied").is_some());
    let line: Value = serde_json::from_str(&logged_of("/denied").unwrap_or_default()).expect("JSON");
    assert_eq!((&line["trace_id"], &line["error"], &line["status"]), (&trace, &"denied".into(), &403.into()));

    fs::write(mesh.config().join("mesh.yaml"), logged("{format: common}")).expect("a document");
    let mut count = 0;
    eventually("lines have the other form", SOON, || {
        count += 1;
        let told = ask(web, "orders:8080", &format!("GET /common/{count}"), "").text();
        assert!(told.contains("traceparent"), "{told}");
        eventually("a line tells of it", SOON, || logged_of(&format!("/common/{count}")).is_some());
        let line = logged_of(&format!("/common/{count}")).unwrap_or_default();
        let trace = told.lines().find_map(|line| line.strip_prefix("traceparent: 00-")).unwrap_or_default();
        line.contains(&format!("\"GET /common/{count} HTTP/1.1\" 200 ")) && line.ends_with(&trace[..32])
    });
}

fn sampling(mesh: &Mesh, web: &SidecarPod, orders: &SidecarPod) {
    let flag_of = |told: Response| {
        let told = told.text();
        let parent = told.lines().find_map(|line| line.strip_prefix("traceparent: ")).map(str::trim);
        parent.and_then(|parent| parent.rsplit('-').next()).unwrap_or_else(|| panic!("{told}")).to_owned()
    };
    let flag = |path: &str, more: &str| flag_of(ask(web, "orders:8080", &format!("GET {path}"), more));
    // Whoever has no sidecar: then that of the service decides, by the same policies.
    let from_outside = |path: &str, more: &str| {
        let mut client = HttpClient::connect((orders.address(), 8080)).expect("a connection");
        flag_of(client.get("orders", path, more).expect("an answer"))
    };
    let outside = |path: &str, more: &str| mesh.in_hub(|| from_outside(path, more));
    // The route says none, the mesh all; what the caller has decided stays; a format that it came in is told the same.
    assert_eq!(flag("/quiet/1", ""), "02");
    assert_eq!(flag("/loud/1", ""), "03");
    let parent = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n";
    assert_eq!(flag("/quiet/2", parent), "01");
    assert_eq!([outside("/quiet/5", ""), outside("/loud/5", "")], ["02", "03"]);
    assert_eq!(outside("/quiet/6", parent), "01");
    let b3 = "b3: 80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1\r\n";
    let heard = ask(web, "orders:8080", "GET /quiet/3", b3).text();
    assert!(
        heard.lines().any(|line| line.starts_with("b3: 80f198ee") && line.trim().ends_with("-0")),
        "{heard}"
    );
    span(mesh, "/quiet/2", "client");
    // What was sent before it has been told of by now, had it been recorded.
    assert_eq!((spans(mesh, "/quiet/1").len(), spans(mesh, "/quiet/3").len()), (0, 0));

    fs::write(mesh.config().join("sampling.yaml"), sampled("100%")).expect("a document");
    eventually("the route's requests are recorded", SOON, || flag("/quiet/4", "") == "03");
    eventually("those from outside as well", SOON, || outside("/quiet/7", "") == "03");
    let server = span(mesh, "/quiet/7", "server");
    told(&server, &[("weft.tls", "none"), ("weft.source", "unknown")]);
}

/// A sidecar that tells of nothing leaves alone what its app says of traces.
fn silence(mesh: &Mesh, orders: &SidecarPod) {
    let mute = environment(mesh, "mute", &[("WEFT_TELEMETRY", "off")]);
    let before = orders.metric("weft_requests_total", &["direction=\"inbound\"", "source=\"default/mute\""]);
    let told = ask(&mute, "orders:8080", "GET /mute", "b3: 0\r\n");
    assert_eq!((told.status, before), (200, 0.0));
    let server = |name| orders.metric(name, &["direction=\"inbound\"", "source=\"default/mute\""]);
    eventually("its callee has counted it", SOON, || server("weft_requests_total") == 1.0);
    assert_eq!(mute.metric("weft_requests_total", &[]), 0.0);
    assert!(mute.metric("weft_connections_total", &["direction=\"outbound\""]) >= 1.0);
    let wrong = environment_fails(mesh);
    assert!(wrong.contains("WEFT_TELEMETRY") && wrong.contains("neither on nor off"), "{wrong}");
}

fn environment_fails(mesh: &Mesh) -> String {
    let token = mesh.weft_ok(&["token", "create", "--service-account", "wrong"]);
    let mut pod = mesh.pod_that_may_fail("wrong", "", &token, &[("WEFT_TELEMETRY", "less")]);
    assert_eq!(pod.sidecar().wait(SOON).code(), Some(2));
    pod.sidecar_log()
}
