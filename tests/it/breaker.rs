//! TrafficPolicy's circuitBreaker: who fails is left alone, and tried again later.

use std::time::Duration;

use weft_tests::{Mesh, Options, eventually};

use crate::policy::{ask, bare_server, client, get, heard, orders, policy, scripted, server, shares};
use crate::{in_pods, weft};

const BROKEN: &str = "HTTP/1.1 500 Broken\r\ncontent-length: 6\r\n\r\nbroken";
const MENDED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nmended";

#[test]
fn a_pod_that_fails_five_times_in_a_row_is_left_alone() {
    in_pods!(a_pod_that_fails_five_times_in_a_row_is_left_alone, || {
        let mesh = Mesh::start(weft(), Options::default());
        let one = bare_server(&mesh, "one", "");
        let (_app, sent) = scripted(&one, |_| BROKEN);
        let (_two, _app_two) = server(&mesh, "two", "");
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(
            &mesh,
            "loadBalancing: {policy: RoundRobin}\n  circuitBreaker: {consecutiveFailures: 5, openFor: 1h}",
        );
        heard(&client, "CircuitBreaker");
        let answers = ask(&client, orders, 100);
        // Outcomes are known when a response has ended: with one request after another none is in flight beside it.
        assert_eq!((sent.count(), shares(&answers)["broken"]), (5, 5), "{:?}", shares(&answers));
        // The other one works: the service does.
        assert_eq!(shares(&ask(&client, orders, 20))["two"], 20);
    });
}

#[test]
fn a_service_of_which_nothing_works_is_refused_at_once_and_tried_again_after_its_time() {
    in_pods!(a_service_of_which_nothing_works_is_refused_at_once_and_tried_again_after_its_time, || {
        let mesh = Mesh::start(weft(), Options::default());
        let one = bare_server(&mesh, "one", "");
        let (_app, sent) = scripted(&one, |number| if number < 4 { BROKEN } else { MENDED });
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(&mesh, "circuitBreaker: {consecutiveFailures: 3, openFor: 500ms}");
        heard(&client, "CircuitBreaker");
        for _ in 0..3 {
            assert_eq!(get(&client, orders, "").status, 500);
        }
        for _ in 0..10 {
            let refused = get(&client, orders, "");
            assert_eq!((refused.status, refused.header("weft-error")), (503, Some("circuit-open")));
        }
        assert_eq!(sent.count(), 3);
        eventually(
            "it is tried once, fails, and is left alone for twice as long",
            Duration::from_secs(5),
            || get(&client, orders, "").status == 500,
        );
        let refused = get(&client, orders, "");
        assert_eq!(
            (refused.status, refused.header("weft-error"), sent.count()),
            (503, Some("circuit-open"), 4)
        );
        eventually("it works again", Duration::from_secs(5), || get(&client, orders, "").status == 200);
        for _ in 0..10 {
            assert_eq!(get(&client, orders, "").text(), "mended");
        }
    });
}

#[test]
fn a_pod_that_cannot_be_reached_counts_as_failing() {
    in_pods!(a_pod_that_cannot_be_reached_counts_as_failing, || {
        let mesh = Mesh::start(weft(), Options::default());
        // No app listens: its own sidecar answers 502.
        let _one = bare_server(&mesh, "one", "");
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(&mesh, "circuitBreaker: {consecutiveFailures: 2, openFor: 1h}");
        heard(&client, "CircuitBreaker");
        let codes: Vec<_> =
            (0..4).map(|_| get(&client, orders, "").header("weft-error").map(str::to_owned)).collect();
        let expected = ["connect-failed", "connect-failed", "circuit-open", "circuit-open"];
        assert_eq!(codes, expected.map(|code| Some(code.to_owned())));
    });
}

#[test]
fn workers_agree_on_who_is_left_alone_and_metrics_and_pages_say_it() {
    in_pods!(workers_agree_on_who_is_left_alone_and_metrics_and_pages_say_it, || {
        let mesh = Mesh::start(weft(), Options::default());
        let one = bare_server(&mesh, "one", "");
        let (_app, sent) = scripted(&one, |_| BROKEN);
        let token = mesh.weft_ok(&["token", "create", "--service-account", "client"]);
        let client = mesh.pod_with_token("client", "", &token, &[("WEFT_WORKERS", "4")]);
        let orders = orders(&mesh, &client);
        policy(&mesh, "circuitBreaker: {consecutiveFailures: 5, openFor: 1h}");
        heard(&client, "CircuitBreaker");
        // Each connection is another worker's, as the kernel deals them out.
        let statuses: Vec<_> = (0..40).map(|_| get(&client, orders, "").status).collect();
        assert_eq!((sent.count(), statuses.iter().filter(|status| **status == 500).count()), (5, 5));
        let state = |endpoint: &str| {
            let endpoint = format!("endpoint=\"{endpoint}\"");
            client.metric("weft_circuit_state", &["service=\"default/orders\",port=\"8080\"", &endpoint])
        };
        assert_eq!((state("default/one-1"), state("")), (2.0, 2.0));
        let (_, stats) = client.admin("/stats").expect("a page");
        assert!(stats.contains("\"state\": \"open\""), "{stats}");
    });
}
