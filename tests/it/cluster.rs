//! `weft check --cluster`: what kubectl tells of a cluster, judged.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use weft_tests::eventually;

use crate::install::newest_kubectl;
use crate::run::processes_of;

/// Where an API server is asked what one may do.
const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// What an API server answers, by path, never where that is nothing; to all else, that it is not there. What one may not do is
/// answered with [`REVIEWS`].
fn serve(answers: BTreeMap<&'static str, Value>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answers = answers.clone();
            // Who does not listen any more needs no answer.
            std::thread::spawn(move || drop(answer(&stream, &answers)));
        }
    });
    address
}

fn answer(mut stream: &TcpStream, answers: &BTreeMap<&'static str, Value>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let lines: Vec<_> =
        reader.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let mut body = sent(&mut reader, &lines)?;
    let target = lines.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let (status, body) = match answers.get(path) {
        Some(Value::Null) => return reader.read_to_end(&mut body).map(drop),
        Some(refused) if path == REVIEWS => {
            let asked: Value = serde_json::from_slice(&body).expect("a review");
            let resource = asked.pointer("/spec/resourceAttributes/resource").expect("of a resource");
            let allowed = !refused.as_array().expect("a list").contains(resource);
            ("201 Created", json!({"status": {"allowed": allowed}}))
        }
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
    stream.write_all((head + &body).as_bytes())
}

/// The body of a request with these lines (RFC 9112, 6.3 and 7.1).
fn sent(reader: &mut impl BufRead, lines: &[String]) -> std::io::Result<Vec<u8>> {
    let value = |name: &str| {
        let mut fields = lines.iter().filter_map(|line| line.split_once(": "));
        fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    };
    let mut body = Vec::new();
    if value("transfer-encoding") != Some("chunked") {
        let length = value("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        reader.take(length).read_to_end(&mut body)?;
        return Ok(body);
    }
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length = u64::from_str_radix(line.trim_end(), 16).expect("a chunk");
        reader.by_ref().take(length).read_to_end(&mut body)?;
        reader.read_line(&mut line)?;
        if length == 0 {
            return Ok(body);
        }
    }
}

/// Each check and its verdict.
type Verdicts = Vec<(String, String)>;

/// `weft check --cluster` on a cluster there, with a folder of its own.
fn command(at: SocketAddr, folder: &Path) -> Option<Command> {
    let kubectl = newest_kubectl()?;
    let config = folder.join("config");
    let way = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "double",
        "contexts": [{"name": "double", "context": {"cluster": "double", "user": "me"}}],
        "clusters": [{"name": "double", "cluster": {"server": format!("http://{at}")}}],
        "users": [{"name": "me", "user": {}}],
    });
    std::fs::write(&config, way.to_string()).expect("a way to the double");
    let mut weft = Command::new(crate::weft());
    weft.args(["check", "--cluster"]).env_clear();
    weft.env("PATH", kubectl.parent().expect("a folder")).env("KUBECONFIG", &config).env("HOME", folder);
    Some(weft)
}

/// The verdict of each check on a cluster there, and the exit code. Nothing is left running.
fn check(at: SocketAddr, more: &[&str]) -> Option<(Verdicts, Option<i32>)> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut weft = command(at, folder.path())?;
    weft.args(["-o", "json"]).args(more);
    let Output { status, stdout, stderr } = weft.output().expect("weft starts");
    let told = String::from_utf8_lossy(&stderr);
    let checks: Vec<Value> =
        serde_json::from_slice(&stdout).unwrap_or_else(|error| panic!("{error}: {told}"));
    let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
    assert_eq!(processes_of(folder.path()), Vec::<String>::new());
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
        ("/api/v1/namespaces/default/pods", pod("tried", "weft-proxy")),
        (REVIEWS, json!([])),
    ];
    let at = serve(cluster.clone().into());
    let pairs = |pairs: &[(&str, &str)]| -> Verdicts {
        pairs.iter().map(|(check, verdict)| ((*check).to_owned(), (*verdict).to_owned())).collect()
    };
    let before = [("Kubernetes", "ok"), ("Gateway API", "warning"), ("nodes", "ok")];
    let Some(found) = check(at, &["--pre"]) else { return };
    assert_eq!(found, (pairs(&[&before[..], &[("rights", "ok")]].concat()), Some(0)));
    let mut narrow = BTreeMap::from(cluster);
    narrow.insert(REVIEWS, json!(["*", "clusterroles"]));
    let found = check(serve(narrow), &["--pre"]);
    assert_eq!(found, Some((pairs(&[&before[..], &[("rights", "failed")]].concat()), Some(1))));
    let missing = ["definitions", "control plane", "leader", "webhook"].map(|check| (check, "failed"));
    let pods = [("injection", "ok"), ("sidecars", "ok"), ("sidecars", "warning")];
    let all = [&before[..], &missing, &pods].concat();
    assert_eq!(check(at, &[]), Some((pairs(&all), Some(1))));
}

/// What is asked of a cluster; here it is never answered.
const SILENT: [&str; 6] = [
    "/api/v1/nodes",
    "/api/v1/namespaces",
    "/api/v1/namespaces/default/pods",
    "/api/v1/pods",
    "/apis/gateway.networking.k8s.io",
    REVIEWS,
];

#[test]
fn what_is_no_cluster_is_said_once_and_nothing_else_is_waited_for() {
    let Some(found) = check(serve(SILENT.map(|path| (path, Value::Null)).into()), &[]) else { return };
    assert_eq!(found, (vec![("Kubernetes".to_owned(), "failed".to_owned())], Some(1)));
}

#[test]
fn lines_come_as_they_are_known_and_no_question_outlives_who_asked() {
    let version = ("/version", json!({"major": "1", "minor": "37", "gitVersion": "v1.37.2"}));
    let answers = SILENT.map(|path| (path, Value::Null)).into_iter().chain([version]);
    let folder = tempfile::tempdir().expect("a folder");
    let Some(mut weft) = command(serve(answers.collect()), folder.path()) else { return };
    let mut weft = weft.stdout(Stdio::piped()).spawn().expect("weft starts");
    let mut line = String::new();
    BufReader::new(weft.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    assert_eq!(line, "ok      Kubernetes     v1.37.2\n");
    assert_eq!(weft.try_wait().expect("its state"), None, "the rest is not known");
    weft.kill().expect("killed");
    weft.wait().expect("its end");
    eventually("nobody asks any more", Duration::from_secs(20), || processes_of(folder.path()).is_empty());
}
