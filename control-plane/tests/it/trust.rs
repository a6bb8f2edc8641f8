//! Roots that follow one another, and who is believed no longer.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tonic::{Code, Status};
use weft_certs::{Credentials, alpn, anchored_client_config, pem};
use weft_proto::v1::identity_client::IdentityClient;
use weft_proto::v1::{self, Kind};

use crate::mesh::{Mesh, connect, eventually, sign_request, with_bearer};
use crate::returning::Counters;
use crate::sidecar::{Sidecar, hello, offering, told};

fn trust(push: &v1::Push) -> v1::Trust {
    let resource = push.upserts.iter().find(|r| r.name.as_ref().unwrap().kind() == Kind::Trust);
    <v1::Trust as prost::Message>::decode(resource.expect("trust in the push").body.clone()).unwrap()
}

async fn status(mesh: &Mesh) -> v1::CaStatusResponse {
    mesh.admin().await.ca_status(v1::CaStatusRequest {}).await.unwrap()
}

async fn reaches(mesh: &Mesh, phase: &str) {
    eventually(phase, async || status(mesh).await.phase == phase).await;
}

/// A certificate for a new key, by the one that there is; and that it is used from now on.
async fn renew(mesh: &Mesh, sidecar: &Sidecar, credentials: &Credentials, workload: &str) -> Credentials {
    sidecar.renew(mesh, credentials, workload).await
}

async fn connected(mesh: &Mesh, account: &str) -> (Sidecar, Credentials) {
    let credentials = mesh.join(account, account).await;
    let mut sidecar = Sidecar::sync(mesh.known(&credentials).await, hello(account)).await.unwrap();
    sidecar.take().await;
    (sidecar, credentials)
}

#[tokio::test]
async fn a_root_is_moved_from_step_by_step_each_of_which_waits_and_shows() {
    let mesh = Mesh::start().await;
    let (mut web, old) = connected(&mesh, "web").await;
    let before = status(&mesh).await;
    assert_eq!((before.phase.as_str(), before.roots.len(), before.waits_for.len()), ("steady", 1, 0));
    assert_eq!((before.roots[0].role.as_str(), before.roots[0].certificates), ("signing", 1));

    let announced = mesh.admin().await.rotate_ca(v1::RotateCaRequest::default()).await.unwrap();
    assert_eq!(announced.phase, "announced");
    let again = mesh.admin().await.rotate_ca(v1::RotateCaRequest::default()).await.unwrap_err();
    assert_eq!(again.code(), Code::FailedPrecondition);
    let push = web.push().await.unwrap();
    assert_eq!(told(&push), ["+TRUST mesh.local"]);
    let both = trust(&push);
    assert_eq!(both.anchors.len(), 2);
    let waits = status(&mesh).await;
    assert_eq!(waits.waits_for, ["default/web to trust both roots"]);
    assert_eq!(waits.roots[1].role, "next");
    assert_eq!(
        pem::certificates(&std::fs::read_to_string(mesh.data("ca.pem")).unwrap()).unwrap(),
        both.anchors
    );

    web.ack(push.epoch, Vec::new()).await;
    let moved = trust(&web.take().await);
    assert_eq!(moved.anchors, [both.anchors[1].clone(), both.anchors[0].clone()]);
    assert!(moved.sequence > both.sequence && moved.renew_within_ms > 0);
    reaches(&mesh, "moved").await;
    let waits = status(&mesh).await;
    let expected = "1 certificates of the former root to be renewed, or to end";
    assert_eq!(waits.waits_for, [expected], "{waits:?}");
    assert_ne!(waits.issuing, before.issuing);

    let new = renew(&mesh, &web, &old, "web").await;
    assert!(new.is_of_first_anchor());
    let counts = async || {
        let roots = status(&mesh).await.roots;
        roots.iter().map(|root| root.certificates).collect::<Vec<_>>()
    };
    // The old one may still be judged by handshakes that have begun.
    assert_eq!(counts().await, [1, 1]);
    let after = trust(&web.push().await.unwrap());
    assert_eq!(after.anchors, moved.anchors[..1]);
    reaches(&mesh, "steady").await;
    assert_eq!(counts().await, [1]);
}

#[tokio::test]
async fn a_move_is_given_up_as_long_as_somebody_does_not_know_of_it() {
    let mesh = Mesh::start().await;
    let (mut web, _) = connected(&mesh, "web").await;
    let abort = v1::RotateCaRequest { abort: true };
    let none = mesh.admin().await.rotate_ca(abort).await.unwrap_err();
    assert_eq!(none.code(), Code::FailedPrecondition);
    mesh.admin().await.rotate_ca(v1::RotateCaRequest::default()).await.unwrap();
    let both = web.push().await.unwrap();
    assert_eq!(trust(&both).anchors.len(), 2);
    assert_eq!(mesh.admin().await.rotate_ca(abort).await.unwrap().phase, "steady");
    web.ack(both.epoch, Vec::new()).await;
    assert_eq!(trust(&web.take().await).anchors, mesh.anchors());

    mesh.admin().await.rotate_ca(v1::RotateCaRequest::default()).await.unwrap();
    web.take().await;
    reaches(&mesh, "moved").await;
    let late = mesh.admin().await.rotate_ca(abort).await.unwrap_err();
    assert!(late.message().contains("signs already"), "{late}");
}

#[tokio::test]
async fn a_move_outlives_the_process_at_every_step() {
    let mesh = Mesh::start().await;
    let (web, old) = connected(&mesh, "web").await;
    mesh.admin().await.rotate_ca(v1::RotateCaRequest::default()).await.unwrap();
    assert_eq!(status(&mesh).await.phase, "announced");
    let old_anchors = mesh.anchors();
    drop(web);

    let mesh = mesh.restart().await;
    // Nobody is connected, so nobody is waited for.
    reaches(&mesh, "moved").await;
    let mesh = mesh.restart().await;
    let between = status(&mesh).await;
    assert_eq!((between.phase.as_str(), between.roots.len()), ("moved", 2));
    assert_eq!(between.roots[1].certificates, 1);
    let mut web = Sidecar::sync(mesh.known(&old).await, hello("web")).await.unwrap();
    assert_eq!(trust(&web.take().await).anchors.len(), 2);
    renew(&mesh, &web, &old, "web").await;
    eventually("the former root is not in use", async || status(&mesh).await.waits_for.is_empty()).await;
    reaches(&mesh, "steady").await;
    let mesh = mesh.restart().await;
    assert_eq!((status(&mesh).await.phase.as_str(), mesh.anchors().len()), ("steady", 1));
    assert_ne!(mesh.anchors(), old_anchors);

    // Whoever was away for all of it still gets in by the roots it was started with.
    let token = mesh.token("late").await;
    let stranger = anchored_client_config(&old_anchors, &mesh.identity(), &[alpn::H2]).unwrap();
    let channel = connect(mesh.handle.grpc.to_string(), stranger).await;
    let (request, _) = with_bearer(&token, sign_request("late"));
    let signed = IdentityClient::new(channel).sign(request).await.unwrap().into_inner();
    assert_eq!(signed.anchors, mesh.anchors());
}

#[tokio::test]
async fn an_issuing_certificate_that_ended_while_we_were_away_is_the_first_to_be_renewed() {
    let mesh = Mesh::start().await;
    let issuing = status(&mesh).await.issuing;
    let dir = mesh.stop().await;
    expire_the_issuing_certificate(&dir);
    let mesh = Mesh::start_in(dir, &[]).await;
    assert_ne!(status(&mesh).await.issuing, issuing);
    mesh.join("web", "web").await;
}

/// Writes an authority that was made two years ago into the store.
fn expire_the_issuing_certificate(dir: &TempDir) {
    let long_ago = std::time::SystemTime::now() - Duration::from_hours(2 * 365 * 24);
    let authority = weft_certs::Authority::create(&"mesh.local".parse().unwrap(), long_ago).unwrap();
    let store = redb::Database::open(dir.path().join("data/weft.redb")).unwrap();
    let transaction = store.begin_write().unwrap();
    {
        let table = redb::TableDefinition::<&str, &[u8]>::new("secrets");
        let mut secrets = transaction.open_table(table).unwrap();
        secrets.insert("authority", authority.to_pem().as_bytes()).unwrap();
    }
    transaction.commit().unwrap();
}

/// Why the stream ends, whatever is told before.
async fn end(sidecar: &mut Sidecar) -> Status {
    loop {
        if let Err(status) = sidecar.push().await {
            return status;
        }
    }
}

async fn revoke(mesh: &Mesh, what: &str) -> Result<v1::Revocation, Status> {
    let request =
        v1::RevokeIdentityRequest { what: what.into(), reason: "stolen".into(), ..Default::default() };
    Ok(mesh.admin().await.revoke_identity(request).await?.revocation.unwrap())
}

#[tokio::test]
async fn a_revoked_identity_loses_its_stream_its_place_and_every_way_back_until_it_is_restored() {
    const ORDERS: &str = "spiffe://mesh.local/ns/default/sa/orders";
    let mesh = Mesh::start().await;
    let (mut web, _) = connected(&mesh, "web").await;
    let token = mesh.token("orders").await;
    let credentials = mesh.sign(&token, "orders-1").await.unwrap();
    let mut orders = Sidecar::sync(mesh.known(&credentials).await, offering("orders", 1)).await.unwrap();
    orders.take().await;
    let channel = mesh.known(&credentials).await;

    let revocation = revoke(&mesh, ORDERS).await.unwrap();
    assert_eq!((revocation.what.as_str(), revocation.until.as_str()), (ORDERS, ""));
    let ended = end(&mut orders).await;
    assert_eq!(ended.code(), Code::PermissionDenied);
    assert!(ended.message().contains("is revoked"), "{ended}");
    assert!(mesh.admin().await.sidecar("orders-1").await.is_none(), "it is in nobody's rotation");
    let others = loop {
        let push = web.take().await;
        if push.upserts.iter().any(|r| r.name.as_ref().unwrap().kind() == Kind::Trust) {
            break trust(&push).revoked;
        }
    };
    assert_eq!(others, [ORDERS]);

    // By the certificate, on a connection that is open or a new one, by the token, by the stream.
    let (request, key) = sign_request("orders-1");
    for channel in [channel, mesh.known(&credentials).await] {
        let (request, _) = sign_request("orders-1");
        let status = mesh.sign_with(channel, request, &key).await.unwrap_err();
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    }
    drop(request);
    assert_eq!(mesh.sign(&token, "orders-1").await.unwrap_err().code(), Code::PermissionDenied);
    let again = Sidecar::sync(mesh.known(&credentials).await, offering("orders", 1)).await;
    assert_eq!(again.err().unwrap().code(), Code::PermissionDenied);

    let mesh = mesh.restart().await;
    assert_eq!(mesh.sign(&token, "orders-1").await.unwrap_err().code(), Code::PermissionDenied);
    let listed = mesh.admin().await.list_revocations(v1::ListRevocationsRequest {}).await.unwrap();
    assert_eq!(
        (listed.revocations[0].what.as_str(), listed.revocations[0].reason.as_str()),
        (ORDERS, "stolen")
    );
    let restore = v1::RestoreIdentityRequest { what: ORDERS.into() };
    mesh.admin().await.restore_identity(restore.clone()).await.unwrap();
    mesh.sign(&token, "orders-1").await.unwrap();
    let none = mesh.admin().await.restore_identity(restore).await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound);
}

#[tokio::test]
async fn who_was_revoked_does_not_come_back_by_what_was_agreed_before() {
    let mesh = Mesh::start().await;
    let credentials = mesh.join("orders", "orders-1").await;
    let tls = Arc::new(credentials.resuming_client(&mesh.identity(), &[alpn::H2]).unwrap());
    let counters = Arc::new(Counters::default());
    let channel = mesh.returning(&tls, &counters).await;
    let mut orders = Sidecar::sync(channel, offering("orders", 1)).await.unwrap();
    orders.take().await;
    revoke(&mesh, "spiffe://mesh.local/ns/default/sa/orders").await.unwrap();
    assert_eq!(end(&mut orders).await.code(), Code::PermissionDenied);
    counters.take();
    let channel = mesh.returning(&tls, &counters).await;
    let refused = Sidecar::sync(channel, offering("orders", 1)).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    let sent = counters.take().received;
    assert!(sent < 1024, "{sent} bytes: it came back by a whole handshake");
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_and_its_holder_may_come_back_with_its_token() {
    let mesh = Mesh::start().await;
    let token = mesh.token("web").await;
    let credentials = mesh.sign(&token, "web").await.unwrap();
    let mut web = Sidecar::sync(mesh.known(&credentials).await, hello("web")).await.unwrap();
    web.take().await;
    let renewed = renew(&mesh, &web, &credentials, "web").await;
    // The one that it uses now, not the one that the stream was opened with.
    let serial = renewed.serial().as_str().to_uppercase();
    eventually("it is in use", async || {
        let listed = mesh.admin().await.identities(v1::IdentitiesRequest::default()).await.unwrap();
        listed.identities.iter().map(|identity| identity.serial.as_str()).eq([renewed.serial().as_str()])
    })
    .await;
    revoke(&mesh, &serial).await.unwrap();
    assert_eq!(end(&mut web).await.code(), Code::PermissionDenied);
    let (request, key) = sign_request("web");
    let refused = mesh.sign_with(mesh.known(&renewed).await, request, &key).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    mesh.sign(&token, "web").await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_revoked_is_refused_with_its_reason() {
    let mesh = Mesh::start().await;
    for (what, code, reason) in [
        ("spiffe://mesh.local/ns/weft/sa/control-plane", Code::FailedPrecondition, "the control plane's own"),
        ("spiffe://other/ns/default/sa/web", Code::FailedPrecondition, "another trust domain"),
        ("spiffe://mesh.local", Code::InvalidArgument, "not a SPIFFE identity"),
        ("web", Code::InvalidArgument, "neither a SPIFFE identity nor a serial number"),
        ("5f5f", Code::NotFound, "no certificate 5f5f in use"),
    ] {
        let status = revoke(&mesh, what).await.unwrap_err();
        assert_eq!(status.code(), code, "{what}: {status}");
        assert!(status.message().contains(reason), "{what}: {status}");
    }
    let own = v1::CreateTokenRequest {
        namespace: "weft".into(),
        service_account: "control-plane".into(),
        ..Default::default()
    };
    let status = mesh.admin().await.create_token(own).await.unwrap_err();
    assert!(status.message().contains("the control plane itself"), "{status}");
}

#[tokio::test]
async fn a_revocation_for_a_time_ends_by_itself_and_a_token_taken_back_renews_nothing() {
    let mesh = Mesh::start().await;
    let wanted = v1::CreateTokenRequest { service_account: "web".into(), ..Default::default() };
    let made = mesh.admin().await.create_token(wanted).await.unwrap();
    let credentials = mesh.sign(&made.token, "web").await.unwrap();
    mesh.admin().await.revoke_token(v1::RevokeTokenRequest { id: made.id }).await.unwrap();
    let (request, key) = sign_request("web");
    let refused = mesh.sign_with(mesh.known(&credentials).await, request, &key).await.unwrap_err();
    assert!(refused.message().contains("was revoked"), "{refused}");

    let request = v1::RevokeIdentityRequest {
        what: "spiffe://mesh.local/ns/default/sa/other".into(),
        for_seconds: 60,
        ..Default::default()
    };
    let revoked = mesh.admin().await.revoke_identity(request).await.unwrap().revocation.unwrap();
    assert_ne!(revoked.until, "");
}
