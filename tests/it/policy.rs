//! What the tests of TrafficPolicy share: servers of the service `orders`, a client, and policies applied to it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use weft_tests::{App, HttpClient, Mesh, Response, SidecarPod, eventually};

/// A server that answers every request on a connection with its own name.
pub(crate) fn named(pod: &SidecarPod, name: &'static str) -> App {
    App::serve(pod, 8080, move |stream: TcpStream| say_name(stream, name))
}

/// Answers every request on a connection with a name.
pub(crate) fn say_name(mut stream: TcpStream, name: &str) {
    let Ok(reader) = stream.try_clone() else { return };
    let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
    while lines.find(String::is_empty).is_some() {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
        if stream.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// A pod of the service `orders` that answers with its own name, in a zone.
pub(crate) fn server(mesh: &Mesh, name: &'static str, zone: &str) -> (SidecarPod, App) {
    let pod = bare_server(mesh, name, zone);
    let app = named(&pod, name);
    (pod, app)
}

/// The same without an app.
pub(crate) fn bare_server(mesh: &Mesh, name: &str, zone: &str) -> SidecarPod {
    let arguments = ["token", "create", "--service-account", "orders", "--service", "orders"];
    let token = mesh.weft_ok(&arguments);
    mesh.pod_with_token(name, "orders:8080:http", &token, &[("WEFT_ZONE", zone)])
}

pub(crate) fn client(mesh: &Mesh, zone: &str) -> SidecarPod {
    let token = mesh.weft_ok(&["token", "create", "--service-account", "client"]);
    mesh.pod_with_token("client", "", &token, &[("WEFT_ZONE", zone)])
}

pub(crate) fn orders(mesh: &Mesh, client: &SidecarPod) -> SocketAddr {
    let listed = mesh.weft_json(&["status"]);
    assert!(listed.as_array().is_some_and(|all| all.len() >= 2), "{listed}");
    client.run(|| {
        let mut found = "orders:8080".to_socket_addrs().expect("a name");
        found.find(SocketAddr::is_ipv4).expect("an IPv4 address")
    })
}

pub(crate) fn policy(mesh: &Mesh, spec: &str) {
    let text = format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: orders}}\nspec:\n  targetRef: {{kind: Service, name: orders}}\n  {spec}\n"
    );
    let path = mesh.scratch().join("policy.yaml");
    fs::write(&path, text).expect("a document");
    mesh.weft_ok(&["apply", "-f", path.to_str().expect("a path")]);
}

/// Waits until the sidecar has heard of it.
pub(crate) fn heard(client: &SidecarPod, word: &str) {
    eventually("the policy is in force", Duration::from_secs(10), || {
        client.admin("/config").is_some_and(|(_, text)| text.contains(word))
    });
}

/// Waits until every sidecar has what was applied.
pub(crate) fn settle(mesh: &Mesh) {
    eventually("the sidecars have what was applied", Duration::from_secs(10), || {
        let status = mesh.weft_json(&["status", "-A"]);
        status.as_array().is_some_and(|all| all.iter().all(|sidecar| sidecar["in_sync"] == true))
    });
}

pub(crate) fn ask(client: &SidecarPod, to: SocketAddr, times: usize) -> Vec<String> {
    client.run(|| {
        let mut connection = HttpClient::connect(to).expect("a connection");
        (0..times).map(|_| connection.get("orders:8080", "/", "").expect("an answer").text()).collect()
    })
}

pub(crate) fn shares(answers: &[String]) -> BTreeMap<&str, usize> {
    let mut shares = BTreeMap::new();
    for answer in answers {
        *shares.entry(answer.as_str()).or_default() += 1;
    }
    shares
}

/// One request on a connection of its own.
pub(crate) fn get(client: &SidecarPod, to: SocketAddr, more: &str) -> Response {
    client.run(|| {
        HttpClient::connect(to).expect("a connection").get("orders:8080", "/", more).expect("an answer")
    })
}

/// A server that answers every request as `answer` says; its first argument is the request's number, from 0.
pub(crate) fn scripted(pod: &SidecarPod, answer: fn(u64) -> &'static str) -> (App, Counter) {
    let counter = Counter::default();
    let counted = counter.clone();
    let app = App::serve(pod, 8080, move |mut stream: TcpStream| {
        let Ok(reader) = stream.try_clone() else { return };
        let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
        while lines.find(String::is_empty).is_some() {
            let text = answer(counted.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed));
            if text.is_empty() || stream.write_all(text.as_bytes()).is_err() {
                return;
            }
        }
    });
    (app, counter)
}

/// How many requests an app was sent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counter(std::sync::Arc<std::sync::atomic::AtomicU64>);

impl Counter {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}
