//! `weft explain` says what then happens: the same question is asked and then tried.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use weft_tests::{App, HttpClient, Mesh, Options, SidecarPod, eventually};

use crate::{in_pods, weft};

const DOCUMENTS: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: orders}
spec:
  parentRefs: [{group: \"\", kind: Service, name: orders}]
  rules:
  - name: canary
    matches: [{headers: [{name: x-canary, value: \"yes\"}]}]
    backendRefs: [{name: orders-v2, port: 8080}]
  - matches: [{path: {value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: example.org, statusCode: 301}}]
  - matches: [{path: {value: /v1}}]
    backendRefs: [{name: orders, port: 8080}]
---
apiVersion: weft.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: no-deletes}
spec:
  targetRef: {kind: Service, name: orders}
  action: Deny
  rules: [{to: [{methods: [DELETE]}]}]
";

struct Rig {
    mesh: Mesh,
    web: SidecarPod,
    _pods: [SidecarPod; 2],
    _apps: [App; 2],
}

impl Rig {
    fn start() -> Self {
        let mesh = Mesh::start(weft(), Options::default());
        let pods = [mesh.pod("orders", "orders:8080:http"), mesh.pod("orders-v2", "orders-v2:8080:http")];
        let apps = [App::echo_as(&pods[0], 8080, "orders"), App::echo_as(&pods[1], 8080, "orders-v2")];
        let web = mesh.pod("web", "");
        let file = mesh.scratch().join("shop.yaml");
        fs::write(&file, DOCUMENTS).expect("a file");
        mesh.weft_ok(&["apply", "-f", file.to_str().expect("a path")]);
        eventually("the sidecars have it", Duration::from_secs(10), || {
            let status = mesh.weft_json(&["status"]);
            status.as_array().is_some_and(|all| all.iter().all(|sidecar| sidecar["in_sync"] == true))
        });
        Self { mesh, web, _pods: pods, _apps: apps }
    }

    /// Asks, tries, and compares: the exit code of the question, and who answers the call with what.
    fn check(&self, method: &str, path: &str, header: &str, code: i32, expected: (u16, &str)) -> Value {
        let question = ["explain", "--from", "web", "--to", "orders", method, path, "-o", "json"];
        let more: &[&str] = if header.is_empty() { &[] } else { &["-H", header] };
        let output = self.mesh.weft(&[&question, more].concat());
        let told = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(code), "{told}{}", String::from_utf8_lossy(&output.stderr));
        let told: Value = serde_json::from_str(&told).expect("JSON");
        let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
        let request = format!("{method} {path} HTTP/1.1\r\nhost: orders\r\n{header}\r\n");
        let answer = self.web.run(|| {
            let mut client = HttpClient::connect("orders:8080").expect("a connection");
            client.send(request.as_bytes()).expect("an answer")
        });
        let who = answer.header("served-by").or(answer.header("weft-error")).unwrap_or_default();
        assert_eq!((answer.status, who), expected, "{answer:?}");
        match who {
            "orders" | "orders-v2" => {
                assert_eq!((&told["decision"], told.get("status")), (&"forward".into(), None), "{told:#}");
                assert_eq!(told["backend"], format!("default/{who}:8080"));
                assert_eq!(told["endpoints"][0]["workload"], format!("default/{who}-1"));
            }
            error => {
                assert_eq!(
                    (&told["status"], &told["error"]),
                    (&answer.status.into(), &error.into()),
                    "{told:#}"
                );
            }
        }
        told
    }
}

#[test]
fn what_is_explained_is_what_happens() {
    in_pods!(what_is_explained_is_what_happens, || {
        let rig = Rig::start();
        let told = rig.check("GET", "/v1/7", "", 0, (200, "orders"));
        assert_eq!((&told["route"], &told["rule"]), (&"default/orders".into(), &"#3".into()));
        let told = rig.check("GET", "/anything", "x-canary: yes", 0, (200, "orders-v2"));
        assert_eq!(told["rule"], "canary");
        rig.check("GET", "/moved", "", 0, (301, ""));
        rig.check("GET", "/elsewhere", "", 1, (404, "no-route"));
        let told = rig.check("DELETE", "/v1/7", "", 1, (403, "denied"));
        assert_eq!(told["policy"][0]["policy"], "AuthorizationPolicy default/no-deletes");
        let place = told["policy"][0]["place"].as_str().expect("a place");
        assert!(place.ends_with("shop.yaml:15"), "{place}");
    });
}

#[test]
fn it_is_told_step_by_step_and_mistakes_with_a_way_out() {
    in_pods!(it_is_told_step_by_step_and_mistakes_with_a_way_out, || {
        let rig = Rig::start();
        let text = rig.mesh.weft_ok(&["explain", "--from", "web", "--to", "orders", "/v1"]);
        for words in [
            "spiffe://mesh.local/ns/default/sa/web; one workload runs as it",
            "rule #3 of the route default/orders",
            "shop.yaml:12",
            "1 of 1 workloads of default/orders take it",
            "it is let in",
            "it is sent to default/orders:8080, as of revision 1",
        ] {
            assert!(text.contains(words), "{words}:\n{text}");
        }
        let check = |arguments: &[&str], code: i32, says: &str| {
            let output = rig.mesh.weft(&[&["explain"], arguments].concat());
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(code) && error.contains(says), "{arguments:?}: {error}");
        };
        check(&["--from", "web", "--to", "ordres"], 1, "did you mean orders?");
        check(&["--from", "web", "--to", "orders:1"], 1, "has no port 1; it has port 8080");
        check(&["--from", "web", "--to", "orders", "-H", "x"], 2, "write NAME:VALUE");
        check(&["--to", "orders"], 2, "--from");
    });
}
