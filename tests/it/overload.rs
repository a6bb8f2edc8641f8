//! TrafficPolicy's concurrency: an app that has enough to do is given no more, and can still be asked how it is.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use weft_tests::{App, HttpClient, Mesh, Options, SidecarPod, eventually};

use crate::policy::{bare_server, client, get, heard, orders, policy};
use crate::{in_pods, weft};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// What holds the app's answers back.
type Gate = Arc<(Mutex<bool>, Condvar)>;

/// An app that answers what asks after its health, and all else when the gate opens.
fn gated(pod: &SidecarPod) -> (App, Gate) {
    let gate = Gate::default();
    let held = gate.clone();
    let app = App::serve(pod, 8080, move |mut stream: TcpStream| {
        let Ok(reader) = stream.try_clone() else { return };
        let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
        while let Some(first) = lines.next() {
            let _ = lines.find(String::is_empty);
            if !first.contains("/healthz") {
                let open = held.0.lock().expect("a gate");
                drop(held.1.wait_while(open, |open| !*open).expect("a gate"));
            }
            if stream.write_all(OK).is_err() {
                return;
            }
        }
    });
    (app, gate)
}

fn send(client: &SidecarPod, to: SocketAddr) -> TcpStream {
    client.run(|| {
        let mut stream = TcpStream::connect(to).expect("a connection");
        stream.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").expect("sent");
        stream
    })
}

#[test]
fn what_an_app_cannot_take_is_refused_at_once_but_not_what_asks_after_its_health() {
    in_pods!(what_an_app_cannot_take_is_refused_at_once_but_not_what_asks_after_its_health, || {
        let mesh = Mesh::start(weft(), Options::default());
        let one = bare_server(&mesh, "one", "");
        let (_app, gate) = gated(&one);
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(&mesh, "concurrency: {mode: Adaptive}");
        heard(&one, "\"concurrency\": \"Adaptive\"");
        let stats = || one.admin("/stats").map(|(_, text)| text).unwrap_or_default();
        assert_eq!(one.metric("weft_concurrency_limit", &["port=\"8080\""]), 0.0, "nobody has called yet");
        let begun = send(&client, orders);
        eventually("a request is under way", Duration::from_secs(5), || stats().contains("\"in_flight\": 1"));
        let limit = one.metric("weft_concurrency_limit", &["port=\"8080\""]);
        assert_eq!(limit, 128.0);
        let held: Vec<_> = (1..128).map(|_| send(&client, orders)).collect();
        eventually("as many as allowed are", Duration::from_secs(10), || {
            stats().contains("\"in_flight\": 128")
        });
        let refused = get(&client, orders, "");
        assert_eq!((refused.status, refused.header("weft-error")), (503, Some("overloaded")));
        let asked = client.run(|| {
            HttpClient::connect(orders)
                .expect("a connection")
                .get("orders", "/healthz", "")
                .expect("an answer")
        });
        assert_eq!((asked.status, asked.text().as_str()), (200, "ok"));
        assert_eq!(
            one.metric("weft_requests_total", &["error=\"overloaded\"", "direction=\"inbound\""]),
            1.0
        );
        *gate.0.lock().expect("a gate") = true;
        gate.1.notify_all();
        for stream in held.into_iter().chain([begun]) {
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).expect("an answer");
            assert_eq!(line, "HTTP/1.1 200 OK\r\n");
        }
        assert_eq!(get(&client, orders, "").status, 200);
        // Taken back, nothing is counted any more.
        policy(&mesh, "concurrency: {mode: Off}");
        heard(&one, "\"concurrency\": \"Off\"");
        assert_eq!(get(&client, orders, "").status, 200);
    });
}
