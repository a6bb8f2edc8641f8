//! The app's own TLS, whole sessions of it: inside the mesh's between two pods, by its server's name where a route says so,
//! and to a host outside. What its ends see of each other is what they see without sidecars.

use std::fs;
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use weft_tests::{Capture, Mesh, Options, Process, SidecarPod, eventually, program, python};

use crate::peers::{PERMISSIVE, RUN};
use crate::{in_pods, weft};

/// A certificate for these names, and its key.
struct Certificate {
    certificate: PathBuf,
    key: PathBuf,
}

impl Certificate {
    fn make(folder: &Path, file: &str, names: &[&str]) -> Self {
        let at = |kind: &str| folder.join(format!("{file}.{kind}"));
        let (certificate, key) = (at("pem"), at("key"));
        let names: Vec<String> = names.iter().map(|name| format!("DNS:{name}")).collect();
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        openssl.args(["-days", "2", "-subj", "/CN=an app", "-addext"]);
        openssl.arg(format!("subjectAltName={}", names.join(","))).arg("-keyout").arg(&key);
        let output = openssl.arg("-out").arg(&certificate).output().expect("openssl starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self { certificate, key }
    }

    /// As it is in the file, without the line at its end.
    fn text(&self) -> String {
        fs::read_to_string(&self.certificate).expect("a certificate").trim().to_owned()
    }

    /// Starts an app with it.
    fn serve(&self, pod: &SidecarPod, port: u16, name: &str) -> Process {
        let mut command = python("tls_server.py").expect("the test asked for Python");
        command.arg(port.to_string()).args([&self.certificate, &self.key]).arg(name);
        let mut app = pod.app_called(name, command);
        eventually("the app listens", Duration::from_secs(30), || {
            assert!(app.is_running(), "{}", app.output());
            pod.run(|| TcpStream::connect(("127.0.0.1", port)).is_ok())
        });
        app
    }

    /// curl, which trusts this certificate alone, to `name` at that address.
    fn curl(&self, from: &SidecarPod, name: &str, at: (IpAddr, u16)) -> String {
        let mut command = Command::new("curl");
        command.args(["-sS", "--max-time", "30", "--cacert"]).arg(&self.certificate);
        command.args(["--connect-to", &format!("{name}:443:{}:{}", at.0, at.1), &format!("https://{name}/")]);
        from.succeed(command, RUN)
    }

    /// Python's own TLS likewise: the certificate that it was shown, and the answer.
    fn python(&self, from: &SidecarPod, name: &str, at: (IpAddr, u16)) -> String {
        let mut command = python("tls_client.py").expect("the test asked for Python");
        command.args([&at.0.to_string(), &at.1.to_string(), name]).arg(&self.certificate);
        from.succeed(command, RUN)
    }

    /// OpenSSL's: what it says of the session.
    fn openssl(&self, from: &SidecarPod, name: &str, at: (IpAddr, u16)) -> String {
        let mut command = Command::new("sh");
        // Its input is the request; without one it would wait for a person.
        let script =
            "printf 'GET / HTTP/1.1\\r\\n\\r\\n' | openssl s_client -ign_eof -verify_return_error \"$@\"";
        command.args(["-c", script, "openssl", "-connect", &format!("{}:{}", at.0, at.1)]);
        command.args(["-servername", name, "-verify_hostname", name, "-CAfile"]).arg(&self.certificate);
        from.succeed(command, RUN)
    }
}

/// Whether what these tests need is there.
fn equipped() -> bool {
    program(&["curl"]).is_some() && program(&["openssl"]).is_some() && python("tls_server.py").is_some()
}

fn counted(pod: &SidecarPod, name: &str) -> f64 {
    pod.metric("weft_tls_connections_total", &[&format!("sni=\"{name}\"")])
}

#[test]
fn sessions_between_two_pods_are_whole_and_go_inside_the_meshs_own_tls() {
    in_pods!(sessions_between_two_pods_are_whole_and_go_inside_the_meshs_own_tls, || {
        if !equipped() {
            return;
        }
        let config = vec![("mesh.yaml", PERMISSIVE.to_owned())];
        let mesh = Mesh::start(weft(), Options { config, ..Options::default() });
        let (server, client) = (mesh.pod("server", "server:8443"), mesh.pod("client", ""));
        let stranger = mesh.pod_without_sidecar("stranger");
        let name = "app-7f3a9c.example.com";
        let certificate = Certificate::make(mesh.scratch(), "app", &[name]);
        let _app = certificate.serve(&server, 8443, "server");
        let at = (server.address(), 8443);

        let capture = mesh.in_hub(Capture::start);
        let expected = format!("server {name} TLSv1.3 http/1.1");
        assert_eq!(certificate.curl(&client, name, at).trim(), expected);
        let said = certificate.python(&client, name, at);
        assert!(said.contains(&certificate.text()), "the app's own certificate: {said}");
        assert!(said.contains(&format!("server {name} TLSv1.3 None")), "{said}");
        let said = certificate.openssl(&client, name, at);
        assert!(said.contains(&certificate.text()) && said.contains("Verify return code: 0 (ok)"), "{said}");
        assert!(said.contains(&format!("server {name} TLSv1.3 None")), "{said}");
        let seen = mesh.in_hub(|| capture.finish());
        let shows = |what: &str| seen.windows(what.len()).any(|window| window == what.as_bytes());
        assert!(!seen.is_empty() && !shows(name), "whom the app asks for crosses the link in the clear");
        assert!(shows("p8443.weft.internal"), "the mesh's own TLS was captured");

        assert_eq!(counted(&client, name) as u64, 3);
        let mutual = ["direction=\"outbound\"", "protocol=\"tls\"", "tls=\"mutual\""];
        assert_eq!(client.metric("weft_connections_total", &mutual) as u64, 3);

        // From a pod without a sidecar it is what it is.
        assert_eq!(certificate.curl(&stranger, name, at).trim(), expected);
    });
}

#[test]
fn a_session_goes_where_a_route_sends_the_name_that_it_asks_for() {
    in_pods!(a_session_goes_where_a_route_sends_the_name_that_it_asks_for, || {
        if !equipped() {
            return;
        }
        let mesh = Mesh::start(weft(), Options::default());
        let (one, two) = (mesh.pod("one", "one:8443"), mesh.pod("two", "two:8443"));
        let client = mesh.pod("client", "");
        let certificate = |file: &str, names: &[&str]| Certificate::make(mesh.scratch(), file, names);
        let first = certificate("one", &["one.example.com"]);
        let second = certificate("two", &["two.example.com", "three.example.com"]);
        let _apps = [first.serve(&one, 8443, "one"), second.serve(&two, 8443, "two")];
        let route = |name: &str, hosts: &str, to: &str| {
            format!(
                "---\napiVersion: gateway.networking.k8s.io/v1\nkind: TLSRoute\nmetadata: {{name: {name}}}\nspec:\n  \
                 parentRefs: [{{group: \"\", kind: Service, name: front}}]\n  hostnames: [{hosts}]\n  \
                 rules: [{{backendRefs: [{{name: {to}, port: 8443}}]}}]\n"
            )
        };
        let front = "apiVersion: v1\nkind: Service\nmetadata: {name: front}\nspec: {clusterIP: 10.96.5.1, ports: [{port: 443}]}\n";
        let routes = [
            front.to_owned(),
            route("one", "one.example.com", "one"),
            route("rest", "\"*.example.com\"", "two"),
        ];
        let file = mesh.scratch().join("routes.yaml");
        fs::write(&file, routes.concat()).expect("a file");
        mesh.weft_ok(&["apply", "-f", file.to_str().expect("a path")]);
        let front = ("10.96.5.1".parse().expect("an address"), 443);
        eventually("the route is in force", Duration::from_secs(10), || {
            let status = mesh.weft_json(&["status", "-A"]);
            status.as_array().is_some_and(|all| all.iter().all(|sidecar| sidecar["in_sync"] == true))
        });
        for (certificate, name, app) in [
            (&first, "one.example.com", "one"),
            (&second, "two.example.com", "two"),
            (&second, "three.example.com", "two"),
        ] {
            let said = certificate.curl(&client, name, front);
            assert_eq!(said.trim(), format!("{app} {name} TLSv1.3 http/1.1"));
            assert!(certificate.python(&client, name, front).contains(&certificate.text()));
            assert_eq!(counted(&client, name) as u64, 2);
        }
        let mutual = ["direction=\"outbound\"", "protocol=\"tls\"", "tls=\"mutual\""];
        assert_eq!(client.metric("weft_connections_total", &mutual) as u64, 6);
    });
}

#[test]
fn a_session_with_a_host_outside_is_passed_through_and_counted() {
    in_pods!(a_session_with_a_host_outside_is_passed_through_and_counted, || {
        if !equipped() {
            return;
        }
        let mesh = Mesh::start(weft(), Options::default());
        let (client, outside) = (mesh.pod("client", ""), mesh.pod_without_sidecar("outside"));
        let name = "outside.example.net";
        let certificate = Certificate::make(mesh.scratch(), "outside", &[name]);
        let _app = certificate.serve(&outside, 8443, "outside");
        let at = (outside.address(), 8443);
        assert_eq!(certificate.curl(&client, name, at).trim(), format!("outside {name} TLSv1.3 http/1.1"));
        assert!(certificate.python(&client, name, at).contains(&certificate.text()));
        assert!(certificate.openssl(&client, name, at).contains("Verify return code: 0 (ok)"));
        assert_eq!(counted(&client, name) as u64, 3);
    });
}
