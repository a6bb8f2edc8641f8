//! From Permissive to Strict, one service at a time: who would be cut off is known before, and only those are.

use std::time::Duration;

use serde_json::{Value, json};
use weft_tests::{App, HttpClient, Mesh, Options, eventually};

use crate::peers::PERMISSIVE;
use crate::{in_pods, weft};

/// A change of policy may take this long to be in force on a busy machine.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn whoever_may_be_of_the_mesh_is_not_called_in_plaintext() {
    in_pods!(whoever_may_be_of_the_mesh_is_not_called_in_plaintext, || {
        let config = vec![("mesh.yaml", PERMISSIVE.to_owned())];
        let mut mesh = Mesh::start(weft(), Options { config, ..Options::default() });
        let server = mesh.pod("server", "server:8080");
        let (client, outside) = (mesh.pod("client", ""), mesh.pod_without_sidecar("outside"));
        let (app, _host) = (App::echo(&server, 8080), App::echo(&outside, 8080));
        let ask = |host: &str| {
            client.run(|| {
                let mut http = HttpClient::connect((host, 8080)).expect("a connection");
                let answer = http.get("server", "/", "").expect("an answer");
                (answer.status, answer.header("weft-error").map(str::to_owned))
            })
        };
        let (server_ip, outside_ip) = (server.address().to_string(), outside.address().to_string());
        // It is there and says nothing: who has the address is not known, and nobody is called.
        mesh.control_plane_process().pause();
        assert_eq!(ask(&server_ip), (504, Some("connect-timeout".to_owned())));
        assert_eq!(app.connections(), 0);
        mesh.control_plane_process().resume();
        eventually("the control plane answers again", SOON, || ask(&server_ip).0 == 200);
        let mutual = ["direction=\"inbound\"", "tls=\"mutual\""];
        assert!(server.metric("weft_requests_total", &mutual) >= 1.0);
        assert_eq!(server.metric("weft_requests_total", &["direction=\"inbound\"", "tls=\"none\""]), 0.0);

        // It is away: what is known is called as ever, so is what is outside, and virtual addresses are no one's but the mesh's.
        mesh.kill_control_plane();
        eventually("the sidecar knows", SOON, || client.metric("weft_control_plane_connected", &[]) == 0.0);
        assert_eq!(ask(&server_ip).0, 200);
        assert_eq!(ask(&outside_ip), (200, None));
        assert_eq!(ask("240.64.99.99"), (404, Some("no-route".to_owned())));
        assert_eq!(server.metric("weft_requests_total", &["direction=\"inbound\"", "tls=\"none\""]), 0.0);
    });
}
