//! Who may join: tokens for another identity, expired, tampered or used up are refused, with the reason in both logs.

use std::time::{Duration, Instant};

use weft_tests::{Mesh, Options, eventually};

use crate::{in_pods, weft};

/// Starts a sidecar with this token, and waits for `reason` in its log and the control plane's.
fn check_refused(mesh: &Mesh, name: &str, services: &str, token: &str, reason: &str) {
    let pod = mesh.pod_that_may_fail(name, services, token, &[]);
    eventually(&format!("{name}: {reason:?} in both logs"), Duration::from_secs(15), || {
        let (theirs, ours) = (mesh.control_plane_log(), pod.sidecar_log());
        theirs.contains(reason) && ours.contains(reason)
    });
    assert!(pod.admin("/ready").is_none_or(|(status, _)| status != 200), "{name} must not become ready");
}

#[test]
fn tokens_that_prove_nothing_are_refused_with_the_reason_in_both_logs() {
    in_pods!(tokens_that_prove_nothing_are_refused_with_the_reason_in_both_logs, || {
        let mesh = Mesh::start(weft(), Options::default());
        let token = |more: &[&str]| {
            let arguments = [&["token", "create", "--service-account", "web"], more].concat();
            mesh.weft_ok(&arguments).trim().to_owned()
        };
        let good = token(&[]);
        let (body, signature) = good.rsplit_once('.').expect("a signed token");
        let first = if signature.starts_with('A') { "B" } else { "A" };
        let tampered = format!("{body}.{first}{}", &signature[1..]);
        check_refused(&mesh, "tampered", "", &tampered, "signature");
        check_refused(&mesh, "nonsense", "", "not-a-token", "no join token");

        let short = token(&["--ttl", "1s"]);
        let made = Instant::now();
        eventually("a second and more has passed", Duration::from_secs(5), || {
            made.elapsed() > Duration::from_millis(2100)
        });
        check_refused(&mesh, "late", "", &short, "expired");

        let revoked = token(&[]);
        let id = mesh
            .weft_json(&["token", "list"])
            .as_array()
            .expect("a list")
            .iter()
            .map(|t| t["id"].clone())
            .next_back();
        let id = id.expect("a token").as_str().expect("an id").to_owned();
        mesh.weft_ok(&["token", "revoke", &id]);
        check_refused(&mesh, "recalled", "", &revoked, "revoked");

        let once = token(&["--uses", "1"]);
        mesh.pod_with_token("once", "", &once, &[]);
        check_refused(&mesh, "twice", "", &once, "used");

        check_refused(&mesh, "greedy", "payments:8080", &token(&[]), "payments");
    });
}

#[test]
fn status_and_identity_tell_who_is_here() {
    in_pods!(status_and_identity_tell_who_is_here, || {
        let mesh = Mesh::start(weft(), Options::default());
        let _server = mesh.pod("server", "server:8080");
        let in_sync = || mesh.weft_json(&["status"])[0]["in_sync"] == true;
        eventually("the sidecar is in sync", Duration::from_secs(10), in_sync);
        let status = mesh.weft_json(&["status"]);
        assert_eq!(status[0]["workload"], "server-1", "{status}");
        assert_eq!(status[0]["service_account"], "server", "{status}");
        assert_eq!((&status[0]["connected"], &status[0]["ready"]), (&true.into(), &true.into()), "{status}");
        let identity = mesh.weft_json(&["identity"]);
        assert_eq!(identity[0]["spiffe_id"], "spiffe://mesh.local/ns/default/sa/server", "{identity}");
        for field in ["workload", "serial", "issuer", "not_before", "not_after"] {
            assert!(identity[0][field].is_string(), "{field}: {identity}");
        }
    });
}
