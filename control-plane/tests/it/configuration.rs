//! Applying, history, rollback, the watched folder.

use std::sync::Arc;

use tempfile::TempDir;
use tonic::Code;
use weft_proto::v1::{self, Kind};

use crate::join::page;
use crate::mesh::{Admin, Mesh, eventually};
use crate::sidecar::{Sidecar, hello, offering, told};

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{selector: {{app: {name}}}, ports: [{{port: {port}}}]}}\n---\n"
    )
}

fn actions(response: &v1::ApplyResponse) -> Vec<(&str, &str)> {
    response.changes.iter().map(|change| (change.action.as_str(), change.name.as_str())).collect()
}

async fn ports(admin: &mut Admin, name: &str) -> Vec<String> {
    let listed = admin.services(v1::ServicesRequest {}).await.unwrap().services;
    listed.into_iter().find(|service| service.name == name).map(|s| s.ports).unwrap_or_default()
}

#[tokio::test]
async fn each_apply_is_a_revision_and_rollback_is_one_more() {
    let mesh = Mesh::start().await;
    let mut admin = mesh.admin().await;
    let first = admin.apply_text(&(service("a", 80) + &service("b", 80))).await;
    assert_eq!((first.revision, actions(&first)), (1, vec![("created", "a"), ("created", "b")]));
    let second = admin.apply_text(&(service("a", 81) + &service("b", 80))).await;
    assert_eq!((second.revision, actions(&second)), (2, vec![("configured", "a"), ("unchanged", "b")]));
    assert!(second.changes[0].diff.contains("+  - port: 81"), "{}", second.changes[0].diff);
    let same = admin.apply_text(&service("a", 81)).await;
    assert_eq!((same.revision, actions(&same)), (2, vec![("unchanged", "a")]));
    assert_eq!(ports(&mut admin, "a").await, ["81/detect"]);

    let deleted = admin
        .delete(v1::DeleteRequest { kind: "svc".into(), name: "b".into(), ..Default::default() })
        .await
        .unwrap();
    assert_eq!((deleted.revision, actions(&deleted)), (3, vec![("deleted", "b")]));
    let back = admin
        .rollback(v1::RollbackRequest { revision: 1, author: "tester".into(), if_revision: None })
        .await
        .unwrap();
    assert_eq!((back.revision, actions(&back)), (4, vec![("configured", "a"), ("created", "b")]));
    assert_eq!(ports(&mut admin, "a").await, ["80/detect"]);
    assert_eq!(ports(&mut admin, "b").await, ["80/detect"]);

    let history = admin.history(v1::HistoryRequest::default()).await.unwrap().revisions;
    let listed: Vec<_> = history.iter().map(|r| (r.revision, r.source.as_str())).collect();
    assert_eq!(listed, [(4, "rollback"), (3, "delete"), (2, "apply"), (1, "apply")]);
    assert_eq!(history[3].summary, "created Service default/a, created Service default/b");
    assert_eq!(history[3].author, "tester");
    let of_b = v1::HistoryRequest { kind: "Service".into(), name: "b".into(), ..Default::default() };
    let of_b: Vec<_> = admin.history(of_b).await.unwrap().revisions.iter().map(|r| r.revision).collect();
    assert_eq!(of_b, [4, 3, 1]);
    let none = admin.rollback(v1::RollbackRequest { revision: 99, ..Default::default() }).await;
    assert_eq!(none.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn mistakes_are_all_reported_with_their_lines_and_nothing_changes() {
    let mesh = Mesh::start().await;
    let mut admin = mesh.admin().await;
    let text = service("good", 80)
        + "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec:\n  prts: [{port: 80}]\n  selector: 7\n";
    let refused = admin.apply_text(&text).await;
    assert_eq!(refused.revision, 0);
    let lines: Vec<_> = refused.problems.iter().map(|p| (p.file.as_str(), p.line)).collect();
    assert!(
        lines.contains(&("mesh.yaml", 10)) && lines.contains(&("mesh.yaml", 11)),
        "{:?}",
        refused.problems
    );
    assert!(refused.problems.iter().any(|problem| problem.hint.contains("ports")), "{:?}", refused.problems);
    assert!(admin.services(v1::ServicesRequest {}).await.unwrap().services.is_empty());
    assert!(admin.history(v1::HistoryRequest::default()).await.unwrap().revisions.is_empty());
}

#[tokio::test]
async fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let mesh = Mesh::start().await;
    let mut admin = mesh.admin().await;
    let files = vec![v1::SourceFile { name: "-".into(), text: service("a", 80) }];
    let tried = admin.apply(v1::ApplyRequest { files, dry_run: true, ..Default::default() }).await.unwrap();
    assert_eq!((tried.revision, actions(&tried)), (0, vec![("created", "a")]));
    assert!(admin.services(v1::ServicesRequest {}).await.unwrap().services.is_empty());
}

#[tokio::test]
async fn resources_are_given_back_as_applied_with_their_status() {
    let mesh = Mesh::start().await;
    let mut admin = mesh.admin().await;
    admin.apply_text(&service("orders", 80)).await;
    let _orders = Sidecar::ready(&mesh, "orders", offering("orders", 1)).await;
    for kind in ["Service", "services", "svc"] {
        let got = admin.get(v1::GetRequest { kind: kind.into(), ..Default::default() }).await.unwrap();
        let document: serde_json::Value = serde_json::from_str(&got.resources[0]).unwrap();
        assert_eq!(document["spec"]["selector"]["app"], "orders");
        assert_eq!(document["metadata"]["namespace"], "default");
        assert_eq!(document["status"]["endpoints"], 1);
    }
    let other = v1::GetRequest { kind: "svc".into(), namespace: "other".into(), ..Default::default() };
    assert!(admin.get(other).await.unwrap().resources.is_empty());
    let unknown = admin.get(v1::GetRequest { kind: "servce".into(), ..Default::default() }).await;
    assert_eq!(unknown.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_documents_selector_picks_registered_workloads() {
    let mesh = Mesh::start().await;
    let mut web = Sidecar::ready(&mesh, "web", hello("web")).await;
    let labels = [("app".to_owned(), "db".to_owned())].into();
    let _db = Sidecar::ready(&mesh, "db", v1::Hello { labels, ..hello("db-1") }).await;
    web.subscribe(Kind::Service, "default/db").await;
    assert_eq!(told(&web.take().await), ["-SERVICE default/db", "-ENDPOINTS default/db"]);
    mesh.admin().await.apply_text(&service("db", 5432)).await;
    let push = web.take().await;
    assert_eq!(told(&push), ["+SERVICE default/db", "+ENDPOINTS default/db"]);
    assert_eq!(push.revision, 1);
    let endpoint = crate::sidecar::endpoints(&push).pop().unwrap();
    assert_eq!(endpoint.ports, [v1::PortMap { port: 5432, target_port: 5432 }]);
}

#[tokio::test]
async fn the_watched_folder_is_followed_and_its_last_good_state_stays() {
    let dir = Arc::new(TempDir::new().unwrap());
    let folder = dir.path().join("config");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("a.yaml"), service("a", 80)).unwrap();
    let mesh = Mesh::start_in(dir.clone(), &["--config-dir", folder.to_str().unwrap()]).await;
    let mut admin = mesh.admin().await;
    until(&mut admin, "a", &["80/detect"]).await;

    std::fs::write(folder.join("b.yaml"), "apiVersion: v1\nkind: Srvice\nmetadata: {name: b}\n").unwrap();
    std::fs::write(folder.join("a.yaml"), service("a", 81)).unwrap();
    eventually("the mistake is counted", async || {
        page(&mesh, "/metrics").await.contains("weft_config_dir_problems 1")
    })
    .await;
    assert_eq!(ports(&mut admin, "a").await, ["80/detect"]);
    std::fs::write(folder.join("b.yaml"), service("b", 80)).unwrap();
    until(&mut admin, "b", &["80/detect"]).await;
    assert_eq!(ports(&mut admin, "a").await, ["81/detect"]);

    let history = admin.history(v1::HistoryRequest::default()).await.unwrap().revisions;
    assert!(history.iter().all(|revision| revision.source == "config-dir"));
    let twice = admin.apply_text(&service("a", 82)).await;
    assert!(twice.problems[0].message.contains("is also at"), "{:?}", twice.problems);
    let delete = v1::DeleteRequest { kind: "svc".into(), name: "a".into(), ..Default::default() };
    assert_eq!(admin.delete(delete).await.unwrap_err().code(), Code::FailedPrecondition);
    std::fs::remove_file(folder.join("b.yaml")).unwrap();
    until(&mut admin, "b", &[]).await;
}

async fn until(admin: &mut Admin, service: &str, expected: &[&str]) {
    eventually(service, async || ports(admin, service).await == expected).await;
}
