//! Certificates that live three seconds, for two minutes, under load: nobody notices.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use weft_tests::{App, HttpClient, Mesh, Options};

use crate::{in_pods, weft};

#[test]
fn certificates_of_three_seconds_fail_no_request_in_two_minutes() {
    in_pods!(certificates_of_three_seconds_fail_no_request_in_two_minutes, || {
        let mesh = Mesh::start(weft(), Options { certificate_ttl: Some("3s"), ..Options::default() });
        let server = mesh.pod("server", "server:8080,store:7000");
        let client = mesh.pod("client", "");
        let _apps = (App::echo(&server, 8080), App::greeter(&server, 7000, "hello\n"));
        let serial = || mesh.weft_json(&["identity"])[0]["serial"].as_str().map(str::to_owned);
        let first = serial();
        let end = Instant::now() + Duration::from_secs(120);
        let requests = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                client.run(|| {
                    let mut kept = HttpClient::connect((server.address(), 8080)).expect("a connection");
                    while Instant::now() < end {
                        let answer = kept.get("server", "/", "").expect("an answer on a kept connection");
                        assert_eq!(answer.status, 200, "{:?}", answer.header("weft-error"));
                        requests.fetch_add(1, Ordering::Relaxed);
                        std::thread::park_timeout(Duration::from_millis(5));
                    }
                });
            });
            client.run(|| {
                while Instant::now() < end {
                    // A connection of bytes is a TLS handshake of its own, each time.
                    let mut line = String::new();
                    let store =
                        std::net::TcpStream::connect((server.address(), 7000)).expect("a fresh connection");
                    store.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
                    let read = std::io::BufRead::read_line(&mut std::io::BufReader::new(store), &mut line);
                    assert_eq!((line.as_str(), read.is_ok()), ("hello\n", true), "{}", client.sidecar_log());
                    let mut fresh =
                        HttpClient::connect((server.address(), 8080)).expect("a fresh connection");
                    let answer = fresh.get("server", "/", "connection: close\r\n").expect("an answer");
                    assert_eq!(answer.status, 200, "{:?}", answer.header("weft-error"));
                    requests.fetch_add(2, Ordering::Relaxed);
                    std::thread::park_timeout(Duration::from_millis(20));
                }
            });
        });
        assert!(requests.load(Ordering::Relaxed) > 1000, "there was load");
        assert_ne!(first, serial(), "certificates were renewed");
    });
}
