//! One root follows another under load: no request fails, nothing is restarted, and who was away finds back.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use weft_tests::{App, HttpClient, Mesh, Options, eventually};

use crate::{in_pods, weft};

/// Renewals are spread over seconds, and handshakes that have begun are waited for.
const MOVED: Duration = Duration::from_secs(60);

#[test]
fn a_move_to_another_root_fails_no_request_and_restarts_nothing() {
    in_pods!(a_move_to_another_root_fails_no_request_and_restarts_nothing, || {
        let mut mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("server", "server:8080,store:7000");
        let mut client = mesh.pod("client", "");
        let _apps = (App::echo(&server, 8080), App::greeter(&server, 7000, "hello\n"));
        let status = |mesh: &Mesh| mesh.weft_json(&["ca", "status"]);
        let first = status(&mesh)["roots"][0]["fingerprint"].clone();
        let (done, requests) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                client.run(|| {
                    let mut kept = HttpClient::connect((server.address(), 8080)).expect("a connection");
                    while !done.load(Ordering::Relaxed) {
                        let answer = kept.get("server", "/", "").expect("an answer on a kept connection");
                        assert_eq!(answer.status, 200, "{:?}", answer.header("weft-error"));
                        // Of bytes each connection is a handshake of its own.
                        let mut line = String::new();
                        let store =
                            std::net::TcpStream::connect((server.address(), 7000)).expect("a connection");
                        store.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
                        let read =
                            std::io::BufRead::read_line(&mut std::io::BufReader::new(store), &mut line);
                        assert_eq!(
                            (line.as_str(), read.is_ok()),
                            ("hello\n", true),
                            "{}",
                            client.sidecar_log()
                        );
                        requests.fetch_add(2, Ordering::Relaxed);
                        std::thread::park_timeout(Duration::from_millis(10));
                    }
                });
            });
            assert_eq!(mesh.weft_json(&["ca", "rotate"])["phase"], "announced");
            eventually("the mesh has moved", MOVED, || {
                let status = status(&mesh);
                status["phase"] == "steady" && status["roots"][0]["fingerprint"] != first
            });
            done.store(true, Ordering::Relaxed);
        });
        assert!(requests.load(Ordering::Relaxed) > 200, "there was load: {requests:?}");
        let now = status(&mesh);
        assert_eq!(now["roots"].as_array().map(Vec::len), Some(1), "{now}");
        assert_eq!(now["roots"][0]["certificates"], 2);
        let issuer = now["issuing"].clone();
        for identity in mesh.weft_json(&["identity"]).as_array().expect("a list") {
            assert_eq!(identity["issuer"], issuer, "{identity}");
        }

        // The file that a sidecar was started with still has the old root alone; so has a new one's.
        client.sidecar().kill();
        client.start_sidecar();
        client.wait_until_ready();
        let late = mesh.pod("late", "");
        late.run(|| {
            let mut fresh = HttpClient::connect((server.address(), 8080)).expect("a connection");
            assert_eq!(fresh.get("server", "/", "").expect("an answer").status, 200);
        });
        // Without the control plane, from what is on disk.
        mesh.kill_control_plane();
        client.sidecar().kill();
        client.start_sidecar();
        client.wait_until_ready();
        client.run(|| {
            let mut fresh = HttpClient::connect((server.address(), 8080)).expect("a connection");
            assert_eq!(fresh.get("server", "/", "").expect("an answer").status, 200);
        });
    });
}
