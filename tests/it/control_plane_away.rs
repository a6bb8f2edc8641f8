//! The control plane may die: traffic goes on, sidecars come up from disk, and its return disturbs nothing.

use std::time::Duration;

use weft_tests::{App, HttpClient, Mesh, Options, SidecarPod, eventually};

use crate::{in_pods, weft};

#[test]
fn traffic_outlives_the_control_plane_and_its_return_disturbs_nothing() {
    in_pods!(traffic_outlives_the_control_plane_and_its_return_disturbs_nothing, || {
        let mut mesh = Mesh::start(weft(), Options::default());
        let mut server = mesh.pod("server", "server:8080");
        let mut client = mesh.pod("client", "");
        let _app = App::echo(&server, 8080);
        ask(&client, &server, "before");
        // The caches on disk are written a moment after what they hold is in force.
        let written = || client.run(|| client.admin("/stats")).is_some_and(|(_, text)| !text.is_empty());
        eventually("the sidecar answers", Duration::from_secs(5), written);

        mesh.kill_control_plane();
        for _ in 0..50 {
            ask(&client, &server, "while it is away");
        }
        server.sidecar().terminate();
        server.start_sidecar();
        server.wait_until_ready();
        client.sidecar().kill();
        client.start_sidecar();
        client.wait_until_ready();
        ask(&client, &server, "after restarts from disk");

        mesh.start_control_plane();
        eventually("all are back and in sync", Duration::from_secs(20), || {
            ask(&client, &server, "while it returns");
            let status = mesh.weft_json(&["status"]);
            let sidecars = status.as_array().cloned().unwrap_or_default();
            sidecars.len() == 2 && sidecars.iter().all(|s| s["connected"] == true && s["in_sync"] == true)
        });
    });
}

fn ask(client: &SidecarPod, server: &SidecarPod, when: &str) {
    let answer = client.run(|| {
        let mut connection = HttpClient::connect((server.address(), 8080))?;
        connection.get("server:8080", "/", "")
    });
    let answer = answer.unwrap_or_else(|error| panic!("{when}: {error}\n{}", client.sidecar_log()));
    assert_eq!(answer.status, 200, "{when}: {:?}\n{}", answer.header("weft-error"), client.sidecar_log());
}
