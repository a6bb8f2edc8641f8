//! TrafficPolicy's loadBalancing and timeouts.connect: from a document to which pod answers.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use weft_tests::{HttpClient, Mesh, Options, eventually};

use crate::policy::{ask, client, get, heard, orders, policy, server, shares};
use crate::{in_pods, weft};

#[test]
fn the_policy_that_is_applied_chooses_the_pod() {
    in_pods!(the_policy_that_is_applied_chooses_the_pod, || {
        let mesh = Mesh::start(weft(), Options::default());
        let (_one, _a) = server(&mesh, "one", "a");
        let (_two, _b) = server(&mesh, "two", "b");
        let client = client(&mesh, "b");
        let orders = orders(&mesh, &client);
        policy(&mesh, "loadBalancing: {policy: LeastRequest}");
        heard(&client, "LeastRequest");
        let both = ask(&client, orders, 200);
        assert!(shares(&both).values().all(|count| *count > 60), "{:?}", shares(&both));

        policy(&mesh, "loadBalancing: {policy: RoundRobin}");
        heard(&client, "RoundRobin");
        let turns = ask(&client, orders, 100);
        assert!(turns.windows(2).all(|pair| pair[0] != pair[1]), "{turns:?}");
        assert_eq!(shares(&turns), BTreeMap::from([("one", 50), ("two", 50)]));

        policy(&mesh, "loadBalancing: {locality: {prefer: Zone}}");
        heard(&client, "Locality");
        assert_eq!(shares(&ask(&client, orders, 100)), BTreeMap::from([("two", 100)]));

        policy(&mesh, "loadBalancing: {policy: ConsistentHash, consistentHash: {header: X-User}}");
        heard(&client, "ConsistentHash");
        let of = |user: usize| get(&client, orders, &format!("x-user: user-{user}\r\n")).text();
        let first: Vec<_> = (0..40).map(of).collect();
        assert_eq!(first, (0..40).map(of).collect::<Vec<_>>());
        assert!(shares(&first).values().all(|count| *count >= 8), "{:?}", shares(&first));

        policy(&mesh, "loadBalancing: {locality: {prefer: Zone}}");
        heard(&client, "Locality");
        let kept = mesh.weft_json(&["get", "trafficpolicies"]);
        assert_eq!(kept[0]["spec"]["loadBalancing"]["locality"]["prefer"], "Zone", "{kept}");
        mesh.weft_ok(&["delete", "trafficpolicy", "orders"]);
        eventually("the policy is gone", Duration::from_secs(10), || {
            client.admin("/config").is_some_and(|(_, text)| !text.contains("Locality"))
        });
        assert_eq!(ask(&client, orders, 100).len(), 100);
    });
}

#[test]
fn a_pod_that_accepts_and_never_speaks_is_given_up_after_timeouts_connect() {
    in_pods!(a_pod_that_accepts_and_never_speaks_is_given_up_after_timeouts_connect, || {
        let mesh = Mesh::start(weft(), Options::default());
        let (mut one, _a) = server(&mesh, "one", "");
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(&mesh, "timeouts: {connect: 150ms}");
        heard(&client, "150ms");
        // Its kernel still takes connections.
        one.sidecar().pause();
        let begun = Instant::now();
        let answer = client.run(|| {
            let mut connection = HttpClient::connect(orders).expect("a connection");
            connection.get("orders:8080", "/", "").expect("an answer")
        });
        assert_eq!((answer.status, answer.header("weft-error")), (504, Some("connect-timeout")));
        // Three attempts, of which each may take its time; without the policy a handshake may take five seconds.
        assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    });
}

#[test]
fn what_cannot_be_meant_is_refused_by_name_with_its_line() {
    in_pods!(what_cannot_be_meant_is_refused_by_name_with_its_line, || {
        let mesh = Mesh::start(weft(), Options::default());
        let path = mesh.scratch().join("policy.yaml");
        let text = "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: a}\nspec:\n  targetRef: {kind: Mesh}\n  hedging: {after: p5, max: 1}\n";
        fs::write(&path, text).expect("a document");
        let output = mesh.weft(&["apply", "-f", path.to_str().expect("a path")]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(
            error.contains(":6: spec.hedging.after: \"p5\" is neither a time nor a percentile"),
            "{error}"
        );
    });
}
