//! A backup: every record of a store as it stood at one moment, in lines of JSON that say at their end whether all are there.
//!
//! Secrets stay sealed where they are. Who is connected is not in it: sidecars say so again.

use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::engine::{Table, Write};
use super::handle::Store;
use super::revisions::hex_of;
use super::{StoreError, encode};
use crate::report::rfc3339;

/// What lines look like; another one is another version.
const VERSION: u64 = 1;
/// What is read of it.
const RECORD: &str = "a backup";

/// Why a backup is not taken over.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is something else.
    #[error("this is no backup of a control plane")]
    NoBackup,
    /// A later version wrote it.
    #[error("this backup is of a later version ({0})")]
    Later(u64),
    /// Its end is missing, or it was changed.
    #[error("this backup is broken off, or was changed: its sum is wrong")]
    Broken,
    /// There is something already.
    #[error("there is a store already in {0}: nothing is restored over it; put it aside first")]
    Occupied(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Serialize, Deserialize)]
struct First {
    #[serde(rename = "weft-backup")]
    version: u64,
    taken: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    table: String,
    name: String,
    value: String,
}

#[derive(Serialize, Deserialize)]
struct Last {
    records: usize,
    sha256: String,
}

/// A backup that was read.
#[derive(Debug)]
pub(crate) struct Backup {
    /// When it was taken.
    pub(crate) taken: String,
    writes: Vec<Write>,
}

impl Store {
    /// Everything, as it is now.
    pub(crate) async fn back_up(&self, now: SystemTime) -> Result<Vec<u8>, StoreError> {
        let mut text = encode(RECORD, &First { version: VERSION, taken: rfc3339(now) })?;
        text.push(b'\n');
        let mut records = 0;
        for Write { table, name, value } in self.engine.snapshot("be backed up").await? {
            let Some(value) = value.filter(|_| table != Table::Registrations) else { continue };
            let line = Line { table: table.as_str().into(), name, value: STANDARD.encode(value) };
            text.extend(encode(RECORD, &line)?);
            text.push(b'\n');
            records += 1;
        }
        let last = Last { records, sha256: hex_of(digest(&SHA256, &text).as_ref()) };
        text.extend(encode(RECORD, &last)?);
        text.push(b'\n');
        Ok(text)
    }

    /// Whether there is no record in it.
    pub(crate) async fn is_empty(&self) -> Result<bool, StoreError> {
        Ok(self.engine.snapshot("be looked at").await?.is_empty())
    }

    /// Takes over what a backup holds; how many records that is.
    pub(crate) async fn take_over(&self, backup: Backup) -> Result<usize, StoreError> {
        let records = backup.writes.len();
        self.engine.write_all("restore a backup", backup.writes).await?;
        Ok(records)
    }
}

impl Backup {
    /// Reads one, whole or not at all.
    pub(crate) fn read(text: &[u8]) -> Result<Self, RestoreError> {
        let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let First { version, taken } = serde_json::from_slice(first).map_err(|_| RestoreError::NoBackup)?;
        if version != VERSION {
            return Err(RestoreError::Later(version));
        }
        let whole = text.strip_suffix(b"\n").ok_or(RestoreError::Broken)?;
        let end = whole.iter().rposition(|byte| *byte == b'\n').ok_or(RestoreError::Broken)?;
        let (before, last) = text.split_at_checked(end + 1).ok_or(RestoreError::Broken)?;
        let last: Last = serde_json::from_slice(last).map_err(|_| RestoreError::Broken)?;
        if last.sha256 != hex_of(digest(&SHA256, before).as_ref()) {
            return Err(RestoreError::Broken);
        }
        let mut writes = Vec::with_capacity(last.records);
        for line in before.split(|byte| *byte == b'\n').skip(1).filter(|line| !line.is_empty()) {
            let Line { table, name, value } =
                serde_json::from_slice(line).map_err(|_| RestoreError::Broken)?;
            let table = Table::of(&table).ok_or(RestoreError::Broken)?;
            let value = Some(STANDARD.decode(value).map_err(|_| RestoreError::Broken)?);
            writes.push(Write { table, name, value });
        }
        if writes.len() != last.records {
            return Err(RestoreError::Broken);
        }
        Ok(Self { taken, writes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_backed_up_is_restored_whole_or_not_at_all() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = Store::open(from.path()).unwrap();
        assert!(store.is_empty().await.unwrap());
        store.keep_secret("key", b"hush".to_vec()).await.unwrap();
        store.replace_secret("other", vec![0, 255]).await.unwrap();
        let text = store.back_up(SystemTime::UNIX_EPOCH).await.unwrap();
        for broken in [&text[..text.len() - 1], &text[..text.len() / 2], &text[1..], b"", b"{}\n"] {
            assert!(Backup::read(broken).is_err());
        }
        let mut changed = text.clone();
        let at = changed.windows(5).position(|window| window == b"aHVza").unwrap();
        changed[at] = b'b';
        assert!(matches!(Backup::read(&changed), Err(RestoreError::Broken)));
        let later = String::from_utf8(text.clone()).unwrap().replacen("\":1", "\":2", 1);
        assert!(matches!(Backup::read(later.as_bytes()), Err(RestoreError::Later(2))));

        let backup = Backup::read(&text).unwrap();
        assert_eq!(backup.taken, "1970-01-01T00:00:00.000Z");
        let restored = Store::open(to.path()).unwrap();
        assert_eq!(restored.take_over(backup).await.unwrap(), 2);
        assert_eq!(restored.secret("key").await.unwrap().unwrap(), b"hush");
        assert_eq!(restored.back_up(SystemTime::UNIX_EPOCH).await.unwrap(), text);
    }
}
