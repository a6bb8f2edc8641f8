//! The store in a cluster, as several use it, over the double of the API server.

use std::time::SystemTime;

use super::super::{
    Custody, Document, DocumentKey, Origin, Passphrase, Registering, Revision, RevisionSource, Store,
    StoreError, TokenUse,
};
use crate::kubernetes::Double;
use crate::store::samples::token;
use crate::store::{Backup, Table};

const SECRETS: &str = "/api/v1/secrets";

async fn double() -> Double {
    Double::start(&[SECRETS]).await
}

async fn open(double: &Double) -> Store {
    Store::open_in_cluster(double.client(), &Custody::Clear).await.unwrap()
}

fn revision(number: u64) -> Revision {
    let (time, author, summary) = (SystemTime::UNIX_EPOCH, String::new(), String::new());
    Revision { number, time, author, source: RevisionSource::Apply, summary, touched: Vec::new() }
}

fn document(name: &str, json: &str) -> Document {
    let key = DocumentKey { kind: "Service".into(), namespace: "default".into(), name: name.into() };
    Document { key, origin: Origin::Applied, json: json.into() }
}

#[tokio::test]
async fn what_two_write_at_the_same_time_is_lost_to_neither() {
    let double = double().await;
    let (one, two) = (open(&double).await, open(&double).await);
    one.keep_token(&token("few", Some(5))).await.unwrap();
    // Refused as if somebody were quicker: it is looked again, and done.
    double.refuse(SECRETS, 3);
    two.keep_token(&token("other", None)).await.unwrap();
    let spend = |store: &Store| {
        let store = store.clone();
        async move { store.spend_token("few").await.unwrap() }
    };
    let tries = futures_util::future::join_all((0..4).flat_map(|_| [spend(&one), spend(&two)])).await;
    assert_eq!(tries.iter().filter(|tried| matches!(tried, TokenUse::Spent(_))).count(), 5);
    assert_eq!(tries.iter().filter(|tried| **tried == TokenUse::UsedUp).count(), 3);
    assert!(matches!(spend(&two).await, TokenUse::UsedUp));
    assert_eq!(one.tokens().await.unwrap().len(), 2);

    let (first, stamp) = one.stamped_secret("key").await.unwrap();
    assert_eq!(first, None);
    assert_eq!(two.keep_secret("key", vec![1]).await.unwrap(), [1]);
    assert!(matches!(one.swap_secret("key", &stamp, vec![2]).await, Err(StoreError::Changed(_))));
    assert_eq!(one.keep_secret("key", vec![2]).await.unwrap(), [1]);
}

#[tokio::test]
async fn revisions_are_appended_by_one_each_and_read_by_both() {
    let double = double().await;
    let (one, two) = (open(&double).await, open(&double).await);
    let both = [document("a", "1"), document("b", "1")];
    one.append_revision(revision(1), &both).await.unwrap();
    let taken = two.append_revision(revision(1), &both[..1]).await;
    assert!(matches!(taken, Err(StoreError::Changed(_))), "{taken:?}");
    two.append_revision(revision(2), &both[..1]).await.unwrap();
    assert_eq!(two.documents(1).await.unwrap().unwrap(), both);
    assert_eq!(one.documents(2).await.unwrap().unwrap(), both[..1]);
    let numbers: Vec<u64> = one.revisions().await.unwrap().iter().map(|revision| revision.number).collect();
    assert_eq!(numbers, [2, 1]);
}

#[tokio::test]
async fn registrations_are_changed_where_they_are_as_was_thought() {
    let double = double().await;
    let store = open(&double).await;
    let change = |name: &str, before: Option<&str>, record: Option<&str>| Registering {
        name: name.into(),
        record: record.map(|record| record.into()),
        before: before.map(|before| before.into()),
    };
    let first =
        store.register(&[change("a/b", None, Some("1")), change("a/c", None, Some("1"))]).await.unwrap();
    assert!(first.iter().all(|at| at.is_some_and(|at| at > 0)));
    let second = [change("a/b", Some("0"), None), change("a/c", Some("1"), Some("2"))];
    let second = store.register(&second).await.unwrap();
    assert!(second[0].is_none() && second[1] > first[1]);
    let found = store.engine.scan("look", Table::Registrations).await.unwrap();
    assert_eq!(found, [("a/b".to_owned(), b"1".to_vec()), ("a/c".to_owned(), b"2".to_vec())]);
}

#[tokio::test]
async fn what_has_no_room_in_an_object_is_refused_by_name_and_nothing_is_broken() {
    let double = double().await;
    let store = open(&double).await;
    store.keep_secret("small", vec![1]).await.unwrap();
    let refused = store.replace_secret("large", vec![0; 1 << 20]).await.unwrap_err();
    assert!(refused.to_string().contains("the Secret weft-store-secrets would be too large"), "{refused}");
    assert_eq!(store.secret("small").await.unwrap(), Some(vec![1]));
    // What is spread over several objects, and in several parts, is more than one may hold.
    let many: Vec<_> = (0..40).map(|n| document(&n.to_string(), &"x".repeat(100_000))).collect();
    store.append_revision(revision(1), &many).await.unwrap();
    assert_eq!(store.documents(1).await.unwrap().unwrap(), many);
}

#[tokio::test]
async fn where_there_is_no_room_for_all_of_the_history_the_older_half_of_it_is_forgotten() {
    let double = double().await;
    let store = open(&double).await;
    // Sixty thousand bytes of each revision stand in the one object of 1 MiB.
    let named = |number: u64| DocumentKey {
        kind: "Service".into(),
        namespace: "default".into(),
        name: format!("{number:03}-{}", "x".repeat(60)),
    };
    for number in 1..=40 {
        let touched: Vec<_> = (0..500).map(named).collect();
        let revision = Revision { touched, ..revision(number) };
        store.append_revision(revision, &[document("a", &number.to_string())]).await.unwrap();
    }
    let kept = store.revisions().await.unwrap();
    assert!((4..20).contains(&kept.len()), "{}", kept.len());
    assert_eq!((kept[0].number, kept[0].touched.len()), (40, 500));
    for revision in &kept {
        let documents = store.documents(revision.number).await.unwrap().unwrap();
        assert_eq!(documents, [document("a", &revision.number.to_string())]);
    }
    // One that has no room by itself is refused, by name.
    let vast = document("b", &"x".repeat(1 << 20));
    let refused = store.append_revision(revision(41), &[vast]).await.unwrap_err().to_string();
    assert!(
        refused.contains("the Secret weft-store-contents-") && refused.contains("too large"),
        "{refused}"
    );
    assert_eq!(store.revisions().await.unwrap()[0].number, 40, "the newest is not forgotten for it");
}

#[tokio::test]
async fn it_is_sealed_and_restored_as_other_stores_are() {
    let double = double().await;
    let sealed = Custody::Sealed(Passphrase::new(b"one").unwrap());
    let store = Store::open_in_cluster(double.client(), &sealed).await.unwrap();
    store.keep_secret("key", b"hush".to_vec()).await.unwrap();
    let clear = Store::open_in_cluster(double.client(), &Custody::Clear).await;
    assert!(matches!(clear, Err(StoreError::Sealed)));
    store.keep_token(&token("a", None)).await.unwrap();
    let text = store.back_up(SystemTime::UNIX_EPOCH).await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let embedded = Store::open(dir.path()).unwrap();
    embedded.take_over(Backup::read(&text).unwrap()).await.unwrap();
    assert_eq!(embedded.back_up(SystemTime::UNIX_EPOCH).await.unwrap(), text);
    let another = Double::start(&[SECRETS]).await;
    let restored = open(&another).await;
    assert!(restored.is_empty().await.unwrap());
    restored.take_over(Backup::read(&text).unwrap()).await.unwrap();
    assert_eq!(restored.back_up(SystemTime::UNIX_EPOCH).await.unwrap(), text);
    let opened = Store::open_in_cluster(another.client(), &sealed).await.unwrap();
    assert_eq!(opened.secret("key").await.unwrap().unwrap(), b"hush");
}
