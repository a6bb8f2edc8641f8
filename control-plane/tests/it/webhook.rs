//! The injector over TLS, as the API server calls it.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::mesh::Mesh;

async fn start() -> Mesh {
    let flags = ["--webhook-addr", "127.0.0.1:0", "--inject", "image.registry=registry.example/mesh"];
    Mesh::start_in(Arc::new(TempDir::new().unwrap()), &flags).await
}

/// Calls it with nothing but the anchors that the API server is told of: no client certificate, a DNS name.
async fn post(mesh: &Mesh, path: &str, body: impl Into<Bytes>) -> (StatusCode, String) {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in rustls::pki_types::CertificateDer::pem_slice_iter(mesh.handle.ca_pem.as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let settings = rustls::ClientConfig::builder_with_provider(provider);
    let settings = settings.with_safe_default_protocol_versions().unwrap();
    let mut settings = settings.with_root_certificates(roots).with_no_client_auth();
    // As Go's client offers them.
    settings.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = TcpStream::connect(mesh.handle.webhook.unwrap()).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(settings)).connect(name, stream).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    let request = Request::post(path).header("host", "weft-injector.weft.svc");
    let request = request.header("content-type", "application/json").body(Full::new(body.into())).unwrap();
    let exchange = async {
        let response = sender.send_request(request).await.unwrap();
        let status = response.status();
        (
            status,
            String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap(),
        )
    };
    tokio::select! {
        answer = exchange => answer,
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

fn review(pod: &Value) -> String {
    let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
    let request =
        json!({"uid": "u-1", "kind": kind, "operation": "CREATE", "namespace": "shop", "object": pod});
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string()
}

#[tokio::test]
async fn the_api_server_is_answered_over_tls_that_our_anchors_prove() {
    let mesh = start().await;
    let pod = json!({"metadata": {"generateName": "web-"}, "spec": {"containers": [{"name": "app", "image": "a"}]}});
    let (status, body) = post(&mesh, "/inject?timeout=5s", review(&pod)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    let response = &answer["response"];
    assert_eq!((&response["uid"], &response["allowed"]), (&json!("u-1"), &json!(true)));
    assert_eq!(response["patchType"], "JSONPatch");
    use base64::Engine as _;
    let patch =
        base64::engine::general_purpose::STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    let patch = String::from_utf8(patch).unwrap();
    assert!(patch.contains("registry.example/mesh/weft-proxy:") && patch.contains("weft-init"), "{patch}");

    // What is not answered fails as such, and the webhook goes on.
    for (path, body, expected) in [
        ("/inject", "{".to_owned(), StatusCode::BAD_REQUEST),
        ("/inject", "{}".to_owned(), StatusCode::BAD_REQUEST),
        ("/other", review(&pod), StatusCode::NOT_FOUND),
    ] {
        let (status, _) = post(&mesh, path, body).await;
        assert_eq!(status, expected, "{path}");
    }
    let large = json!({"name": "app", "image": "a", "args": ["v".repeat(1 << 20)]});
    let (status, _) =
        post(&mesh, "/inject", review(&json!({"metadata": {}, "spec": {"containers": [large]}}))).await;
    assert_eq!(status, StatusCode::OK);
}
