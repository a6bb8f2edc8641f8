//! How often who may call: what a RateLimit lets in, and what it says to those whom it does not.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use weft_tests::{App, HttpClient, Mesh, Options, Response, SidecarPod, eventually};

use crate::policy::{self, heard};
use crate::{in_pods, weft};

fn apply(mesh: &Mesh, spec: &str) {
    let text = format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: RateLimit\nmetadata: {{name: often}}\nspec: {{targetRef: {{kind: Service, name: orders}}, {spec}}}\n"
    );
    let file = mesh.scratch().join("limit.yaml");
    fs::write(&file, text).expect("a file");
    mesh.weft_ok(&["apply", "-f", file.to_str().expect("a path")]);
}

/// One request on a connection of its own.
fn ask(client: &SidecarPod, server: &SidecarPod, more: &str) -> Response {
    client.run(|| {
        let mut connection = HttpClient::connect((server.address(), 8080)).expect("a connection");
        connection.get("orders", "/", more).expect("an answer")
    })
}

#[test]
fn a_caller_that_asks_too_often_is_told_when_to_come_back_and_others_are_served() {
    in_pods!(a_caller_that_asks_too_often_is_told_when_to_come_back_and_others_are_served, || {
        let mesh = Mesh::start(weft(), Options::default());
        let token = mesh.weft_ok(&["token", "create", "--service-account", "orders", "--service", "orders"]);
        // Two workers, which count together.
        let server = mesh.pod_with_token("orders", "orders:8080", &token, &[("WEFT_WORKERS", "2")]);
        let (web, other) = (mesh.pod("web", ""), mesh.pod("other", ""));
        let _app = App::echo(&server, 8080);
        assert_eq!(ask(&web, &server, "").header("ratelimit"), None);

        apply(&mesh, "limits: [{requests: 8, per: 1h, key: [caller]}]");
        heard(&server, "default/often");
        let statuses: Vec<_> = (0..20).map(|_| ask(&web, &server, "").status).collect();
        assert_eq!(statuses, [[200; 8].as_slice(), [429; 12].as_slice()].concat());
        let refused = ask(&web, &server, "");
        assert_eq!(refused.header("weft-error"), Some("rate-limited"));
        assert_eq!(refused.header("ratelimit-policy"), Some("\"default/often\";q=8;w=3600"));
        let wait: u64 = refused.header("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
        assert!((1..=450).contains(&wait), "{wait}");
        assert_eq!(refused.header("ratelimit"), Some(&*format!("\"default/often\";r=0;t={wait}")));
        let grpc = ask(&web, &server, "content-type: application/grpc\r\n");
        assert_eq!((grpc.status, grpc.header("grpc-status")), (200, Some("8")));
        assert!(grpc.header("grpc-retry-pushback-ms").is_some_and(|text| text.parse::<u64>().is_ok()));

        let served = ask(&other, &server, "");
        assert_eq!((served.status, served.header("ratelimit")), (200, Some("\"default/often\";r=7;t=450")));
        let told = ["policy=\"default/often\"", "decision=\"limited\""];
        assert!(server.metric("weft_policy_decisions_total", &told) >= 14.0);

        // What was used up stays used up when the policy changes.
        apply(&mesh, "limits: [{requests: 9, per: 1h, key: [caller]}]");
        eventually("the changed policy is in force", Duration::from_secs(5), || {
            ask(&other, &server, "").header("ratelimit-policy") == Some("\"default/often\";q=9;w=3600")
        });
        assert!((0..5).all(|_| ask(&web, &server, "").status == 429));
        mesh.weft_ok(&["delete", "ratelimit", "often"]);
        eventually("without a policy no one is limited", Duration::from_secs(5), || {
            ask(&web, &server, "").status == 200
        });
    });
}

#[test]
fn connections_of_bytes_are_counted_as_such() {
    in_pods!(connections_of_bytes_are_counted_as_such, || {
        let mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("orders", "orders:7000:tcp");
        let (web, other) = (mesh.pod("web", ""), mesh.pod("other", ""));
        let _app = App::greeter(&server, 7000, "hello");
        let greeted = |client: &SidecarPod| {
            client.run(|| {
                let mut stream = TcpStream::connect((server.address(), 7000)).expect("a connection");
                stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
                let mut greeting = [0; 5];
                stream.write_all(b"x").and_then(|()| stream.read_exact(&mut greeting)).is_ok()
            })
        };
        assert!(greeted(&web));
        apply(&mesh, "limits: [{requests: 3, per: 1h, key: [caller]}]");
        heard(&server, "default/often");
        assert_eq!((0..6).filter(|_| greeted(&web)).count(), 3);
        assert!(greeted(&other));
        assert_eq!(server.metric("weft_connections_refused_total", &["reason=\"rate-limited\""]), 3.0);
    });
}

#[test]
fn a_global_limit_is_one_for_all_pods_and_who_leaves_leaves_its_share() {
    in_pods!(a_global_limit_is_one_for_all_pods_and_who_leaves_leaves_its_share, || {
        let mesh = Mesh::start(weft(), Options::default());
        let (first, _first_app) = policy::server(&mesh, "first", "a");
        let (mut second, _second_app) = policy::server(&mesh, "second", "a");
        let client = policy::client(&mesh, "a");
        let orders = policy::orders(&mesh, &client);
        policy::policy(&mesh, "loadBalancing: {policy: RoundRobin}");
        apply(&mesh, "limits: [{requests: 8, per: 1h, key: [caller], scope: Global}]");
        for server in [&first, &second] {
            heard(server, "default/often");
        }
        policy::settle(&mesh);
        let statuses: Vec<_> = (0..20).map(|_| policy::get(&client, orders, "").status).collect();
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 8, "{statuses:?}");
        let said = || policy::get(&client, orders, "").header("ratelimit-policy").map(str::to_owned);
        assert_eq!(said().as_deref(), Some("\"default/often\";q=8;w=7200"));

        assert!(second.sidecar().terminate().success());
        eventually("all of it is the first's", Duration::from_secs(20), || {
            let told = policy::get(&client, orders, "");
            // What it had used up of its half is all that it has by now.
            assert_ne!(told.status, 200);
            told.header("ratelimit-policy") == Some("\"default/often\";q=8;w=3600")
        });
    });
}
