//! Several control planes over one etcd: whatever is done at one is so at all.

use std::sync::Arc;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;
use weft_proto::v1::{self, Kind};

use crate::etcd::Etcd;
use crate::mesh::{Mesh, PATIENCE, eventually, eventually_within};
use crate::sidecar::{Sidecar, endpoints, hello, offering};

/// One more, with a data directory of its own.
async fn join(etcd: &Etcd, flags: &[&str]) -> Mesh {
    let store = format!("etcd://{}", etcd.endpoints());
    let flags = [&["--store", &store], flags].concat();
    Mesh::start_in(Arc::new(TempDir::new().unwrap()), &flags).await
}

fn service(name: &str, port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    )
}

async fn leader(etcd: &Etcd) -> String {
    etcd.control(&["get", "--print-value-only", "weft/leader"]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_is_changed_at_every_control_plane_and_is_the_same_at_all() {
    let Some(etcd) = Etcd::start(1, |_, _| Vec::new()) else { return };
    let (one, two) = (join(&etcd, &[]).await, join(&etcd, &[]).await);
    assert_eq!(one.handle.ca_pem, two.handle.ca_pem);
    assert_eq!(one.handle.admin_token.reveal(), two.handle.admin_token.reveal());

    // Configuration, applied at both at the same time: nothing is lost, and both number it alike.
    let (mut at_one, mut at_two) = (one.admin().await, two.admin().await);
    let (first, second) = tokio::join!(
        async {
            for n in 0..10 {
                at_one.apply_text(&service(&format!("a{n}"), 80)).await;
            }
        },
        async {
            for n in 0..10 {
                at_two.apply_text(&service(&format!("b{n}"), 80)).await;
            }
        }
    );
    ((), ()) = (first, second);
    let listed = async |mesh: &Mesh| {
        let services = mesh.admin().await.services(v1::ServicesRequest {}).await.unwrap().services;
        services.into_iter().map(|s| (s.name, s.ports, s.addresses)).collect::<Vec<_>>()
    };
    eventually("both know all", async || listed(&one).await.len() == 20 && listed(&two).await.len() == 20)
        .await;
    eventually("the addresses are the same", async || listed(&one).await == listed(&two).await).await;
    let history = async |mesh: &Mesh| {
        mesh.admin().await.history(v1::HistoryRequest::default()).await.unwrap().revisions
    };
    let revisions = history(&one).await;
    assert_eq!(revisions.len(), 20);
    assert_eq!(history(&two).await, revisions);
    let back = v1::RollbackRequest { revision: 1, author: String::new(), if_revision: None };
    assert_eq!(at_two.rollback(back).await.unwrap().revision, 21);
    eventually("one follows", async || listed(&one).await.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_a_request_is_kept_in_parts_and_one_document_that_is_is_refused() {
    let Some(etcd) = Etcd::start(1, |_, _| Vec::new()) else { return };
    let one = join(&etcd, &[]).await;
    let noted = |name: &str, kib: usize| {
        let note = "x".repeat(kib << 10);
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, annotations: {{note: {note}}}}}\nspec: {{ports: [{{port: 80}}]}}\n---\n"
        )
    };
    // 2 MiB in all, where etcd takes 1.5 in a request.
    let all: String = (0..4).map(|number| noted(&format!("long-{number}"), 500)).collect();
    let applied = one.admin().await.apply_text(&all).await;
    assert_eq!((applied.revision, applied.problems), (1, Vec::new()));
    let refused = one.admin().await.apply_text(&noted("longer", 600)).await;
    assert_eq!(refused.revision, 1);
    let problem = &refused.problems[0];
    assert!(
        problem.message.contains("Service default/longer is 600 KiB long, and 512 may be kept"),
        "{problem:?}"
    );
    assert_eq!(problem.line, 1);
    // Another one reads all of it.
    let two = join(&etcd, &[]).await;
    let known = two.admin().await.services(v1::ServicesRequest {}).await.unwrap().services;
    assert_eq!(known.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_of_one_control_plane_is_known_to_the_other_and_may_move_there() {
    let Some(mut etcd) = Etcd::start(3, |_, _| Vec::new()) else { return };
    let (one, two) = (join(&etcd, &[]).await, join(&etcd, &[]).await);
    // A token of the one, a certificate of the other, and back.
    let token = one.token("orders").await;
    let credentials = two.sign(&token, "orders-1").await.unwrap();
    let mut orders = Sidecar::sync(one.known(&credentials).await, offering("orders", 1)).await.unwrap();
    orders.take().await;
    let mut web = Sidecar::ready(&two, "web", hello("web")).await;
    web.subscribe(Kind::Endpoints, "default/orders").await;
    loop {
        let push = web.take().await;
        if !push.upserts.is_empty() && endpoints(&push).len() == 1 || !push.endpoint_deltas.is_empty() {
            break;
        }
    }
    let listed = two.admin().await.sidecar("orders-1").await.unwrap();
    assert_eq!((listed.ready, listed.connected), (true, true));
    // It moves, and the former lets go of it.
    let _moved = Sidecar::sync(two.known(&credentials).await, offering("orders", 1)).await.unwrap();
    eventually("the former ends its stream", async || match orders.push().await {
        Ok(push) => {
            orders.ack(push.epoch, Vec::new()).await;
            false
        }
        Err(status) => status.code() == Code::Aborted,
    })
    .await;
    assert!(one.admin().await.sidecar("orders-1").await.unwrap().ready, "nobody was told that it went");

    // A certificate that a later one has replaced, as its holder says here, is not listed there either, nor after a restart.
    let earlier = one.join("renewing", "renewing").await;
    let renewing = Sidecar::sync(one.known(&earlier).await, hello("renewing")).await.unwrap();
    let later = renewing.renew(&one, &earlier, "renewing").await.serial().to_string();
    eventually("the other knows", async || two.serials("renewing").await == [later.clone()]).await;
    let third = join(&etcd, &[]).await;
    assert_eq!(third.serials("renewing").await, [later]);
    drop(third);

    // Revoked at the one, not believed at the other.
    let identity = "spiffe://mesh.local/ns/default/sa/orders";
    let revoke =
        v1::RevokeIdentityRequest { what: identity.into(), reason: "lost".into(), ..Default::default() };
    one.admin().await.revoke_identity(revoke).await.unwrap();
    eventually("the other does not believe it", async || {
        Sidecar::sync(two.known(&credentials).await, offering("orders", 1)).await.is_err()
    })
    .await;
    let listed = async |mesh: &Mesh| {
        mesh.admin().await.list_revocations(v1::ListRevocationsRequest {}).await.unwrap().revocations
    };
    assert_eq!(listed(&one).await, listed(&two).await);

    // One leads; when it goes, the other.
    let led = leader(&etcd).await;
    assert!(!led.is_empty());
    etcd.kill(0);
    one.handle.shutdown().await;
    two.admin().await.apply_text(&service("c", 80)).await;
    eventually("the other leads", async || {
        let now = leader(&etcd).await;
        !now.is_empty()
    })
    .await;
    two.handle.shutdown().await;
    eventually("nobody leads", async || leader(&etcd).await.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_is_moved_from_when_the_sidecars_of_every_control_plane_know_the_next() {
    let Some(etcd) = Etcd::start(1, |_, _| Vec::new()) else { return };
    let (one, two) = (join(&etcd, &[]).await, join(&etcd, &[]).await);
    let mut web = Sidecar::ready(&one, "web", hello("web")).await;
    let mut orders = Sidecar::ready(&two, "orders", hello("orders")).await;
    let before = one.admin().await.ca_status(v1::CaStatusRequest {}).await.unwrap();
    two.admin().await.rotate_ca(v1::RotateCaRequest::default()).await.unwrap();
    // Whoever leads: the sidecar that has not answered yet is waited for, and named.
    let first = web.push().await.unwrap();
    let second = orders.push().await.unwrap();
    let status = async |mesh: &Mesh| mesh.admin().await.ca_status(v1::CaStatusRequest {}).await.unwrap();
    web.ack(first.epoch, Vec::new()).await;
    for mesh in [&one, &two] {
        eventually("orders is waited for", async || {
            status(mesh).await.waits_for.iter().any(|text| text.contains("default/orders"))
        })
        .await;
        assert_eq!(status(mesh).await.issuing, before.issuing);
    }
    orders.ack(second.epoch, Vec::new()).await;
    for mesh in [&one, &two] {
        eventually("the new root signs", async || status(mesh).await.issuing != before.issuing).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_in_etcd_are_sealed_by_a_passphrase_and_nothing_starts_by_another() {
    let Some(etcd) = Etcd::start(1, |_, _| Vec::new()) else { return };
    let (right, wrong) = (etcd.folder().join("right"), etcd.folder().join("wrong"));
    std::fs::write(&right, "one").unwrap();
    std::fs::write(&wrong, "two").unwrap();
    let sealed = ["--ca-passphrase-file", right.to_str().unwrap()];
    // At the same time, over nothing.
    let (one, two) = tokio::join!(join(&etcd, &sealed), join(&etcd, &sealed));
    assert_eq!(one.handle.ca_pem, two.handle.ca_pem);
    let kept = etcd.control(&["get", "--prefix", "weft/secrets/"]).unwrap_or_default();
    assert!(!kept.contains("PRIVATE KEY") && !kept.contains(one.handle.admin_token.reveal()));
    let store = format!("etcd://{}", etcd.endpoints());
    for flags in [vec![], vec!["--ca-passphrase-file", wrong.to_str().unwrap()]] {
        let flags = [vec!["--store", &store], flags].concat();
        let refused = Mesh::try_start_in(Arc::new(TempDir::new().unwrap()), &flags).await.err().unwrap();
        assert!(refused.to_string().contains("passphrase"), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_may_be_away_and_nobody_who_is_known_is_forgotten() {
    let Some(mut etcd) = Etcd::start(1, |_, _| Vec::new()) else { return };
    let mesh = join(&etcd, &[]).await;
    let _orders = Sidecar::ready(&mesh, "orders", offering("orders", 1)).await;
    let mut admin = mesh.admin().await;
    eventually("orders is ready", async || admin.sidecar("orders-1").await.is_some_and(|s| s.ready)).await;
    etcd.kill(0);
    let token = v1::CreateTokenRequest { service_account: "web".into(), ..Default::default() };
    assert_eq!(admin.create_token(token.clone()).await.unwrap_err().code(), Code::Unavailable);
    assert!(admin.sidecar("orders-1").await.unwrap().ready);
    etcd.start_member(0);
    eventually("tokens are made again", async || admin.create_token(token.clone()).await.is_ok()).await;
    assert!(admin.sidecar("orders-1").await.unwrap().ready);
    // Another one is told by the store.
    let other = join(&etcd, &[]).await;
    eventually("it is written down", async || {
        other.admin().await.sidecar("orders-1").await.is_some_and(|s| s.ready && s.connected)
    })
    .await;
}

/// A way to etcd that can be cut: what is sent then is not answered, as on a network that is parted.
struct Way {
    address: std::net::SocketAddr,
    open: tokio::sync::watch::Sender<bool>,
}

impl Way {
    async fn to(target: String) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (open, state) = tokio::sync::watch::channel(true);
        weft_runtime::task::spawn("test-way", async move {
            while let Ok((from, _)) = listener.accept().await {
                let (target, state) = (target.clone(), state.clone());
                weft_runtime::task::spawn("test-way", async move {
                    let Ok(to) = tokio::net::TcpStream::connect(&target).await else { return };
                    let ((from_in, from_out), (to_in, to_out)) = (from.into_split(), to.into_split());
                    tokio::join!(pass(from_in, to_out, state.clone()), pass(to_in, from_out, state));
                });
            }
        });
        Self { address, open }
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut open: tokio::sync::watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        // What was sent into a cut is lost with its connection; held back it does no harm.
        if open.wait_for(|open| *open).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_cut_off_leads_no_more_serves_what_it_knows_and_catches_up() {
    let Some(etcd) = Etcd::start(1, |_, _| Vec::new()) else { return };
    let way = Way::to(etcd.endpoints()).await;
    let store = format!("etcd://{}", way.address);
    let cut_off = Mesh::start_in(Arc::new(TempDir::new().unwrap()), &["--store", &store]).await;
    eventually("it leads", async || !leader(&etcd).await.is_empty()).await;
    let first = leader(&etcd).await;
    let other = join(&etcd, &[]).await;
    let _orders = Sidecar::ready(&cut_off, "orders", offering("orders", 1)).await;
    let at_other = async || other.admin().await.sidecar("orders-1").await;
    eventually("orders is known", async || at_other().await.is_some_and(|s| s.ready)).await;

    way.open.send_replace(false);
    let begun = std::time::Instant::now();
    eventually("the other leads", async || {
        let now = leader(&etcd).await;
        !now.is_empty() && now != first
    })
    .await;
    let apart = begun.elapsed();
    assert!(apart < std::time::Duration::from_secs(5), "{apart:?}");
    other.admin().await.apply_text(&service("a", 80)).await;
    // Longer than its lease: then its workloads are nobody's, and stay.
    eventually_within(4 * PATIENCE, "its lease is over", async || {
        etcd.control(&["get", "--prefix", "--keys-only", "weft/registrations/"]).unwrap().trim().is_empty()
    })
    .await;
    eventually("orders is nobody's", async || at_other().await.is_some_and(|s| s.ready && !s.connected))
        .await;
    assert!(cut_off.admin().await.sidecar("orders-1").await.unwrap().connected);
    let mut web =
        Sidecar::sync(cut_off.known(&other.join("web", "web").await).await, hello("web")).await.err();
    assert_eq!(web.take().unwrap().code(), Code::Unavailable);

    way.open.send_replace(true);
    eventually("it has caught up", async || {
        !cut_off.admin().await.services(v1::ServicesRequest {}).await.unwrap().services.is_empty()
    })
    .await;
    eventually("orders is its again", async || at_other().await.is_some_and(|s| s.ready && s.connected))
        .await;
    assert_ne!(leader(&etcd).await, first);
}
