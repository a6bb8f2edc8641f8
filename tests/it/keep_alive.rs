//! Servers that let go of idle connections quickly: callers never notice, and nothing is done twice.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use weft_tests::{SidecarPod, program, python};

use crate::in_pods;
use crate::peers::{Peers, RUN};

const REQUESTS: u32 = 2400;
const CALLERS: u32 = 24;

/// Runs the load, with pauses of about `pause` seconds, which must not see one failure.
fn load(pod: &SidecarPod, host: &str, pause: &str, prefix: &str) {
    let mut command = python("http_load.py").expect("the test asked for Python");
    let (requests, callers) = (REQUESTS.to_string(), CALLERS.to_string());
    command.args([&format!("{host}:8080"), &requests, &callers, pause, prefix]);
    let said = pod.succeed(command, RUN);
    assert!(said.contains(" 0 failed"), "{said}");
}

#[test]
fn nginx_closing_connections_by_time_and_by_count_costs_no_request_and_doubles_no_post() {
    in_pods!(nginx_closing_connections_by_time_and_by_count_costs_no_request_and_doubles_no_post, || {
        let (Some(nginx), Some(_)) = (program(&["nginx"]), python("http_load.py")) else { return };
        let peers = Peers::start("server:8080");
        let http = "keepalive_timeout 50ms; keepalive_requests 7; server { listen [::]:8080 ipv6only=off; return 200 ok; }";
        let _nginx = peers.serve(crate::nginx::command(&nginx, peers.mesh.scratch(), http), 8080);
        for (caller, prefix) in peers.callers().into_iter().zip(["meshed", "plain"]) {
            load(caller.pod, &caller.host, "0.05", prefix);
        }
        let mut posts: BTreeMap<String, u32> = BTreeMap::new();
        for line in served(peers.mesh.scratch()).iter().filter(|line| line.starts_with("POST ")) {
            *posts.entry(line.clone()).or_default() += 1;
        }
        let doubled: Vec<_> = posts.iter().filter(|(_, count)| **count != 1).collect();
        assert!(doubled.is_empty(), "{doubled:?}");
        assert_eq!(posts.len(), REQUESTS as usize, "each of the POSTs of both callers");
    });
}

#[test]
fn hypercorn_closing_idle_connections_costs_no_request_and_doubles_no_post() {
    in_pods!(hypercorn_closing_idle_connections_costs_no_request_and_doubles_no_post, || {
        let Some((peers, _app)) = Peers::with_hypercorn(&["0.04"]) else { return };
        load(&peers.client, "server", "0.04", "meshed");
        let posts = peers.meshed().curl(&["http://HOST:8080/posts"]);
        let posts: BTreeMap<String, u32> = serde_json::from_str(&posts).expect("an object");
        let doubled: Vec<_> = posts.iter().filter(|(_, count)| **count != 1).collect();
        assert!(doubled.is_empty(), "{doubled:?}");
        assert_eq!(posts.len(), REQUESTS as usize / 2);
    });
}

/// What nginx has served, as lines of `METHOD URI STATUS`.
fn served(folder: &Path) -> Vec<String> {
    let log = fs::read_to_string(folder.join("nginx/access.log")).unwrap_or_default();
    log.lines().map(str::to_owned).collect()
}
