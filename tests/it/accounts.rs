//! Pods that join by the tokens of their Kubernetes service accounts, which a kubelet renews in the file that they read.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use weft_tests::{App, HttpClient, Mesh, Options, eventually};

use crate::{in_pods, weft};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
const PATIENCE: Duration = Duration::from_secs(30);

/// Who issues tokens, for the account `web` of the namespace `shop`.
struct Cluster(Ed25519KeyPair);

impl Cluster {
    fn new() -> Self {
        Self(Ed25519KeyPair::generate().expect("a key"))
    }

    fn write_keys(&self, path: &Path) {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key());
        let keys = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}).to_string();
        let next = path.with_extension("next");
        fs::write(&next, keys).expect("a file");
        fs::rename(next, path).expect("a file");
    }

    fn token(&self, pod: &str) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a clock").as_secs();
        let claims = json!({
            "iss": ISSUER, "aud": ["weft"], "sub": "system:serviceaccount:shop:web", "iat": now, "exp": now + 3600,
            "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "web"}, "pod": {"name": pod}},
        });
        let encode = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(json!({"alg": "EdDSA"})), encode(claims));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes())))
    }
}

#[test]
fn a_pod_joins_and_renews_by_the_token_of_its_account_that_is_there_at_the_time() {
    in_pods!(a_pod_joins_and_renews_by_the_token_of_its_account_that_is_there_at_the_time, || {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = folder.path().join("keys.json");
        let (before, after) = (Cluster::new(), Cluster::new());
        before.write_keys(&keys);
        let flags =
            vec!["--kubernetes-tokens".to_owned(), format!("issuer={ISSUER},jwks={}", keys.display())];
        let mesh = Mesh::start(weft(), Options { flags, certificate_ttl: Some("6s"), ..Options::default() });
        let server = mesh.pod("server", "server:8080");
        let _app = App::echo(&server, 8080);
        let web = mesh.pod_with_token("web", "", &before.token("web-1"), &[]);
        let token = mesh.scratch().join("pod-web/token");
        let replace = |text: String| {
            let next = token.with_extension("next");
            fs::write(&next, text).expect("a token");
            fs::rename(next, &token).expect("a token");
        };
        // Of the one token that there is now, what is there later could not be: its key is gone.
        replace(after.token("web-1"));
        after.write_keys(&keys);
        let told = web.run(|| {
            let mut connection = HttpClient::connect((server.address(), 8080)).expect("a connection");
            connection.get("server", "/", "").expect("an answer").text()
        });
        assert!(told.contains("spiffe://mesh.local/ns/shop/sa/web"), "{told}");
        let serial = || {
            let listed = mesh.weft_json(&["identity", "-n", "shop"]);
            listed[0]["serial"].as_str().map(str::to_owned)
        };
        let first = serial();
        assert!(first.is_some());
        eventually("it has renewed by the new token", PATIENCE, || {
            serial().is_some_and(|now| Some(now) != first)
        });

        // A token of another pod renews nothing.
        replace(after.token("web-9"));
        eventually("it is refused", PATIENCE, || {
            mesh.control_plane_log().contains("is of the pod web-9, not of web-1")
        });
    });
}
