//! ExternalService: calls to hosts outside the mesh, with a resolver and servers of TLS in pods without a sidecar.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use weft_tests::{App, HttpClient, Mesh, Options, SidecarPod, eventually, program};

use crate::{in_pods, weft};

/// What the pods' resolver says; a test may change it.
type Zone = Arc<Mutex<Vec<(&'static str, Vec<IpAddr>)>>>;

/// Answers every question from `zone`, for one second each, and denies the rest.
fn serve_names(mesh: &Mesh, zone: &Zone) {
    let socket = mesh.in_hub(|| UdpSocket::bind((mesh.address(), 53)).expect("port 53"));
    let zone = Arc::clone(zone);
    std::thread::spawn(move || {
        let mut question = vec![0; 4096];
        while let Ok((length, client)) = socket.recv_from(&mut question) {
            let _ = socket.send_to(&answer(&question[..length], &zone.lock().expect("whole")), client);
        }
    });
}

fn answer(question: &[u8], zone: &[(&str, Vec<IpAddr>)]) -> Vec<u8> {
    let (mut labels, mut at) = (Vec::new(), 12);
    while question[at] > 0 {
        let end = at + 1 + usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..end]).to_lowercase());
        at = end;
    }
    let (name, kind) = (labels.join("."), question[at + 2]);
    let known = zone.iter().find(|(host, _)| *host == name);
    let record = |address: &IpAddr| match (address, kind) {
        (IpAddr::V4(v4), 1) => Some(v4.octets().to_vec()),
        (IpAddr::V6(v6), 28) => Some(v6.octets().to_vec()),
        _ => None,
    };
    let records: Vec<Vec<u8>> =
        known.iter().flat_map(|(_, addresses)| addresses.iter().filter_map(record)).collect();
    let mut reply = [&question[..2], b"\x81\x80\0\x01", &[0; 6], &question[12..at + 5]].concat();
    if known.is_none() {
        reply[3] |= 3;
    }
    reply[7] = u8::try_from(records.len()).expect("few");
    for record in records {
        reply.extend([0xc0, 0x0c, 0, kind, 0, 1, 0, 0, 0, 1, 0]);
        reply.push(u8::try_from(record.len()).expect("few"));
        reply.extend(record);
    }
    reply
}

/// An authority of the world outside, and what it has signed.
struct Outside {
    ca: String,
    authority: CertificateDer<'static>,
    server: Arc<ServerConfig>,
    /// Its certificate and key, as files have them.
    pem: [String; 2],
}

impl Outside {
    fn of(hosts: &[&str]) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("a certificate");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        let names = hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
        let key = KeyPair::generate().expect("a key");
        let leaf = CertificateParams::new(names).expect("names").signed_by(&key, &authority).expect("signed");
        let pem = [leaf.pem(), key.serialize_pem()];
        let server = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
            )
            .expect("a certificate");
        Self { ca: authority.pem(), authority: authority.der().clone(), server: Arc::new(server), pem }
    }

    /// A server that says after each request in TLS who it is, and what it was asked.
    fn serve(&self, pod: &SidecarPod, port: u16, name: &'static str) -> App {
        self.serve_while(pod, port, name, Arc::default())
    }

    /// The same, which says when it is asked that it is sick, as long as it is.
    fn serve_while(&self, pod: &SidecarPod, port: u16, name: &'static str, sick: Arc<AtomicBool>) -> App {
        let config = Arc::clone(&self.server);
        App::serve(pod, port, move |stream| {
            let session = ServerConnection::new(Arc::clone(&config)).expect("a session");
            let mut tls = StreamOwned::new(session, stream);
            loop {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") {
                    match tls.read(&mut byte) {
                        Ok(1) => head.push(byte[0]),
                        _ => return,
                    }
                }
                let is_sick = sick.load(Ordering::Relaxed) && head.starts_with(b"GET /healthz ");
                let status = if is_sick { "500 Sick" } else { "200 OK" };
                let start = format!(
                    "HTTP/1.1 {status}\r\nserved-by: {name}\r\ncontent-length: {}\r\n\r\n",
                    head.len()
                );
                if tls.write_all(&[start.as_bytes(), &head].concat()).and_then(|()| tls.flush()).is_err() {
                    return;
                }
            }
        })
    }

    /// What an app that speaks TLS itself is answered by `host`.
    fn get(&self, address: (&str, u16), host: &'static str) -> std::io::Result<String> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone()).expect("an authority");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(address)?;
        tcp.set_read_timeout(Some(Duration::from_secs(10)))?;
        let session = ClientConnection::new(Arc::new(config), host.try_into().expect("a name"));
        let mut tls = StreamOwned::new(session.expect("a session"), tcp);
        tls.write_all(format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes())?;
        let mut said = [0; 512];
        let length = tls.read(&mut said)?;
        Ok(String::from_utf8_lossy(&said[..length]).into_owned())
    }
}

struct Rig {
    mesh: Mesh,
    app: SidecarPod,
    world: [SidecarPod; 2],
    zone: Zone,
}

impl Rig {
    fn start() -> Self {
        let mesh = Mesh::start(weft(), Options::default());
        let world = ["world-a", "world-b"].map(|name| mesh.pod_without_sidecar(name));
        let zone = Zone::default();
        serve_names(&mesh, &zone);
        let resolv_conf = mesh.scratch().join("resolv.conf");
        fs::write(&resolv_conf, format!("nameserver {}\n", mesh.address())).expect("a file");
        let token = mesh.weft_ok(&["token", "create", "--service-account", "app"]);
        let more = [("WEFT_RESOLV_CONF", resolv_conf.to_str().expect("a path"))];
        let app = mesh.pod_with_token("app", "", &token, &more);
        Self { mesh, app, world, zone }
    }

    /// Another app, whose machine believes an authority of its own.
    fn believing(&self, ca: &str) -> SidecarPod {
        let [roots, resolv_conf] = ["public.pem", "resolv.conf"].map(|name| self.mesh.scratch().join(name));
        fs::write(&roots, ca).expect("a file");
        let token = self.mesh.weft_ok(&["token", "create", "--service-account", "believer"]);
        let more = [
            ("WEFT_RESOLV_CONF", resolv_conf.to_str().expect("a path")),
            ("SSL_CERT_FILE", roots.to_str().expect("a path")),
            ("SSL_CERT_DIR", ""),
        ];
        self.mesh.pod_with_token("believer", "", &token, &more)
    }

    fn name(&self, host: &'static str, pods: &[usize]) {
        let addresses = pods.iter().map(|pod| self.world[*pod].address()).collect();
        let mut zone = self.zone.lock().expect("whole");
        zone.retain(|(other, _)| *other != host);
        zone.push((host, addresses));
    }

    fn apply(&self, text: &str) {
        let file = self.mesh.scratch().join("egress.yaml");
        fs::write(&file, text).expect("a file");
        self.mesh.weft_ok(&["apply", "-f", file.to_str().expect("a path")]);
        eventually("the sidecars have it", Duration::from_secs(10), || {
            let status = self.mesh.weft_json(&["status"]);
            status.as_array().is_some_and(|all| all.iter().all(|sidecar| sidecar["in_sync"] == true))
        });
    }

    /// The first virtual address that a service outside has.
    fn address_of(&self, name: &str) -> String {
        let found = self.mesh.weft_json(&["get", "externalservices", name]);
        found[0]["status"]["addresses"][0].as_str().expect("an address").to_owned()
    }

    fn get(&self, address: &str, port: u16, host: &str) -> weft_tests::Response {
        self.app.run(|| {
            let mut client = HttpClient::connect((address, port)).expect("a connection");
            client.get(host, "/", "").expect("an answer")
        })
    }
}

fn external(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: weft.mesh/v1alpha1\nkind: ExternalService\nmetadata: {{name: {name}}}\nspec:\n{spec}\n"
    )
}

/// A text under `ca: |`.
fn indented(text: &str) -> String {
    text.lines().map(|line| format!("      {line}\n")).collect()
}

const REGISTRY_ONLY: &str = "apiVersion: weft.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {outbound: {mode: RegistryOnly}}\n";

#[test]
fn a_host_is_called_in_tls_that_the_app_does_not_speak() {
    in_pods!(a_host_is_called_in_tls_that_the_app_does_not_speak, || {
        let rig = Rig::start();
        let outside = Outside::of(&["api.example.com"]);
        let _servers = [outside.serve(&rig.world[0], 443, "a"), outside.serve(&rig.world[1], 443, "b")];
        rig.name("api.example.com", &[0, 1]);
        let spec = |ca: &str| {
            let ca = if ca.is_empty() { String::new() } else { format!("\n    ca: |\n{}", indented(ca)) };
            format!(
                "  hosts: [api.example.com]\n  ports: [{{port: 80, targetPort: 443, protocol: http}}]\n  tls:\n    originate: true{ca}"
            )
        };
        rig.apply(&[REGISTRY_ONLY, &external("api", &spec(&outside.ca))].concat());
        let address = rig.address_of("api");
        // Both of its addresses are called, and each is told the host as the app named it.
        let mut seen = Vec::new();
        for _ in 0..40 {
            let answer = rig.get(&address, 80, "api.example.com");
            assert_eq!(answer.status, 200, "{answer:?}\n{}", rig.app.sidecar_log());
            assert!(answer.text().contains("host: api.example.com"), "{answer:?}");
            seen.push(answer.header("served-by").expect("a name").to_owned());
        }
        assert!(seen.contains(&"a".to_owned()) && seen.contains(&"b".to_owned()), "{seen:?}");
        let labels = ["destination=\"default/api\"", "tls=\"server\"", "status=\"200\""];
        assert_eq!(rig.app.metric("weft_requests_total", &labels), 40.0);
        // What policies say holds here too.
        let fault = "---\napiVersion: weft.mesh/v1alpha1\nkind: FaultInjection\nmetadata: {name: api}\nspec: {targetRef: {kind: Service, name: api}, abort: {status: 418}}\n";
        rig.apply(fault);
        assert_eq!(rig.get(&address, 80, "api.example.com").status, 418);
        rig.mesh.weft_ok(&["delete", "faultinjection", "api"]);
        // Where it goes, its resolver says: from now on to one of them alone.
        rig.name("api.example.com", &[1]);
        eventually("only b is called", Duration::from_secs(20), || {
            (0..10).all(|_| rig.get(&address, 80, "api.example.com").header("served-by") == Some("b"))
        });
        // Over IPv6 alone, where there is any.
        if let Some(v6) = rig.world[0].addresses().into_iter().find(IpAddr::is_ipv6) {
            rig.zone.lock().expect("whole").retain(|(host, _)| *host != "api.example.com");
            rig.zone.lock().expect("whole").push(("api.example.com", vec![v6]));
            eventually("its address of IPv6 is called", Duration::from_secs(20), || {
                rig.get(&address, 80, "api.example.com").header("served-by") == Some("a")
            });
        }
        // The public authorities have not signed this one.
        rig.apply(&external("api", &spec("")));
        let answer = rig.get(&address, 80, "api.example.com");
        assert_eq!((answer.status, answer.header("weft-error")), (502, Some("tls-failed")));
        // Those that this sidecar's machine believes have; others still do not.
        let believer = rig.believing(&outside.ca);
        let answer = believer.run(|| {
            let mut client = HttpClient::connect((address.as_str(), 80)).expect("a connection");
            client.get("api.example.com", "/", "").expect("an answer")
        });
        assert_eq!(answer.status, 200, "{answer:?}\n{}", believer.sidecar_log());
        assert_eq!(rig.get(&address, 80, "api.example.com").status, 502);
        let told = rig.mesh.weft_json(&["explain", "--from", "app", "--to", "api"]);
        assert_eq!((&told["decision"], &told["backend"]), (&"forward".into(), &"default/api:80".into()));
    });
}

#[test]
fn http_2_is_spoken_in_tls_to_a_host_that_takes_it() {
    in_pods!(http_2_is_spoken_in_tls_to_a_host_that_takes_it, || {
        let (Some(nginx), Some(curl)) = (program(&["nginx"]), program(&["curl"])) else { return };
        let rig = Rig::start();
        let outside = Outside::of(&["api.example.com"]);
        let files = ["certificate.pem", "key.pem"].map(|name| rig.mesh.scratch().join(name));
        for (file, text) in files.iter().zip(&outside.pem) {
            fs::write(file, text).expect("a file");
        }
        let http = format!(
            "server {{ listen [::]:443 ssl http2 ipv6only=off; ssl_protocols TLSv1.3; ssl_certificate {}; ssl_certificate_key {}; return 200 '$server_protocol $host'; }}",
            files[0].display(),
            files[1].display()
        );
        let world = &rig.world[0];
        let command = crate::nginx::command(&nginx, rig.mesh.scratch(), &http);
        let _nginx = world.app_called("nginx", command);
        eventually("nginx listens", Duration::from_secs(20), || {
            world.run(|| TcpStream::connect((world.address(), 443)).is_ok())
        });
        rig.name("api.example.com", &[0]);
        let spec = format!(
            "  hosts: [api.example.com]\n  ports: [{{port: 80, targetPort: 443, protocol: http2}}]\n  tls:\n    originate: true\n    ca: |\n{}",
            indented(&outside.ca)
        );
        rig.apply(&external("api", &spec));
        let resolved = format!("api.example.com:80:{}", rig.address_of("api"));
        let mut command = std::process::Command::new(curl);
        command.args(["-sS", "--http2-prior-knowledge", "--resolve", &resolved, "http://api.example.com/"]);
        let said = rig.app.succeed(command, Duration::from_secs(20));
        assert_eq!(said.trim(), "HTTP/2.0 api.example.com");
    });
}

#[test]
fn names_outside_lead_to_addresses_of_the_mesh_and_bytes_pass_by_them() {
    in_pods!(names_outside_lead_to_addresses_of_the_mesh_and_bytes_pass_by_them, || {
        let rig = Rig::start();
        rig.name("db.example.com", &[0]);
        rig.name("other.example.com", &[0]);
        let _server = App::greeter(&rig.world[0], 5432, "ready\n");
        rig.apply(
            &[REGISTRY_ONLY, &external("db", "  hosts: [db.example.com]\n  ports: [{port: 5432}]")].concat(),
        );
        let address = rig.address_of("db");
        let look_up = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))";
        let look_up = |host: &str| {
            let mut command = weft_tests::program(&["python3"]).map(std::process::Command::new)?;
            command.args(["-c", look_up, host]);
            Some(String::from_utf8_lossy(&rig.app.output(command).stdout).trim().to_owned())
        };
        if let Some(found) = look_up("db.example.com") {
            assert_eq!(found, address);
            assert_eq!(look_up("other.example.com"), Some(rig.world[0].address().to_string()));
        }
        // A server that speaks first, to a client that says nothing.
        let said = rig.app.run(|| {
            let mut stream = TcpStream::connect((address.as_str(), 5432)).expect("a connection");
            stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
            let mut said = [0; 6];
            stream.read_exact(&mut said).map(|()| said.to_vec())
        });
        assert_eq!(said.expect("a greeting"), b"ready\n");
        let labels = ["direction=\"outbound\"", "destination=\"default/db\""];
        assert_eq!(rig.app.metric("weft_connections_total", &labels), 1.0);
        // Who is not named stays out.
        let world = rig.world[0].address().to_string();
        let refused = rig.app.run(|| {
            let mut stream = TcpStream::connect((world.as_str(), 5432)).expect("the sidecar takes it");
            stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
            let mut said = [0; 6];
            stream.write_all(b"x\n").and_then(|()| stream.read(&mut said))
        });
        assert!(refused.is_err() || refused.is_ok_and(|length| length == 0));
    });
}

#[test]
fn hosts_below_a_domain_are_told_by_the_name_that_tls_asks_for() {
    in_pods!(hosts_below_a_domain_are_told_by_the_name_that_tls_asks_for, || {
        let rig = Rig::start();
        let outside = Outside::of(&["one.example.com", "example.org"]);
        let _server = outside.serve(&rig.world[0], 443, "a");
        rig.name("one.example.com", &[0]);
        rig.name("example.org", &[0]);
        rig.apply(
            &[
                REGISTRY_ONLY,
                &external("wide", "  hosts: [\"*.example.com\"]\n  ports: [{port: 443, protocol: tls}]"),
            ]
            .concat(),
        );
        let world = rig.world[0].address().to_string();
        let get = |address: &str, host: &'static str| rig.app.run(|| outside.get((address, 443), host));
        let answer = get(&world, "one.example.com").expect("an answer");
        assert!(answer.contains("served-by: a"), "{answer}");
        // The name says where it goes, whatever address the app had.
        let elsewhere = rig.world[1].address().to_string();
        let answer = get(&elsewhere, "one.example.com").expect("an answer");
        assert!(answer.contains("served-by: a"), "{answer}");
        let labels = ["direction=\"outbound\"", "destination=\"default/wide\"", "protocol=\"tls\""];
        assert_eq!(rig.app.metric("weft_connections_total", &labels), 2.0);
        assert!(get(&world, "example.org").is_err());
    });
}

/// A server that says after each request who it is, or ends the connection; and how often it was asked.
fn plain(pod: &SidecarPod, name: &'static str) -> App {
    App::serve(pod, 80, move |mut stream| {
        let mut head = Vec::new();
        let mut byte = [0];
        while let Ok(1) = stream.read(&mut byte) {
            head.push(byte[0]);
            if head.ends_with(b"\r\n\r\n") {
                head.clear();
                let status = if name.is_empty() { "500 Oh" } else { "200 OK" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                if stream.write_all(answer.as_bytes()).is_err() {
                    return;
                }
            }
        }
    })
}

#[test]
fn hosts_below_a_domain_are_told_by_the_host_of_each_request() {
    in_pods!(hosts_below_a_domain_are_told_by_the_host_of_each_request, || {
        let rig = Rig::start();
        let _servers = [plain(&rig.world[0], "a"), plain(&rig.world[1], "b")];
        rig.name("one.example.com", &[0]);
        rig.name("two.example.com", &[1]);
        rig.name("example.org", &[0]);
        let policy = "---\napiVersion: weft.mesh/v1alpha1\nkind: FaultInjection\nmetadata: {name: wide}\nspec: {targetRef: {kind: Service, name: wide}, match: {headers: [{name: x-chaos, value: \"1\"}]}, abort: {status: 418}}\n";
        rig.apply(
            &[
                REGISTRY_ONLY,
                &external("wide", "  hosts: [\"*.example.com\"]\n  ports: [{port: 80, protocol: http}]"),
                policy,
            ]
            .concat(),
        );
        // Where it goes its host says, request by request, whatever address the app had.
        let world = rig.world[0].address().to_string();
        let answers = rig.app.run(|| {
            let mut client = HttpClient::connect((world.as_str(), 80)).expect("a connection");
            let mut get = |host: &str| client.get(host, "/", "").expect("an answer");
            [get("one.example.com"), get("TWO.example.com:80"), get("one.example.com"), get("example.org")]
        });
        let says: Vec<_> = answers[..3].iter().map(|answer| (answer.status, answer.text())).collect();
        assert_eq!(says, [(200, "a".into()), (200, "b".into()), (200, "a".into())]);
        assert_eq!((answers[3].status, answers[3].header("weft-error")), (404, Some("no-route")));
        let struck = rig.app.run(|| {
            let mut client = HttpClient::connect((world.as_str(), 80)).expect("a connection");
            client.get("one.example.com", "/", "x-chaos: 1\r\n").expect("an answer")
        });
        assert_eq!((struck.status, struck.header("weft-error")), (418, Some("fault-injected")));
        let labels = ["direction=\"outbound\"", "destination=\"default/wide\"", "status=\"200\""];
        assert_eq!(rig.app.metric("weft_requests_total", &labels), 3.0);
        // A connection whose first request names nobody that is known stays out.
        assert_eq!(rig.get(&world, 80, "example.org").status, 404);
    });
}

#[test]
fn an_address_of_a_host_outside_that_fails_is_left_alone() {
    in_pods!(an_address_of_a_host_outside_that_fails_is_left_alone, || {
        let rig = Rig::start();
        let _servers = [plain(&rig.world[0], ""), plain(&rig.world[1], "b")];
        rig.name("api.example.com", &[0, 1]);
        let policy = "---\napiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: api}\nspec: {targetRef: {kind: Service, name: api}, loadBalancing: {policy: RoundRobin}, circuitBreaker: {consecutiveFailures: 3, openFor: 10m}}\n";
        rig.apply(
            &[&external("api", "  hosts: [api.example.com]\n  ports: [{port: 80, protocol: http}]"), policy]
                .concat(),
        );
        let address = rig.address_of("api");
        let statuses: Vec<_> = (0..40).map(|_| rig.get(&address, 80, "api.example.com").status).collect();
        let failed = statuses.iter().filter(|status| **status == 500).count();
        // Each worker thread may have sent one more before it heard of the third.
        assert!((3..=10).contains(&failed), "{statuses:?}");
        assert!(statuses[20..].iter().all(|status| *status == 200), "{statuses:?}");
        eventually("one of its addresses is said to be left alone", Duration::from_secs(10), || {
            rig.app.metric("weft_circuit_state", &["service=\"default/api\"", "endpoint=\""]) == 2.0
        });
    });
}

#[test]
fn addresses_of_a_host_outside_are_asked_how_they_are() {
    in_pods!(addresses_of_a_host_outside_are_asked_how_they_are, || {
        let rig = Rig::start();
        let outside = Outside::of(&["api.example.com"]);
        let sick = Arc::new(AtomicBool::new(false));
        let _servers = [
            outside.serve_while(&rig.world[0], 443, "a", Arc::clone(&sick)),
            outside.serve(&rig.world[1], 443, "b"),
        ];
        rig.name("elsewhere.example.com", &[0, 1]);
        let spec = format!(
            "  hosts: [elsewhere.example.com]\n  ports: [{{port: 80, targetPort: 443, protocol: http}}]\n  tls:\n    originate: true\n    sni: api.example.com\n    ca: |\n{}",
            indented(&outside.ca)
        );
        let policy = "---\napiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: api}\nspec:\n  targetRef: {kind: Service, name: api}\n  loadBalancing: {policy: RoundRobin}\n  healthCheck: {path: /healthz, interval: 200ms, unhealthyAfter: 2, healthyAfter: 1}\n";
        rig.apply(&[external("api", &spec), policy.to_owned()].concat());
        let address = rig.address_of("api");
        let seen = || -> Vec<_> {
            let answers = (0..10).map(|_| rig.get(&address, 80, "elsewhere.example.com"));
            answers.map(|answer| (answer.status, answer.header("served-by").map(str::to_owned))).collect()
        };
        let by = |name: &str| (200, Some(name.to_owned()));
        assert!(seen().contains(&by("a")), "{:?}", seen());
        // Its certificate is for the name that is asked for: the check goes the way that requests go.
        sick.store(true, Ordering::Relaxed);
        eventually("only b is called", Duration::from_secs(20), || seen() == vec![by("b"); 10]);
        let (_, stats) = rig.app.admin("/stats").expect("an answer");
        assert!(stats.contains("\"service\": \"default/api\""), "{stats}");
        sick.store(false, Ordering::Relaxed);
        eventually("both are called", Duration::from_secs(20), || {
            let seen = seen();
            seen.contains(&by("a")) && seen.contains(&by("b"))
        });
    });
}

#[test]
fn mistakes_are_refused_with_their_line() {
    in_pods!(mistakes_are_refused_with_their_line, || {
        let mesh = Mesh::start(weft(), Options::default());
        let check = |spec: &str, line: usize, says: &str| {
            let file = mesh.scratch().join("bad.yaml");
            fs::write(&file, external("x", spec)).expect("a file");
            let output = mesh.weft(&["apply", "-f", file.to_str().expect("a path")]);
            let error = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{spec}\n{error}");
            assert!(error.contains(&format!("bad.yaml:{line}")) && error.contains(says), "{says}: {error}");
        };
        let port = "\n  ports: [{port: 443, protocol: tls}]";
        check(&format!("  hosts: [a.example.com, b.example.com]{port}"), 6, "a second host");
        check(
            "  hosts: [\"*.example.com\"]\n  ports: [{port: 80, protocol: tcp}]",
            6,
            "no port is of either",
        );
        check(&format!("  hosts: [a.example.com]{port}\n  tls: {{originate: true}}"), 8, "speaks TLS itself");
        check(
            "  hosts: [a.example.com]\n  ports: [{port: 80}]\n  tls: {originate: true, ca: x}",
            8,
            "no certificates",
        );
        check("  hosts: [10.0.0.1]\n  ports: [{port: 80}]", 6, "host name");
        let both = "  hosts: [a.example.com]\n  ports: [{port: 80}]\n---\napiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {ports: [{port: 80}]}";
        check(both, 2, "has the same name");
    });
}
