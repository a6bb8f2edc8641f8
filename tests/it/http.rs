//! HTTP through two sidecars: what the app sees, what the caller sees, and what is counted.

use weft_tests::{App, HttpClient, Mesh, Options, eventually};

use crate::{in_pods, weft};
use std::time::Duration;

#[test]
fn a_request_crosses_both_sidecars_with_the_callers_identity() {
    in_pods!(a_request_crosses_both_sidecars_with_the_callers_identity, || {
        let mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("server", "server:8080");
        let client = mesh.pod("client", "");
        let _app = App::echo(&server, 8080);
        let answer = client.run(|| {
            let mut connection = HttpClient::connect((server.address(), 8080)).expect("a connection");
            let forged = "weft-client-id: spiffe://mesh.local/ns/x/sa/forged\r\n";
            connection.get("server:8080", "/a?b=c", forged).expect("an answer")
        });
        assert_eq!(answer.status, 200);
        let seen = answer.text();
        assert!(seen.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{seen}");
        assert!(seen.contains("weft-client-id: spiffe://mesh.local/ns/default/sa/client\r\n"), "{seen}");
        assert!(!seen.contains("forged"), "{seen}");
        assert!(seen.contains("traceparent: 00-"), "{seen}");
        assert!(seen.contains("x-request-id: "), "{seen}");
        assert!(seen.contains(&format!("x-forwarded-for: {}", client.address())), "{seen}");

        let inbound = ["direction=\"inbound\"", "status=\"200\"", "tls=\"mutual\""];
        eventually("the request is counted", Duration::from_secs(5), || {
            server.metric("weft_requests_total", &inbound) >= 1.0
        });
        assert!(client.metric("weft_requests_total", &["direction=\"outbound\"", "status=\"200\""]) >= 1.0);
    });
}

#[test]
fn a_service_is_called_by_its_name_on_both_address_families() {
    in_pods!(a_service_is_called_by_its_name_on_both_address_families, || {
        let mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("server", "orders:80->8080");
        let client = mesh.pod("client", "");
        let _app = App::echo(&server, 8080);
        for (family, query) in
            [("-4", "orders"), ("-4", "orders.default"), ("-4", "orders.default.mesh"), ("-6", "orders")]
        {
            let Some(curl) = weft_tests::program(&["curl"]) else { return };
            let mut command = std::process::Command::new(curl);
            command.args(["-sS", "--max-time", "10", family, &format!("http://{query}/")]);
            let output = client.output(command);
            let (text, error) =
                (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(
                text.starts_with("GET / HTTP/1.1\r\n"),
                "{family} {query}: {text}{error}{}",
                client.sidecar_log()
            );
        }
    });
}

#[test]
fn a_trace_joins_both_sidecars_of_a_hop() {
    in_pods!(a_trace_joins_both_sidecars_of_a_hop, || {
        let mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("server", "server:8080");
        let client = mesh.pod("client", "");
        let _app = App::echo(&server, 8080);
        let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let seen = client.run(|| {
            let mut connection = HttpClient::connect((server.address(), 8080)).expect("a connection");
            let header = format!("traceparent: 00-{trace_id}-00f067aa0ba902b7-01\r\ntracestate: a=1\r\n");
            connection.get("server:8080", "/", &header).expect("an answer").text()
        });
        assert!(seen.contains(&format!("traceparent: 00-{trace_id}-")), "{seen}");
        assert!(!seen.contains("00f067aa0ba902b7"), "each hop has a span of its own: {seen}");
        assert!(seen.contains("tracestate: a=1"), "{seen}");
        let spans = || {
            let output = mesh.weft(&["trace", trace_id, "-o", "json"]);
            serde_json::from_slice::<serde_json::Value>(&output.stdout).ok()?["spans"].as_array().cloned()
        };
        eventually("both spans are stored", Duration::from_secs(10), || {
            spans().is_some_and(|all| all.len() == 2)
        });
        let spans = spans().expect("two spans");
        let of =
            |kind: &str| spans.iter().find(|span| span["kind"] == kind).expect("a span of the kind").clone();
        assert_eq!(of("client")["parent_id"], "00f067aa0ba902b7");
        assert_eq!(of("server")["parent_id"], of("client")["span_id"]);
    });
}

#[test]
fn a_dead_upstream_is_answered_with_a_reason() {
    in_pods!(a_dead_upstream_is_answered_with_a_reason, || {
        let mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("server", "server:8080:http");
        let client = mesh.pod("client", "");
        // Nothing listens on 8080: the inbound sidecar says so.
        let answer = client.run(|| {
            let mut connection = HttpClient::connect((server.address(), 8080)).expect("a connection");
            connection.get("server:8080", "/", "").expect("an answer")
        });
        assert_eq!((answer.status, answer.header("weft-error")), (502, Some("connect-failed")));
    });
}
