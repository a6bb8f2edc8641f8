//! HTTP/2 by nghttp2's own programs at both ends: nghttp, h2load, nghttpd.

use std::fs;
use std::process::Command;

use weft_tests::program;

use crate::in_pods;
use crate::peers::{Peers, RUN};

const SERVER: &str = "nghttpd";

#[test]
fn nghttp_sees_trailers_uploads_and_early_answers() {
    in_pods!(nghttp_sees_trailers_uploads_and_early_answers, || {
        let (Some(server), Some(client)) = (program(&[SERVER]), program(&["nghttp"])) else { return };
        let peers = Peers::start("server:8080,server:8081->8081,server:8082->8082");
        let root = peers.mesh.scratch().join("pages");
        fs::create_dir(&root).expect("a folder");
        fs::write(root.join("page"), "a page\n".repeat(20_000)).expect("a page");
        let upload = peers.mesh.scratch().join("upload");
        fs::write(&upload, vec![b'u'; 4_000_000]).expect("a file");
        let nghttpd = |port: &str, more: &[&str]| {
            let mut command = Command::new(&server);
            command.args(["--no-tls", "-d"]).arg(&root).args(more).arg(port);
            command
        };
        let _servers = [
            peers.serve(nghttpd("8080", &["--trailer", "x-sum: 42", "--trailer", "x-end: yes"]), 8080),
            peers.serve(nghttpd("8081", &["--echo-upload"]), 8081),
            peers.serve(nghttpd("8082", &["--early-response"]), 8082),
        ];
        for caller in peers.callers() {
            let nghttp = |port: u16, path: &str, more: &[&str]| {
                let mut command = Command::new(&client);
                command.args(more).arg(format!("http://{}:{port}{path}", caller.host));
                caller.pod.succeed(command, RUN)
            };
            let seen = nghttp(8080, "/page", &["-nv", "--no-dep"]);
            assert!(seen.contains("x-sum: 42") && seen.contains("x-end: yes"), "trailers: {seen}");
            assert!(seen.contains(":status: 200") && !seen.contains("RST_STREAM"), "{seen}");
            // The same file ten times over one connection, at once.
            let many = nghttp(8080, "/page", &["-ns", "-m10", "--no-dep"]);
            assert_eq!(many.matches(" 200 ").count(), 10, "{many}");
            let echoed = nghttp(8081, "/", &["--no-dep", "-d", upload.to_str().expect("a path")]);
            assert!(
                echoed.len() == 4_000_000 && echoed.bytes().all(|byte| byte == b'u'),
                "{} came back",
                echoed.len()
            );
            let early =
                nghttp(8082, "/missing", &["-nv", "--no-dep", "-d", upload.to_str().expect("a path")]);
            assert!(early.contains(":status: 404"), "an answer before the upload's end: {early}");
        }
        assert!(peers.mutual_requests() >= 13.0, "they went through both sidecars");
    });
}

#[test]
fn h2load_has_a_thousand_streams_at_once_on_one_connection() {
    in_pods!(h2load_has_a_thousand_streams_at_once_on_one_connection, || {
        let (Some(server), Some(client)) = (program(&[SERVER]), program(&["h2load"])) else { return };
        let peers = Peers::start("server:8080");
        let root = peers.mesh.scratch().join("pages");
        fs::create_dir(&root).expect("a folder");
        fs::write(root.join("page"), "a page\n".repeat(150)).expect("a page");
        let mut command = Command::new(server);
        command.args(["--no-tls", "-m", "1000", "-d"]).arg(&root).arg("8080");
        let _server = peers.serve(command, 8080);
        for caller in peers.callers() {
            let mut command = Command::new(&client);
            command.args([
                "-c",
                "1",
                "-m",
                "1000",
                "-n",
                "4000",
                &format!("http://{}:8080/page", caller.host),
            ]);
            let report = caller.pod.succeed(command, RUN);
            assert!(report.contains("4000 done, 4000 succeeded, 0 failed, 0 errored, 0 timeout"), "{report}");
            assert!(report.contains("status codes: 4000 2xx, 0 3xx, 0 4xx, 0 5xx"), "{report}");
        }
    });
}
