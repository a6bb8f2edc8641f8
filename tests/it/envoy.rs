//! Envoy as a peer that speaks mutual TLS by itself, with its SPIFFE validator: as a client of a sidecar's, and as a server that a
//! sidecar calls. Each side checks who the other is.

use std::fs;
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use weft_tests::{App, HttpClient, Mesh, Options, Process, SidecarPod, eventually, python};

use crate::{in_pods, weft};

const PATIENCE: Duration = Duration::from_secs(30);
/// Where Envoy's app would call: the server, and the server as somebody whom it is not.
const SERVER: u16 = 9001;
const IMPOSTOR: u16 = 9002;

fn id(account: &str) -> String {
    format!("spiffe://mesh.local/ns/default/sa/{account}")
}

/// What Envoy proves, and whom it believes; `expected` where it expects somebody.
fn tls(identity: &Path, expected: Option<&str>) -> Value {
    let file = |name: &str| json!({"filename": identity.join(name)});
    let bundle = json!({"name": "mesh.local", "trust_bundle": file("ca.crt")});
    let mut validation = json!({
        "custom_validator_config": {
            "name": "envoy.tls.cert_validator.spiffe",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
                "trust_domains": [bundle],
            },
        },
    });
    if let Some(account) = expected {
        let matcher = json!({"san_type": "URI", "matcher": {"exact": id(account)}});
        validation["match_typed_subject_alt_names"] = json!([matcher]);
    }
    json!({
        "alpn_protocols": ["http/1.1"],
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificates": [{"certificate_chain": file("tls.crt"), "private_key": file("tls.key")}],
        "validation_context": validation,
    })
}

fn at(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn http(route: &Value) -> Value {
    json!({
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "http",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [{
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }],
        },
    })
}

/// A way from its own pod to the server's sidecar.
fn way(port: u16, name: &str) -> Value {
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": name}});
    json!({"name": name, "address": at("127.0.0.1", port), "filter_chains": [{"filters": [http(&route)]}]})
}

fn cluster(name: &str, server: IpAddr, identity: &Path, expected: &str) -> Value {
    let endpoint = json!({"endpoint": {"address": at(&server.to_string(), 4143)}});
    json!({
        "name": name,
        "type": "STATIC",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": "p8080.weft.internal",
                "common_tls_context": tls(identity, Some(expected)),
            },
        },
    })
}

/// Where sidecars call: it answers who they are.
fn inbound(identity: &Path) -> Value {
    let said = json!({"header": {"key": "x-peer", "value": "%DOWNSTREAM_PEER_URI_SAN%"}});
    let route = json!({
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": "envoy"}},
        "response_headers_to_add": [said],
    });
    let secured = json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": true,
            "common_tls_context": tls(identity, None),
        },
    });
    json!({
        "name": "inbound",
        "address": at("0.0.0.0", 4143),
        "listener_filters": [{
            "name": "envoy.filters.listener.tls_inspector",
            "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"},
        }],
        "filter_chains": [{
            "filter_chain_match": {"server_names": ["p8443.weft.internal"]},
            "filters": [http(&route)],
            "transport_socket": secured,
        }],
    })
}

fn start(pod: &SidecarPod, server: IpAddr, identity: &Path, folder: &Path) -> Option<Process> {
    let bootstrap = json!({"static_resources": {
        "listeners": [way(SERVER, "server"), way(IMPOSTOR, "impostor"), inbound(identity)],
        "clusters": [cluster("server", server, identity, "server"), cluster("impostor", server, identity, "other")],
    }});
    let path = folder.join("envoy.json");
    fs::write(&path, bootstrap.to_string()).expect("a configuration");
    let mut command = python("envoy_peer.py")?;
    command.arg(path);
    let mut envoy = pod.app_called("envoy", command);
    eventually("Envoy listens", PATIENCE, || {
        assert!(envoy.is_running(), "{}", envoy.output());
        pod.run(|| TcpStream::connect(("127.0.0.1", SERVER)).is_ok())
    });
    Some(envoy)
}

/// The gateway's certificate, by a token for one use, and then by itself.
fn fetch(mesh: &Mesh) -> PathBuf {
    let (token, out) = (mesh.scratch().join("gateway.token"), mesh.scratch().join("identity"));
    let made =
        mesh.weft_ok(&["token", "create", "--service-account", "gateway", "--ttl", "10m", "--uses", "1"]);
    fs::write(&token, made).expect("a file");
    let [token, into] = [&token, &out].map(|path| path.to_str().expect("a path"));
    mesh.weft_ok(&["identity", "fetch", "gateway-1", "--token-file", token, "--out", into]);
    let first = fs::read(out.join("tls.crt")).expect("a certificate");
    mesh.weft_ok(&["identity", "fetch", "gateway-1", "--out", into]);
    assert_ne!(fs::read(out.join("tls.crt")).expect("a certificate"), first, "renewed without a token");
    out
}

fn document(gateway: IpAddr, account: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: Workload\nmetadata: {{name: gateway-1}}\n\
         spec: {{address: {gateway}, ports: [{{port: 8443, protocol: http}}], serviceAccount: {account}, mtls: true}}\n"
    )
}

#[test]
fn envoy_and_a_sidecar_prove_to_each_other_who_they_are_whoever_calls() {
    in_pods!(envoy_and_a_sidecar_prove_to_each_other_who_they_are_whoever_calls, || {
        if python("envoy_peer.py").is_none() {
            return;
        }
        let mesh = Mesh::start(weft(), Options::default());
        let (server, client) = (mesh.pod("server", "server:8080"), mesh.pod("client", ""));
        let _app = App::echo(&server, 8080);
        let gateway = mesh.pod_without_sidecar("gateway");
        let identity = fetch(&mesh);
        let envoy = start(&gateway, server.address(), &identity, mesh.scratch()).expect("Envoy");

        // As a client: the app is told who calls, and Envoy calls nobody but whom it expects.
        let through = |port: u16| {
            gateway.run(|| HttpClient::connect(("127.0.0.1", port)).ok()?.get("server", "/", "").ok())
        };
        eventually("the server answers Envoy", PATIENCE, || {
            through(SERVER).is_some_and(|answer| answer.status == 200)
        });
        let answer = through(SERVER).expect("an answer");
        let told = format!("weft-client-id: {}", id("gateway"));
        assert!(answer.text().to_ascii_lowercase().contains(&told), "{}", answer.text());
        let other = through(IMPOSTOR).expect("an answer");
        assert_eq!(other.status, 503, "{}", other.text());

        // As a server: Envoy is told who calls, and the sidecar calls nobody but whom the document says.
        let policy = mesh.config().join("gateway.yaml");
        let call = || {
            client.run(|| HttpClient::connect((gateway.address(), 8443)).ok()?.get("gateway", "/", "").ok())
        };
        fs::write(&policy, document(gateway.address(), "gateway")).expect("a document");
        eventually("Envoy answers", PATIENCE, || call().is_some_and(|answer| answer.status == 200));
        let answer = call().expect("an answer");
        assert_eq!(answer.header("x-peer"), Some(id("client").as_str()), "{}", envoy.output());
        fs::write(&policy, document(gateway.address(), "impostor")).expect("a document");
        eventually("nobody else is called", PATIENCE, || {
            call().is_some_and(|answer| answer.header("weft-error") == Some("tls-failed"))
        });

        // And who is revoked is a peer no more.
        mesh.weft_ok(&["identity", "revoke", &id("gateway")]);
        eventually("Envoy is not let in", PATIENCE, || {
            through(SERVER).is_some_and(|answer| answer.status == 503)
        });
    });
}
