//! TrafficPolicy's bulkhead: a service that hangs takes no more than its own share.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weft_tests::{App, HttpClient, Mesh, Options, eventually};

use crate::policy::{bare_server, client, get, heard, orders, policy};
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
