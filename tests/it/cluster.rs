//! `weft check --cluster`: what kubectl tells of a cluster, judged.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::install::newest_kubectl;

/// What an API server answers to GET, by path; to all else, that it is not there.
fn serve(answers: BTreeMap<&'static str, Value>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answers = answers.clone();
            std::thread::spawn(move || answer(&stream, &answers));
        }
    });
    address
}

fn answer(mut stream: &TcpStream, answers: &BTreeMap<&'static str, Value>) {
    let lines: Vec<_> =
        BufReader::new(stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let target = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let (status, body) = match answers.get(path) {
        Some(body) => ("200 OK", body.clone()),
        None => (
            "404 Not Found",
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                "reason": "NotFound", "message": "it was not found"}),
        ),
    };
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    // Who does not listen any more needs no answer.
    let _ = stream.write_all((head + &body).as_bytes());
}

/// Each check and its verdict.
type Verdicts = Vec<(String, String)>;

/// The verdict of each check on a cluster there, and the exit code.
fn check(at: SocketAddr, more: &[&str]) -> Option<(Verdicts, Option<i32>)> {
    let kubectl = newest_kubectl()?;
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config");
    let way = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "double",
        "contexts": [{"name": "double", "context": {"cluster": "double", "user": "me"}}],
        "clusters": [{"name": "double", "cluster": {"server": format!("http://{at}")}}],
        "users": [{"name": "me", "user": {}}],
    });
    std::fs::write(&config, way.to_string()).expect("a way to the double");
    let mut weft = Command::new(crate::weft());
    weft.args(["check", "--cluster", "-o", "json"]).args(more).env_clear();
    weft.env("PATH", kubectl.parent().expect("a folder"))
        .env("KUBECONFIG", &config)
        .env("HOME", folder.path());
    let Output { status, stdout, stderr } = weft.output().expect("weft starts");
    let told = String::from_utf8_lossy(&stderr);
    let checks: Vec<Value> =
        serde_json::from_slice(&stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
    let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    let verdicts = checks.iter().map(|check| (text(check, "check"), text(check, "verdict"))).collect();
    Some((verdicts, status.code()))
}

#[test]
fn a_cluster_is_looked_at_before_and_after_the_control_plane_is_there() {
    let pod = |name: &str, container: &str| {
        let image = concat!("r/it:", env!("CARGO_PKG_VERSION"));
        let containers = json!([{"name": container, "image": image}]);
        json!({"metadata": {"namespace": "shop", "name": name}, "spec": {"containers": containers}})
    };
    let cluster = [
        ("/version", json!({"major": "1", "minor": "37", "gitVersion": "v1.37.2"})),
        (
            "/api/v1/nodes",
            json!({"items": [{"status": {"nodeInfo": {"operatingSystem": "linux", "kernelVersion": "6.1.0"}}}]}),
        ),
        ("/api/v1/namespaces", json!({"items": [{"metadata": {"name": "shop"}}]})),
        ("/api/v1/pods", json!({"items": [pod("with", "weft-proxy"), pod("without", "web")]})),
    ];
    let at = serve(cluster.into());
    let pairs = |pairs: &[(&str, &str)]| -> Verdicts {
        pairs.iter().map(|(check, verdict)| ((*check).to_owned(), (*verdict).to_owned())).collect()
    };
    let before = [("Kubernetes", "ok"), ("Gateway API", "warning"), ("nodes", "ok")];
    let Some(found) = check(at, &["--pre"]) else { return };
    assert_eq!(found, (pairs(&before), Some(0)));
    let missing = ["definitions", "control plane", "leader", "webhook"].map(|check| (check, "failed"));
    let all = [&before[..], &missing, &[("sidecars", "ok"), ("sidecars", "warning")]].concat();
    assert_eq!(check(at, &[]), Some((pairs(&all), Some(1))));
}

#[test]
fn what_is_no_cluster_is_said_once() {
    let Some(found) = check(serve(BTreeMap::new()), &[]) else { return };
    assert_eq!(found, (vec![("Kubernetes".to_owned(), "failed".to_owned())], Some(1)));
}
