//! What leaves a pod is encrypted, and what comes in without a certificate is refused.

use std::time::Duration;

use weft_tests::{App, Capture, HttpClient, Mesh, Options, eventually};

use crate::{in_pods, weft};

const MARKER: &str = "marker-7f3a9c-of-the-app";

#[test]
fn no_byte_of_the_app_crosses_a_link_in_the_clear() {
    in_pods!(no_byte_of_the_app_crosses_a_link_in_the_clear, || {
        let mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("server", "server:8080,store:7000");
        let client = mesh.pod("client", "");
        let _apps =
            (App::echo(&server, 8080), App::greeter(&server, 7000, "marker-7f3a9c-of-the-app greets\n"));
        let capture = mesh.in_hub(Capture::start);
        client.run(|| {
            let mut http = HttpClient::connect((server.address(), 8080)).expect("a connection");
            for _ in 0..20 {
                let answer = http
                    .get("server", &format!("/{MARKER}"), &format!("x: {MARKER}\r\n"))
                    .expect("an answer");
                assert!(answer.text().contains(MARKER));
            }
            let mut line = String::new();
            let store = std::net::TcpStream::connect((server.address(), 7000)).expect("a connection");
            std::io::BufRead::read_line(&mut std::io::BufReader::new(store), &mut line).expect("a greeting");
            assert!(line.contains(MARKER));
        });
        // The spans that tell of these requests cross the link too.
        eventually("traces have arrived", Duration::from_secs(10), || {
            mesh.weft_json(&["traces"]).as_array().is_some_and(|all| !all.is_empty())
        });
        let seen = capture.finish();
        assert!(seen.len() > 10_000, "the capture saw the traffic: {} bytes", seen.len());
        for clear in [MARKER, "HTTP/1.1", "HTTP/2.0", "GET /", "traceparent"] {
            assert!(
                !seen.windows(clear.len()).any(|window| window == clear.as_bytes()),
                "{clear:?} in the clear"
            );
        }
    });
}

#[test]
fn plaintext_from_outside_the_mesh_is_refused_under_strict_and_taken_under_permissive() {
    in_pods!(plaintext_from_outside_the_mesh_is_refused_under_strict_and_taken_under_permissive, || {
        let mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("server", "server:8080");
        let _app = App::echo(&server, 8080);
        let ask = || {
            mesh.in_hub(|| {
                HttpClient::connect((server.address(), 8080)).and_then(|mut c| c.get("server", "/", ""))
            })
        };
        match ask() {
            Err(_) => {}
            Ok(refusal) => assert_eq!((refusal.status, refusal.header("weft-error")), (403, Some("denied"))),
        }
        let permissive = "apiVersion: weft.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\n\
             spec:\n  mtls: {mode: Permissive}\n  authorization: {default: Any}\n";
        std::fs::write(mesh.config().join("mesh.yaml"), permissive).expect("a document");
        eventually("plaintext is taken", Duration::from_secs(10), || {
            ask().is_ok_and(|answer| answer.status == 200)
        });
    });
}
