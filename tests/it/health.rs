//! TrafficPolicy's healthCheck: an app that does not work is called no more, and again when it does.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use weft_tests::{App, Mesh, Options, SidecarPod, eventually};

use crate::policy::{ask, bare_server, client, get, heard, orders, policy, shares};
use crate::{in_pods, weft};

const WORKS: u8 = 0;
const BROKEN: u8 = 1;
const HANGS: u8 = 2;

const CHECK: &str =
    "healthCheck: {path: /healthz, interval: 200ms, timeout: 150ms, unhealthyAfter: 2, healthyAfter: 2}";

/// What an app says of its health.
type Condition = Arc<AtomicU8>;

/// An app that says its name, and of its health what is set.
fn checked(pod: &SidecarPod, name: &'static str) -> (App, Condition) {
    let condition = Condition::default();
    let says = condition.clone();
    let app = App::serve(pod, 8080, move |stream| answer(stream, name, &says));
    (app, condition)
}

fn answer(mut stream: TcpStream, name: &str, condition: &Condition) {
    let Ok(reader) = stream.try_clone() else { return };
    let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
    while let Some(first) = lines.next() {
        let _ = lines.find(String::is_empty);
        let status = match condition.load(Ordering::Relaxed) {
            _ if !first.contains("/healthz") => "200 OK",
            WORKS => "200 OK",
            BROKEN => "500 Broken",
            _ => return drop(lines.next()),
        };
        let text = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{name}", name.len());
        if stream.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

/// Waits until the client thinks so of so many endpoints.
fn healthy(client: &SidecarPod, of: &str, count: usize) {
    eventually("the client hears of it", Duration::from_secs(15), || {
        let (_, text) = client.admin("/config").unwrap_or_default();
        text.matches(&format!("\"healthy\": {of}")).count() == count
    });
}

#[test]
fn an_app_that_fails_its_checks_leaves_rotation_and_comes_back_when_it_works() {
    in_pods!(an_app_that_fails_its_checks_leaves_rotation_and_comes_back_when_it_works, || {
        let mesh = Mesh::start(weft(), Options::default());
        let (one, two) = (bare_server(&mesh, "one", ""), bare_server(&mesh, "two", ""));
        let (_a, health) = checked(&one, "one");
        let (_b, _healthy) = checked(&two, "two");
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(&mesh, &format!("loadBalancing: {{policy: RoundRobin}}\n  {CHECK}"));
        heard(&one, "HealthCheck");
        heard(&client, "RoundRobin");
        assert_eq!(shares(&ask(&client, orders, 20))["one"], 10, "to apply a check disturbs nobody");
        for condition in [BROKEN, HANGS] {
            let begun = Instant::now();
            health.store(condition, Ordering::Relaxed);
            healthy(&client, "false", 1);
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
            assert_eq!(shares(&ask(&client, orders, 20))["two"], 20);
            let listed = mesh.weft_json(&["status"]);
            let ready: Vec<_> =
                listed.as_array().expect("a list").iter().map(|s| s["ready"] == true).collect();
            assert_eq!(ready.iter().filter(|ready| !**ready).count(), 1, "{listed}");
            let said = mesh.weft_ok(&["status"]);
            assert!(said.contains("no: fails the health check of default/orders"), "{said}");
            health.store(WORKS, Ordering::Relaxed);
            healthy(&client, "true", 2);
            assert_eq!(shares(&ask(&client, orders, 20))["one"], 10);
        }
        let (_, stats) = one.admin("/stats").expect("a page");
        assert!(stats.contains("\"healthy\": true"), "{stats}");
    });
}

#[test]
fn when_all_apps_fail_there_is_no_endpoint_unless_panic_says_otherwise() {
    in_pods!(when_all_apps_fail_there_is_no_endpoint_unless_panic_says_otherwise, || {
        let mesh = Mesh::start(weft(), Options::default());
        let one = bare_server(&mesh, "one", "");
        let (_a, health) = checked(&one, "one");
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(&mesh, CHECK);
        heard(&client, "health_check: Some");
        health.store(BROKEN, Ordering::Relaxed);
        healthy(&client, "false", 1);
        let answer = get(&client, orders, "");
        assert_eq!((answer.status, answer.header("weft-error")), (503, Some("no-endpoints")));
        policy(&mesh, &format!("loadBalancing: {{panicThreshold: 50%}}\n  {CHECK}"));
        heard(&client, "panic_threshold: Some");
        assert_eq!(get(&client, orders, "").text(), "one");
    });
}

#[test]
fn a_newcomer_is_called_when_its_app_is_there() {
    in_pods!(a_newcomer_is_called_when_its_app_is_there, || {
        let mesh = Mesh::start(weft(), Options::default());
        policy(
            &mesh,
            "loadBalancing: {policy: RoundRobin}\n  healthCheck: {tcp: {}, interval: 200ms, timeout: 150ms, unhealthyAfter: 2, healthyAfter: 1}",
        );
        let first = bare_server(&mesh, "one", "");
        let (_a, _) = checked(&first, "one");
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        healthy(&client, "true", 1);
        // Its sidecar is there before its app: its first check decides alone.
        let second = bare_server(&mesh, "two", "");
        healthy(&client, "false", 1);
        assert_eq!(shares(&ask(&client, orders, 20))["one"], 20);
        let (_b, _) = checked(&second, "two");
        healthy(&client, "true", 2);
        assert_eq!(shares(&ask(&client, orders, 20))["two"], 10);
    });
}

#[test]
fn a_workload_without_a_sidecar_is_asked_by_its_callers() {
    in_pods!(a_workload_without_a_sidecar_is_asked_by_its_callers, || {
        let mesh = Mesh::start(weft(), Options::default());
        let (good, bad) = (mesh.pod_without_sidecar("good"), mesh.pod_without_sidecar("bad"));
        let (_a, _) = checked(&good, "good");
        let workload = |name: &str, pod: &SidecarPod| {
            format!(
                "apiVersion: weft.mesh/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, labels: {{app: db}}}}\nspec: {{address: {}, ports: [{{port: 8080}}]}}\n---\n",
                pod.address()
            )
        };
        let service = "apiVersion: v1\nkind: Service\nmetadata: {name: orders}\nspec: {selector: {app: db}, ports: [{port: 8080, appProtocol: http}]}\n";
        let path = mesh.scratch().join("db.yaml");
        fs::write(&path, [workload("good", &good), workload("bad", &bad), service.to_owned()].concat())
            .expect("documents");
        mesh.weft_ok(&["apply", "-f", path.to_str().expect("a path")]);
        let client = client(&mesh, "");
        policy(&mesh, &format!("loadBalancing: {{policy: RoundRobin}}\n  {CHECK}"));
        let orders: SocketAddr = client.run(|| {
            let mut found = std::net::ToSocketAddrs::to_socket_addrs("orders:8080").expect("a name");
            found.find(SocketAddr::is_ipv4).expect("an IPv4 address")
        });
        heard(&client, "health_check: Some");
        healthy(&client, "false", 1);
        assert_eq!(shares(&ask(&client, orders, 20))["good"], 20);
        let listener = bad.run(|| TcpListener::bind("0.0.0.0:8080")).expect("a free port");
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                std::thread::spawn(move || answer(stream, "bad", &Condition::default()));
            }
        });
        healthy(&client, "true", 2);
        assert_eq!(shares(&ask(&client, orders, 20))["bad"], 10);
    });
}
