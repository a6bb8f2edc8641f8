//! Who may look, and who may change.

use tonic::{Code, Status};
use weft_proto::v1;
use weft_proto::v1::admin_client::AdminClient;
use weft_proto::v1::ask::What;

use crate::mesh::{Admin, Mesh};

async fn administrator(mesh: &Mesh, role: &str) -> (Admin, String) {
    let wanted = v1::CreateTokenRequest { admin: role.into(), ttl_seconds: 60, ..Default::default() };
    let made = mesh.admin().await.create_token(wanted).await.unwrap();
    (Admin { client: AdminClient::new(mesh.stranger().await), token: made.token }, made.id)
}

fn service(dry_run: bool) -> v1::ApplyRequest {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n";
    let files = vec![v1::SourceFile { name: "a.yaml".into(), text: text.into() }];
    v1::ApplyRequest { files, dry_run, ..Default::default() }
}

fn asked(what: What) -> v1::AskSidecarRequest {
    let ask = Some(v1::Ask { id: 0, what: Some(what) });
    v1::AskSidecarRequest { namespace: "default".into(), workload: "web-1".into(), ask }
}

#[tokio::test]
async fn a_viewer_looks_at_everything_and_changes_nothing() {
    let mesh = Mesh::start().await;
    let (mut viewer, id) = administrator(&mesh, "viewer").await;
    viewer.status(v1::StatusRequest::default()).await.unwrap();
    viewer.history(v1::HistoryRequest::default()).await.unwrap();
    viewer.services(v1::ServicesRequest {}).await.unwrap();
    viewer.identities(v1::IdentitiesRequest::default()).await.unwrap();
    viewer.traces(v1::TracesRequest::default()).await.unwrap();
    viewer.stat(v1::StatRequest::default()).await.unwrap();
    viewer.graph(v1::GraphRequest::default()).await.unwrap();
    viewer.test_policy(v1::TestPolicyRequest::default()).await.unwrap();
    viewer.ca_status(v1::CaStatusRequest {}).await.unwrap();
    viewer.list_revocations(v1::ListRevocationsRequest {}).await.unwrap();
    let get = v1::GetRequest { kind: "service".into(), ..Default::default() };
    viewer.get(get).await.unwrap();
    let listed = viewer.list_tokens(v1::ListTokensRequest {}).await.unwrap().tokens;
    assert_eq!((listed[0].id.as_str(), listed[0].admin.as_str()), (id.as_str(), "viewer"));
    // What would be changed may be looked at too.
    assert_eq!(viewer.apply(service(true)).await.unwrap().changes[0].action, "created");

    let denied = [
        ("apply", viewer.apply(service(false)).await.err()),
        ("delete", viewer.delete(v1::DeleteRequest::default()).await.err()),
        ("rollback", viewer.rollback(v1::RollbackRequest::default()).await.err()),
        ("create_token", viewer.create_token(v1::CreateTokenRequest::default()).await.err()),
        ("revoke_token", viewer.revoke_token(v1::RevokeTokenRequest { id }).await.err()),
        ("rotate_ca", viewer.rotate_ca(v1::RotateCaRequest::default()).await.err()),
        ("revoke_identity", viewer.revoke_identity(v1::RevokeIdentityRequest::default()).await.err()),
        ("restore_identity", viewer.restore_identity(v1::RestoreIdentityRequest::default()).await.err()),
        ("ask_sidecar", viewer.ask_sidecar(asked(What::Drain(true))).await.err()),
        ("ask_sidecar", viewer.ask_sidecar(asked(What::LogLevel("debug".into()))).await.err()),
    ];
    for (call, status) in denied {
        let status = status.unwrap_or_else(|| panic!("{call} passed"));
        assert_eq!(status.code(), Code::PermissionDenied, "{call}: {status}");
        let expected = format!("denied: {call} wants the role operator, this token has viewer");
        assert_eq!(status.message(), expected);
    }
    // Of what is not there: whoever may look is told so, and no one else even that.
    let absent = |status: Option<Status>| status.map(|status| status.code());
    let mut nobody = Admin { client: AdminClient::new(mesh.stranger().await), token: "x.y.z".into() };
    for (admin, expected) in [(&mut viewer, Code::NotFound), (&mut nobody, Code::Unauthenticated)] {
        let id = "0af7651916cd43dd8448eb211c80319c".to_owned();
        let tapped = v1::TapRequest { service: "none".into(), ..Default::default() };
        let question = v1::ExplainRequest { from: "web".into(), to: "none:80".into(), ..Default::default() };
        for (call, status) in [
            ("trace", admin.trace(v1::TraceRequest { trace_id: id.clone() }).await.err()),
            ("why", admin.why(v1::WhyRequest { trace_id: id }).await.err()),
            ("tap", admin.tap(tapped).await.map(drop).err()),
            ("explain", admin.explain(question).await.err()),
            ("ask_sidecar", admin.ask_sidecar(asked(What::Config(true))).await.err()),
        ] {
            assert_eq!(absent(status), Some(expected), "{call}");
        }
    }
    let history = viewer.history(v1::HistoryRequest::default()).await.unwrap();
    assert!(history.revisions.is_empty(), "{history:?}");
}

#[tokio::test]
async fn an_operator_changes_things_until_its_token_is_revoked_or_over() {
    let mesh = Mesh::start().await;
    let (mut operator, id) = administrator(&mesh, "operator").await;
    assert_eq!(operator.apply(service(false)).await.unwrap().changes[0].action, "created");
    mesh.admin().await.revoke_token(v1::RevokeTokenRequest { id }).await.unwrap();
    // Also on the connection that is open.
    let status = operator.status(v1::StatusRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("was revoked"), "{status}");

    // Neither joins; and what it names must make sense.
    let (viewer, _) = administrator(&mesh, "viewer").await;
    assert_eq!(mesh.sign(&viewer.token, "web").await.unwrap_err().code(), Code::Unauthenticated);
    for (wanted, reason) in [
        (v1::CreateTokenRequest { admin: "owner".into(), ..Default::default() }, "no role"),
        (
            v1::CreateTokenRequest { admin: "viewer".into(), uses: 1, ..Default::default() },
            "names no service account",
        ),
        (
            v1::CreateTokenRequest { admin: "viewer".into(), ttl_seconds: 9_000_000, ..Default::default() },
            "2160h at most",
        ),
    ] {
        let status = mesh.admin().await.create_token(wanted).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        assert!(status.message().contains(reason), "{status}");
    }
}
