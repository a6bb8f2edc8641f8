//! Revisions: each names all its documents by content, and equal documents are kept once.
//!
//! No record is larger than a request to etcd or a Secret may be: what is longer is told in several.
//!
//! Contents are written first, the revision last: it is there when it can be read whole. Whoever sweeps leaves a mark, and whoever
//! appends wants that mark to be as it was: so nobody relies on contents that somebody else is taking away.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use super::engine::{Batch, Outcome, Table, Write};
use super::handle::Store;
use super::{Document, DocumentKey, Revision, StoreError, decode, encode};

/// How many revisions are kept.
const KEPT: u64 = 1000;
/// How many more may gather before the oldest are swept out together.
const SLACK: u64 = 100;
/// The mark that a sweep leaves.
const SWEPT: &str = "swept";
/// How often an append begins anew because somebody sweeps meanwhile, or because room had to be made.
const TRIES: usize = 8;
/// Documents that one list names, of 65 bytes each.
const LISTED: usize = 4000;
/// Documents that an entry itself says were touched, and a part of those that it does not.
const TOLD: usize = 1000;

/// What revisions hold, by digest.
type Content = (String, Vec<u8>);

/// A revision as it is written; its documents by the digest of their list, which names each by the digest of its record.
#[derive(Serialize, Deserialize)]
struct Entry {
    revision: Revision,
    contents: String,
    /// Further lists, where one would be too long.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    more: Vec<String>,
    /// What it touched, in parts, where that would be too long here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    touched: Vec<String>,
}

impl Entry {
    fn lists(&self) -> impl Iterator<Item = &String> {
        std::iter::once(&self.contents).chain(&self.more)
    }
}

/// A revision as an earlier version wrote it.
#[derive(Deserialize)]
struct FormerEntry {
    revision: Revision,
    documents: Vec<[u8; 32]>,
}

/// Contents that are there, since we have read or written them, as long as nobody has swept.
#[derive(Debug, Default)]
pub(super) struct KnownContents {
    mark: Option<Vec<u8>>,
    names: BTreeSet<String>,
}

impl Store {
    /// Appends a revision with all its documents. Its number must be one more than the newest's; where there is one of its
    /// number by now, [`StoreError::Changed`].
    pub(crate) async fn append_revision(
        &self,
        revision: Revision,
        documents: &[Document],
    ) -> Result<(), StoreError> {
        let number = revision.number;
        let (entry, contents) = written(revision, documents)?;
        let mut known = self.known.lock().await;
        for _ in 0..TRIES {
            let mark = self.engine.read("append a revision", Table::Marks, SWEPT).await?;
            if known.mark != mark {
                *known = KnownContents { mark: mark.clone(), names: BTreeSet::new() };
            }
            let is_new = |(name, _): &&Content| !known.names.contains(name);
            let put = |(name, bytes): &Content| Write {
                table: Table::Contents,
                name: name.clone(),
                value: Some(bytes.clone()),
            };
            let writes = contents.iter().filter(is_new).map(put).collect();
            let batch = Batch::default()
                .expecting(Table::Marks, SWEPT, mark)
                .expecting(Table::Revisions, name_of(number), None)
                .putting(Table::Revisions, name_of(number), entry.clone());
            let done = async {
                self.engine.write_all("append a revision", writes).await?;
                self.engine.commit("append a revision", batch).await
            };
            match done.await {
                Ok(Outcome::Done) => {
                    known.names = contents.into_iter().map(|(name, _)| name).collect();
                    drop(known);
                    return if number.is_multiple_of(SLACK) {
                        self.sweep(number, KEPT).await
                    } else {
                        Ok(())
                    };
                }
                Ok(Outcome::Conflict) => {}
                // Then there is room for fewer of them.
                Err(error @ StoreError::Full { .. }) => {
                    let kept = self.engine.names("append a revision", Table::Revisions).await?.len();
                    if kept < 2 {
                        return Err(error);
                    }
                    tracing::warn!(
                        revisions = kept / 2,
                        "the store has no room left: the older half of the history is forgotten"
                    );
                    self.sweep(number.saturating_sub(1), u64::try_from(kept / 2).unwrap_or(KEPT)).await?;
                }
                Err(error) => return Err(error),
            }
            if self.has_revision(number).await? {
                break;
            }
        }
        Err(StoreError::Changed("the configuration"))
    }

    /// Whether there is a revision of this number.
    pub(crate) async fn has_revision(&self, number: u64) -> Result<bool, StoreError> {
        let found = self.engine.read("look for a revision", Table::Revisions, &name_of(number)).await?;
        Ok(found.is_some())
    }

    /// All kept revisions, newest first.
    pub(crate) async fn revisions(&self) -> Result<Vec<Revision>, StoreError> {
        let entries = self.engine.scan("list revisions", Table::Revisions).await?;
        let mut revisions = Vec::with_capacity(entries.len());
        for (_, bytes) in entries.iter().rev() {
            let Entry { mut revision, touched, .. } = decode("a revision", bytes)?;
            if !touched.is_empty() {
                let parts = self.engine.read_all("list revisions", Table::Contents, &touched).await?;
                for part in parts {
                    let part = part.ok_or(StoreError::Missing(revision.number))?;
                    revision.touched.extend(decode::<Vec<DocumentKey>>("what a revision touched", &part)?);
                }
            }
            revisions.push(revision);
        }
        Ok(revisions)
    }

    /// A revision's documents.
    pub(crate) async fn documents(&self, revision: u64) -> Result<Option<Vec<Document>>, StoreError> {
        let read = async |table: Table, name: &str| self.engine.read("read a revision", table, name).await;
        let Some(entry) = read(Table::Revisions, &name_of(revision)).await? else { return Ok(None) };
        let entry: Entry = decode("a revision", &entry)?;
        let mut names = Vec::new();
        for list in entry.lists() {
            names.extend(names_in(&read(Table::Contents, list).await?.ok_or(StoreError::Missing(revision))?));
        }
        let records = self.engine.read_all("read a revision", Table::Contents, &names).await?;
        let document = |record: Option<Vec<u8>>| {
            // One that is missing is not passed over: without it the revision says something else.
            decode("a document", &record.ok_or(StoreError::Missing(revision))?)
        };
        records.into_iter().map(document).collect::<Result<_, _>>().map(Some)
    }

    /// Forgets the oldest revisions, and the contents that none of the others names.
    async fn sweep(&self, newest: u64, most: u64) -> Result<(), StoreError> {
        const WHAT: &str = "forget old revisions";
        let entries = self.engine.scan(WHAT, Table::Revisions).await?;
        let is_old = |name: &str| name.parse::<u64>().is_ok_and(|number| number + most <= newest);
        let (old, kept): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(name, _)| is_old(name));
        if old.is_empty() {
            return Ok(());
        }
        let gone = |name: String, table: Table| Write { table, name, value: None };
        let writes = old.into_iter().map(|(name, _)| gone(name, Table::Revisions)).collect();
        self.engine.write_all(WHAT, writes).await?;
        let mut used = BTreeSet::new();
        for (_, entry) in &kept {
            // One that cannot be read keeps nothing alive, and is reported where it is asked for.
            let Ok(entry) = decode::<Entry>("a revision", entry) else { continue };
            let lists: Vec<_> = entry.lists().cloned().collect();
            for list in self.engine.read_all(WHAT, Table::Contents, &lists).await?.into_iter().flatten() {
                used.extend(names_in(&list));
            }
            used.extend(lists);
            used.extend(entry.touched);
        }
        let mut unused = self.engine.names(WHAT, Table::Contents).await?;
        unused.retain(|name| !used.contains(name));
        let mut mark = self.engine.read(WHAT, Table::Marks, SWEPT).await?;
        for some in unused.chunks(32) {
            let next = Some(fastrand::u64(..).to_be_bytes().to_vec());
            let mut batch = Batch::default().expecting(Table::Marks, SWEPT, mark).expecting(
                Table::Revisions,
                name_of(newest + 1),
                None,
            );
            batch.writes.push(Write { table: Table::Marks, name: SWEPT.into(), value: next.clone() });
            batch.writes.extend(some.iter().map(|name| gone(name.clone(), Table::Contents)));
            if self.engine.commit(WHAT, batch).await? == Outcome::Conflict {
                // Somebody appends, or sweeps as well; there is a next time.
                return Ok(());
            }
            mark = next;
        }
        Ok(())
    }
}

/// The entry of a revision, and the contents that it needs, by digest.
fn written(mut revision: Revision, documents: &[Document]) -> Result<(Vec<u8>, Vec<Content>), StoreError> {
    let named = |bytes: Vec<u8>| (hex_of(&sha256(&bytes)), bytes);
    let mut contents = Vec::with_capacity(documents.len() + 1);
    for document in documents {
        contents.push(named(encode("a document", document)?));
    }
    let list =
        |some: &[Content]| named(some.iter().flat_map(|(name, _)| name.bytes().chain([b'\n'])).collect());
    let mut lists: Vec<_> = contents.chunks(LISTED).map(list).collect();
    if lists.is_empty() {
        lists.push(named(Vec::new()));
    }
    let mut parts = Vec::new();
    if revision.touched.len() > TOLD {
        for some in std::mem::take(&mut revision.touched).chunks(TOLD) {
            parts.push(named(encode("what a revision touched", &some)?));
        }
    }
    let mut more = lists.iter().map(|(name, _)| name.clone());
    let (first, touched) =
        (more.next().unwrap_or_default(), parts.iter().map(|(name, _)| name.clone()).collect());
    let entry = encode("a revision", &Entry { revision, contents: first, more: more.collect(), touched })?;
    contents.extend(lists);
    contents.extend(parts);
    Ok((entry, contents))
}

/// What is to be written of a revision as an earlier version wrote it.
pub(super) fn of_former(entry: &[u8]) -> Result<[Write; 2], StoreError> {
    let FormerEntry { revision, documents } = decode("a revision", entry)?;
    let list: Vec<u8> = documents.iter().flat_map(|digest| (hex_of(digest) + "\n").into_bytes()).collect();
    let (name, contents) = (name_of(revision.number), hex_of(&sha256(&list)));
    let (more, touched) = (Vec::new(), Vec::new());
    let entry = encode("a revision", &Entry { revision, contents: contents.clone(), more, touched })?;
    Ok([
        Write { table: Table::Contents, name: contents, value: Some(list) },
        Write { table: Table::Revisions, name, value: Some(entry) },
    ])
}

/// So that the order of the names is that of the numbers.
fn name_of(number: u64) -> String {
    format!("{number:020}")
}

fn names_in(list: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(list).lines().map(str::to_owned).collect()
}

pub(super) fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

pub(super) fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, bytes).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use redb::{Database, TableDefinition};

    use super::super::{Origin, RevisionSource};
    use super::*;

    fn document(name: &str, json: &str) -> Document {
        let key = DocumentKey { kind: "Service".into(), namespace: "default".into(), name: name.into() };
        Document { key, origin: Origin::Applied, json: json.into() }
    }

    fn revision(number: u64) -> Revision {
        let time = SystemTime::UNIX_EPOCH;
        let (author, summary) = (String::new(), String::new());
        Revision { number, time, author, source: RevisionSource::Apply, summary, touched: Vec::new() }
    }

    #[tokio::test]
    async fn every_revision_gives_back_exactly_its_documents() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let (one, two) = (document("a", "1"), document("a", "2"));
        store.append_revision(revision(1), std::slice::from_ref(&one)).await.unwrap();
        store.append_revision(revision(2), &[two.clone(), document("b", "1")]).await.unwrap();
        let taken = store.append_revision(revision(2), &[document("c", "1")]).await;
        assert!(matches!(taken, Err(StoreError::Changed(_))));
        assert_eq!(store.documents(1).await.unwrap().unwrap(), [one]);
        assert_eq!(store.documents(2).await.unwrap().unwrap(), [two, document("b", "1")]);
        assert_eq!(store.documents(3).await.unwrap(), None);
        let numbers: Vec<u64> = store.revisions().await.unwrap().iter().map(|r| r.number).collect();
        assert_eq!(numbers, [2, 1]);
    }

    #[tokio::test]
    async fn of_more_documents_than_a_record_may_name_all_are_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let all: Vec<_> = (0..2 * LISTED + 1).map(|number| document(&number.to_string(), "1")).collect();
        let touched: Vec<_> = all.iter().map(|document| document.key.clone()).collect();
        store.append_revision(Revision { touched: touched.clone(), ..revision(1) }, &all).await.unwrap();
        store.append_revision(revision(2), &all[1..]).await.unwrap();
        let longest = store.engine.snapshot("look").await.unwrap().into_iter().filter_map(|it| it.value);
        assert!(longest.map(|record| record.len()).max().unwrap() < 300 << 10);
        assert_eq!(store.documents(1).await.unwrap().unwrap(), all);
        assert_eq!(store.documents(2).await.unwrap().unwrap(), all[1..]);
        assert_eq!(store.revisions().await.unwrap()[1].touched, touched);
        // And nothing of it is swept while it is kept.
        store.sweep(2, 2).await.unwrap();
        assert_eq!(store.documents(1).await.unwrap().unwrap(), all);
        assert_eq!(store.revisions().await.unwrap()[1].touched, touched);
        store.sweep(2, 1).await.unwrap();
        assert_eq!((store.documents(1).await.unwrap(), store.revisions().await.unwrap().len()), (None, 1));
        assert_eq!(store.documents(2).await.unwrap().unwrap(), all[1..]);
    }

    #[tokio::test]
    async fn old_revisions_are_forgotten_with_what_only_they_held() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let lasting = document("lasting", "0");
        for number in 1..=KEPT + SLACK {
            let documents = [lasting.clone(), document("a", &number.to_string())];
            store.append_revision(revision(number), &documents).await.unwrap();
        }
        let kept = store.revisions().await.unwrap();
        assert_eq!((kept.len(), kept.last().unwrap().number), (1000, SLACK + 1));
        // The lasting document, and of each revision its other one and its list.
        assert_eq!(store.engine.names("look", Table::Contents).await.unwrap().len(), 2001);
        assert_eq!(store.documents(SLACK).await.unwrap(), None);
        assert_eq!(store.documents(SLACK + 1).await.unwrap().unwrap()[0], lasting);
        // What was swept is written again by whoever has it again.
        let again = [lasting.clone(), document("a", "1")];
        store.append_revision(revision(KEPT + SLACK + 1), &again).await.unwrap();
        assert_eq!(store.documents(KEPT + SLACK + 1).await.unwrap().unwrap(), again);
    }

    #[tokio::test]
    async fn revisions_that_an_earlier_version_wrote_are_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let one = document("a", "1");
        let bytes = encode("a document", &one).unwrap();
        let digest: [u8; 32] = sha256(&bytes).try_into().unwrap();
        let entry = serde_json::json!({"revision": revision(7), "documents": [digest]}).to_string();
        {
            let database = Database::create(dir.path().join("weft.redb")).unwrap();
            let txn = database.begin_write().unwrap();
            let revisions: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("revisions");
            txn.open_table(revisions).unwrap().insert(7, entry.as_bytes()).unwrap();
            let documents: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("documents");
            txn.open_table(documents).unwrap().insert(digest.as_slice(), bytes.as_slice()).unwrap();
            txn.commit().unwrap();
        }
        for _ in 0..2 {
            let store = Store::open(dir.path()).unwrap();
            assert_eq!(store.revisions().await.unwrap(), [revision(7)]);
            assert_eq!(store.documents(7).await.unwrap().unwrap(), std::slice::from_ref(&one));
        }
    }
}
