//! Where nothing can be intercepted an app calls listeners of its sidecar's, and is called through its sidecar all the same.

use weft_tests::{App, HttpClient, Mesh, Options};

use crate::{in_pods, weft};

#[test]
fn an_app_without_interception_calls_by_explicit_listeners_over_mutual_tls() {
    in_pods!(an_app_without_interception_calls_by_explicit_listeners_over_mutual_tls, || {
        let mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("server", "server:8080");
        let token = mesh.weft_ok(&["token", "create", "--service-account", "client"]);
        let more = [("WEFT_UPSTREAMS", "127.0.0.1:9001=server:8080")];
        let client = mesh.pod_with_token("client", "", &token, &more);
        for pod in [&server, &client] {
            pod.run(weft_pods::intercept::down).expect("no interception");
        }
        let app = App::echo(&server, 8080);
        let answer = client.run(|| {
            let mut connection = HttpClient::connect("127.0.0.1:9001").expect("the sidecar listens");
            connection.get("server", "/", "").expect("an answer")
        });
        assert_eq!(answer.status, 200, "{:?}", answer.header("weft-error"));
        assert_eq!(app.connections(), 1);
        let mutual = ["direction=\"outbound\"", "tls=\"mutual\""];
        assert_eq!(client.metric("weft_requests_total", &mutual), 1.0);
    });
}
