//! A machine that slept past the end of its certificates finds back by itself.

use std::time::{Duration, SystemTime};

use weft_tests::{App, HttpClient, Mesh, Options, eventually};

use crate::{in_pods, weft};

/// A look at the clock every 15 s, and a renewal.
const BACK: Duration = Duration::from_secs(30);

#[test]
fn sidecars_that_slept_past_the_end_of_their_certificates_join_again_by_themselves() {
    in_pods!(sidecars_that_slept_past_the_end_of_their_certificates_join_again_by_themselves, || {
        let mesh = Mesh::start(weft(), Options { certificate_ttl: Some("3s"), ..Options::default() });
        let (mut server, mut client) = (mesh.pod("server", "server:8080"), mesh.pod("client", ""));
        let _app = App::echo(&server, 8080);
        server.sidecar().pause();
        client.sidecar().pause();
        // Three seconds, rounded up, and one for the moment of the last renewal.
        let ended = SystemTime::now() + Duration::from_secs(5);
        eventually("their certificates have ended", BACK, || SystemTime::now() > ended);
        server.sidecar().resume();
        client.sidecar().resume();
        eventually("they are believed again", BACK, || {
            let status = client.run(|| {
                let mut fresh = HttpClient::connect((server.address(), 8080)).ok()?;
                Some(fresh.get("server", "/", "").ok()?.status)
            });
            status == Some(200)
        });
    });
}
