//! The dashboard: what runs for whoever reaches it, how it is configured for administrators; whole without scripts, and as a real
//! browser shows it.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weft_tests::{
    App, HttpClient, Mesh, Options, Process, Response, SidecarPod, eventually, program, python,
};

use crate::policy::say_name;
use crate::{in_pods, weft};

/// No trace has this id.
const NO_TRACE: &str = "/traces/00000000000000000000000000000000";

/// A page, asked for where the control plane runs.
fn page(mesh: &Mesh, path: &str, more: &str) -> Response {
    let address: SocketAddr = "127.0.0.1:7080".parse().expect("an address");
    mesh.in_hub(|| {
        HttpClient::connect(address).expect("a connection").get("weft", path, more).expect("an answer")
    })
}

/// Sends the form with a token; the answer, and the session's cookie as a request's field.
fn log_in(mesh: &Mesh, token: &str, then: &str) -> (Response, String) {
    let address: SocketAddr = "127.0.0.1:7080".parse().expect("an address");
    let form = format!("token={token}&then={then}");
    let request = format!(
        "POST /login HTTP/1.1\r\nhost: weft\r\ncontent-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
        form.len()
    );
    let answer = mesh.in_hub(|| {
        let mut connection = HttpClient::connect(address).expect("a connection");
        connection.send(request.as_bytes()).expect("an answer")
    });
    let cookie = answer.header("set-cookie").and_then(|cookie| cookie.split(';').next()).unwrap_or_default();
    let field = format!("cookie: {cookie}\r\n");
    (answer, field)
}

#[test]
fn it_shows_what_runs_to_all_and_how_it_is_configured_to_administrators() {
    in_pods!(it_shows_what_runs_to_all_and_how_it_is_configured_to_administrators, || {
        let mesh = Mesh::start(weft(), Options::default());
        let (server, client) = (mesh.pod("orders", "orders:8080"), mesh.pod("web", ""));
        let _app = App::echo(&server, 8080);
        let path = mesh.scratch().join("sampling.yaml");
        let text = "apiVersion: weft.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {tracing: {sampling: 100%}}\n";
        fs::write(&path, text).expect("a document");
        mesh.weft_ok(&["apply", "-f", path.to_str().expect("a path")]);
        eventually("a call is traced and drawn", Duration::from_secs(20), || {
            let called = client.run(|| {
                let mut connection = HttpClient::connect((server.address(), 8080)).ok()?;
                connection.get("orders", "/%3Cscript%3E<script>", "").ok()
            });
            called.is_some() && page(&mesh, "/", "").text().contains("class=\"map\"")
        });

        for path in ["/", "/traces", "/sidecars", "/identities", "/services/default/orders"] {
            let shown = page(&mesh, path, "");
            assert_eq!(shown.status, 200, "{path}");
            let policy = shown.header("content-security-policy").unwrap_or_default();
            assert!(
                policy.starts_with("default-src 'none'; style-src 'self'; script-src 'self';"),
                "{policy}"
            );
            assert!(!policy.contains("unsafe"), "{policy}");
            let text = shown.text();
            let scripts = text.matches("<script").count();
            assert_eq!(scripts, text.matches("<script src=\"/live.js\" defer></script>").count(), "{text}");
            assert!(text.contains("orders"), "{text}");
        }
        assert!(page(&mesh, "/identities", "").text().contains("spiffe://mesh.local/ns/default/sa/orders"));
        let traces = page(&mesh, "/traces?service=orders", "").text();
        let (_, id) = traces.split_once("href=\"/traces/").expect("a trace");
        let trace = page(&mesh, &format!("/traces/{}", &id[..32]), "").text();
        assert!(trace.contains("weft.tls</code></td><td>mutual"), "{trace}");
        for path in [NO_TRACE, "/services/default/nobody", "/services/a/b/c", "/policies/9x"] {
            assert!(matches!(page(&mesh, path, "").status, 401 | 404), "{path}");
        }

        let refused = page(&mesh, "/explain?from=web&to=orders", "");
        assert_eq!(refused.status, 401);
        assert!(refused.text().contains("value=\"/explain?from=web&amp;to=orders\""), "{}", refused.text());
        let (wrong, no_cookie) = log_in(&mesh, "guessed", "/explain");
        assert_eq!((wrong.status, no_cookie.as_str()), (401, "cookie: \r\n"));
        let viewer = mesh.weft_ok(&["token", "create", "--admin", "viewer"]);
        let (seen, cookie) = log_in(&mesh, viewer.trim(), "%2Fexplain%3Ffrom%3Dweb%26to%3Dorders");
        assert_eq!((seen.status, seen.header("location")), (303, Some("/explain?from=web&to=orders")));
        let told = page(&mesh, "/explain?from=web&to=orders", &cookie).text();
        assert!(told.contains("<b class=\"good\">forward</b>"), "{told}");
        assert!(page(&mesh, "/policies", &cookie).text().contains("MeshConfig default"));
        assert!(page(&mesh, "/policies/1", &cookie).text().contains("class=\"add\">+"));
        assert!(page(&mesh, "/policies/7", &cookie).text().contains("there is no revision 7"));

        let listed = mesh.weft_json(&["token", "list"]);
        let tokens = listed.as_array().expect("a list");
        let is_viewers = |token: &&serde_json::Value| token["admin"] == "viewer";
        let id = tokens
            .iter()
            .find(is_viewers)
            .and_then(|token| token["id"].as_str())
            .expect("the viewer's token");
        mesh.weft_ok(&["token", "revoke", id]);
        assert_eq!(page(&mesh, "/policies", &cookie).status, 401, "with its token its sessions end");
    });
}

/// Revision 1 samples every call and has one policy, revision 2 adds another.
fn configure_twice(mesh: &Mesh) {
    let sampling = "apiVersion: weft.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {tracing: {sampling: 100%}}\n---\napiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: payments}\nspec: {targetRef: {kind: Service, name: payments}, loadBalancing: {policy: RoundRobin}, circuitBreaker: {consecutiveFailures: 3, openFor: 1s}}\n";
    let policy = "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: orders}\nspec: {targetRef: {kind: Service, name: orders}, timeouts: {request: 15s}}\n";
    for (name, text) in [("sampling.yaml", sampling), ("policy.yaml", policy)] {
        let path = mesh.scratch().join(name);
        fs::write(&path, text).expect("a document");
        mesh.weft_ok(&["apply", "-f", path.to_str().expect("a path")]);
    }
}

/// Calls that go well, and some that fail, until told to stop.
fn call_on(web: &SidecarPod, orders: &SidecarPod, stop: &AtomicBool) {
    web.run(|| {
        while !stop.load(Ordering::Relaxed) {
            for (port, path) in [(8080, "/orders/7?token=secret"), (8080, "/orders/7"), (8081, "/")] {
                let call = HttpClient::connect((orders.address(), port));
                let _ = call.and_then(|mut call| call.get("orders", path, ""));
            }
            // A steady load, not a wait.
            std::thread::park_timeout(Duration::from_millis(100));
        }
    });
}

/// Two pods of a service that is called from when the browser has its page before it: one works, the other when the browser has seen that it
/// is left alone.
struct Ejected {
    pods: [SidecarPod; 2],
    signs: PathBuf,
}

impl Ejected {
    fn new(mesh: &Mesh) -> Self {
        let token =
            mesh.weft_ok(&["token", "create", "--service-account", "payments", "--service", "payments"]);
        let pod = |name: &str| mesh.pod_with_token(name, "payments:8080:http", &token, &[]);
        let signs = mesh.scratch().join("signs");
        fs::create_dir(&signs).expect("a folder");
        Self { pods: [pod("pay-1"), pod("pay-2")], signs }
    }

    fn apps(&self) -> [App; 2] {
        let (seen, [first, second]) = (self.signs.join("seen"), &self.pods);
        let failing =
            App::serve(
                first,
                8080,
                move |stream: TcpStream| {
                    if seen.exists() { say_name(stream, "pay-1") } else { fail(stream) }
                },
            );
        [failing, App::serve(second, 8080, |stream: TcpStream| say_name(stream, "pay-2"))]
    }

    fn call_on(&self, web: &SidecarPod, stop: &AtomicBool) {
        web.run(|| {
            while !stop.load(Ordering::Relaxed) {
                if self.signs.join("calls").exists() {
                    let address = "payments:8080".to_socket_addrs().ok().and_then(|mut found| found.next());
                    let call = address.map(HttpClient::connect);
                    let _ = call.map(|call| call.and_then(|mut call| call.get("payments", "/", "")));
                }
                std::thread::park_timeout(Duration::from_millis(100));
            }
        });
    }
}

/// Answers one request, and ends its connection.
fn fail(mut stream: TcpStream) {
    let Ok(reader) = stream.try_clone() else { return };
    if BufReader::new(reader).lines().map_while(Result::ok).any(|line| line.is_empty()) {
        let _ = stream.write_all(b"HTTP/1.1 500 Broken\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
}

#[test]
fn every_page_works_in_a_real_browser() {
    in_pods!(every_page_works_in_a_real_browser, || {
        let (Some(chromium), Some(mut command)) = (program(&["chromium"]), python("browser.py")) else {
            return;
        };
        let mesh = Mesh::start(weft(), Options::default());
        // Nobody listens behind the second service.
        let (orders, web) = (mesh.pod("orders", "orders:8080,broken:8081"), mesh.pod("web", "web:8080"));
        let _app = App::echo(&orders, 8080);
        let ejected = Ejected::new(&mesh);
        let _apps = ejected.apps();
        configure_twice(&mesh);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| call_on(&web, &orders, &stop));
            scope.spawn(|| ejected.call_on(&web, &stop));
            // Whatever fails here, the calls must end.
            let looked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                eventually("calls are traced and drawn", Duration::from_secs(30), || {
                    let failed = page(&mesh, "/traces?errors=1", "").text().contains("name=\"id\"");
                    failed && page(&mesh, "/", "").text().contains("class=\"map\"")
                });
                command.arg(&chromium).arg("http://127.0.0.1:7080");
                if let Some(folder) = std::env::var_os("WEFT_PICTURES") {
                    command.arg(folder);
                }
                let token =
                    |role: &str| mesh.weft_ok(&["token", "create", "--admin", role]).trim().to_owned();
                command.env("WEFT_OPERATOR", token("operator")).env("WEFT_VIEWER", token("viewer"));
                command.env("WEFT_SIGNS", &ejected.signs);
                let log = mesh.scratch().join("browser.log");
                let mut browser = Process::start(command, &log, |command| mesh.in_hub(|| command.spawn()));
                let ended = browser.wait(Duration::from_secs(240));
                eprintln!("{}", browser.output());
                assert!(ended.success(), "{}", browser.output());
            }));
            stop.store(true, Ordering::Relaxed);
            if let Err(failed) = looked {
                std::panic::resume_unwind(failed);
            }
        });
    });
}
