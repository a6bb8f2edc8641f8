//! Kubernetes service accounts, proved by keys and by an API server's word.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::{Code, Status};
use weft_certs::{Authority, IssueParams, KeyPair, request};

use crate::mesh::{Mesh, sign_request};

const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Who issues tokens.
struct Cluster(EcdsaKeyPair);

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Cluster {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    fn write_keys(&self, path: &Path) {
        let point = &self.0.public_key().as_ref()[1..];
        let (x, y) = point.split_at(32);
        let key =
            json!({"kty": "EC", "crv": "P-256", "kid": "k", "use": "sig", "x": encode(x), "y": encode(y)});
        fs::write(path, json!({"keys": [key]}).to_string()).unwrap();
    }

    fn token(&self, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": "k"});
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", encode(signature))
    }
}

/// As a kubelet projects them.
fn claims(account: &str, pod: &str) -> Value {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    json!({
        "iss": ISSUER,
        "aud": ["weft"],
        "sub": format!("system:serviceaccount:shop:{account}"),
        "iat": now,
        "nbf": now,
        "exp": now + 3600,
        "kubernetes.io": {
            "namespace": "shop",
            "serviceaccount": {"name": account, "uid": "1"},
            "pod": {"name": pod, "uid": "2"},
        },
    })
}

/// The same where one of them is another.
fn but(name: &str, value: Value) -> Value {
    let mut claims = claims("web", "web-7");
    claims[name] = value;
    claims
}

#[tokio::test]
async fn a_pod_joins_by_its_projected_token_and_by_nothing_else() {
    let dir = Arc::new(TempDir::new().unwrap());
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let keys = dir.path().join("keys.json");
    cluster.write_keys(&keys);
    let source = format!("issuer={ISSUER},jwks={}", keys.display());
    let mesh = Mesh::start_in(dir, &["--kubernetes-tokens", &source]).await;
    let token = cluster.token(&claims("web", "web-7"));
    let credentials = mesh.sign(&token, "web-7").await.unwrap();
    assert_eq!(credentials.identity().as_str(), "spiffe://mesh.local/ns/shop/sa/web");
    // Join tokens are as good as ever.
    mesh.join("web", "web-1").await;

    let refused = async |token: String, reason: &str| {
        let status = mesh.sign(&token, "web-7").await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        assert!(status.message().contains(reason), "{status}, not {reason}");
    };
    refused(other.token(&claims("web", "web-7")), "signature is wrong").await;
    refused(cluster.token(&claims("web", "web-8")), "of the pod web-8, not of web-7").await;
    refused(cluster.token(&but("aud", json!(["api"]))), "meant for someone else").await;
    refused(cluster.token(&but("iss", json!("https://other"))), "issuer is not taken").await;
    refused(cluster.token(&but("exp", json!(1_700_000_000))), "has expired").await;
    refused(cluster.token(&but("exp", Value::Null)), "wrong type").await;
    refused(cluster.token(&but("sub", json!("system:node:a"))), "not a service account's").await;
    refused(cluster.token(&but("sub", json!("system:serviceaccount:shop:orders"))), "different accounts")
        .await;
    refused(cluster.token(&but("kubernetes.io", json!({"namespace": "other"}))), "different accounts").await;
    let mut own = claims("control-plane", "web-7");
    own["sub"] = json!("system:serviceaccount:weft:control-plane");
    own["kubernetes.io"]["namespace"] = json!("weft");
    refused(cluster.token(&own), "control plane's own identity").await;
    let unsigned = format!("{}.{}.", encode(r#"{"alg":"none"}"#), encode(claims("web", "web-7").to_string()));
    refused(unsigned, "not signed").await;

    // Each renewal is by a token of its own: an account that is gone renews nothing.
    let (request, key) = sign_request("web-7");
    let renewal = mesh.sign_with(mesh.known(&credentials).await, request, &key).await.unwrap_err();
    assert_eq!(renewal.code(), Code::Unauthenticated);
    assert!(renewal.message().contains("renewed by its token"), "{renewal}");
    // Keys that follow one another are read anew.
    other.write_keys(&keys);
    mesh.sign(&other.token(&claims("web", "web-7")), "web-7").await.unwrap();
    refused(token, "signature is wrong").await;
}

#[tokio::test]
async fn where_they_are_not_taken_it_is_said_what_would_take_them() {
    let mesh = Mesh::start().await;
    let status = mesh.sign(&Cluster::new().token(&claims("web", "web-7")), "web-7").await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("--kubernetes-tokens"), "{status}");
}

/// An API server that knows TokenReview, and says what it is told to.
struct Double {
    api: String,
    answer: Arc<Mutex<Value>>,
    asked: Arc<Mutex<Vec<Value>>>,
}

impl Double {
    async fn start(dir: &Path) -> Self {
        let domain = "mesh.local".parse().unwrap();
        let authority = Authority::create(&domain, SystemTime::now()).unwrap();
        fs::write(dir.join("api.crt"), authority.anchors_pem()).unwrap();
        fs::write(dir.join("api.token"), "our-own-token\n").unwrap();
        let key = KeyPair::generate().unwrap();
        let wanted = IssueParams {
            identity: "spiffe://mesh.local/ns/kube-system/sa/api".parse().unwrap(),
            dns: Vec::new(),
            ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            ttl: Duration::from_hours(1),
            now: SystemTime::now(),
        };
        let issued = authority.sign(&request(&key).unwrap(), &wanted).unwrap();
        let chain = issued.chain.into_iter().map(CertificateDer::from).collect();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let settings =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.to_pem().as_bytes()).unwrap();
        let settings = settings.with_no_client_auth().with_single_cert(chain, key).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let api = format!("https://{}", listener.local_addr().unwrap());
        let (answer, asked) = (Arc::<Mutex<Value>>::default(), Arc::<Mutex<Vec<Value>>>::default());
        let (says, hears) = (answer.clone(), asked.clone());
        weft_runtime::task::spawn("double", async move {
            let tls = TlsAcceptor::from(Arc::new(settings));
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = tls.accept(stream).await else { continue };
                let (says, hears) = (says.clone(), hears.clone());
                let serve = service_fn(move |request| review(request, says.clone(), hears.clone()));
                let http = hyper::server::conn::http1::Builder::new();
                let _ = http.serve_connection(TokioIo::new(stream), serve).await;
            }
        });
        Self { api, answer, asked }
    }

    fn says(&self, status: Value) {
        *self.answer.lock().unwrap() = status;
    }
}

async fn review(
    request: Request<Incoming>,
    says: Arc<Mutex<Value>>,
    hears: Arc<Mutex<Vec<Value>>>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let is_ours = request.headers().get("authorization").is_some_and(|own| own == "Bearer our-own-token");
    let is_there = request.uri().path() == "/apis/authentication.k8s.io/v1/tokenreviews";
    let body = request.into_body().collect().await?.to_bytes();
    hears.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
    let answer = json!({"kind": "TokenReview", "status": *says.lock().unwrap()});
    let mut response = Response::new(Full::from(answer.to_string()));
    *response.status_mut() = match (is_ours, is_there) {
        (true, true) => http::StatusCode::CREATED,
        (false, _) => http::StatusCode::UNAUTHORIZED,
        (true, false) => http::StatusCode::NOT_FOUND,
    };
    Ok(response)
}

#[tokio::test]
async fn an_api_servers_word_is_asked_for_with_our_own_token_and_taken() {
    let dir = Arc::new(TempDir::new().unwrap());
    let double = Double::start(dir.path()).await;
    let at = |name: &str| dir.path().join(name).display().to_string();
    let source = format!("review,api={},ca={},token={}", double.api, at("api.crt"), at("api.token"));
    let own = at("api.token");
    let mesh = Mesh::start_in(dir.clone(), &["--kubernetes-tokens", &source]).await;
    let user = json!({
        "username": "system:serviceaccount:shop:web",
        "extra": {"authentication.kubernetes.io/pod-name": ["web-7"]},
    });
    let good = json!({"authenticated": true, "audiences": ["weft"], "user": user});
    let token = Cluster::new().token(&claims("web", "web-7"));
    let sign = async |pod: &str| mesh.sign(&token, pod).await;

    double.says(good.clone());
    let credentials = sign("web-7").await.unwrap();
    assert_eq!(credentials.identity().as_str(), "spiffe://mesh.local/ns/shop/sa/web");
    let asked = double.asked.lock().unwrap().pop().unwrap();
    assert_eq!(asked["spec"], json!({"token": token, "audiences": ["weft"]}));
    let reason = |signed: Result<_, Status>, code: Code| {
        let status = signed.map(drop).unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        status.message().to_owned()
    };
    assert!(reason(sign("web-8").await, Code::Unauthenticated).contains("of the pod web-7"));

    let with = |name: &str, value: Value| {
        let mut status = good.clone();
        status[name] = value;
        status
    };
    double.says(json!({"authenticated": false, "error": "the pod is gone"}));
    assert!(reason(sign("web-7").await, Code::Unauthenticated).contains("the pod is gone"));
    double.says(with("authenticated", json!("true")));
    reason(sign("web-7").await, Code::Unauthenticated);
    for audiences in [json!(["other"]), Value::Null] {
        double.says(with("audiences", audiences));
        assert!(reason(sign("web-7").await, Code::Unauthenticated).contains("someone else"));
    }
    double.says(with("user", json!({"username": "admin"})));
    assert!(reason(sign("web-7").await, Code::Unauthenticated).contains("not a service account's"));

    // Where the API server cannot say, it is asked again later: this proves nothing of the token.
    fs::write(own, "another").unwrap();
    assert!(reason(sign("web-7").await, Code::Unavailable).contains("401"));
}
