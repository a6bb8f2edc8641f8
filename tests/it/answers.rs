//! What the mesh says of its requests: `weft stat`, `top`, `tap`, and questions to its sidecars.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use weft_tests::{App, HttpClient, Mesh, Options, SidecarPod, eventually};

use crate::{in_pods, weft};

const SOON: Duration = Duration::from_secs(30);

const NO_DELETES: &str = "apiVersion: weft.mesh/v1alpha1
kind: AuthorizationPolicy
metadata: {name: no-deletes}
spec:
  targetRef: {kind: Service, name: orders}
  action: Deny
  rules: [{to: [{methods: [DELETE]}]}]
";

fn ask(pod: &SidecarPod, method: &str, path: &str) -> u16 {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: orders:8080\r\ncontent-length: 0\r\n\r\n");
    pod.run(|| {
        let mut client = HttpClient::connect("orders:8080").expect("a connection");
        client.send(request.as_bytes()).expect("an answer").status
    })
}

/// The row of requests from `caller` to `service`.
fn row<'a>(rows: &'a Value, service: &str, caller: &str) -> Option<&'a Value> {
    rows.as_array()?.iter().find(|row| row["service"] == service && row["caller"] == caller)
}

#[test]
fn what_passes_is_counted_shown_and_asked_about() {
    in_pods!(what_passes_is_counted_shown_and_asked_about, || {
        let config = vec![("policy.yaml", NO_DELETES.to_owned())];
        let mesh = Mesh::start(weft(), Options { config, ..Options::default() });
        let orders = mesh.pod("orders", "orders:8080:http");
        let _app = App::echo(&orders, 8080);
        let web = mesh.pod("web", "");
        eventually("the policy is in force", SOON, || ask(&web, "DELETE", "/orders/0") == 403);
        for number in 0..20 {
            assert_eq!(ask(&web, "GET", &format!("/orders/{number}")), 200);
        }
        stat(&mesh);
        tap(&mesh, &web);
        why(&mesh, &web);
        policy_test(&mesh, &web);
        sidecar(&mesh, &orders);
    });
}

fn stat(mesh: &Mesh) {
    let counted = |rows: &Value| {
        row(rows, "orders", "web").and_then(|row| row["requests"].as_u64()).is_some_and(|n| n >= 21)
    };
    eventually("the requests are counted", SOON, || {
        counted(&mesh.weft_json(&["stat", "orders", "--window", "10m"]))
    });
    let rows = mesh.weft_json(&["stat", "--from", "web", "--window", "10m"]);
    let found = row(&rows, "orders", "web").expect("a row");
    assert_eq!((&found["success_rate"], &found["mtls_rate"]), (&1.0.into(), &1.0.into()), "{found}");
    assert!(found["rps"].as_f64() > Some(0.0) && found["p50_ms"].as_f64() > Some(0.0), "{found}");
    assert!(found["p99_ms"].as_f64() >= found["p50_ms"].as_f64(), "{found}");
    assert_eq!((&found["circuit"], &found["namespace"]), (&"closed".into(), &"default".into()), "{found}");
    let by_service = mesh.weft_json(&["stat", "-A", "--by", "service", "--window", "10m"]);
    assert_eq!(by_service.as_array().map(Vec::len), Some(1), "{by_service}");
    assert_eq!(mesh.weft_json(&["stat", "-n", "elsewhere"]), Value::Array(Vec::new()));

    for table in [
        mesh.weft_ok(&["stat", "--window", "10m"]),
        mesh.weft_ok(&["top", "orders", "--once"]),
        mesh.weft_ok(&["top", "orders", "--callers"]),
    ] {
        assert!(table.lines().all(|line| line.chars().count() <= 80), "{table}");
    }
    let none = mesh.weft(&["stat", "order"]);
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(none.status.code() == Some(1) && said.contains("there is no Service default/order"), "{said}");
}

fn tap(mesh: &Mesh, web: &SidecarPod) {
    let arguments = ["tap", "orders", "--status", "4xx", "--path", "/orders/*", "-o", "json"];
    let mut tap = mesh.weft_started("tap", &arguments);
    let mut other = mesh.weft_started("other", &["tap", "orders", "--from", "somebody-else"]);
    eventually("denied requests are shown", SOON, || {
        assert_eq!(ask(web, "GET", "/orders/1"), 200);
        assert_eq!(ask(web, "DELETE", "/elsewhere"), 403);
        assert_eq!(ask(web, "DELETE", "/orders/1"), 403);
        tap.output().lines().count() > 2
    });
    for line in tap.output().lines() {
        let seen: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!((&seen["method"], &seen["path"]), (&"DELETE".into(), &"/orders/1".into()), "{line}");
        assert_eq!((&seen["status"], &seen["caller"]), (&403.into(), &"default/web".into()), "{line}");
        assert_eq!((&seen["workload"], &seen["tls"]), (&"default/web-1".into(), &"mutual".into()), "{line}");
        assert_eq!(seen["trace_id"].as_str().map(str::len), Some(32), "{line}");
    }
    assert_eq!(web.metric("weft_taps", &[]), 1.0, "who looks at others' requests does not look at ours");
    assert_eq!(other.output(), "");
    // Whoever goes takes its filter along.
    tap.kill();
    other.kill();
    eventually("nobody looks", SOON, || web.metric("weft_taps", &[]) == 0.0);

    let mut limited = mesh.weft_started("limited", &["tap", "orders", "--method", "get", "--limit", "1"]);
    eventually("it has seen enough", SOON, || {
        assert_eq!(ask(web, "GET", "/orders/7"), 200);
        !limited.is_running()
    });
    assert!(limited.wait(SOON).success());
    let line = limited.output();
    assert!(line.contains(" web GET /orders/7 -> 200 in ") && line.lines().count() == 1, "{line}");
    let wrong = mesh.weft(&["tap", "orders", "--status", "6xx"]);
    assert_eq!(wrong.status.code(), Some(1));
}

fn why(mesh: &Mesh, web: &SidecarPod) {
    assert_eq!(ask(web, "DELETE", "/why"), 403);
    let traces = ["traces", "--attribute", "url.path=/why", "--since", "10m"];
    let mut id = String::new();
    eventually("the trace is there", SOON, || {
        let found = mesh.weft_json(&traces);
        id = found[0]["trace_id"].as_str().unwrap_or_default().to_owned();
        !id.is_empty()
    });
    let ask = || {
        let output = mesh.weft(&["why", &id, "-o", "json"]);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), told)
    };
    // Both sidecars report, each when it is its time.
    eventually("the sidecar that refused it has told of it", SOON, || ask().1["code"] == "denied");
    let (code, told) = ask();
    assert_eq!((code, &told["verdict"]), (Some(1), &"failed".into()), "{told}");
    assert!(told["rule"].as_str().is_some_and(|rule| rule.contains("no-deletes")), "{told}");
    let advice = told["advice"].to_string();
    assert!(
        advice.contains("weft explain --from web.default --to orders.default:8080 DELETE /why"),
        "{advice}"
    );
    let words = String::from_utf8_lossy(&mesh.weft(&["why", &id]).stdout).into_owned();
    assert!(words.starts_with("failed: DELETE /why from default/web to default/orders: denied"), "{words}");
    assert_eq!(mesh.weft(&["why", "ffffffff"]).status.code(), Some(1));
}

fn policy_test(mesh: &Mesh, web: &SidecarPod) {
    for _ in 0..3 {
        assert_eq!(ask(web, "POST", "/orders"), 200);
    }
    let file = mesh.scratch().join("readers.yaml");
    let path = file.to_str().expect("a path").to_owned();
    let test = |text: &str| {
        fs::write(&file, text).expect("a document");
        let output = mesh.weft(&["policy", "test", "-f", &path, "-o", "json"]);
        let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (output.status.code(), told)
    };
    let no_posts = NO_DELETES.replace("DELETE", "POST");
    let posts = |told: &Value| {
        let all = told["effects"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|effect| effect["method"] == "POST" && effect["path"] == "/orders")
    };
    eventually("the calls are known", SOON, || {
        posts(&test(&no_posts).1).is_some_and(|effect| effect["requests"] == 3)
    });
    let (code, told) = test(&no_posts);
    let denied = posts(&told).expect("an effect");
    assert_eq!(
        (code, &denied["effect"], &denied["becomes"]),
        (Some(1), &"denied".into(), &"403 denied".into()),
        "{told}"
    );
    assert!(denied["rule"].as_str().is_some_and(|rule| rule.contains("no-deletes")), "{denied}");
    // It was denied, and would not be any more.
    let effects = told["effects"].as_array().expect("a list");
    assert!(
        effects.iter().any(|effect| effect["method"] == "DELETE" && effect["effect"] == "allowed"),
        "{told}"
    );
    let (code, told) = test(NO_DELETES);
    assert_eq!((code, told["effects"].as_array().map(Vec::len)), (Some(0), Some(0)), "{told}");
    let wrong = NO_DELETES.replace("action", "reaction");
    assert_eq!(test(&wrong).0, Some(1));
    assert_eq!(ask(web, "POST", "/orders"), 200, "nothing was changed");
}

fn sidecar(mesh: &Mesh, orders: &SidecarPod) {
    let config = mesh.weft_json(&["proxy", "config", "orders-1"]);
    assert_eq!(config["workload"]["name"], "default/orders-1", "{config}");
    let metrics = mesh.weft_ok(&["proxy", "metrics", "orders-1"]);
    assert!(metrics.contains("weft_requests_total{direction=\"inbound\""), "{metrics}");
    assert_eq!(mesh.weft_ok(&["proxy", "log-level", "orders-1", "debug"]).trim(), "debug");
    assert_eq!(mesh.weft_ok(&["proxy", "log-level", "orders-1"]).trim(), "debug");
    assert_eq!(orders.admin("/log-level").map(|(_, text)| text.trim().to_owned()).as_deref(), Some("debug"));
    for arguments in
        [["proxy", "log-level", "orders-1", "weft=loud"].as_slice(), &["proxy", "config", "orders-9"]]
    {
        assert_eq!(mesh.weft(arguments).status.code(), Some(1), "{arguments:?}");
    }
    mesh.weft_ok(&["proxy", "drain", "orders-1"]);
    eventually("it takes no new work", SOON, || {
        let status = mesh.weft_json(&["status"]);
        let all = status.as_array().expect("a list");
        all.iter().any(|sidecar| sidecar["workload"] == "orders-1" && sidecar["ready"] == false)
    });
}

const LONG: &str = "recommendations-for-customers-who-come-back";
const CALLER: &str = "storefront-of-the-northern-warehouses";

/// What an answer looks like, and, where nothing else runs, when it begins.
#[test]
fn answers_come_at_once_and_are_read_at_80_columns() {
    in_pods!(answers_come_at_once_and_are_read_at_80_columns alone, || {
        let denial = NO_DELETES.replace("name: orders", &format!("name: {LONG}"));
        let config = vec![("a-policy-with-a-long-name-that-denies-what-deletes.yaml", denial)];
        let mesh = Mesh::start(weft(), Options { config, ..Options::default() });
        let service = mesh.pod(LONG, &format!("{LONG}:8080:http"));
        let _app = App::echo(&service, 8080);
        let web = mesh.pod(CALLER, "");
        let host = format!("{LONG}:8080");
        let path = format!("/customers/{}/recommendations", "7".repeat(100));
        let ask = |method: &str| {
            let request = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n");
            let answer = web.run(|| HttpClient::connect(host.as_str())?.send(request.as_bytes()));
            answer.map_or(0, |answer| answer.status)
        };
        eventually("the policy is in force", SOON, || ask("DELETE") == 403 && ask("GET") == 200);
        let mut id = String::new();
        eventually("both sidecars have told of it", SOON, || {
            let failed = mesh.weft_json(&["traces", "--errors"]);
            id = failed[0]["trace_id"].as_str().unwrap_or_default().to_owned();
            let counted = mesh.weft_json(&["stat", LONG]);
            !id.is_empty() && row(&counted, LONG, CALLER).is_some()
        });
        fs::read(weft()).expect("the program, so that it need not come from the disk");
        let explain = ["explain", "--from", CALLER, "--to", &host, "DELETE", &path];
        let answers: &[&[&str]] = &[
            &["stat"],
            &["stat", "-A"],
            &["top", LONG, "--once"],
            &["top", LONG, "--once", "--callers"],
            &["status"],
            &["identity"],
            &["traces"],
            &["trace", &id],
            &["why", &id],
            &explain,
            &["check"],
            &["history"],
        ];
        for arguments in answers {
            let mut text = String::new();
            eventually("there is something to tell", SOON, || {
                assert_eq!(ask("GET"), 200);
                text = mesh.weft_at_80_columns(arguments).1;
                text.lines().count() > 1
            });
            eprintln!("$ weft {}\n{text}", arguments.join(" "));
            assert!(is_read_at_80_columns(&text), "{arguments:?}: {text}");
            let first = (0..5).map(|_| mesh.weft_at_80_columns(arguments).0).min().unwrap_or_default();
            assert!(first < Duration::from_millis(300), "{arguments:?}: {first:?}");
        }
        live(&mesh, || ask("GET"));
    });
}

fn is_read_at_80_columns(text: &str) -> bool {
    text.lines().all(|line| line.chars().count() <= 80)
}

/// The answer that comes as requests do.
fn live(mesh: &Mesh, ask: impl Fn() -> u16 + Sync) {
    let shown = std::thread::scope(|scope| {
        let tap = scope.spawn(|| mesh.weft_at_80_columns(&["tap", LONG, "--limit", "3"]).1);
        eventually("it has seen enough", SOON, || {
            assert_eq!(ask(), 200);
            tap.is_finished()
        });
        tap.join().expect("what was seen")
    });
    eprintln!("$ weft tap\n{shown}");
    assert!(shown.lines().count() == 3 && is_read_at_80_columns(&shown), "{shown}");
}
