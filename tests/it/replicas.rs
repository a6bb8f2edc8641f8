//! Several control planes over etcd: any may die, also the one that leads, and nobody who uses the mesh notices.
//!
//! `bench/chaos` runs the same for ten minutes.

#[path = "../../control-plane/tests/programs/etcd.rs"]
mod etcd;

use std::env;
use std::fs;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use weft_pods::Hub;
use weft_tests::{App, HttpClient, Mesh, Options, SidecarPod, eventually};

use crate::{in_pods, weft};
use etcd::Etcd;

/// Between two requests of the load.
const PACE: Duration = Duration::from_millis(5);
/// Within which another one leads.
const SUCCESSION: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn the_control_plane_that_leads_is_killed_under_load_and_nobody_notices() {
    in_pods!(the_control_plane_that_leads_is_killed_under_load_and_nobody_notices alone, || {
        let hub = Hub::create().expect("a hub");
        let Some(mut etcd) = hub.run(|| Etcd::start(3, |_, _| Vec::new())).expect("the hub") else { return };
        let store = ["--store".to_owned(), format!("etcd://{}", etcd.endpoints())];
        // Short, so that certificates are renewed all the while.
        let options = Options {
            certificate_ttl: Some("15s"),
            flags: store.to_vec(),
            more_control_planes: 2,
            ..Options::default()
        };
        let mut mesh = Mesh::start_in(hub, weft(), options);
        let server = mesh.pod("server", "server:8080");
        let client = mesh.pod("client", "");
        let mut churn = mesh.pod("churn", "churn:8080");
        let _app = App::echo(&server, 8080);
        // Until the control plane that the client is connected to has heard of the server from another, the address is nobody's.
        eventually("the server is known everywhere", PATIENCE, || client.run(|| ask(&mut None, &server).is_ok()));
        thread::scope(|scope| {
            let (stop, stopped) = channel();
            let (client_pod, server_pod) = (&client, &server);
            let load = scope.spawn(move || client_pod.run(move || load(server_pod, &stopped)));
            for round in 1..=rounds() {
                let begun = Instant::now();
                let led = lose_the_leader(&mut mesh);
                let apart = begun.elapsed();
                // Everything goes on with two of three.
                apply(&mesh, round);
                churn.sidecar().terminate();
                churn.start_sidecar();
                churn.wait_until_ready();
                if round % 2 == 1 {
                    mesh.in_hub(|| etcd.kill(round % 3));
                }
                mesh.start_control_plane_of(led);
                if round % 2 == 1 {
                    mesh.in_hub(|| etcd.start_member(round % 3));
                }
                eventually("all are back and in sync", PATIENCE, || in_sync(&mesh));
                println!("round {round}: {led} was killed, another led after {apart:?}");
                wait(begun, load.is_finished());
            }
            drop(stop);
            let (requests, failed) = load.join().expect("the load ends");
            println!("{requests} requests, {} failed", failed.len());
            assert!(requests > 100 && failed.is_empty(), "{requests} requests, failed: {failed:#?}");
        });
        each_tells_the_same(&mesh);
        let leader = mesh.in_hub(|| etcd.control(&["get", "--print-value-only", "weft/leader"]));
        let log = || fs::read_to_string(etcd.folder().join("log")).unwrap_or_default();
        assert!(leader.is_ok_and(|leader| !leader.is_empty()), "nobody leads; etcd says: {}", log());
        let history = mesh.weft_json(&["history"]);
        let history = history.as_array().expect("a list");
        let numbers: Vec<_> = history.iter().filter_map(|revision| revision["revision"].as_u64()).collect();
        assert_eq!(numbers, (1..=rounds() as u64).rev().collect::<Vec<_>>(), "no revision is lost");
        let refused = mesh.control_plane_log();
        assert!(!refused.contains("refused a certificate"), "{refused}");
        println!("{} revisions, none lost; no certificate refused", numbers.len());
    });
}

/// Whichever is asked, it knows what the sidecars of all have told: how many requests, and both ends of a call.
fn each_tells_the_same(mesh: &Mesh) {
    let ask = |number: usize, arguments: &[&str]| {
        let url = format!("https://{}:{}", mesh.address(), 7443 + number);
        mesh.weft_json(&[arguments, &["--control-plane", &url]].concat())
    };
    let requests = |number| {
        let rows = ask(number, &["stat", "server", "--window", "6h"]);
        rows.as_array().into_iter().flatten().filter_map(|row| row["requests"].as_u64()).sum::<u64>()
    };
    eventually("each counts the same requests", PATIENCE, || {
        let counted: Vec<_> = (0..3).map(requests).collect();
        counted[0] > 0 && counted.iter().all(|count| *count == counted[0])
    });
    for number in 0..3 {
        eventually("each knows both ends of a call", PATIENCE, || {
            let newest = ask(number, &["traces", "--limit", "1"]);
            let Some(id) = newest[0]["trace_id"].as_str() else { return false };
            let trace = ask(number, &["trace", id]);
            let kinds: Vec<_> =
                trace["spans"].as_array().into_iter().flatten().map(|span| &span["kind"]).collect();
            kinds.iter().any(|kind| **kind == "client") && kinds.iter().any(|kind| **kind == "server")
        });
    }
}

/// Kills the one that leads, and waits until another one does; which it was.
fn lose_the_leader(mesh: &mut Mesh) -> usize {
    let mut led = Vec::new();
    eventually("one leads", PATIENCE, || {
        led = mesh.leaders();
        led.len() == 1
    });
    mesh.kill_control_plane_of(led[0]);
    eventually("another leads", SUCCESSION, || mesh.leaders().len() == 1);
    led[0]
}

fn apply(mesh: &Mesh, round: usize) {
    let file = mesh.scratch().join("service.yaml");
    let text = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: made-{round}}}\nspec: {{ports: [{{port: 80}}]}}\n"
    );
    fs::write(&file, text).expect("a document");
    mesh.weft_ok(&["apply", "-f", file.to_str().expect("text")]);
}

fn in_sync(mesh: &Mesh) -> bool {
    let status = mesh.weft_json(&["status"]);
    let sidecars = status.as_array().cloned().unwrap_or_default();
    sidecars.len() == 3 && sidecars.iter().all(|it| it["connected"] == true && it["in_sync"] == true)
}

/// Requests, some of them on new connections, until there is no sender any more: how many, and which failed.
fn load(server: &SidecarPod, stopped: &Receiver<()>) -> (usize, Vec<String>) {
    let (mut requests, mut failed) = (0, Vec::new());
    let mut connection = None;
    while stopped.recv_timeout(PACE) == Err(RecvTimeoutError::Timeout) {
        requests += 1;
        if requests % 50 == 0 {
            connection = None;
        }
        if let Err(error) = ask(&mut connection, server) {
            failed.push(format!("request {requests}: {error}"));
            connection = None;
        }
    }
    (requests, failed)
}

fn ask(connection: &mut Option<HttpClient>, server: &SidecarPod) -> io::Result<()> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(HttpClient::connect((server.address(), 8080))?),
    };
    let answer = connection.get("server:8080", "/", "")?;
    if answer.status == 200 {
        Ok(())
    } else {
        Err(io::Error::other(format!("{:?}", answer.header("weft-error"))))
    }
}

/// Of a shortened run, one.
fn rounds() -> usize {
    env::var("WEFT_CHAOS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

/// Until the next round, a minute after the last one began, where there are several.
fn wait(begun: Instant, is_over: bool) {
    let minute = Duration::from_secs(60);
    if rounds() > 1 && !is_over {
        let (_nobody, nothing) = channel::<()>();
        let _ = nothing.recv_timeout(minute.saturating_sub(begun.elapsed()));
    }
}
