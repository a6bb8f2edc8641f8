//! Against a real etcd.

#[path = "../../tests/programs/etcd.rs"]
mod server;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use weft_certs::{Authority, IssueParams, KeyPair, pem, request};

use super::*;
use client::Tried;
use server::Etcd;

const PATIENCE: Duration = Duration::from_secs(20);

fn client(etcd: &Etcd) -> Client {
    let address = format!("etcd://{}", etcd.endpoints()).parse().unwrap();
    let settings = AccessSettings { address: &address, ca: None, identity: None, user: None };
    Client::new(Access::new(&settings).unwrap())
}

async fn put(client: &Client, key: &str, value: &str) {
    let mut txn = Txn::default();
    txn.put(key.into(), value.into(), 0);
    assert_eq!(client.txn(txn).await.unwrap().succeeded, [true]);
}

async fn value(client: &Client, key: &str) -> Option<String> {
    let (value, _) = client.value(key.into()).await.unwrap();
    value.map(|value| String::from_utf8(value).unwrap())
}

fn event(key: &str, value: Option<&str>) -> (String, Option<String>) {
    (key.to_owned(), value.map(str::to_owned))
}

/// What is told next, whatever way it comes in.
async fn told(batches: &mut mpsc::Receiver<Batch>) -> Vec<(String, Option<String>)> {
    match timeout(PATIENCE, batches.recv()).await.unwrap().unwrap() {
        Batch::Gap => vec![event("gap", None)],
        Batch::Events(events) => {
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            events.into_iter().map(|e| (text(e.key), e.value.map(text))).collect()
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_happen_where_all_is_as_expected_and_a_lost_member_is_not_missed() {
    let Some(mut etcd) = Etcd::start(3, |_, _| Vec::new()) else { return };
    let client = client(&etcd);
    let mut txn = Txn::default();
    txn.expect(b"a".to_vec(), None);
    txn.put(b"a".to_vec(), b"1".to_vec(), 0);
    // Asked again, where a busy member did not say whether it was done, it finds that it was.
    let is_done = |tried: Tried| tried.succeeded == [true] || tried.repeated;
    assert!(is_done(client.txn(txn.clone()).await.unwrap()));
    assert_eq!(value(&client, "a").await.as_deref(), Some("1"));
    assert_eq!(client.txn(txn).await.unwrap().succeeded, [false]);
    let change = |before: &str, after: &str| {
        let mut txn = Txn::default();
        txn.expect(b"a".to_vec(), Some(before.into()));
        txn.put(b"a".to_vec(), after.into(), 0);
        txn
    };
    assert!(is_done(client.txn(change("1", "2")).await.unwrap()));
    // Each for itself.
    let mut other = Txn::default();
    other.put(b"b".to_vec(), b"1".to_vec(), 0);
    let both = vec![change("1", "3"), other];
    assert_eq!(client.each(both).await.unwrap().succeeded, [false, true]);
    assert_eq!(value(&client, "a").await.as_deref(), Some("2"));
    // More than a page, as of one moment.
    for some in (0..1100).collect::<Vec<_>>().chunks(100) {
        let mut txn = Txn::default();
        some.iter().for_each(|n| txn.put(format!("many/{n:04}").into(), b"x".to_vec(), 0));
        client.txn(txn).await.unwrap();
    }
    let (found, _) = client.all(b"many/", true).await.unwrap();
    assert_eq!((found.len(), found.last().unwrap().key.as_slice()), (1100, b"many/1099".as_slice()));

    // The member that is spoken to, whichever that is, and a watch of it.
    let (begun, (sender, mut batches)) = (client.value(b"a".to_vec()).await.unwrap().1, mpsc::channel(8));
    weft_runtime::task::spawn("test-watch", follow(client.clone(), b"w/".to_vec(), begun + 1, sender));
    put(&client, "w/1", "one").await;
    assert_eq!(told(&mut batches).await, [event("w/1", Some("one"))]);
    let member = client.line().await.unwrap().member.clone();
    let lost = etcd.endpoints().split(',').position(|endpoint| endpoint == member).unwrap();
    etcd.kill(lost);
    let begun = Instant::now();
    put(&client, "w/2", "two").await;
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert_eq!(told(&mut batches).await, [event("w/2", Some("two"))]);
    etcd.start_member(lost);
    let mut txn = Txn::default();
    txn.delete(b"w/1".to_vec());
    client.txn(txn).await.unwrap();
    assert_eq!(told(&mut batches).await, [event("w/1", None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_compacted_is_a_gap_and_a_slow_watcher_misses_nothing_else() {
    let Some(etcd) = Etcd::start(1, |_, _| Vec::new()) else { return };
    let client = client(&etcd);
    let (_, begun) = client.value(b"a".to_vec()).await.unwrap();
    for n in 0..20 {
        put(&client, "w/a", &n.to_string()).await;
    }
    etcd.control(&["compaction", &(begun + 15).to_string()]).unwrap();
    let (sender, mut batches) = mpsc::channel(1);
    weft_runtime::task::spawn("test-watch", follow(client.clone(), b"w/".to_vec(), begun + 1, sender));
    assert_eq!(told(&mut batches).await, [event("gap", None)]);
    // It does not read while much happens, more than there is room for on the way.
    let large = "x".repeat(100_000);
    for n in 0..200 {
        put(&client, &format!("w/{n:03}"), &large).await;
    }
    let mut seen = Vec::new();
    while seen.last().is_none_or(|key| key != "w/199") {
        seen.extend(told(&mut batches).await.into_iter().map(|(key, _)| key));
    }
    let late: Vec<_> = seen.iter().filter(|key| *key != "w/a").cloned().collect();
    assert_eq!(late, (0..200).map(|n| format!("w/{n:03}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_and_what_was_put_with_it_goes_with_it() {
    let Some(etcd) = Etcd::start(1, |_, _| Vec::new()) else { return };
    let client = client(&etcd);
    let lasts = Duration::from_secs(2);
    let lease = grant(&client, lasts).await.unwrap();
    let mut txn = Txn::default();
    txn.put(b"a".to_vec(), b"1".to_vec(), lease.id);
    client.txn(txn).await.unwrap();
    let kept = watch::Sender::new(lease);
    let mut renewed = kept.subscribe();
    {
        let keeping = keep(&client, lasts, &kept);
        let renewals = async {
            for _ in 0..5 {
                renewed.changed().await.unwrap();
            }
        };
        tokio::select! {
            () = keeping => panic!("lost"),
            done = timeout(PATIENCE, renewals) => done.unwrap(),
        }
    }
    assert!(renewed.borrow().until > lease.until + lasts);
    assert_eq!(value(&client, "a").await.as_deref(), Some("1"));
    revoke(&client, lease.id).await.unwrap();
    assert_eq!(value(&client, "a").await, None);
    // Who renews it is told that there is none any more.
    timeout(PATIENCE, keep(&client, lasts, &kept)).await.unwrap();
    let mut txn = Txn::default();
    txn.put(b"a".to_vec(), b"1".to_vec(), lease.id);
    assert!(client.txn(txn).await.unwrap_err().is_lease_lost());
}

/// Writes a certificate for this address and its authority as PEM; their paths.
fn certify(folder: &Path, name: &str, authority: &Authority, address: SocketAddr) -> [String; 3] {
    let key = KeyPair::generate().unwrap();
    let identity = format!("spiffe://mesh.local/ns/etcd/sa/{name}").parse().unwrap();
    let (dns, ips, ttl) = (vec!["etcd".to_owned()], vec![address.ip()], Duration::from_secs(3600));
    let wanted = IssueParams { identity, dns, ips, ttl, now: SystemTime::now() };
    let issued = authority.sign(&request(&key).unwrap(), &wanted).unwrap();
    let texts = [pem::from_certificates(&issued.chain), key.to_pem(), authority.anchors_pem()];
    let paths = ["crt", "key", "ca"].map(|extension| folder.join(name).with_extension(extension));
    for (path, text) in paths.iter().zip(texts) {
        fs::write(path, text).unwrap();
    }
    paths.map(|path| path.to_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_proves_itself_and_so_do_we_by_certificate_and_by_password() {
    let authority = Authority::create(&"mesh.local".parse().unwrap(), SystemTime::now()).unwrap();
    let other = Authority::create(&"mesh.local".parse().unwrap(), SystemTime::now()).unwrap();
    let started = Etcd::start(1, |folder, addresses| {
        let [cert, key, ca] = certify(folder, "server", &authority, addresses[0]);
        certify(folder, "client", &authority, addresses[0]);
        certify(folder, "stranger", &other, addresses[0]);
        vec![
            format!("--cert-file={cert}"),
            format!("--key-file={key}"),
            format!("--trusted-ca-file={ca}"),
            "--client-cert-auth".into(),
        ]
    });
    let Some(mut etcd) = started else { return };
    let file = |name: &str| etcd.folder().join(name);
    let (ca, cert, key) = (file("client.ca"), file("client.crt"), file("client.key"));
    let (stranger, stranger_key) = (file("stranger.crt"), file("stranger.key"));
    let (password, wrong) = (file("password"), file("wrong"));
    fs::write(&password, "open sesame\n").unwrap();
    fs::write(&wrong, "open barley\n").unwrap();
    let tls: Vec<_> = [("--cacert", &ca), ("--cert", &cert), ("--key", &key)]
        .iter()
        .map(|(flag, path)| format!("{flag}={}", path.display()))
        .collect();
    let control = |words: &str| {
        let words = tls.iter().map(String::as_str).chain(words.split(' ')).collect::<Vec<_>>();
        etcd.control(&words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    };
    control("user add root:toor");
    control("user grant-role root root");
    control("role add weft");
    control("role grant-permission weft --prefix=true readwrite weft/");
    fs::write(file("users"), "").unwrap();
    etcd.control(
        &[tls.iter().map(String::as_str).collect(), vec!["user", "add", "weft:open sesame"]].concat(),
    )
    .unwrap();
    control("user grant-role weft weft");
    control("auth enable");

    let address = format!("etcd://{}", etcd.endpoints()).parse().unwrap();
    let identity = (cert.as_path(), key.as_path());
    let with = |ca: Option<&Path>, identity, user| {
        let settings = AccessSettings { address: &address, ca, identity, user };
        Client::new(Access::new(&settings).unwrap())
    };
    let ours = with(Some(&ca), Some(identity), Some(("weft", &password)));
    put(&ours, "weft/a", "1").await;
    assert_eq!(value(&ours, "weft/a").await.as_deref(), Some("1"));
    // Beyond what its role says.
    let mut elsewhere = Txn::default();
    elsewhere.put(b"others/a".to_vec(), b"1".to_vec(), 0);
    assert!(matches!(ours.txn(elsewhere).await, Err(EtcdError::Refused(_))));
    let refused = with(Some(&ca), Some(identity), Some(("weft", &wrong)));
    assert!(matches!(refused.value(b"weft/a".to_vec()).await, Err(EtcdError::Refused(_))));
    for nobody in [
        with(Some(&ca), None, Some(("weft", &password))),
        with(Some(&ca), Some((stranger.as_path(), stranger_key.as_path())), Some(("weft", &password))),
        with(Some(&file("stranger.ca")), Some(identity), Some(("weft", &password))),
        with(None, None, Some(("weft", &password))),
    ] {
        let away = timeout(PATIENCE, nobody.value(b"weft/a".to_vec())).await.unwrap();
        assert!(matches!(away, Err(EtcdError::Away(..))), "{away:?}");
    }
    // A member that was started again knows nobody's token any more.
    etcd.kill(0);
    etcd.start_member(0);
    put(&ours, "weft/a", "2").await;
    assert_eq!(value(&ours, "weft/a").await.as_deref(), Some("2"));
}
