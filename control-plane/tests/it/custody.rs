//! Where the authority's keys are kept: in files that others write, and sealed.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use tempfile::TempDir;
use tonic::Code;
use weft_certs::{Authority, Credentials, alpn, anchored_client_config, pem};
use weft_control_plane::StartError;
use weft_proto::v1::admin_client::AdminClient;
use weft_proto::v1::identity_client::IdentityClient;
use weft_proto::v1::sidecar_message::Message;
use weft_proto::v1::{self, Kind};

use crate::mesh::{Admin, Mesh, eventually, sign_request, with_bearer};
use crate::sidecar::{Sidecar, hello};

/// Roots and issuing certificate, as others would write them.
struct Other {
    root: String,
    issuing: String,
    key: String,
}

impl Other {
    /// A root of its own.
    fn new() -> Self {
        Self::of(&Authority::create(&"mesh.local".parse().unwrap(), SystemTime::now()).unwrap())
    }

    fn of(authority: &Authority) -> Self {
        let text = authority.to_pem();
        let sections: Vec<_> = text
            .split_inclusive("-----\n")
            .collect::<Vec<_>>()
            .chunks(2)
            .map(|lines| lines.concat())
            .collect();
        let [root, _, issuing, key] = sections.try_into().unwrap();
        Self { root, issuing, key }
    }

    /// Another issuing certificate of the same root.
    fn pair() -> (Self, Self) {
        let authority = Authority::create(&"mesh.local".parse().unwrap(), SystemTime::now()).unwrap();
        let renewed = authority.clone().renew_issuing(SystemTime::now()).unwrap();
        (Self::of(&authority), Self::of(&renewed))
    }

    /// Puts them in the place of what is there, as Kubernetes does: by one symbolic link.
    fn write(&self, dir: &Path, version: &str) {
        let folder = dir.join(version);
        fs::create_dir(&folder).unwrap();
        for (name, text) in [("tls.crt", &self.issuing), ("tls.key", &self.key), ("ca.crt", &self.root)] {
            fs::write(folder.join(name), text).unwrap();
        }
        std::os::unix::fs::symlink(version, dir.join("next")).unwrap();
        fs::rename(dir.join("next"), dir.join("given")).unwrap();
    }
}

struct Flags(Vec<String>);

impl Flags {
    fn files(dir: &TempDir) -> Self {
        let at = |name: &str| dir.path().join("given").join(name).display().to_string();
        let flags = [("--ca-cert", "tls.crt"), ("--ca-key", "tls.key"), ("--ca-roots", "ca.crt")];
        Self(flags.iter().flat_map(|(flag, name)| [(*flag).to_owned(), at(name)]).collect())
    }

    fn passphrase(dir: &TempDir, text: &str) -> Self {
        let path = dir.path().join("passphrase");
        fs::write(&path, text).unwrap();
        Self(vec!["--ca-passphrase-file".into(), path.display().to_string()])
    }

    fn and(mut self, flag: &str) -> Self {
        self.0.push(flag.into());
        self
    }

    async fn start(&self, dir: Arc<TempDir>) -> Result<Mesh, StartError> {
        Mesh::try_start_in(dir, &self.0.iter().map(String::as_str).collect::<Vec<_>>()).await
    }
}

/// As `weft ca status` with the `ca.pem` of the moment.
async fn status(mesh: &Mesh) -> v1::CaStatusResponse {
    let anchors = written(mesh);
    let tls = anchored_client_config(&anchors, &mesh.identity(), &[alpn::H2]).unwrap();
    let token = mesh.handle.admin_token.reveal().to_owned();
    let mut admin = Admin { client: AdminClient::new(mesh.connect(tls).await), token };
    admin.ca_status(v1::CaStatusRequest {}).await.unwrap()
}

fn written(mesh: &Mesh) -> Vec<Vec<u8>> {
    pem::certificates(&fs::read_to_string(mesh.data("ca.pem")).unwrap()).unwrap()
}

fn trust(push: &v1::Push) -> Option<v1::Trust> {
    let resource = push.upserts.iter().find(|r| r.name.as_ref().unwrap().kind() == Kind::Trust)?;
    Some(<v1::Trust as prost::Message>::decode(resource.body.clone()).unwrap())
}

#[tokio::test]
async fn files_that_others_write_are_followed_step_by_step_and_outlive_a_restart() {
    let dir = Arc::new(TempDir::new().unwrap());
    let (one, two) = (Other::new(), Other::new());
    one.write(dir.path(), "1");
    let flags = Flags::files(&dir);
    let mesh = flags.start(dir.clone()).await.unwrap();
    let anchors = |other: &Other| pem::certificates(&other.root).unwrap();
    assert_eq!(mesh.anchors(), anchors(&one));
    let begun = status(&mesh).await;
    assert!(begun.source.contains("given/tls.key") && begun.trouble.is_empty(), "{begun:?}");
    let (request, key) = with_bearer(&mesh.token("web").await, sign_request("web"));
    let signed = IdentityClient::new(mesh.stranger().await).sign(request).await.unwrap().into_inner();
    let believing =
        |anchors: &[Vec<u8>]| Credentials::new(signed.chain.clone(), &key, anchors, &mesh.domain()).unwrap();
    let credentials = believing(&signed.anchors);
    let mut web = Sidecar::sync(mesh.known(&credentials).await, hello("web")).await.unwrap();
    web.take().await;
    let refused = mesh.admin().await.rotate_ca(v1::RotateCaRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("have them renewed there"), "{refused}");

    two.write(dir.path(), "2");
    let both = trust(&web.take().await).expect("the new root beside the old one");
    assert_eq!(both.anchors, [anchors(&one), anchors(&two)].concat());
    let moved = trust(&web.take().await).expect("the new root first");
    assert_eq!(moved.anchors, [anchors(&two), anchors(&one)].concat());
    let (request, new) = sign_request("web");
    let known = mesh.known(&believing(&moved.anchors)).await;
    let renewed = mesh.sign_with(known, request, &new).await.unwrap();
    assert!(renewed.is_of_first_anchor());
    let serial = renewed.serial().to_string();
    web.send(Message::CertificateInUse(v1::CertificateInUse { serial })).await;
    assert_eq!(trust(&web.take().await).expect("the new root alone").anchors, anchors(&two));
    eventually("it is over", async || status(&mesh).await.phase == "steady").await;
    drop(web);

    let before = status(&mesh).await;
    let dir = mesh.stop().await;
    let mesh = flags.start(dir).await.unwrap();
    assert_eq!(status(&mesh).await.issuing, before.issuing);
    let dir = mesh.stop().await;
    let own = Mesh::try_start_in(dir, &[]).await.err().unwrap();
    assert!(own.to_string().contains("--ca-cert"), "{own}");
}

#[tokio::test]
async fn what_is_half_written_is_told_of_and_what_was_last_good_stays() {
    let dir = Arc::new(TempDir::new().unwrap());
    let (good, renewed) = Other::pair();
    good.write(dir.path(), "1");
    let mesh = Flags::files(&dir).start(dir.clone()).await.unwrap();
    let issuing = status(&mesh).await.issuing;
    // The certificate comes first, its key later.
    fs::write(dir.path().join("given/tls.crt"), &renewed.issuing).unwrap();
    eventually("it is told of", async || {
        status(&mesh).await.trouble.contains("key is not that of its certificate")
    })
    .await;
    assert_eq!(status(&mesh).await.issuing, issuing);
    mesh.join("web", "web").await;
    fs::write(dir.path().join("given/tls.key"), &renewed.key).unwrap();
    eventually("it is taken over", async || {
        let status = status(&mesh).await;
        status.trouble.is_empty() && status.issuing != issuing && status.phase == "steady"
    })
    .await;
    fs::remove_file(dir.path().join("given/ca.crt")).unwrap();
    eventually("it is missed", async || status(&mesh).await.trouble.contains("cannot read")).await;
    mesh.join("orders", "orders").await;
}

#[tokio::test]
async fn a_mesh_leaves_its_own_root_for_files_and_forgets_the_keys() {
    let mesh = Mesh::start().await;
    let credentials = mesh.join("web", "web").await;
    let own = mesh.anchors();
    let dir = mesh.stop().await;
    let other = Other::new();
    other.write(dir.path(), "1");
    let mesh = Flags::files(&dir).start(dir).await.unwrap();
    let given = pem::certificates(&other.root).unwrap();
    eventually("it has moved", async || status(&mesh).await.phase == "moved").await;
    eventually("both are written down", async || written(&mesh) == [&given[..], &own].concat()).await;
    assert_eq!(status(&mesh).await.waits_for.len(), 1, "for a certificate of the former root: web's");
    drop(credentials);
}

#[tokio::test]
async fn keys_are_sealed_by_a_passphrase_that_is_turned_on_and_off_and_nothing_starts_by_another() {
    let mesh = Mesh::start().await;
    let (anchors, token) = (mesh.anchors(), mesh.token("web").await);
    let dir = mesh.stop().await;
    let sealed = Flags::passphrase(&dir, "correct horse\n").start(dir).await.unwrap();
    assert_eq!(sealed.anchors(), anchors);
    sealed.sign(&token, "web").await.unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(sealed.data("weft.redb")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let dir = sealed.stop().await;

    let refused = async |flags: Option<Flags>| match flags {
        Some(flags) => flags.start(dir.clone()).await.err().unwrap().to_string(),
        None => Mesh::try_start_in(dir.clone(), &[]).await.err().unwrap().to_string(),
    };
    assert!(refused(Some(Flags::passphrase(&dir, "wrong"))).await.contains("passphrase is not the one"));
    assert!(refused(None).await.contains("--ca-passphrase-file"));
    assert!(refused(Some(Flags::passphrase(&dir, "\n"))).await.contains("no passphrase"));
    let missing = Flags(vec!["--ca-passphrase-file".into(), "/nowhere".into()]);
    assert!(refused(Some(missing)).await.contains("/nowhere"));

    let off = Flags::passphrase(&dir, "correct horse").and("--ca-unseal").start(dir).await.unwrap();
    assert_eq!(off.anchors(), anchors);
    let mesh = Mesh::start_in(off.stop().await, &[]).await;
    mesh.sign(&token, "web").await.unwrap();
}
