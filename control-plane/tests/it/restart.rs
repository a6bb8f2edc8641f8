//! What outlives the process.

use std::sync::Arc;

use tempfile::TempDir;
use weft_proto::v1::{self, Kind};

use crate::mesh::{Mesh, eventually};
use crate::sidecar::{Sidecar, endpoints, hello, offering, told};

#[tokio::test]
async fn keys_tokens_revisions_and_addresses_outlive_the_process() {
    let mesh = Mesh::start().await;
    let (ca, admin_token) = (mesh.handle.ca_pem.clone(), mesh.handle.admin_token.reveal().to_owned());
    let token = mesh.token("web").await;
    let old = mesh.join("web", "web").await;
    let mut admin = mesh.admin().await;
    admin
        .apply_text("apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n")
        .await;
    let addresses = |listed: v1::ServicesResponse| listed.services[0].addresses.clone();
    let before = addresses(admin.services(v1::ServicesRequest {}).await.unwrap());
    drop(admin);

    let mesh = mesh.restart().await;
    assert_eq!(mesh.handle.ca_pem, ca);
    assert_eq!(std::fs::read_to_string(mesh.data("ca.pem")).unwrap(), ca);
    assert_eq!(mesh.handle.admin_token.reveal(), admin_token);
    mesh.sign(&token, "web").await.unwrap();
    let mut web = Sidecar::sync(mesh.known(&old).await, hello("web")).await.unwrap();
    assert_eq!(web.take().await.revision, 1);
    let mut admin = mesh.admin().await;
    assert_eq!(admin.history(v1::HistoryRequest::default()).await.unwrap().revisions.len(), 1);
    assert_eq!(addresses(admin.services(v1::ServicesRequest {}).await.unwrap()), before);
}

#[tokio::test]
async fn workloads_stay_in_rotation_while_their_sidecars_come_back() {
    let mesh = Mesh::start().await;
    let _orders = Sidecar::ready(&mesh, "orders", offering("orders", 1)).await;
    let mut admin = mesh.admin().await;
    eventually("orders is ready", async || admin.sidecar("orders-1").await.unwrap().ready).await;
    drop(admin);
    let mesh = mesh.restart().await;
    let listed = mesh.admin().await.sidecar("orders-1").await.unwrap();
    assert_eq!((listed.ready, listed.connected), (true, false));
    let mut web = Sidecar::ready(&mesh, "web", hello("web")).await;
    web.subscribe(Kind::Service, "default/orders").await;
    let push = web.take().await;
    assert_eq!(endpoints(&push).len(), 1);
    // The same instance is back: nobody is told anything new.
    let _orders = Sidecar::ready(&mesh, "orders", offering("orders", 1)).await;
    web.subscribe(Kind::Service, "default/none").await;
    assert_eq!(told(&web.take().await), ["-SERVICE default/none", "-ENDPOINTS default/none"]);
}

#[tokio::test]
async fn a_sidecar_is_told_that_the_control_plane_goes_down() {
    let mesh = Mesh::start().await;
    let mut web = Sidecar::ready(&mesh, "web", hello("web")).await;
    let dir = mesh.dir.clone();
    mesh.handle.shutdown().await;
    assert_eq!(web.push().await.unwrap_err().code(), tonic::Code::Unavailable);
    drop(dir);
}

#[tokio::test]
async fn a_data_directory_belongs_to_one_control_plane_of_one_trust_domain() {
    let mesh = Mesh::start().await;
    let second = Mesh::try_start_in(mesh.dir.clone(), &[]).await.err().expect("a refusal");
    assert!(second.to_string().contains("cannot open the store"), "{second}");
    let dir = mesh.dir.clone();
    mesh.handle.shutdown().await;
    let other = Mesh::try_start_in(dir, &["--trust-domain", "other.mesh"]).await.err().expect("a refusal");
    assert!(other.to_string().contains("mesh.local, not of other.mesh"), "{other}");
}

#[tokio::test]
async fn what_was_rolled_back_stays_so_over_a_restart_until_the_folder_changes() {
    let dir = Arc::new(TempDir::new().unwrap());
    let folder = dir.path().join("config");
    std::fs::create_dir(&folder).unwrap();
    let service = |port: u16| {
        format!("apiVersion: v1\nkind: Service\nmetadata: {{name: a}}\nspec: {{ports: [{{port: {port}}}]}}\n")
    };
    std::fs::write(folder.join("a.yaml"), service(80)).unwrap();
    let flags = ["--config-dir", folder.to_str().unwrap()];
    let mesh = Mesh::start_in(dir.clone(), &flags).await;
    until(&mesh, "80/detect").await;
    std::fs::write(folder.join("a.yaml"), service(81)).unwrap();
    until(&mesh, "81/detect").await;
    let back = v1::RollbackRequest { revision: 1, ..Default::default() };
    assert_eq!(mesh.admin().await.rollback(back).await.unwrap().revision, 3);
    mesh.handle.shutdown().await;
    let mesh = Mesh::start_in(dir.clone(), &flags).await;
    until(&mesh, "80/detect").await;
    std::fs::write(folder.join("a.yaml"), service(82)).unwrap();
    until(&mesh, "82/detect").await;
    let history = mesh.admin().await.history(v1::HistoryRequest::default()).await.unwrap().revisions;
    let sources: Vec<_> = history.iter().map(|revision| revision.source.as_str()).collect();
    assert_eq!(sources, ["config-dir", "rollback", "config-dir", "config-dir"]);
}

async fn until(mesh: &Mesh, port: &str) {
    let mut admin = mesh.admin().await;
    eventually(port, async || {
        let listed = admin.services(v1::ServicesRequest {}).await.unwrap().services;
        listed.first().is_some_and(|service| service.ports == [port])
    })
    .await;
}
