//! One root follows another under load: no request fails, nothing is restarted, and who was away finds back.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use weft_tests::{App, HttpClient, Mesh, Options, SidecarPod, eventually};

use crate::{in_pods, weft};

/// Renewals are spread over seconds, and handshakes that have begun are waited for.
const MOVED: Duration = Duration::from_secs(60);

/// Calls all the while: requests on a connection that is kept, and connections of bytes, each of which is a handshake of its own.
/// How many there were.
fn under_load(client: &SidecarPod, server: &SidecarPod, during: impl FnOnce()) -> u64 {
    let (done, requests) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            client.run(|| {
                let mut kept = HttpClient::connect((server.address(), 8080)).expect("a connection");
                while !done.load(Ordering::Relaxed) {
                    let answer = kept.get("server", "/", "").expect("an answer on a kept connection");
                    assert_eq!(answer.status, 200, "{:?}", answer.header("weft-error"));
                    let mut line = String::new();
                    let store = std::net::TcpStream::connect((server.address(), 7000)).expect("a connection");
                    store.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
                    let read = std::io::BufRead::read_line(&mut std::io::BufReader::new(store), &mut line);
                    assert_eq!((line.as_str(), read.is_ok()), ("hello\n", true), "{}", client.sidecar_log());
                    requests.fetch_add(2, Ordering::Relaxed);
                    std::thread::park_timeout(Duration::from_millis(10));
                }
            });
        });
        during();
        done.store(true, Ordering::Relaxed);
    });
    requests.into_inner()
}

/// An authority as cert-manager would write it: a root that names the trust domain, and an issuing certificate below it.
struct Given {
    root: String,
    issuing: String,
    key: String,
}

impl Given {
    fn new(name: &str) -> Self {
        let params = |name: String| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.subject_alt_names = vec![SanType::URI("spiffe://mesh.local".try_into().expect("a URI"))];
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
            params.use_authority_key_identifier_extension = true;
            params
        };
        let (root_key, key) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
        let above = params(format!("root {name}"));
        let root = above.self_signed(&root_key).expect("a certificate").pem();
        let issuer = Issuer::new(above, root_key);
        let issuing =
            params(format!("issuing {name}")).signed_by(&key, &issuer).expect("a certificate").pem();
        Self { root, issuing, key: key.serialize_pem() }
    }

    /// Swaps what is there by one symbolic link.
    fn write(&self, folder: &Path, version: &str) {
        let own = folder.join(version);
        fs::create_dir(&own).expect("a folder");
        for (name, text) in [("tls.crt", &self.issuing), ("tls.key", &self.key), ("ca.crt", &self.root)] {
            fs::write(own.join(name), text).expect("a file");
        }
        std::os::unix::fs::symlink(version, folder.join("next")).expect("a link");
        fs::rename(folder.join("next"), folder.join("given")).expect("a link");
    }
}

#[test]
fn an_authority_in_files_is_followed_to_another_root_and_no_request_fails() {
    in_pods!(an_authority_in_files_is_followed_to_another_root_and_no_request_fails, || {
        let folder = tempfile::tempdir().expect("a folder");
        let (one, two) = (Given::new("one"), Given::new("two"));
        one.write(folder.path(), "1");
        let at = |name: &str| -> PathBuf { folder.path().join("given").join(name) };
        let files = [("--ca-cert", "tls.crt"), ("--ca-key", "tls.key"), ("--ca-roots", "ca.crt")];
        let flags =
            files.iter().flat_map(|(flag, name)| [(*flag).to_owned(), at(name).display().to_string()]);
        let mesh = Mesh::start(weft(), Options { flags: flags.collect(), ..Options::default() });
        let (server, client) = (mesh.pod("server", "server:8080,store:7000"), mesh.pod("client", ""));
        let _apps = (App::echo(&server, 8080), App::greeter(&server, 7000, "hello\n"));
        let status = || {
            // With what the roots are now: nobody signs the new one by the old one here.
            let roots = mesh.data().join("ca.pem");
            mesh.weft_json(&["ca", "status", "--ca", roots.to_str().expect("a path")])
        };
        assert_eq!(status()["issuing"], "issuing one");
        let requests = under_load(&client, &server, || {
            fs::write(at("tls.crt"), &two.issuing).expect("a file");
            eventually("half of it is not taken", MOVED, || {
                !status()["trouble"].as_str().unwrap_or_default().is_empty()
            });
            assert_eq!(status()["issuing"], "issuing one");
            two.write(folder.path(), "2");
            eventually("the mesh has moved", MOVED, || {
                let status = status();
                status["phase"] == "steady" && status["issuing"] == "issuing two"
            });
        });
        assert!(requests > 20, "there was load: {requests}");
        assert_eq!(status()["roots"].as_array().map(Vec::len), Some(1), "{}", status());
        let metrics =
            mesh.in_hub(|| HttpClient::connect("127.0.0.1:7080").ok()?.get("localhost", "/metrics", "").ok());
        let metrics = metrics.expect("metrics").text();
        for certificate in ["root", "issuing"] {
            let series = format!("weft_ca_certificate_expiry_seconds{{certificate=\"{certificate}\"}} ");
            assert!(metrics.contains(&series), "{metrics}");
        }
    });
}

#[test]
fn a_move_to_another_root_fails_no_request_and_restarts_nothing() {
    in_pods!(a_move_to_another_root_fails_no_request_and_restarts_nothing, || {
        let mut mesh = Mesh::start(weft(), Options::default());
        let server = mesh.pod("server", "server:8080,store:7000");
        let mut client = mesh.pod("client", "");
        let _apps = (App::echo(&server, 8080), App::greeter(&server, 7000, "hello\n"));
        let status = |mesh: &Mesh| mesh.weft_json(&["ca", "status"]);
        let first = status(&mesh)["roots"][0]["fingerprint"].clone();
        let requests = under_load(&client, &server, || {
            assert_eq!(mesh.weft_json(&["ca", "rotate"])["phase"], "announced");
            eventually("the mesh has moved", MOVED, || {
                let status = status(&mesh);
                status["phase"] == "steady" && status["roots"][0]["fingerprint"] != first
            });
        });
        assert!(requests > 200, "there was load: {requests}");
        let now = status(&mesh);
        assert_eq!(now["roots"].as_array().map(Vec::len), Some(1), "{now}");
        assert_eq!(now["roots"][0]["certificates"], 2);
        let issuer = now["issuing"].clone();
        for identity in mesh.weft_json(&["identity"]).as_array().expect("a list") {
            assert_eq!(identity["issuer"], issuer, "{identity}");
        }

        // The file that a sidecar was started with still has the old root alone; so has a new one's.
        client.sidecar().kill();
        client.start_sidecar();
        client.wait_until_ready();
        let late = mesh.pod("late", "");
        late.run(|| {
            let mut fresh = HttpClient::connect((server.address(), 8080)).expect("a connection");
            assert_eq!(fresh.get("server", "/", "").expect("an answer").status, 200);
        });
        // Without the control plane, from what is on disk.
        mesh.kill_control_plane();
        client.sidecar().kill();
        client.start_sidecar();
        client.wait_until_ready();
        client.run(|| {
            let mut fresh = HttpClient::connect((server.address(), 8080)).expect("a connection");
            assert_eq!(fresh.get("server", "/", "").expect("an answer").status, 200);
        });
    });
}
