//! Whom an address or a name leads to: a headless service, oneself, the pod's own loopback. And whose address an app sees.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use weft_tests::{App, HttpClient, KEEP_SOURCE, Mesh, Options, SidecarPod, eventually, program};

use crate::peers::PERMISSIVE;
use crate::{in_pods, weft};

fn curl(pod: &SidecarPod, url: &str) -> Option<String> {
    let mut command = Command::new(program(&["curl"])?);
    command.args(["-sS", "--max-time", "10", url]);
    let output = pod.output(command);
    Some(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_headless_service_is_called_at_its_pods_own_addresses_with_mutual_tls() {
    in_pods!(a_headless_service_is_called_at_its_pods_own_addresses_with_mutual_tls, || {
        let mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("store", "store:8080");
        let client = mesh.pod("client", "");
        let _app = App::echo(&server, 8080);
        let document = "apiVersion: v1\nkind: Service\nmetadata: {name: store}\nspec: {clusterIP: None, ports: [{port: 8080}]}\n";
        let file = mesh.scratch().join("headless.yaml");
        fs::write(&file, document).expect("a file");
        mesh.weft_ok(&["apply", "-f", file.to_str().expect("a path")]);
        let Some(_) = program(&["curl"]) else { return };
        eventually("the pod's address is what the name stands for", Duration::from_secs(10), || {
            curl(&client, "http://store:8080/a")
                .is_some_and(|seen| seen.contains("weft-client-id: spiffe://mesh.local/ns/default/sa/client"))
        });
        assert!(server.metric("weft_requests_total", &["direction=\"inbound\"", "tls=\"mutual\""]) >= 1.0);
    });
}

#[test]
fn a_pod_may_call_the_service_that_it_offers_itself() {
    in_pods!(a_pod_may_call_the_service_that_it_offers_itself, || {
        let mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("orders", "orders:80->8080");
        let _app = App::echo(&server, 8080);
        let Some(_) = program(&["curl"]) else { return };
        eventually("it is among its own endpoints", Duration::from_secs(10), || {
            curl(&server, "http://orders/self").is_some_and(|seen| seen.starts_with("GET /self HTTP/1.1\r\n"))
        });
    });
}

#[test]
fn what_stays_on_the_pods_loopback_passes_no_sidecar() {
    in_pods!(what_stays_on_the_pods_loopback_passes_no_sidecar, || {
        let mesh = Mesh::start(weft(), Options::default());
        let pod = mesh.pod("alone", "");
        for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let seen = pod.run(|| {
                let listener = TcpListener::bind((address, 0)).expect("a listener");
                let at = listener.local_addr().expect("its address");
                std::thread::scope(|scope| {
                    let asked = scope.spawn(|| HttpClient::connect(at).expect("a connection"));
                    let (_, from) = listener.accept().expect("the caller");
                    drop(asked.join());
                    from
                })
            });
            assert_eq!(seen.ip(), address);
        }
        assert_eq!(pod.metric("weft_connections_total", &[]) as u64, 0);
    });
}

/// Tells everyone from which address they call, in HTTP.
fn whoami_http(stream: TcpStream) {
    let from = stream.peer_addr().expect("a caller").ip().to_canonical().to_string();
    let mut reader = BufReader::new(&stream);
    while crate::peers::read_head_from(&mut reader).ends_with("\r\n\r\n") {
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{from}", from.len());
        if (&stream).write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The same for each line that comes.
fn whoami_bytes(mut stream: TcpStream) {
    let from = stream.peer_addr().expect("a caller").ip().to_canonical().to_string();
    let reader = BufReader::new(stream.try_clone().expect("a second handle"));
    for _ in reader.lines().map_while(Result::ok) {
        if stream.write_all(from.as_bytes()).is_err() {
            return;
        }
    }
}

#[test]
fn an_app_sees_its_callers_own_addresses_where_that_is_asked_for() {
    in_pods!(an_app_sees_its_callers_own_addresses_where_that_is_asked_for, || {
        let Some(_) = program(&["setpriv"]) else { return };
        let config = vec![("mesh.yaml", PERMISSIVE.to_owned())];
        let mesh = Mesh::start(weft(), Options { config, ..Options::default() });
        let token = mesh.weft_ok(&["token", "create", "--service-account", "store", "--service", "store"]);
        // With the addresses of both families that the sidecar finds.
        let found = ("WEFT_POD_IP", "");
        let server = mesh.pod_with_token("store", "store:8080,store:9090:tcp", &token, &[KEEP_SOURCE, found]);
        let callers = [mesh.pod("one", ""), mesh.pod("two", ""), mesh.pod_without_sidecar("three")];
        let app = App::serve(&server, 8080, whoami_http);
        let _bytes = App::serve(&server, 9090, whoami_bytes);
        for (family, to) in server.addresses().into_iter().enumerate() {
            let own = |caller: &SidecarPod| caller.addresses()[family].to_string();
            let ask = |client: &mut HttpClient| client.get("store", "/", "").expect("an answer").text();
            let connect = |caller: &SidecarPod| {
                caller.run(|| HttpClient::connect(SocketAddr::new(to, 8080))).expect("a connection")
            };
            let mut clients: Vec<_> = callers.iter().map(connect).collect();
            let before = app.connections();
            for _ in 0..5 {
                for (caller, client) in callers.iter().zip(&mut clients) {
                    assert_eq!(ask(client), own(caller));
                }
            }
            // Each caller's connections to the app are its own, and are kept: one of each, and one more where it was found out
            // who speaks first.
            assert!((3..=6).contains(&(app.connections() - before)));
            for caller in &callers {
                let mut stream =
                    caller.run(|| TcpStream::connect(SocketAddr::new(to, 9090))).expect("a connection");
                let expected = own(caller);
                let mut seen = vec![0; expected.len()];
                for _ in 0..3 {
                    stream.write_all(b"who am I\n").expect("it is sent");
                    stream.read_exact(&mut seen).expect("an answer");
                    assert_eq!(String::from_utf8_lossy(&seen), expected);
                }
            }
        }
        assert!(server.metric("weft_requests_total", &["direction=\"inbound\"", "tls=\"mutual\""]) >= 10.0);
    });
}

#[test]
fn a_sidecar_that_could_not_keep_addresses_refuses_to_start() {
    in_pods!(a_sidecar_that_could_not_keep_addresses_refuses_to_start, || {
        let Some(setpriv) = program(&["setpriv"]) else { return };
        let mesh = Mesh::start(weft(), Options::default());
        let pod = mesh.pod_without_sidecar("alone");
        let settings =
            ["--control-plane", "https://127.0.0.1:1", "--ca", "x", "--token-file", "x", "--workload", "x"];
        let refusal = |mut command: Command| {
            command.args(["proxy", "run"]).args(settings).env(KEEP_SOURCE.0, KEEP_SOURCE.1);
            let output = pod.output(command);
            assert_eq!(output.status.code(), Some(1));
            String::from_utf8_lossy(&output.stderr).into_owned()
        };
        let mut without_rights = Command::new(setpriv);
        without_rights.args(["--bounding-set", "-net_admin,-net_raw"]).arg(weft());
        let said = refusal(without_rights);
        assert!(said.contains("--keep-source (WEFT_KEEP_SOURCE) takes the right CAP_NET_ADMIN"), "{said}");
        let said = refusal(Command::new(weft()));
        assert!(said.contains("takes `intercept up --keep-source` first"), "{said}");
    });
}
