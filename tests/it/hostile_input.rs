//! Garbage on any port: the connection is closed, counted, and nothing else happens.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use weft_tests::{App, HttpClient, Mesh, Options, eventually};

use crate::{in_pods, weft};

/// A fixed sequence that looks random: the same on every run.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(step).collect()
}

#[test]
fn garbage_on_any_port_is_closed_and_counted_and_changes_nothing() {
    in_pods!(garbage_on_any_port_is_closed_and_counted_and_changes_nothing, || {
        let mesh = Mesh::start(weft(), Options::default());
        let mut server = mesh.pod("server", "server:8080");
        let client = mesh.pod("client", "");
        let _app = App::echo(&server, 8080);
        let pieces: Vec<Vec<u8>> =
            [0, 1, 5, 300, 20_000].iter().map(|&length| noise(length as u64 + 7, length)).collect();
        let tls = [b"\x16\x03\x01\x00\xff\x01\x00\x00\xfb\x03\x03".to_vec(), noise(3, 240)].concat();
        let h2 = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), noise(4, 300)].concat();
        let throw = |address: &str| {
            for piece in pieces.iter().chain([&tls, &h2]) {
                let Ok(mut stream) = TcpStream::connect(address) else { continue };
                let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
                let _ = stream.write_all(piece);
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read(&mut [0; 1024]);
            }
        };
        let inside = ["127.0.0.1:4140", "127.0.0.1:4143", "127.0.0.1:4191", "127.0.0.1:4153"];
        server.run(|| inside.iter().for_each(|address| throw(address)));
        let outside = [4143, 4191, 8080].map(|port| format!("{}:{port}", server.address()));
        mesh.in_hub(|| outside.iter().for_each(|address| throw(address)));
        let control = format!("{}:7443", mesh.address());
        mesh.in_hub(|| {
            [control.as_str(), "127.0.0.1:7080", "127.0.0.1:4317"].iter().for_each(|at| throw(at))
        });
        server.run(|| {
            let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            for piece in pieces.iter().filter(|piece| piece.len() < 1000) {
                let _ = socket.send_to(piece, "127.0.0.1:4153");
            }
        });

        eventually("the garbage was counted", Duration::from_secs(5), || {
            server.metric("weft_connections_refused_total", &["direction=\"inbound\""]) > 0.0
        });
        assert!(server.sidecar().is_running());
        let answer = client.run(|| {
            HttpClient::connect((server.address(), 8080))
                .and_then(|mut connection| connection.get("server", "/", ""))
        });
        assert_eq!(answer.expect("an answer").status, 200);
        assert!(!mesh.weft_json(&["status"]).as_array().expect("a list").is_empty());
        for log in [server.sidecar_log(), mesh.control_plane_log()] {
            assert!(!log.contains("panicked"), "{log}");
        }
    });
}
