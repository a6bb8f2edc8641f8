//! Backups, of either kind of store into either kind, and a store that is broken.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use clap::Parser;
use tempfile::TempDir;
use tonic::Code;
use weft_control_plane::{Config, Restored, StartError, restore};
use weft_proto::v1;

use crate::etcd::Etcd;
use crate::mesh::{Admin, Mesh};
use crate::sidecar::{Sidecar, hello};

const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80}]}\n";

async fn restore_at(backup: &[u8], store: &str, data: &Path) -> Result<Restored, StartError> {
    let config = Config::parse_from(["cp", "--store", store]);
    restore(backup, &config.store, data).await
}

/// What a mesh is known by, once it was restored.
async fn is_the_same(mesh: &Mesh, ca: &str, token: &str, credentials: &weft_certs::Credentials) {
    assert_eq!(mesh.handle.ca_pem, ca);
    mesh.sign(token, "web").await.unwrap();
    Sidecar::sync(mesh.known(credentials).await, hello("web")).await.unwrap().take().await;
    let mut admin = mesh.admin().await;
    assert_eq!(admin.history(v1::HistoryRequest::default()).await.unwrap().revisions.len(), 1);
    assert_eq!(admin.services(v1::ServicesRequest {}).await.unwrap().services.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_is_restored_from_either_kind_of_store_into_either() {
    let mesh = Mesh::start().await;
    let (ca, token) = (mesh.handle.ca_pem.clone(), mesh.token("web").await);
    let web = mesh.join("web", "web").await;
    let mut admin = mesh.admin().await;
    admin.apply_text(SERVICE).await;
    // An administrator's token, which may be taken back, takes no keys along.
    let wanted = v1::CreateTokenRequest { admin: "operator".into(), ..Default::default() };
    let operator = admin.create_token(wanted).await.unwrap().token;
    let mut operator = Admin { client: admin.client.clone(), token: operator };
    assert_eq!(operator.back_up().await.unwrap_err().code(), Code::PermissionDenied);
    let backup = admin.back_up().await.unwrap();
    drop((admin, operator));

    // Nothing is restored over a store.
    let occupied = restore_at(&backup, "embedded", &mesh.dir.path().join("data")).await.unwrap_err();
    assert!(told(occupied).contains("put it aside first"));
    mesh.handle.shutdown().await;
    let dir = Arc::new(TempDir::new().unwrap());
    let data = dir.path().join("data");
    let restored = restore_at(&backup, "embedded", &data).await.unwrap();
    assert!(restored.records > 5, "{restored:?}");
    let mesh = Mesh::start_in(dir, &[]).await;
    is_the_same(&mesh, &ca, &token, &web).await;
    mesh.handle.shutdown().await;

    // Whoever outgrows one machine.
    let Some(etcd) = Etcd::start(1, |_, _| Vec::new()) else { return };
    let store = format!("etcd://{}", etcd.endpoints());
    let none = TempDir::new().unwrap();
    restore_at(&backup, &store, none.path()).await.unwrap();
    let occupied = restore_at(&backup, &store, none.path()).await.unwrap_err();
    assert!(told(occupied).contains("put it aside first"));
    let mesh = Mesh::start_in(Arc::new(TempDir::new().unwrap()), &["--store", &store]).await;
    is_the_same(&mesh, &ca, &token, &web).await;
    // And back.
    let backup = mesh.admin().await.back_up().await.unwrap();
    mesh.handle.shutdown().await;
    let dir = Arc::new(TempDir::new().unwrap());
    restore_at(&backup, "embedded", &dir.path().join("data")).await.unwrap();
    let mesh = Mesh::start_in(dir, &[]).await;
    is_the_same(&mesh, &ca, &token, &web).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_started_over_a_broken_store_and_a_backup_mends_it() {
    let mesh = Mesh::start().await;
    let (ca, token) = (mesh.handle.ca_pem.clone(), mesh.token("web").await);
    let web = mesh.join("web", "web").await;
    mesh.admin().await.apply_text(SERVICE).await;
    let backup = mesh.admin().await.back_up().await.unwrap();
    let file = mesh.data("weft.redb");
    let dir = mesh.stop().await;
    let whole = fs::read(&file).unwrap();
    // Wherever it stands: some of the places are no longer in use.
    let is_text = |at: &usize| whole[*at..].starts_with(b"\"kind\":\"Service");
    let places: Vec<_> = (0..whole.len()).filter(is_text).collect();
    assert!(!places.is_empty());
    let broken: [(&str, &dyn Fn()); 3] = [
        ("a byte of a record", &|| {
            let file = fs::File::options().write(true).open(&file).unwrap();
            places.iter().for_each(|at| file.write_all_at(b"X", *at as u64).unwrap());
        }),
        ("its second half", &|| fs::write(&file, &whole[..whole.len() / 2]).unwrap()),
        ("all of it", &|| fs::write(&file, b"this is something else entirely".repeat(200)).unwrap()),
    ];
    for (what, break_it) in broken {
        fs::write(&file, &whole).unwrap();
        break_it();
        let before = fs::read(&file).unwrap();
        let refused = Mesh::try_start_in(dir.clone(), &[]).await.err().unwrap_or_else(|| panic!("{what}"));
        assert!(refused.to_string().contains("weft restore FILE"), "{what}: {refused}");
        assert_eq!(fs::read(&file).unwrap().len(), before.len(), "{what}: it is left as it is");
    }
    fs::rename(&file, dir.path().join("aside")).unwrap();
    restore_at(&backup, "embedded", &dir.path().join("data")).await.unwrap();
    let mesh = Mesh::start_in(dir, &[]).await;
    is_the_same(&mesh, &ca, &token, &web).await;
}

/// An error with its causes, as the program tells it.
fn told(error: StartError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
