//! HTTP as curl speaks it, through sidecars to real servers: every shape of request and answer, as without them.

use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use weft_tests::{App, program};

use crate::in_pods;
use crate::peers::{Peers, read_head};

#[test]
fn curl_keeps_one_connection_for_requests_and_answers_of_every_shape() {
    in_pods!(curl_keeps_one_connection_for_requests_and_answers_of_every_shape, || {
        let Some((peers, _app)) = Peers::with_hypercorn(&[]) else { return };
        let upload = peers.mesh.scratch().join("upload");
        fs::write(&upload, vec![b'u'; 3_000_000]).expect("a file");
        let upload = format!("@{}", upload.display());
        let note = "\n(%{http_code} %{num_connects} %{size_download} %{http_version})\n";
        for caller in peers.callers() {
            let printed = caller.curl(&[
                "-w",
                note,
                "http://HOST:8080/length",
                "--next",
                "-sS",
                "-w",
                note,
                "-I",
                "http://HOST:8080/length",
                "--next",
                "-sS",
                "-w",
                note,
                "http://HOST:8080/chunks",
                "--next",
                "-sS",
                "-w",
                note,
                "-d",
                "a small body",
                "http://HOST:8080/echo",
                "--next",
                "-sS",
                "-w",
                note,
                "-H",
                "Transfer-Encoding: chunked",
                "--data-binary",
                &upload,
                "http://HOST:8080/count",
                "--next",
                "-sS",
                "-w",
                note,
                "-H",
                "Expect: 100-continue",
                "--data-binary",
                &upload,
                "http://HOST:8080/count",
                "--next",
                "-sS",
                "-w",
                note,
                "-i",
                "http://HOST:8080/nothing",
                "--next",
                "-sS",
                "-w",
                note,
                "-i",
                "http://HOST:8080/unchanged",
                "--next",
                "-sS",
                "-w",
                note,
                "-X",
                "DELETE",
                "http://HOST:8080/missing",
                "--next",
                "-sS",
                "-w",
                note,
                "http://HOST:8080/length",
            ]);
            let notes: Vec<&str> = printed.lines().filter(|line| line.starts_with('(')).collect();
            let expected = [
                "(200 1 5 1.1)",
                "(200 0 0 1.1)",
                "(200 0 290 1.1)",
                "(200 0 12 1.1)",
                "(200 0 7 1.1)",
                "(200 0 7 1.1)",
                "(204 0 0 1.1)",
                "(304 0 0 1.1)",
                "(404 0 0 1.1)",
                "(200 0 5 1.1)",
            ];
            assert_eq!(notes, expected, "{printed}");
            assert!(printed.contains("3000000\n(200 0 7 1.1)"), "{printed}");
            assert!(printed.contains("a small body\n(200 0 12 1.1)"), "{printed}");
            let lower = printed.to_ascii_lowercase();
            assert_eq!(lower.matches("x-kept: as it is").count(), 2, "of HEAD and 204: {printed}");
            assert!(lower.contains("etag: \"7\""), "of 304: {printed}");
        }
        assert!(peers.mutual_requests() >= 10.0, "they went through both sidecars");
    });
}

#[test]
fn curl_of_http_1_0_gets_whole_answers_that_it_understands() {
    in_pods!(curl_of_http_1_0_gets_whole_answers_that_it_understands, || {
        let Some((peers, _app)) = Peers::with_hypercorn(&[]) else { return };
        for caller in peers.callers() {
            let printed = caller.curl(&["-0", "-i", "--raw", "http://HOST:8080/chunks"]);
            assert!(!printed.to_ascii_lowercase().contains("transfer-encoding"), "{printed}");
            assert!(printed.ends_with("\n97\n98\n99\n"), "{printed}");
            let url = "http://HOST:8080/length";
            let kept =
                caller.curl(&["-0", "-H", "Connection: keep-alive", "-w", "%{num_connects}\n", url, url]);
            assert_eq!(kept, "hello1\nhello0\n");
            let closed = caller.curl(&["-0", "-w", "%{num_connects}\n", url, url]);
            assert_eq!(closed, "hello1\nhello1\n");
        }
    });
}

#[test]
fn curl_speaks_http_2_by_prior_knowledge_and_by_upgrade() {
    in_pods!(curl_speaks_http_2_by_prior_knowledge_and_by_upgrade, || {
        let Some((peers, _app)) = Peers::with_hypercorn(&[]) else { return };
        let note = "(%{http_code} %{http_version} %{num_connects})\n";
        for caller in peers.callers() {
            for how in ["--http2-prior-knowledge", "--http2"] {
                let printed = caller.curl(&[how, "-w", note, "http://HOST:8080/chunks"]);
                assert!(printed.ends_with("\n99\n(200 2 1)\n"), "{how}: {printed}");
                let body = "y".repeat(100_000);
                let echoed = caller.curl(&[how, "--data-binary", &body, "http://HOST:8080/echo"]);
                assert!(echoed == body, "{how}: {} bytes came back", echoed.len());
            }
            // An upgraded connection is kept for the next request. (curl 7.88 cannot do that by prior knowledge.)
            let url = "http://HOST:8080/length";
            assert_eq!(caller.curl(&["--http2", "-w", note, url, url]), "hello(200 2 1)\nhello(200 2 0)\n");
        }
    });
}

#[test]
fn an_answer_that_was_cut_short_never_looks_whole() {
    in_pods!(an_answer_that_was_cut_short_never_looks_whole, || {
        if program(&["curl"]).is_none() {
            return;
        }
        let peers = Peers::start("server:8080");
        let _app = App::serve(&peers.server, 8080, |stream| {
            let (first, _reader) = read_head(&stream);
            let head: &[u8] = match first.split(' ').nth(1) {
                Some("/length/end" | "/length/reset") => {
                    b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n01234"
                }
                Some("/chunks/end" | "/chunks/reset") => {
                    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n01234\r\n"
                }
                _ => b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n01234",
            };
            let _ = (&stream).write_all(head);
            if first.contains("/reset") {
                let socket = socket2::SockRef::from(&stream);
                // The bytes are to arrive before the reset does.
                std::thread::park_timeout(Duration::from_millis(100));
                let _ = socket.set_linger(Some(Duration::ZERO));
            }
        });
        for caller in peers.callers() {
            for path in ["/length/end", "/length/reset", "/chunks/end", "/chunks/reset", "/close/reset"] {
                let output = caller.pod.output(caller.curl_command(&[&format!("http://HOST:8080{path}")]));
                // 18: partial file, 56: failure in receiving network data, 52: nothing came at all.
                let code = output.status.code();
                assert!(
                    matches!(code, Some(18 | 56 | 52)),
                    "{path} of {}: curl ended with {code:?}",
                    caller.host
                );
            }
            assert_eq!(caller.curl(&["http://HOST:8080/close/end"]), "01234", "an end is an end");
        }
    });
}

#[test]
fn curl_goes_through_a_proxy_behind_the_sidecar_by_connect_and_by_absolute_form() {
    in_pods!(curl_goes_through_a_proxy_behind_the_sidecar_by_connect_and_by_absolute_form, || {
        let (Some(_), Some(tinyproxy)) = (program(&["curl"]), program(&["tinyproxy"])) else { return };
        let peers = Peers::start("server:8888");
        let settings = peers.mesh.scratch().join("tinyproxy.conf");
        fs::write(&settings, "Port 8888\nTimeout 60\nMaxClients 50\nDisableViaHeader Yes\n")
            .expect("settings");
        let mut command = Command::new(tinyproxy);
        command.arg("-d").arg("-c").arg(settings);
        let _proxy = peers.serve(command, 8888);
        // What the proxy is asked for lies in its own pod, on its loopback.
        let _app = App::echo(&peers.server, 9000);
        for caller in peers.callers() {
            let absolute = caller.curl(&["-x", "http://HOST:8888", "http://127.0.0.1:9000/absolute"]);
            assert!(absolute.starts_with("GET /absolute HTTP/1."), "{absolute}");
            let tunnelled = caller.curl(&["-p", "-x", "http://HOST:8888", "http://127.0.0.1:9000/tunnelled"]);
            assert!(tunnelled.starts_with("GET /tunnelled HTTP/1.1\r\n"), "{tunnelled}");
            let refused = caller.pod.output(caller.curl_command(&[
                "-p",
                "-x",
                "http://HOST:8888",
                "http://127.0.0.1:1/",
            ]));
            assert_eq!(refused.status.code(), Some(56), "CONNECT was refused: {refused:?}");
        }
    });
}

#[test]
fn grpc_web_passes_untouched() {
    in_pods!(grpc_web_passes_untouched, || {
        if program(&["curl"]).is_none() {
            return;
        }
        let peers = Peers::start("server:8080");
        let _app = App::echo(&peers.server, 8080);
        // A message and, as gRPC-Web has them, trailers in a frame of their own.
        let frames = b"\x00\x00\x00\x00\x03abc\x80\x00\x00\x00\x10grpc-status: 0\r\n";
        let upload = peers.mesh.scratch().join("frames");
        fs::write(&upload, frames).expect("a file");
        for caller in peers.callers() {
            for kind in ["application/grpc-web+proto", "application/grpc-web-text"] {
                let mut command =
                    caller.curl_command(&["-H", "x-grpc-web: 1", "http://HOST:8080/weft.test.Kinds/Unary"]);
                command.args([
                    "-H",
                    &format!("content-type: {kind}"),
                    "--data-binary",
                    &format!("@{}", upload.display()),
                ]);
                let output = caller.pod.output(command);
                assert!(output.stdout.ends_with(frames), "{output:?}");
                let head = String::from_utf8_lossy(&output.stdout).to_ascii_lowercase();
                assert!(
                    head.contains(&format!("content-type: {kind}\r\n")) && head.contains("x-grpc-web: 1\r\n"),
                    "{head}"
                );
            }
        }
    });
}
