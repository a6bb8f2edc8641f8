//! Routes of Gateway API, attached to Services (GAMMA): each of its mesh conformance tests replayed from `weft apply`, with
//! pods in the place of a cluster's.

mod backends;
mod connections;
mod filters;
mod matching;
mod status;

use std::fs;
use std::time::Duration;

use weft_tests::{App, HttpClient, Mesh, Options, Response, SidecarPod, eventually};

use crate::weft;

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
