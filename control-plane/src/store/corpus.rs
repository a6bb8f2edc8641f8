//! Stores as earlier versions have written them: whatever changes, they are read (`control-plane/tests/corpus`).
//!
//! What is there is never changed. A version that writes something new adds a fixture, with another number, beside the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use weft_core::manifest::{Kind, ResourceKey, SourceFile};
use weft_core::world::Defaults;

use super::engine::Write;
use super::*;
use crate::ca::Ca;
use crate::configuration::{Configuration, Mode};
use crate::kubernetes::Double;
use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::push::Hub;
use crate::world::World;

const SECRETS: &str = "/api/v1/secrets";
const ETCD: &str = "weft";

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(name)
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_600_000 + seconds)
}

fn custody() -> Custody {
    Custody::Sealed(Passphrase::new(b"of the corpus").unwrap())
}

fn grant() -> Grant {
    Grant { services: BTreeSet::from(["web".into()]), labels: BTreeMap::from([("app".into(), "web".into())]) }
}

fn tokens() -> [Token; 2] {
    let joining = Token {
        id: "a".into(),
        namespace: "shop".into(),
        service_account: "web".into(),
        grant: grant(),
        expires: at(100),
        uses_left: Some(3),
        revoked: true,
        admin: None,
    };
    let ruling = Token {
        id: "b".into(),
        uses_left: None,
        revoked: false,
        admin: Some(Role::Viewer),
        ..joining.clone()
    };
    [joining, ruling]
}

fn certificate() -> Certificate {
    Certificate {
        serial: "0a1b".into(),
        namespace: "shop".into(),
        workload: "web-1".into(),
        spiffe_id: "spiffe://mesh.local/ns/shop/sa/web".into(),
        issuer: "0c".into(),
        not_before: at(0),
        not_after: at(200),
        grant: grant(),
        root: "0d".into(),
        token: "a".into(),
        replaced: false,
    }
}

fn registration() -> Registration {
    Registration {
        namespace: "shop".into(),
        workload: "web-1".into(),
        instance: "1".into(),
        spiffe_id: "spiffe://mesh.local/ns/shop/sa/web".into(),
        serial: "0a1b".into(),
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        inbound_port: 4143,
        offers: vec![Offer {
            service: "web".into(),
            port: Some(OfferedPort { port: 80, target_port: 8080, protocol: 2 }),
        }],
        labels: BTreeMap::from([("app".into(), "web".into())]),
        zone: "a".into(),
        version: "0.1.0".into(),
        replica: "weft-1".into(),
        ready: true,
        unhealthy: BTreeSet::from(["shop/web".into()]),
    }
}

fn revocation() -> Revocation {
    Revocation { what: "0e".into(), since: at(1), until: Some(at(300)), reason: "lost".into() }
}

fn allocation() -> Allocation {
    Allocation { service: "shop/web".into(), addresses: vec!["240.0.0.1".parse().unwrap()] }
}

fn key_set() -> KeySet {
    KeySet {
        from: "https://id.example".into(),
        is_issuer: true,
        // So long that a Secret has its digest for a name.
        authorities: "-----BEGIN CERTIFICATE-----\n".repeat(9),
        text: "{\"keys\":[]}".into(),
    }
}

async fn open_configuration(store: &Store) -> (Arc<World>, Configuration) {
    let defaults = Defaults { trust_domain: "mesh.local".parse().unwrap(), service_cidrs: Vec::new() };
    let world =
        World::open(defaults, store.clone(), Leadership::alone(), Arc::new(Hub::default()), Metrics::new());
    let world = world.await.unwrap();
    let configuration = Configuration::open(world.clone(), store.clone()).await.unwrap();
    (world, configuration)
}

async fn open_authority(store: &Store) -> Ca {
    let domain = "mesh.local".parse().unwrap();
    Ca::open(store.clone(), &domain, None, Duration::from_secs(3600), at(0)).await.unwrap()
}

/// Every kind of record, and what it was.
async fn is_read(store: Store, root: &str, written: &str) {
    assert_eq!(store.secret("of-the-corpus").await.unwrap().unwrap(), b"hush", "{written}");
    assert_eq!(store.tokens().await.unwrap(), tokens(), "{written}");
    assert_eq!(store.certificates().await.unwrap(), [certificate()], "{written}");
    assert_eq!(store.registrations().await.unwrap(), [registration()], "{written}");
    assert_eq!(store.revocations().await.unwrap(), [revocation()], "{written}");
    assert!(store.allocations().await.unwrap().contains(&allocation()), "{written}");
    assert_eq!(store.key_sets().await.unwrap(), [key_set()], "{written}");
    assert_eq!(open_authority(&store).await.anchors_pem(), root, "{written}");

    let revisions = store.revisions().await.unwrap();
    let said: Vec<_> =
        revisions.iter().map(|it| (it.number, it.source.as_str(), it.author.as_str())).collect();
    let expected =
        [(4, "config-dir", "config-dir"), (3, "rollback", "b"), (2, "delete", "b"), (1, "apply", "a")];
    assert_eq!(said, expected, "{written}");
    // Each is understood as well: what it says is put into force again.
    let (world, configuration) = open_configuration(&store).await;
    assert_eq!(world.revision(), 4, "{written}");
    let back = configuration.rollback(1, "again", None).await.unwrap();
    assert!(back.problems.is_empty() && back.revision == 5, "{written}: {back:?}");
}

async fn write(store: &Store, documents: &str) {
    open_authority(store).await;
    store.replace_secret("of-the-corpus", b"hush".to_vec()).await.unwrap();
    for token in tokens() {
        store.keep_token(&token).await.unwrap();
    }
    store.keep_certificate(&certificate()).await.unwrap();
    store.keep_revocation(&revocation()).await.unwrap();
    store.keep_allocations(&[allocation()]).await.unwrap();
    store.keep_key_set(&key_set()).await.unwrap();
    let record = Some(encode("a registration", &registration()).unwrap());
    store.register(&[Registering { name: "shop/web-1".into(), record, before: None }]).await.unwrap();

    let (_, configuration) = open_configuration(store).await;
    let namespace = "shop".parse().unwrap();
    let file = |text| [SourceFile { name: "corpus.yaml", text }];
    let given = configuration.apply(&file(documents), &namespace, "a", (Mode::Commit, None)).await.unwrap();
    assert!(given.problems.is_empty(), "{given:?}");
    let limit = "orders".parse().unwrap();
    let limit = ResourceKey { kind: Kind::RateLimit, namespace: Some(namespace.clone()), name: limit };
    configuration.delete(&limit, "b", None).await.unwrap();
    configuration.rollback(1, "b", None).await.unwrap();
    let more = "{apiVersion: v1, kind: Service, metadata: {name: watched}, spec: {ports: [{port: 80}]}}";
    configuration.replace_config_dir(&file(more), &namespace).await.unwrap();
}

/// Fixtures are added, never changed: what is there is not written over.
fn add(name: &str, bytes: &[u8]) {
    assert!(!path(name).exists(), "{name} is there; give what is new another number");
    fs::write(path(name), bytes).unwrap();
}

/// With `WEFT_ADD_FIXTURES=2`, say, what is written today is added to the corpus under this number.
#[tokio::test]
async fn what_this_version_writes_it_reads_wherever_it_stands() {
    let dir = tempfile::tempdir().unwrap();
    let documents = fs::read_to_string(path("documents-1.yaml")).unwrap();
    let store = Store::open_in(dir.path(), &custody()).await.unwrap();
    write(&store, &documents).await;
    let root = open_authority(&store).await.anchors_pem();
    let records = store.engine.snapshot("be written down").await.unwrap();
    let double = Double::start(&[SECRETS]).await;
    let in_cluster = Store::open_in_cluster(double.client(), &Custody::Clear).await.unwrap();
    in_cluster.engine.write_all("be written down", records.clone()).await.unwrap();
    if let Ok(number) = std::env::var("WEFT_ADD_FIXTURES") {
        let mut lines = String::new();
        for Write { table, name, value } in &records {
            let (key, value) = (etcd::key_of(ETCD, *table, name), value.as_ref().unwrap());
            lines.push_str(&format!("{} {}\n", STANDARD.encode(key), STANDARD.encode(value)));
        }
        add(&format!("etcd-{number}.txt"), lines.as_bytes());
        let list = double.client().get("/api/v1/namespaces/weft/secrets").await.unwrap();
        add(&format!("kubernetes-{number}.json"), &serde_json::to_vec_pretty(&list["items"]).unwrap());
        add(&format!("embedded-{number}.redb"), &fs::read(dir.path().join(FILE)).unwrap());
        add(&format!("root-{number}.pem"), root.as_bytes());
    }
    is_read(store, &root, "today, embedded").await;
    let in_cluster = Store::open_in_cluster(double.client(), &custody()).await.unwrap();
    is_read(in_cluster, &root, "today, in a cluster").await;
}

fn root_of(number: u32) -> String {
    fs::read_to_string(path(&format!("root-{number}.pem"))).unwrap()
}

#[test]
fn documents_of_every_kind_are_read_as_each_version_had_them() {
    let mut kinds = BTreeSet::new();
    for number in 1.. {
        let Ok(text) = fs::read_to_string(path(&format!("documents-{number}.yaml"))) else { break };
        let file = SourceFile { name: "corpus.yaml", text: &text };
        let reading = weft_core::manifest::read(&[file], &"shop".parse().unwrap());
        assert!(reading.problems.is_empty(), "{:?}", reading.problems);
        kinds.extend(reading.resources.iter().map(|resource| resource.key().kind.as_str()));
    }
    assert_eq!(
        kinds,
        Kind::ALL.iter().map(|kind| kind.as_str()).collect::<BTreeSet<_>>(),
        "one of each kind at least"
    );
}

#[tokio::test]
async fn a_data_directory_of_each_version_is_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(path("embedded-1.redb"), dir.path().join(FILE)).unwrap();
    is_read(Store::open_in(dir.path(), &custody()).await.unwrap(), &root_of(1), "embedded-1").await;
}

#[tokio::test]
async fn the_keys_of_each_version_in_etcd_are_read() {
    let text = fs::read_to_string(path("etcd-1.txt")).unwrap();
    let mut records = Vec::new();
    for line in text.lines() {
        let (key, value) = line.split_once(' ').unwrap();
        let (key, value) = (STANDARD.decode(key).unwrap(), STANDARD.decode(value).unwrap());
        let (table, name) = record(ETCD, &key).unwrap();
        assert_eq!(etcd::key_of(ETCD, table, &name), key, "it is looked for where it was written");
        records.push(Write { table, name, value: Some(value) });
    }
    // What stands under a key is the same wherever it stands.
    let dir = tempfile::tempdir().unwrap();
    Store::open(dir.path()).unwrap().engine.write_all("be taken over", records).await.unwrap();
    is_read(Store::open_in(dir.path(), &custody()).await.unwrap(), &root_of(1), "etcd-1").await;
}

#[tokio::test]
async fn the_secrets_of_each_version_in_a_cluster_are_read() {
    let double = Double::start(&[SECRETS]).await;
    let objects: Vec<Value> = serde_json::from_slice(&fs::read(path("kubernetes-1.json")).unwrap()).unwrap();
    objects.into_iter().for_each(|object| double.put(SECRETS, object));
    let store = Store::open_in_cluster(double.client(), &custody()).await.unwrap();
    is_read(store, &root_of(1), "kubernetes-1").await;
}
