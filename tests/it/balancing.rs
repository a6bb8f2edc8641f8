//! TrafficPolicy's loadBalancing and timeouts.connect: from a document to which pod answers.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use weft_tests::{App, HttpClient, Mesh, Options, SidecarPod, eventually};

use crate::{in_pods, weft};

/// A server that answers every request on a connection with its own name.
fn named(pod: &SidecarPod, name: &'static str) -> App {
    App::serve(pod, 8080, move |mut stream: TcpStream| {
        let Ok(reader) = stream.try_clone() else { return };
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(reader)).map_while(Result::ok);
        while lines.find(String::is_empty).is_some() {
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// A pod of the service `orders`, by its name and zone.
fn server(mesh: &Mesh, name: &'static str, zone: &str) -> (SidecarPod, App) {
    let arguments = ["token", "create", "--service-account", "orders", "--service", "orders"];
    let token = mesh.weft_ok(&arguments);
    let pod = mesh.pod_with_token(name, "orders:8080:http", &token, &[("WEFT_ZONE", zone)]);
    let app = named(&pod, name);
    (pod, app)
}

fn client(mesh: &Mesh, zone: &str) -> SidecarPod {
    let token = mesh.weft_ok(&["token", "create", "--service-account", "client"]);
    mesh.pod_with_token("client", "", &token, &[("WEFT_ZONE", zone)])
}

fn orders(mesh: &Mesh, client: &SidecarPod) -> std::net::SocketAddr {
    let listed = mesh.weft_json(&["status"]);
    assert!(listed.as_array().is_some_and(|all| all.len() >= 2), "{listed}");
    client.run(|| {
        let mut found = std::net::ToSocketAddrs::to_socket_addrs("orders:8080").expect("a name");
        found.find(std::net::SocketAddr::is_ipv4).expect("an IPv4 address")
    })
}

fn policy(mesh: &Mesh, spec: &str) {
    let text = format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: orders}}\nspec:\n  targetRef: {{kind: Service, name: orders}}\n  {spec}\n"
    );
    let path = mesh.scratch().join("policy.yaml");
    fs::write(&path, text).expect("a document");
    mesh.weft_ok(&["apply", "-f", path.to_str().expect("a path")]);
}

/// Waits until the sidecar has heard of it.
fn heard(client: &SidecarPod, word: &str) {
    eventually("the policy is in force", Duration::from_secs(10), || {
        client.admin("/config").is_some_and(|(_, text)| text.contains(word))
    });
}

fn ask(client: &SidecarPod, to: std::net::SocketAddr, times: usize) -> Vec<String> {
    client.run(|| {
        let mut connection = HttpClient::connect(to).expect("a connection");
        (0..times).map(|_| connection.get("orders:8080", "/", "").expect("an answer").text()).collect()
    })
}

fn shares(answers: &[String]) -> BTreeMap<&str, usize> {
    let mut shares = BTreeMap::new();
    for answer in answers {
        *shares.entry(answer.as_str()).or_default() += 1;
    }
    shares
}

#[test]
fn the_policy_that_is_applied_chooses_the_pod() {
    in_pods!(the_policy_that_is_applied_chooses_the_pod, || {
        let mesh = Mesh::start(weft(), Options::default());
        let (_one, _a) = server(&mesh, "one", "a");
        let (_two, _b) = server(&mesh, "two", "b");
        let client = client(&mesh, "b");
        let orders = orders(&mesh, &client);
        policy(&mesh, "loadBalancing: {policy: LeastRequest}");
        heard(&client, "LeastRequest");
        let both = ask(&client, orders, 200);
        assert!(shares(&both).values().all(|count| *count > 60), "{:?}", shares(&both));

        policy(&mesh, "loadBalancing: {policy: RoundRobin}");
        heard(&client, "RoundRobin");
        let turns = ask(&client, orders, 100);
        assert!(turns.windows(2).all(|pair| pair[0] != pair[1]), "{turns:?}");
        assert_eq!(shares(&turns), BTreeMap::from([("one", 50), ("two", 50)]));

        policy(&mesh, "loadBalancing: {locality: {prefer: Zone}}");
        heard(&client, "Locality");
        assert_eq!(shares(&ask(&client, orders, 100)), BTreeMap::from([("two", 100)]));

        let kept = mesh.weft_json(&["get", "trafficpolicies"]);
        assert_eq!(kept[0]["spec"]["loadBalancing"]["locality"]["prefer"], "Zone", "{kept}");
        mesh.weft_ok(&["delete", "trafficpolicy", "orders"]);
        eventually("the policy is gone", Duration::from_secs(10), || {
            client.admin("/config").is_some_and(|(_, text)| !text.contains("Locality"))
        });
        assert_eq!(ask(&client, orders, 100).len(), 100);
    });
}

#[test]
fn a_pod_that_accepts_and_never_speaks_is_given_up_after_timeouts_connect() {
    in_pods!(a_pod_that_accepts_and_never_speaks_is_given_up_after_timeouts_connect, || {
        let mesh = Mesh::start(weft(), Options::default());
        let (mut one, _a) = server(&mesh, "one", "");
        let client = client(&mesh, "");
        let orders = orders(&mesh, &client);
        policy(&mesh, "timeouts: {connect: 150ms}");
        heard(&client, "150ms");
        // Its kernel still takes connections.
        one.sidecar().pause();
        let begun = Instant::now();
        let answer = client.run(|| {
            let mut connection = HttpClient::connect(orders).expect("a connection");
            connection.get("orders:8080", "/", "").expect("an answer")
        });
        assert_eq!((answer.status, answer.header("weft-error")), (504, Some("connect-timeout")));
        // Three attempts, of which each may take its time; without the policy a handshake may take five seconds.
        assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    });
}

#[test]
fn what_is_not_enforced_is_refused_by_name_with_its_line() {
    in_pods!(what_is_not_enforced_is_refused_by_name_with_its_line, || {
        let mesh = Mesh::start(weft(), Options::default());
        let path = mesh.scratch().join("policy.yaml");
        let text = "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: a}\nspec:\n  targetRef: {kind: Mesh}\n  hedging: {after: p95, max: 1}\n";
        fs::write(&path, text).expect("a document");
        let output = mesh.weft(&["apply", "-f", path.to_str().expect("a path")]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{error}");
        assert!(error.contains(":6: spec.hedging: is not enforced by this version yet"), "{error}");
    });
}
