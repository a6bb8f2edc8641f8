//! Revisions: each names all its documents by content, and equal documents are kept once.

use std::collections::BTreeSet;

use aws_lc_rs::digest;
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::super::{Document, Revision, StoreError};
use super::{Embedded, Fault, decode, encode};

const REVISIONS: TableDefinition<'static, u64, &'static [u8]> = TableDefinition::new("revisions");
const DOCUMENTS: TableDefinition<'static, &'static [u8], &'static [u8]> = TableDefinition::new("documents");

/// How many revisions are kept.
const KEPT: u64 = 1000;
/// How many more may gather before the oldest are swept out together.
const SLACK: u64 = 100;

/// A revision as it is written: documents by the digest of their records.
#[derive(Serialize, Deserialize)]
struct Entry {
    revision: Revision,
    documents: Vec<[u8; 32]>,
}

pub(super) fn make_tables(txn: &WriteTransaction) -> Result<(), redb::Error> {
    txn.open_table(REVISIONS)?;
    txn.open_table(DOCUMENTS)?;
    Ok(())
}

impl Embedded {
    /// Appends a revision with all its documents. Its number must be one more than the newest's.
    pub(crate) async fn append_revision(
        &self,
        revision: Revision,
        documents: &[Document],
    ) -> Result<(), StoreError> {
        let mut records = Vec::with_capacity(documents.len());
        for document in documents {
            let bytes = encode("a document", document)?;
            records.push((sha256(&bytes), bytes));
        }
        let number = revision.number;
        let digests = records.iter().map(|(digest, _)| *digest).collect();
        let entry = encode("a revision", &Entry { revision, documents: digests })?;
        self.write("append a revision", move |txn| {
            let mut documents = txn.open_table(DOCUMENTS)?;
            for (digest, bytes) in &records {
                documents.insert(digest.as_slice(), bytes.as_slice())?;
            }
            drop(documents);
            txn.open_table(REVISIONS)?.insert(number, entry.as_slice())?;
            sweep(txn, number)
        })
        .await
    }

    /// All kept revisions, newest first.
    pub(crate) async fn revisions(&self) -> Result<Vec<Revision>, StoreError> {
        let entries = self
            .read("list revisions", |txn| {
                let table = txn.open_table(REVISIONS)?;
                let mut found = Vec::new();
                for entry in table.iter()?.rev() {
                    found.push(entry?.1.value().to_vec());
                }
                Ok(found)
            })
            .await?;
        entries.iter().map(|bytes| decode::<Entry>("a revision", bytes).map(|e| e.revision)).collect()
    }

    /// A revision's documents.
    pub(crate) async fn documents(&self, revision: u64) -> Result<Option<Vec<Document>>, StoreError> {
        self.read("read a revision", move |txn| read_documents(txn, revision)).await
    }
}

fn read_documents(txn: &ReadTransaction, revision: u64) -> Result<Option<Vec<Document>>, Fault> {
    let Some(entry) = txn.open_table(REVISIONS)?.get(revision)? else { return Ok(None) };
    let entry: Entry = decode("a revision", entry.value())?;
    let table = txn.open_table(DOCUMENTS)?;
    let mut documents = Vec::with_capacity(entry.documents.len());
    for digest in &entry.documents {
        if let Some(record) = table.get(digest.as_slice())? {
            documents.push(decode("a document", record.value())?);
        }
    }
    Ok(Some(documents))
}

/// Forgets the oldest revisions, and the documents that none of the others holds.
fn sweep(txn: &WriteTransaction, newest: u64) -> Result<(), Fault> {
    let mut revisions = txn.open_table(REVISIONS)?;
    if revisions.len()? <= KEPT + SLACK {
        return Ok(());
    }
    revisions.retain(|number, _| number + KEPT > newest)?;
    let mut used = BTreeSet::new();
    for entry in revisions.iter()? {
        // One that cannot be read keeps nothing alive, and is reported where it is asked for.
        if let Ok(entry) = decode::<Entry>("a revision", entry?.1.value()) {
            used.extend(entry.documents);
        }
    }
    txn.open_table(DOCUMENTS)?
        .retain(|digest, _| <[u8; 32]>::try_from(digest).is_ok_and(|digest| used.contains(&digest)))?;
    Ok(())
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut output = [0; 32];
    output.iter_mut().zip(digest::digest(&digest::SHA256, bytes).as_ref()).for_each(|(to, from)| *to = *from);
    output
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::super::super::{DocumentKey, Origin, RevisionSource};
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
        let store = Embedded::open(dir.path()).unwrap();
        let (one, two) = (document("a", "1"), document("a", "2"));
        store.append_revision(revision(1), std::slice::from_ref(&one)).await.unwrap();
        store.append_revision(revision(2), &[two.clone(), document("b", "1")]).await.unwrap();
        assert_eq!(store.documents(1).await.unwrap().unwrap(), [one]);
        assert_eq!(store.documents(2).await.unwrap().unwrap(), [two, document("b", "1")]);
        assert_eq!(store.documents(3).await.unwrap(), None);
        let numbers: Vec<u64> = store.revisions().await.unwrap().iter().map(|r| r.number).collect();
        assert_eq!(numbers, [2, 1]);
    }
}
