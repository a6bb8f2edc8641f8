//! Whoever is revoked is out, with all that it has open, and comes back when it is restored.

use std::io::Read as _;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use weft_tests::{App, HttpClient, Mesh, Options, SidecarPod, eventually};

use crate::{in_pods, weft};

const WEB: &str = "spiffe://mesh.local/ns/default/sa/web";
const OTHER: &str = "spiffe://mesh.local/ns/default/sa/other";

/// What is promised.
const AT_MOST: Duration = Duration::from_secs(2);

/// How long the way back may take.
const BACK: Duration = Duration::from_secs(30);

#[test]
fn a_revoked_identity_is_out_within_two_seconds_and_back_when_it_is_restored() {
    in_pods!(a_revoked_identity_is_out_within_two_seconds_and_back_when_it_is_restored, || {
        let mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("server", "server:8080,store:7000:tcp");
        let (web, other) = (mesh.pod("web", ""), mesh.pod("other", ""));
        let _apps = (App::echo(&server, 8080), App::greeter(&server, 7000, "hello"));
        let open = |client: &SidecarPod| {
            client.run(|| {
                let mut stream = TcpStream::connect((server.address(), 7000)).expect("a connection");
                stream.set_read_timeout(Some(BACK)).expect("a timeout");
                stream.read_exact(&mut [0; 5]).expect("a greeting");
                stream
            })
        };
        let status = |client: &SidecarPod| {
            client.run(|| {
                let answer =
                    HttpClient::connect((server.address(), 8080)).ok()?.get("server", "/", "").ok()?;
                Some(answer.status)
            })
        };
        let (mut bytes, mut others) = (open(&web), open(&other));
        assert_eq!((status(&web), status(&other)), (Some(200), Some(200)));

        let begun = Instant::now();
        mesh.weft_ok(&["identity", "revoke", WEB, "--reason", "a test"]);
        let ended = bytes.read(&mut [0; 1]);
        let took = begun.elapsed();
        assert!(!matches!(ended, Ok(1..)) && took < AT_MOST, "{ended:?} after {took:?}");
        assert_ne!(status(&web), Some(200), "{}", server.sidecar_log());
        assert_eq!(status(&other), Some(200));
        others.set_nonblocking(true).expect("a socket");
        let silent = (&others).read(&mut [0; 1]).expect_err("nothing has happened to it");
        assert_eq!(silent.kind(), std::io::ErrorKind::WouldBlock);
        assert!(server.metric("weft_connections_cut_total", &["reason=\"revoked\""]) >= 1.0);
        let listed = mesh.weft_json(&["identity", "revoke", "--list"]);
        assert_eq!((&listed[0]["what"], &listed[0]["reason"]), (&WEB.into(), &"a test".into()));

        mesh.weft_ok(&["identity", "revoke", WEB, "--undo"]);
        eventually("it is believed again", BACK, || status(&web) == Some(200));

        // For a time, which ends by itself.
        others.set_nonblocking(false).expect("a socket");
        mesh.weft_ok(&["identity", "revoke", OTHER, "--for", "8s"]);
        match others.read(&mut [0; 1]) {
            Ok(read) => assert_eq!(read, 0),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
        eventually("its time is over", BACK, || status(&other) == Some(200));
        assert_eq!(mesh.weft_json(&["identity", "revoke", "--list"]), serde_json::json!([]));
    });
}
