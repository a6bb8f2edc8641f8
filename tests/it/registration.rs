//! Endpoints follow what lives: a crash is noticed within seconds, a clean end at once.

use std::collections::BTreeSet;
use std::time::Duration;

use weft_tests::{App, HttpClient, Mesh, Options, SidecarPod, eventually};

use crate::{in_pods, weft};

#[test]
fn requests_are_spread_over_the_endpoints_of_a_service() {
    in_pods!(requests_are_spread_over_the_endpoints_of_a_service, || {
        let (mesh, first, second, client) = two_of_one_service();
        let _apps = (App::greeter(&first, 7000, "first\n"), App::greeter(&second, 7000, "second\n"));
        eventually("both answer", Duration::from_secs(10), || greetings(&mesh, &client).len() == 2);
    });
}

#[test]
fn a_killed_sidecar_leaves_the_rotation_within_five_seconds() {
    in_pods!(a_killed_sidecar_leaves_the_rotation_within_five_seconds, || {
        let (mesh, mut first, second, client) = two_of_one_service();
        let _apps = (App::greeter(&first, 7000, "first\n"), App::greeter(&second, 7000, "second\n"));
        eventually("both answer", Duration::from_secs(10), || greetings(&mesh, &client).len() == 2);
        first.sidecar().kill();
        eventually("one is left in discovery", Duration::from_secs(5), || endpoints(&mesh, "db") == 1);
        assert_eq!(greetings(&mesh, &client), BTreeSet::from(["second\n".to_owned()]));
    });
}

#[test]
fn a_sidecar_that_ends_cleanly_leaves_at_once_and_no_request_fails() {
    in_pods!(a_sidecar_that_ends_cleanly_leaves_at_once_and_no_request_fails, || {
        let mesh = Mesh::start(weft(), Options::default());
        let mut first = mesh.pod("first", "web:8080:http");
        let second = mesh.pod("second", "web:8080:http");
        let client = mesh.pod("client", "");
        let _apps = (App::echo(&first, 8080), App::echo(&second, 8080));
        eventually("both are known", Duration::from_secs(10), || endpoints(&mesh, "web") == 2);
        let address = virtual_address(&mesh, "web");
        let ended = std::sync::atomic::AtomicBool::new(false);
        let failed = std::thread::scope(|scope| {
            let load = scope.spawn(|| {
                client.run(|| {
                    let mut failed = Vec::new();
                    while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                        let answer = HttpClient::connect((address.as_str(), 8080))
                            .and_then(|mut c| c.get("web", "/", ""));
                        match answer {
                            Ok(answer) if answer.status == 200 => {}
                            Ok(answer) => {
                                failed.push(format!("{} {:?}", answer.status, answer.header("weft-error")))
                            }
                            Err(error) => failed.push(error.to_string()),
                        }
                    }
                    failed
                })
            });
            assert!(first.sidecar().terminate().success());
            eventually("one is left", Duration::from_secs(2), || endpoints(&mesh, "web") == 1);
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
            load.join().expect("the load")
        });
        assert_eq!(failed, Vec::<String>::new());
    });
}

fn two_of_one_service() -> (Mesh, SidecarPod, SidecarPod, SidecarPod) {
    let mesh = Mesh::start(weft(), Options::default());
    let (first, second) = (mesh.pod("first", "db:7000:tcp"), mesh.pod("second", "db:7000:tcp"));
    let client = mesh.pod("client", "");
    eventually("both are known", Duration::from_secs(10), || endpoints(&mesh, "db") == 2);
    (mesh, first, second, client)
}

/// What a number of connections to the service are greeted with.
fn greetings(mesh: &Mesh, client: &SidecarPod) -> BTreeSet<String> {
    use std::io::{BufRead as _, BufReader};
    let address = virtual_address(mesh, "db");
    client.run(|| {
        (0..16)
            .filter_map(|_| {
                let stream = std::net::TcpStream::connect((address.as_str(), 7000)).ok()?;
                stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
                let mut line = String::new();
                BufReader::new(stream).read_line(&mut line).ok()?;
                (!line.is_empty()).then_some(line)
            })
            .collect()
    })
}

fn service(mesh: &Mesh, name: &str) -> Option<serde_json::Value> {
    let services = mesh.weft_json(&["get", "services"]);
    services.as_array()?.iter().find(|service| service["metadata"]["name"] == name).cloned()
}

fn endpoints(mesh: &Mesh, name: &str) -> u64 {
    service(mesh, name).and_then(|service| service["status"]["endpoints"].as_u64()).unwrap_or(0)
}

fn virtual_address(mesh: &Mesh, name: &str) -> String {
    let service = service(mesh, name).expect("the service");
    service["status"]["addresses"][0].as_str().expect("an address").to_owned()
}
