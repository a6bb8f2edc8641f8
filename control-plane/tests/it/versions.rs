//! Configuration as versions: what lies between two, who was faster, and whom a change concerns.

use tonic::Code;
use weft_proto::v1::{self, Kind};

use crate::mesh::{Admin, Mesh};
use crate::sidecar::{Sidecar, hello, offering};

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n---\n"
    )
}

fn request(text: String, if_revision: Option<u64>) -> v1::ApplyRequest {
    let files = vec![v1::SourceFile { name: "mesh.yaml".into(), text }];
    v1::ApplyRequest { files, author: "ada".into(), if_revision, ..Default::default() }
}

async fn three_revisions() -> (Mesh, Admin) {
    let mesh = Mesh::start().await;
    let mut admin = mesh.admin().await;
    for text in [service("a", 80), service("b", 80), service("a", 81)] {
        admin.apply(request(text, None)).await.unwrap();
    }
    (mesh, admin)
}

#[tokio::test]
async fn what_lies_between_two_revisions_is_shown_document_by_document() {
    let (_mesh, mut admin) = three_revisions().await;
    let mut changes = async |from, to| {
        let changed = admin.changes(v1::ChangesRequest { from, to }).await.unwrap();
        let line = |change: v1::Change| (change.action, change.name, change.diff.contains("+  - port: 81"));
        changed.changes.into_iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(changes(0, 1).await, [("created".into(), "a".into(), false)]);
    assert_eq!(changes(2, 3).await, [("configured".into(), "a".into(), true)]);
    let both = [("configured".into(), "a".into(), true), ("created".into(), "b".into(), false)];
    assert_eq!(changes(1, 3).await, both);
    assert_eq!(changes(3, 3).await, []);
    let none = admin.changes(v1::ChangesRequest { from: 3, to: 9 }).await.unwrap_err();
    assert_eq!(none.code(), Code::NotFound);
}

#[tokio::test]
async fn who_has_not_seen_the_newest_of_a_document_does_not_overwrite_it() {
    let (_mesh, mut admin) = three_revisions().await;
    let late = admin.apply(request(service("a", 82), Some(1))).await.unwrap_err();
    assert_eq!(late.code(), Code::Aborted);
    let said = "configured Service default/a at revision 3, by ada: look at it with `weft diff 3`, then say --if-revision 3";
    assert_eq!(late.message(), said);
    // Nobody has touched b since.
    assert_eq!(admin.apply(request(service("b", 82), Some(2))).await.unwrap().revision, 4);
    assert_eq!(admin.apply(request(service("a", 82), Some(4))).await.unwrap().revision, 5);
    let future = admin.apply(request(service("a", 83), Some(9))).await.unwrap_err();
    assert_eq!(future.code(), Code::NotFound);

    let rollback = |if_revision| v1::RollbackRequest { revision: 1, if_revision, ..Default::default() };
    assert_eq!(admin.rollback(rollback(Some(4))).await.unwrap_err().code(), Code::Aborted);
    assert_eq!(admin.rollback(rollback(Some(5))).await.unwrap().revision, 6);
    let delete = |if_revision| v1::DeleteRequest {
        kind: "service".into(),
        name: "a".into(),
        if_revision,
        ..Default::default()
    };
    assert_eq!(admin.delete(delete(Some(5))).await.unwrap_err().code(), Code::Aborted);
    assert_eq!(admin.delete(delete(Some(6))).await.unwrap().revision, 7);
}

#[tokio::test]
async fn a_dry_run_says_which_sidecars_would_be_told_something_else() {
    let mesh = Mesh::start().await;
    let mut admin = mesh.admin().await;
    let mut web = Sidecar::ready(&mesh, "web", hello("web")).await;
    web.subscribe(Kind::Service, "default/orders").await;
    web.take().await;
    let _other = Sidecar::ready(&mesh, "other", hello("other")).await;
    let _orders = Sidecar::ready(&mesh, "orders", offering("orders", 1)).await;
    let mut concerned = async |text: &str| {
        let tried = v1::ApplyRequest { dry_run: true, ..request(text.into(), None) };
        let told = admin.apply(tried).await.unwrap();
        assert_eq!(told.problems, []);
        told.sidecars
    };
    let of_callers = "apiVersion: weft.mesh/v1alpha1\nkind: TrafficPolicy\nmetadata: {name: orders}\nspec: {targetRef: {kind: Service, name: orders}, timeouts: {request: 3s}}\n";
    assert_eq!(concerned(of_callers).await, ["default/web"]);
    let of_the_app = "apiVersion: weft.mesh/v1alpha1\nkind: AuthorizationPolicy\nmetadata: {name: orders}\nspec: {targetRef: {kind: Service, name: orders}, rules: [{from: [{serviceAccounts: [web]}]}]}\n";
    assert_eq!(concerned(of_the_app).await, ["default/orders-1"]);
    let of_all = "apiVersion: weft.mesh/v1alpha1\nkind: MeshConfig\nmetadata: {name: default}\nspec: {mtls: {mode: Permissive}}\n";
    assert_eq!(concerned(of_all).await, ["default/orders-1", "default/other", "default/web"]);
    assert_eq!(concerned(&service("nobody-calls-it", 80)).await, Vec::<String>::new());
}
