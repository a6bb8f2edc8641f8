//! From Permissive to Strict, one service at a time: who would be cut off is known before, and only those are.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use weft_pods::Exemption;
use weft_tests::{App, HttpClient, Mesh, Options, SidecarPod, eventually, program};

use crate::peers::PERMISSIVE;
use crate::{in_pods, weft};

/// A change of policy may take this long to be in force on a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn apply(mesh: &Mesh, text: &str) {
    let file = mesh.scratch().join("policy.yaml");
    fs::write(&file, text).expect("a file");
    mesh.weft_ok(&["apply", "-f", file.to_str().expect("a path")]);
}

fn strict(service: &str, mode: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {service}-callers}}\n\
         spec: {{targetRef: {{kind: Service, name: {service}}}, mtls: {{mode: {mode}}}}}\n"
    )
}

/// What a call without a sidecar gets: the status, or nothing where the connection is cut.
fn plainly(caller: &SidecarPod, server: &SidecarPod) -> Option<u16> {
    caller.run(|| {
        let mut client = HttpClient::connect((server.address(), 8080)).ok()?;
        client.get("server", "/", "").ok().map(|answer| answer.status)
    })
}

/// Who a sidecar says calls its app in plaintext, without the times.
fn plaintext(mesh: &Mesh, workload: &str) -> Value {
    let mut status = mesh.weft_json(&["status"]);
    let all = status.as_array_mut().expect("a list");
    let sidecar = all.iter_mut().find(|sidecar| sidecar["workload"] == workload).expect("the sidecar");
    for caller in sidecar["plaintext"].as_array_mut().expect("a list") {
        let seen = caller.as_object_mut().and_then(|caller| caller.remove("last_seen"));
        assert!(seen.is_some_and(|seen| seen.as_str().is_some_and(|seen| seen.starts_with("20"))));
    }
    sidecar["plaintext"].take()
}

#[test]
fn one_service_turns_strict_and_its_plaintext_callers_alone_are_cut_off() {
    in_pods!(one_service_turns_strict_and_its_plaintext_callers_alone_are_cut_off, || {
        let config = vec![("mesh.yaml", PERMISSIVE.to_owned())];
        let mesh = Mesh::start(weft(), Options { config, ..Options::default() });
        let (orders, store) = (mesh.pod("orders", "orders:8080"), mesh.pod("store", "store:8080"));
        let (web, legacy) = (mesh.pod("web", ""), mesh.pod_without_sidecar("legacy"));
        let _apps = [App::echo(&orders, 8080), App::echo(&store, 8080)];
        apply(
            &mesh,
            &format!(
                "apiVersion: weft.mesh/v1alpha1\nkind: Workload\nmetadata: {{name: legacy}}\nspec: {{address: {}}}\n",
                legacy.address(),
            ),
        );
        assert_eq!(plaintext(&mesh, "orders-1"), json!([]));
        assert_eq!([plainly(&legacy, &orders), plainly(&legacy, &store)], [Some(200); 2]);

        // Who would be cut off is known before.
        let address = legacy.address().to_string();
        let expected = json!([{"caller": "default/legacy", "address": address, "port": 8080}]);
        eventually("it is told of", SOON, || plaintext(&mesh, "orders-1") == expected);
        let check = mesh.weft_ok(&["check", "--proxy"]);
        assert!(check.contains("orders-1 takes plaintext from default/legacy on port 8080"), "{check}");
        let wide = mesh.weft_ok(&["status", "-o", "wide"]);
        assert!(wide.contains("1 caller") && wide.contains("default/legacy on port 8080, "), "{wide}");

        eventually("stat names it", SOON, || {
            // What was asked before its sidecar first told of its counts is no row.
            plainly(&legacy, &orders);
            let mut stat = mesh.weft_json(&["stat", "orders", "--by", "service", "--window", "10m"]);
            let Some(told) = stat.pointer_mut("/0/plaintext") else { return false };
            let seen = told.get_mut(0).and_then(Value::as_object_mut).and_then(|it| it.remove("last_seen"));
            seen.is_some() && *told == expected
        });
        let said = mesh.weft(&["stat", "orders", "--window", "10m"]);
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("plaintext: orders takes it from default/legacy on port 8080"), "{said}");

        let mode = || mesh.weft_json(&["explain", "--from", "web", "--to", "orders"]);
        let says = |text: &str, source: &str| {
            let steps = mode()["steps"].as_array().expect("steps").clone();
            let step = steps.iter().find(|step| step["stage"] == "mtls").expect("a step").clone();
            assert!(step["text"].as_str().is_some_and(|told| told.contains(text)), "{step}");
            assert!(step["source"].as_str().is_some_and(|told| told.contains(source)), "{step}");
        };
        says("Permissive", "MeshConfig default");
        legacy.run(|| {
            let mut open = HttpClient::connect((orders.address(), 8080)).expect("a connection");
            assert_eq!(open.get("orders", "/", "").expect("an answer").status, 200);
            apply(&mesh, &strict("orders", "Strict"));
            eventually("what is open ends", SOON, || open.get("orders", "/", "").is_err());
        });
        assert_eq!([plainly(&legacy, &orders), plainly(&legacy, &store)], [Some(403), Some(200)]);
        let answer = web.run(|| {
            let mut client = HttpClient::connect("orders:8080").expect("a connection");
            client.get("orders", "/", "").expect("an answer").status
        });
        assert_eq!(answer, 200);
        says("Strict", "TrafficPolicy default/orders-callers");

        // And back.
        apply(&mesh, &strict("orders", "Permissive"));
        eventually("plaintext is taken again", SOON, || plainly(&legacy, &orders) == Some(200));
    });
}

#[test]
fn probes_of_a_strict_app_get_through_and_nothing_else_does() {
    in_pods!(probes_of_a_strict_app_get_through_and_nothing_else_does, || {
        let mesh = Mesh::start(weft(), Options::default());
        let token = mesh.weft_ok(&["token", "create", "--service-account", "orders"]);
        let probes = ("WEFT_PROBES", "http:8080:/healthz,tcp:7000");
        let orders = mesh.pod_with_token("orders", "orders:8080,orders:7000:tcp", &token, &[probes]);
        let kubelet = mesh.pod_without_sidecar("kubelet");
        let apps = [App::echo(&orders, 8080), App::greeter(&orders, 7000, "hello")];
        let ask = |request: &str| {
            kubelet.run(|| {
                let mut client = HttpClient::connect((orders.address(), 8080)).expect("a connection");
                let answer =
                    client.send(format!("{request}\r\nhost: x\r\n\r\n").as_bytes()).expect("an answer");
                (answer.status, answer.text())
            })
        };
        let (status, seen) =
            ask("GET /healthz HTTP/1.1\r\nuser-agent: kube-probe/1.31\r\nweft-client-id: liar");
        assert!(
            status == 200 && seen.starts_with("GET /healthz HTTP/1.1") && !seen.contains("weft-"),
            "{seen}"
        );
        for request in ["GET /", "GET /healthz/../admin", "GET /healthz?x", "POST /healthz", "GET /HEALTHZ"] {
            assert_eq!(ask(&format!("{request} HTTP/1.1")).0, 403, "{request}");
        }
        assert_eq!(apps[0].connections(), 1, "the app was asked once");

        // Connected to and left; whoever says something is cut off.
        kubelet.run(|| drop(TcpStream::connect((orders.address(), 7000)).expect("a connection")));
        let tcp = || orders.metric("weft_probes_total", &["kind=\"tcp\""]);
        eventually("the probe is counted", SOON, || tcp() == 1.0);
        let heard = kubelet.run(|| {
            let mut stream = TcpStream::connect((orders.address(), 7000)).expect("a connection");
            let _ = stream.write_all(b"hello\n"); // it may have been cut by now
            let mut heard = Vec::new();
            drop(stream.read_to_end(&mut heard));
            heard
        });
        assert_eq!((heard.as_slice(), apps[1].connections(), tcp()), (&b""[..], 0, 1.0));
        assert_eq!(orders.metric("weft_probes_total", &["kind=\"http\""]), 1.0);
        assert_eq!(orders.metric("weft_requests_total", &["source=\"probe\"", "status=\"200\""]), 1.0);
        assert_eq!(plaintext(&mesh, "orders-1"), json!([]));
    });
}

#[test]
fn what_kubectl_does_in_a_pod_works_under_strict() {
    in_pods!(what_kubectl_does_in_a_pod_works_under_strict, || {
        let (Some(curl), Some(setpriv)) = (program(&["curl"]), program(&["setpriv"])) else { return };
        let mesh = Mesh::start(weft(), Options::default());
        let (orders, store) = (mesh.pod("orders", "orders:8080"), mesh.pod("store", "store:8080"));
        let (app, _store) = (App::echo(&orders, 8080), App::echo(&store, 8080));

        // port-forward: the container runtime connects from within the pod's network to its loopback.
        let forwarded = orders.run(|| {
            let mut client = HttpClient::connect("127.0.0.1:8080").expect("a connection");
            client.get("localhost:9999", "/", "").expect("an answer").status
        });
        assert_eq!((forwarded, app.connections()), (200, 1));
        assert_eq!(orders.metric("weft_requests_total", &["direction=\"inbound\""]), 0.0);

        // exec, and containers for debugging: processes in the pod's network, of whatever user, call as its app does.
        let call = |user: Option<&str>, url: &str| {
            let mut command = Command::new(user.map_or(&curl, |_| &setpriv));
            if let Some(user) = user {
                command.args(["--reuid", user, "--regid", user, "--clear-groups"]).arg(&curl);
            }
            command.args(["-sS", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_code}", url]);
            let output = orders.output(command);
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let is_user = matches!(Exemption::here(), Exemption::User(_));
        let users = if is_user { vec![None, Some("1234"), Some("65534")] } else { vec![None] };
        // A newcomer is called when it is known that its app is there.
        eventually("the store is called", SOON, || call(None, "http://store:8080/") == "200");
        for user in &users {
            for url in ["http://store:8080/", "http://localhost:8080/", "http://127.0.0.1:8080/"] {
                assert_eq!(call(*user, url), "200", "{user:?} {url}");
            }
            assert_eq!(call(*user, &format!("http://{}:8080/", store.address())), "200", "{user:?}");
        }
        let calls = f64::from(u32::try_from(1 + 2 * users.len()).expect("few"));
        let mutual = ["direction=\"inbound\"", "source=\"default/orders\"", "tls=\"mutual\""];
        eventually("all are counted", SOON, || store.metric("weft_requests_total", &mutual) == calls);

        // Only as the sidecar's own user one is not of the mesh: such calls are not intercepted, and are refused like any.
        if is_user {
            assert_eq!(call(Some("2102"), &format!("http://{}:8080/", store.address())), "403");
        }
    });
}

#[test]
fn whoever_may_be_of_the_mesh_is_not_called_in_plaintext() {
    in_pods!(whoever_may_be_of_the_mesh_is_not_called_in_plaintext, || {
        let config = vec![("mesh.yaml", PERMISSIVE.to_owned())];
        let mut mesh = Mesh::start(weft(), Options { config, ..Options::default() });
        let server = mesh.pod("server", "server:8080");
        let (client, outside) = (mesh.pod("client", ""), mesh.pod_without_sidecar("outside"));
        let (app, _host) = (App::echo(&server, 8080), App::echo(&outside, 8080));
        let ask = |host: &str| {
            client.run(|| {
                let mut http = HttpClient::connect((host, 8080)).expect("a connection");
                let answer = http.get("server", "/", "").expect("an answer");
                (answer.status, answer.header("weft-error").map(str::to_owned))
            })
        };
        let (server_ip, outside_ip) = (server.address().to_string(), outside.address().to_string());
        // It is there and says nothing: who has the address is not known, and nobody is called.
        mesh.control_plane_process().pause();
        assert_eq!(ask(&server_ip), (504, Some("connect-timeout".to_owned())));
        assert_eq!(app.connections(), 0);
        mesh.control_plane_process().resume();
        eventually("the control plane answers again", SOON, || ask(&server_ip).0 == 200);
        let mutual = ["direction=\"inbound\"", "tls=\"mutual\""];
        assert!(server.metric("weft_requests_total", &mutual) >= 1.0);
        assert_eq!(server.metric("weft_requests_total", &["direction=\"inbound\"", "tls=\"none\""]), 0.0);

        // It is away: what is known is called as ever, so is what is outside, and virtual addresses are no one's but the mesh's.
        mesh.kill_control_plane();
        eventually("the sidecar knows", SOON, || client.metric("weft_control_plane_connected", &[]) == 0.0);
        assert_eq!(ask(&server_ip).0, 200);
        assert_eq!(ask(&outside_ip), (200, None));
        assert_eq!(ask("240.64.99.99"), (404, Some("no-route".to_owned())));
        assert_eq!(server.metric("weft_requests_total", &["direction=\"inbound\"", "tls=\"none\""]), 0.0);
    });
}
