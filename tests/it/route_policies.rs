//! Policies for one route: what they say holds for its requests, and for those of no other route to the same service.

use std::fs;

use weft_tests::{HttpClient, Mesh, Options, Response};

use crate::policy::{bare_server, client, orders, scripted, settle};
use crate::{in_pods, weft};

/// Two routes to the same pods. `retried` has a policy of its own, over the Service's.
const DOCUMENTS: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: retried}
spec:
  parentRefs: [{group: \"\", kind: Service, name: orders}]
  rules: [{matches: [{path: {value: /retried}}], backendRefs: [{name: orders, port: 8080}]}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: plain}
spec:
  parentRefs: [{group: \"\", kind: Service, name: orders}]
  rules: [{backendRefs: [{name: orders, port: 8080}]}]
---
apiVersion: weft.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: of-route}
spec:
  targetRef: {kind: HTTPRoute, name: retried}
  retries: {attempts: 1, on: [503], methods: any}
---
apiVersion: weft.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: of-service}
spec:
  targetRef: {kind: Service, name: orders}
  retries: {attempts: 0, backoff: {base: 1ms}, budget: {ratio: 100%, minPerSecond: 1000}}
---
apiVersion: weft.mesh/v1alpha1
kind: FaultInjection
metadata: {name: of-route}
spec:
  targetRef: {kind: HTTPRoute, name: plain}
  match: {headers: [{name: x-chaos, value: \"1\"}]}
  abort: {status: 418}
---
apiVersion: weft.mesh/v1alpha1
kind: FaultInjection
metadata: {name: of-service}
spec:
  targetRef: {kind: Service, name: orders}
  match: {headers: [{name: x-chaos, value: \"1\"}]}
  abort: {status: 451}
";

#[test]
fn what_is_said_of_a_route_holds_for_its_requests_alone() {
    in_pods!(what_is_said_of_a_route_holds_for_its_requests_alone, || {
        let mesh = Mesh::start(weft(), Options::default());
        let pod = bare_server(&mesh, "one", "");
        // Every other request fails, beginning with the first.
        let (_app, asked) = scripted(&pod, |number| match number % 2 {
            0 => "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy",
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        });
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        let file = mesh.scratch().join("routes.yaml");
        let apply = |text: &str| {
            fs::write(&file, text).expect("a file");
            mesh.weft(&["apply", "-f", file.to_str().expect("a path")])
        };
        assert!(apply(DOCUMENTS).status.success());
        settle(&mesh);
        let get = |path: &str, more: &str| -> Response {
            client.run(|| {
                let mut connection = HttpClient::connect(orders).expect("a connection");
                connection.get("orders:8080", path, more).expect("an answer")
            })
        };

        // The route's attempts, with the Service's pause and budget.
        assert_eq!((get("/retried", "").text(), asked.count()), ("ok".to_owned(), 2));
        let failed = get("/plain", "");
        assert_eq!((failed.status, failed.header("weft-error")), (503, None), "the Service's own says: none");
        assert_eq!((get("/plain", "").text(), asked.count()), ("ok".to_owned(), 4));

        // The route's fault goes before the Service's, which is all there is for the other route.
        let struck = get("/plain", "x-chaos: 1\r\n");
        assert_eq!((struck.status, struck.header("weft-error")), (418, Some("fault-injected")));
        assert_eq!(get("/retried", "x-chaos: 1\r\n").status, 451);
        assert_eq!(asked.count(), 4, "neither was sent");

        // Which policy gives what is told, and what cannot be said of a route is refused with its line.
        let told = mesh.weft_json(&["explain", "--from", "client", "--to", "orders", "GET", "/retried"]);
        assert_eq!(told["retries"]["attempts"], "1", "{told}");
        let steps = told["steps"].as_array().cloned().unwrap_or_default();
        let of = |source: &str| {
            let step = steps.iter().find(|step| {
                step["stage"] == "traffic" && step["source"].as_str().is_some_and(|s| s.contains(source))
            });
            step.and_then(|step| step["text"].as_str().map(str::to_owned)).unwrap_or_default()
        };
        assert_eq!(of("default/of-route"), "says retries.attempts, retries.on, retries.methods");
        assert!(of("default/of-service").ends_with("; overruled: retries.attempts"), "{told}");
        let refused = apply(&DOCUMENTS.replace("attempts: 1,", "budget: {ratio: 10%}, attempts: 1,"));
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{error}");
        assert!(error.contains("routes.yaml:20") && error.contains("spec.retries.budget"), "{error}");
    });
}
