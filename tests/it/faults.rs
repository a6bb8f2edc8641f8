//! FaultInjection: some requests are held up or answered instead of being sent.

use std::fs;
use std::time::{Duration, Instant};

use weft_tests::{Mesh, Options};

use crate::policy::{bare_server, client, get, heard, orders, scripted};
use crate::{in_pods, weft};

#[test]
fn requests_that_match_are_held_up_or_answered_and_others_pass() {
    in_pods!(requests_that_match_are_held_up_or_answered_and_others_pass, || {
        let mesh = Mesh::start(weft(), Options::default());
        let one = bare_server(&mesh, "one", "");
        let (_app, sent) = scripted(&one, |_| "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        let text = "
apiVersion: weft.mesh/v1alpha1
kind: FaultInjection
metadata: {name: broken-orders}
spec:
  targetRef: {kind: Service, name: orders}
  match: {headers: [{name: x-chaos, value: abort}]}
  abort: {status: 418}
---
apiVersion: weft.mesh/v1alpha1
kind: FaultInjection
metadata: {name: slow-orders}
spec:
  targetRef: {kind: Service, name: orders}
  match: {headers: [{name: x-chaos, value: delay}]}
  delay: {fixed: 400ms}
---
apiVersion: weft.mesh/v1alpha1
kind: FaultInjection
metadata: {name: others}
spec:
  targetRef: {kind: Service, name: orders}
  match: {from: [{serviceAccounts: [web, shop/client]}, {namespaces: [shop]}]}
  abort: {status: 500}
---
apiVersion: weft.mesh/v1alpha1
kind: FaultInjection
metadata: {name: ours}
spec:
  targetRef: {kind: Service, name: orders}
  match: {from: [{serviceAccounts: [client]}], headers: [{name: x-chaos, value: ours}]}
  abort: {status: 451}
---
apiVersion: weft.mesh/v1alpha1
kind: FaultInjection
metadata: {name: over}
spec:
  targetRef: {kind: Service, name: orders}
  abort: {status: 500}
  expires: \"2020-01-01T00:00:00Z\"
";
        let path = mesh.scratch().join("faults.yaml");
        fs::write(&path, text).expect("a document");
        mesh.weft_ok(&["apply", "-f", path.to_str().expect("a path")]);
        heard(&client, "Fault");

        let aborted = get(&client, orders, "x-chaos: abort\r\n");
        assert_eq!((aborted.status, aborted.header("weft-error")), (418, Some("fault-injected")));
        assert_eq!(sent.count(), 0, "it was never sent");
        let grpc = get(&client, orders, "x-chaos: abort\r\ncontent-type: application/grpc\r\n");
        assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("2")));

        assert_eq!(get(&client, orders, "x-chaos: ours\r\n").status, 451);
        assert_eq!(sent.count(), 0, "it was never sent either");

        let begun = Instant::now();
        assert_eq!(get(&client, orders, "x-chaos: delay\r\n").text(), "ok");
        assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
        for other in ["", "x-chaos: other\r\n"] {
            assert_eq!(get(&client, orders, other).text(), "ok");
        }
        assert_eq!(sent.count(), 3);
    });
}
