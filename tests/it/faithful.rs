//! What is sent arrives as it was sent: the origin's own 100, 103 or refusal, names, order, trailers, lengths.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use weft_tests::{App, program};

use crate::in_pods;
use crate::peers::{Peers, read_head};

#[test]
fn an_origin_says_100_itself_or_refuses_before_the_body_is_sent() {
    in_pods!(an_origin_says_100_itself_or_refuses_before_the_body_is_sent, || {
        if program(&["curl"]).is_none() {
            return;
        }
        let peers = Peers::start("server:8080");
        let bodies = Arc::new(AtomicU64::new(0));
        let counted = bodies.clone();
        let _app = App::serve(&peers.server, 8080, move |stream| counted_upload(stream, &counted));
        let upload = peers.mesh.scratch().join("upload");
        fs::write(&upload, vec![b'u'; 1_000_000]).expect("a file");
        let upload = format!("@{}", upload.display());
        let (expect, patience) = ("Expect: 100-continue", ["--expect100-timeout", "20"]);
        for caller in peers.callers() {
            let send = |url| {
                caller.curl(&["-v", "-H", expect, patience[0], patience[1], "--data-binary", &upload, url])
            };
            let refused = send("http://HOST:8080/refuse");
            assert!(refused.contains("HTTP/1.1 413 ") && !refused.contains("HTTP/1.1 100 "), "{refused}");
            assert_eq!(bodies.load(Ordering::Relaxed), 0, "not a byte of the body was sent");
            let taken = send("http://HOST:8080/take");
            assert!(taken.contains("HTTP/1.1 100 ") && taken.contains("HTTP/1.1 200 "), "{taken}");
            assert_eq!(bodies.swap(0, Ordering::Relaxed), 1_000_000);
        }
    });
}

/// Refuses `/refuse` by its head, and takes anything else once it has said so; counts the bytes of bodies.
fn counted_upload(stream: TcpStream, bodies: &AtomicU64) {
    let (first, mut reader) = read_head(&stream);
    let mut writer = &stream;
    if first.contains("/refuse") {
        let _ = writer.write_all(b"HTTP/1.1 413 Too Much\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
        let mut rest = [0; 4096];
        while let Ok(length @ 1..) = reader.read(&mut rest) {
            bodies.fetch_add(length as u64, Ordering::Relaxed);
        }
        return;
    }
    let _ = writer.write_all(b"HTTP/1.1 100 Go On\r\n\r\n");
    let mut body = vec![0; 1_000_000];
    if reader.read_exact(&mut body).is_ok() {
        bodies.fetch_add(body.len() as u64, Ordering::Relaxed);
        let _ = writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
}

#[test]
fn names_order_trailers_and_early_hints_arrive_as_they_were_sent() {
    in_pods!(names_order_trailers_and_early_hints_arrive_as_they_were_sent, || {
        if program(&["curl"]).is_none() {
            return;
        }
        let peers = Peers::start("server:8080");
        let answer = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n\
            HTTP/1.1 200 Fine\r\nX-Zed: 1\r\nx-Alpha: 2\r\nX-Zed: caf\xe9\r\nTrailer: X-Sum\r\n\
            Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n";
        let heads = Arc::new(std::sync::Mutex::new(String::new()));
        let seen = heads.clone();
        let _app = App::serve(&peers.server, 8080, move |stream| {
            let (first, _reader) = read_head(&stream);
            *seen.lock().expect("no panic") = first;
            let _ = (&stream).write_all(answer);
        });
        for caller in peers.callers() {
            let mut command = caller.curl_command(&["-i", "--raw", "-H", "TE: trailers", "-H", "X-Zulu: 1"]);
            command.args(["-H", "x-alpha: 2", "-H", "X-Zulu: 3", &format!("http://{}:8080/", caller.host)]);
            let output = caller.pod.output(command);
            let printed = String::from_utf8_lossy(&output.stdout);
            assert!(
                printed.starts_with("HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n"),
                "{printed}"
            );
            let fields = b"X-Zed: 1\r\nx-Alpha: 2\r\nX-Zed: caf\xe9\r\n";
            let whole = output.stdout.windows(fields.len()).any(|window| window == fields);
            assert!(whole, "case, order and bytes of the answer's fields: {printed}");
            assert!(printed.contains("HTTP/1.1 200 Fine\r\n"), "the reason: {printed}");
            assert!(printed.ends_with("\r\n0\r\nX-Sum: 42\r\n\r\n"), "trailers: {printed}");
            let head = heads.lock().expect("no panic").clone();
            assert!(head.contains("X-Zulu: 1\r\nx-alpha: 2\r\nX-Zulu: 3\r\n"), "case and order: {head}");
        }
    });
}

#[test]
fn an_answer_that_nothing_has_changed_keeps_the_length_it_speaks_of() {
    in_pods!(an_answer_that_nothing_has_changed_keeps_the_length_it_speaks_of, || {
        if program(&["curl"]).is_none() {
            return;
        }
        let peers = Peers::start("server:8080");
        let _app = App::serve(&peers.server, 8080, |stream| {
            let mut served = 0;
            let mut reader = std::io::BufReader::new(&stream);
            while served < 4 && !crate::peers::read_head_from(&mut reader).is_empty() {
                let _ = (&stream)
                    .write_all(b"HTTP/1.1 304 Not Modified\r\nETag: \"7\"\r\nContent-Length: 1234\r\n\r\n");
                served += 1;
            }
        });
        for caller in peers.callers() {
            // Two over one connection: what the first speaks of is not waited for.
            let told = caller.curl(&[
                "-i",
                "-w",
                "(%{http_code} %{num_connects})\n",
                "http://HOST:8080/",
                "http://HOST:8080/",
            ]);
            assert_eq!(told.to_ascii_lowercase().matches("content-length: 1234\r\n").count(), 2, "{told}");
            assert!(told.contains("(304 1)") && told.contains("(304 0)"), "{told}");
        }
    });
}

#[test]
fn nginx_refuses_a_large_upload_early_and_curl_hears_it() {
    in_pods!(nginx_refuses_a_large_upload_early_and_curl_hears_it, || {
        let (Some(_), Some(nginx)) = (program(&["curl"]), program(&["nginx"])) else { return };
        let peers = Peers::start("server:8080");
        let http = "client_max_body_size 1m; server { listen [::]:8080 ipv6only=off; location / { proxy_pass http://127.0.0.1:1; } }";
        let _nginx = peers.serve(crate::nginx::command(&nginx, peers.mesh.scratch(), http), 8080);
        let upload = peers.mesh.scratch().join("upload");
        fs::File::create(&upload).and_then(|file| file.set_len(100 << 20)).expect("a file of holes");
        let upload = upload.display().to_string();
        for caller in peers.callers() {
            for length in ["Expect:", "Transfer-Encoding: chunked"] {
                let note = "%{stderr}(%{http_code} %{size_upload})";
                let mut command =
                    caller.curl_command(&["-H", "Expect:", "-H", length, "-w", note, "-T", &upload]);
                command.arg(format!("http://{}:8080/", caller.host));
                let output = caller.pod.output(command);
                let said = String::from_utf8_lossy(&output.stderr);
                let sent: u64 = said
                    .split(['(', ' ', ')'])
                    .filter_map(|part| part.parse().ok())
                    .next_back()
                    .expect("a size");
                // 55 and 56: it could not send all, or the connection ended after the answer; the answer is what counts.
                assert!(said.contains("(413 "), "{length} of {}: {said}", caller.host);
                assert!(sent < 90 << 20, "it stopped early: {sent}");
            }
        }
    });
}
