//! Who gets a certificate, and what the port demands.

use std::time::Duration;

use tonic::{Code, Request};
use weft_proto::v1;
use weft_proto::v1::admin_client::AdminClient;
use weft_proto::v1::discovery_client::DiscoveryClient;
use weft_proto::v1::identity_client::IdentityClient;

use crate::mesh::{Mesh, sign_request, with_bearer};
use crate::sidecar::{Sidecar, hello, offer, offering};

#[tokio::test]
async fn a_token_gives_a_certificate_of_its_service_account() {
    let mesh = Mesh::start().await;
    let credentials = mesh.join("web", "web-1").await;
    assert_eq!(credentials.identity().as_str(), "spiffe://mesh.local/ns/default/sa/web");
    let mut admin = mesh.admin().await;
    let listed = admin.identities(v1::IdentitiesRequest::default()).await.unwrap().identities;
    assert_eq!(listed.len(), 1);
    assert_eq!(
        (listed[0].workload.as_str(), listed[0].serial.as_str()),
        ("web-1", credentials.serial().as_str())
    );
}

#[tokio::test]
async fn a_certificate_renews_itself_with_its_grant() {
    let mesh = Mesh::start().await;
    let first = mesh.join("orders", "orders-1").await;
    let (request, key) = sign_request("orders-1");
    let second = mesh.sign_with(mesh.known(&first).await, request, &key).await.unwrap();
    assert_ne!(first.serial(), second.serial());
    let mut sidecar = Sidecar::sync(mesh.known(&second).await, offering("orders", 1)).await.unwrap();
    sidecar.take().await;
}

#[tokio::test]
async fn certificates_may_live_a_single_second_or_two() {
    let dir = std::sync::Arc::new(tempfile::TempDir::new().unwrap());
    let mesh = Mesh::start_in(dir, &["--certificate-ttl", "2s"]).await;
    let credentials = mesh.join("web", "web-1").await;
    let life = credentials.not_after().duration_since(std::time::SystemTime::now()).unwrap();
    assert!(life <= Duration::from_secs(3), "{life:?}");
}

async fn refused(mesh: &Mesh, token: &str) -> (Code, String) {
    let status = mesh.sign(token, "web-1").await.unwrap_err();
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn every_bad_token_is_refused_with_its_reason() {
    let mesh = Mesh::start().await;
    let mut admin = mesh.admin().await;
    let wanted = |uses| v1::CreateTokenRequest { service_account: "web".into(), uses, ..Default::default() };

    let once = admin.create_token(wanted(1)).await.unwrap();
    mesh.sign(&once.token, "web-1").await.unwrap();
    let (code, reason) = refused(&mesh, &once.token).await;
    assert_eq!(code, Code::Unauthenticated);
    assert!(reason.contains("no uses left"), "{reason}");

    let revoked = admin.create_token(wanted(0)).await.unwrap();
    admin.revoke_token(v1::RevokeTokenRequest { id: revoked.id }).await.unwrap();
    assert!(refused(&mesh, &revoked.token).await.1.contains("revoked"));

    let good = admin.create_token(wanted(0)).await.unwrap().token;
    let tampered = good.replacen('.', ".e", 1);
    assert!(refused(&mesh, &tampered).await.1.contains("signature is wrong"));

    let foreign = Mesh::start().await.token("web").await;
    assert!(refused(&mesh, &foreign).await.1.contains("signature is wrong"));

    let admin_token = mesh.handle.admin_token.reveal().to_owned();
    assert!(refused(&mesh, &admin_token).await.1.contains("no join token"));

    let (request, _) = sign_request("web-1");
    let status = IdentityClient::new(mesh.stranger().await).sign(request).await.unwrap_err();
    assert!(status.message().contains("neither a join token nor a client certificate"), "{status}");
    let metrics = page(&mesh, "/metrics").await;
    assert!(metrics.contains("weft_certificates_refused_total 6"), "{metrics}");
}

#[tokio::test]
async fn a_request_for_another_identity_is_refused() {
    let mesh = Mesh::start().await;
    let token = mesh.token("web").await;
    let (request, _) = sign_request("web-1");
    let bad = v1::SignRequest { csr: vec![0x30, 0], ..request.into_inner() };
    let (request, ()) = with_bearer(&token, (Request::new(bad), ()));
    let status = IdentityClient::new(mesh.stranger().await).sign(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let (request, _) = with_bearer(&token, sign_request("Not A Name"));
    let status = IdentityClient::new(mesh.stranger().await).sign(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
}

#[tokio::test]
async fn one_workload_cannot_ask_for_certificates_without_end() {
    let mesh = Mesh::start().await;
    let credentials = mesh.join("web", "web-1").await;
    let channel = mesh.known(&credentials).await;
    let mut refused = None;
    for _ in 0..200 {
        let (request, key) = sign_request("web-1");
        if let Err(status) = mesh.sign_with(channel.clone(), request, &key).await {
            refused = Some(status);
            break;
        }
    }
    assert_eq!(refused.expect("a limit").code(), Code::ResourceExhausted);
    let (request, key) = sign_request("web-2");
    mesh.sign_with(channel, request, &key).await.unwrap();
}

#[tokio::test]
async fn tokens_are_listed_with_what_is_left_of_them() {
    let mesh = Mesh::start().await;
    let mut admin = mesh.admin().await;
    let made = v1::CreateTokenRequest {
        service_account: "web".into(),
        services: vec!["web".into(), "shop".into()],
        uses: 3,
        ttl_seconds: 60,
        ..Default::default()
    };
    let made = admin.create_token(made).await.unwrap();
    mesh.sign(&made.token, "web-1").await.unwrap();
    let listed = admin.list_tokens(v1::ListTokensRequest {}).await.unwrap().tokens;
    assert_eq!(
        (listed[0].id.as_str(), listed[0].uses_left, listed[0].unlimited),
        (made.id.as_str(), 2, false)
    );
    assert_eq!(listed[0].services, ["shop", "web"]);
    let none = admin.revoke_token(v1::RevokeTokenRequest { id: "none".into() }).await;
    assert_eq!(none.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn only_the_admin_token_administers() {
    let mesh = Mesh::start().await;
    let join = mesh.token("web").await;
    let cases = [(join.as_str(), "a join token does not administer"), ("x", "not the admin token")];
    for (token, expected) in cases {
        let (request, ()) = with_bearer(token, (Request::new(v1::StatusRequest::default()), ()));
        let status = AdminClient::new(mesh.stranger().await).status(request).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated);
        assert!(status.message().contains(expected), "{status}");
    }
    let request = Request::new(v1::StatusRequest::default());
    let status = AdminClient::new(mesh.stranger().await).status(request).await.unwrap_err();
    assert!(status.message().contains("missing"), "{status}");
}

#[tokio::test]
async fn a_stream_needs_a_certificate() {
    let mesh = Mesh::start().await;
    let mut client = DiscoveryClient::new(mesh.stranger().await);
    let status = client.sync(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
}

#[tokio::test]
async fn what_is_not_granted_may_not_be_offered() {
    let mesh = Mesh::start().await;
    let credentials = mesh.join("web", "web-1").await;
    let asked = v1::Hello { offers: vec![offer("payments")], ..hello("web-1") };
    let mut sidecar = Sidecar::sync(mesh.known(&credentials).await, asked).await.unwrap();
    let status = sidecar.push().await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("may not offer the service payments"), "{status}");
    assert!(mesh.admin().await.sidecar("web-1").await.is_none());
}

#[tokio::test]
async fn anothers_name_cannot_be_taken_while_it_is_connected() {
    let mesh = Mesh::start().await;
    let _web = Sidecar::ready(&mesh, "web", hello("one")).await;
    let mut thief = Sidecar::start(&mesh, "thief", hello("one")).await;
    let status = thief.push().await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists, "{status}");
}

#[tokio::test]
async fn garbage_on_any_port_ends_its_connection_only() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mesh = Mesh::start().await;
    for address in [mesh.handle.grpc, mesh.handle.http, mesh.handle.otlp] {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(&[0xff; 4096]).await.unwrap();
        let mut answer = Vec::new();
        // Closed or reset: either way it is over.
        let ended = tokio::time::timeout(crate::mesh::PATIENCE, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "{address} keeps a connection of garbage");
    }
    mesh.join("web", "web-1").await;
    assert!(page(&mesh, "/metrics").await.contains("weft_tls_handshakes_failed_total{reason=\"failed\"} 1"));
}

/// A page of the HTTP port.
pub(crate) async fn page(mesh: &Mesh, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(mesh.handle.http).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}
