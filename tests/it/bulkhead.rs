//! TrafficPolicy's bulkhead: a service that hangs takes no more than its own share.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weft_tests::{App, HttpClient, Mesh, Options, eventually};

use crate::policy::{ask, bare_server, client, get, heard, orders, policy, server, shares};
use crate::{in_pods, weft};

#[test]
fn one_request_too_many_is_told_at_once_and_other_services_go_on() {
    in_pods!(one_request_too_many_is_told_at_once_and_other_services_go_on, || {
        let mesh = Mesh::start(weft(), Options::default());
        let stuck = bare_server(&mesh, "one", "");
        // Takes requests and never answers.
        let _app = App::serve(&stuck, 8080, |stream| {
            let _ = std::io::copy(&mut &stream, &mut std::io::sink());
        });
        let other = mesh.pod("other", "other:8080:http");
        let _other_app = App::echo(&other, 8080);
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(&mesh, "bulkhead: {maxConcurrentRequests: 2, maxPendingRequests: 0}");
        heard(&client, "Bulkhead");
        let hang = |to: SocketAddr| {
            client.run(|| {
                let mut stream = std::net::TcpStream::connect(to).expect("a connection");
                std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n")
                    .expect("sent");
                stream
            })
        };
        let two = [hang(orders), hang(orders)];
        eventually("both are under way", Duration::from_secs(5), || {
            stuck.metric("weft_connections", &["direction=\"inbound\""]) >= 2.0
        });
        let begun = Instant::now();
        for _ in 0..5 {
            let answer = get(&client, orders, "");
            assert_eq!((answer.status, answer.header("weft-error")), (503, Some("queue-full")));
        }
        assert!(begun.elapsed() < Duration::from_secs(1), "nobody waits: {:?}", begun.elapsed());
        let answer = client.run(|| {
            HttpClient::connect((other.address(), 8080))
                .expect("a connection")
                .get("other", "/", "")
                .expect("an answer")
        });
        assert_eq!(answer.status, 200);
        drop(two);
    });
}

#[test]
fn connections_are_as_many_as_allowed_and_idle_ones_make_room_for_others() {
    in_pods!(connections_are_as_many_as_allowed_and_idle_ones_make_room_for_others, || {
        let mesh = Mesh::start(weft(), Options::default());
        let (one, _a) = server(&mesh, "one", "");
        let (two, _b) = server(&mesh, "two", "");
        let token = mesh.weft_ok(&["token", "create", "--service-account", "client"]);
        // What one worker holds idle another may need.
        let client = mesh.pod_with_token("client", "", &token, &[("WEFT_WORKERS", "2")]);
        let orders = orders(&mesh, &client);
        policy(
            &mesh,
            "loadBalancing: {policy: RoundRobin}\n  bulkhead: {maxConnections: 1, maxPendingRequests: 4}",
        );
        heard(&client, "max_connections: 1");
        // Each request needs the connection that the one before it has left idle.
        for _ in 0..3 {
            assert_eq!(shares(&ask(&client, orders, 20)).values().sum::<usize>(), 20);
        }
        let open = |pod: &weft_tests::SidecarPod| pod.metric("weft_connections", &["direction=\"inbound\""]);
        eventually("one connection is left, to one of them", Duration::from_secs(5), || {
            open(&one) + open(&two) <= 1.0
        });
    });
}

#[test]
fn a_connection_too_many_is_refused_where_nobody_may_wait() {
    in_pods!(a_connection_too_many_is_refused_where_nobody_may_wait, || {
        let mesh = Mesh::start(weft(), Options::default());
        let stuck = bare_server(&mesh, "one", "");
        let _app = App::serve(&stuck, 8080, |stream| {
            let _ = std::io::copy(&mut &stream, &mut std::io::sink());
        });
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(&mesh, "bulkhead: {maxConnections: 1, maxPendingRequests: 0}");
        heard(&client, "max_connections: 1");
        let held = client.run(|| {
            let mut stream = std::net::TcpStream::connect(orders).expect("a connection");
            std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").expect("sent");
            stream
        });
        eventually("it is under way", Duration::from_secs(5), || {
            stuck.metric("weft_connections", &["direction=\"inbound\""]) >= 1.0
        });
        let answer = get(&client, orders, "");
        assert_eq!((answer.status, answer.header("weft-error")), (503, Some("queue-full")));
        drop(held);
    });
}
