//! The store in a cluster: records in Secrets of our namespace, through the API server alone.
//!
//! What is expected is compared with what the object says, and the object is changed only if it still is of that version: the API
//! server refuses the others (409), and it is looked again. Nobody is locked out, and nothing is lost.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;

#[cfg(test)]
mod tests;

use super::StoreError;
use super::engine::{Batch, Outcome, Table, Write};
use super::secrets::{self, LABEL, Records};
use crate::kubernetes::{ApiError, Client, escaped};

/// How often a change is tried again because somebody else changes the same object.
const TRIES: usize = 20;
/// Objects of 1 MiB each in a page of a list.
const PAGE: usize = 16;
/// Bytes of one request: an object may have 1 MiB, and base64 is a third more.
const LARGEST: usize = 512 << 10;

/// The store. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Kubernetes {
    client: Arc<Client>,
}

/// An object as it was read; none: there is none.
type Found = Option<Value>;

impl Kubernetes {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self { client }
    }

    pub(super) async fn read(
        &self,
        what: &'static str,
        table: Table,
        name: &str,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let object = self.object(what, &secrets::object_of(table, name)).await?;
        Ok(object.and_then(|object| secrets::records(&object).remove(&(table, name.to_owned()))))
    }

    pub(super) async fn read_all(
        &self,
        what: &'static str,
        table: Table,
        names: &[String],
    ) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let mut objects = BTreeMap::new();
        for name in names {
            let object = secrets::object_of(table, name);
            if let Entry::Vacant(entry) = objects.entry(object) {
                let found = self.object(what, entry.key()).await?;
                entry.insert(found.map(|found| secrets::records(&found)).unwrap_or_default());
            }
        }
        let find = |name: &String| {
            objects.get(&secrets::object_of(table, name))?.get(&(table, name.clone())).cloned()
        };
        Ok(names.iter().map(find).collect())
    }

    pub(super) async fn scan(
        &self,
        what: &'static str,
        table: Table,
    ) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let found = self.all(what, &format!("{LABEL}={}", secrets::group(table).0)).await?;
        let of_table = found.into_iter().filter(|((of, _), _)| *of == table);
        Ok(of_table.map(|((_, name), value)| (name, value)).collect())
    }

    /// Every record of every table. The API server answers a list as everything stood at one moment.
    pub(super) async fn snapshot(&self, what: &'static str) -> Result<Vec<Write>, StoreError> {
        let found = self.all(what, LABEL).await?;
        let write = |((table, name), value)| Write { table, name, value: Some(value) };
        Ok(found.into_iter().map(write).collect())
    }

    /// What is expected stands in one object, which is changed first: that decides. The others are changed only if nobody has changed
    /// them since what is expected was looked at.
    pub(super) async fn commit(&self, what: &'static str, batch: Batch) -> Result<Outcome, StoreError> {
        if batch.expected.is_empty() {
            return self.write_all(what, batch.writes).await.map(|()| Outcome::Done);
        }
        let groups = by_object(&batch.writes);
        let heads: Vec<_> = batch.expected.iter().map(|e| secrets::object_of(e.table, &e.name)).collect();
        for _ in 0..TRIES {
            let mut others = Vec::new();
            for (name, writes) in groups.iter().filter(|(name, _)| !heads.contains(name)) {
                others.push((self.object(what, name).await?, name, writes));
            }
            let mut found = BTreeMap::new();
            for head in &heads {
                if let Entry::Vacant(entry) = found.entry(head.clone()) {
                    let object = self.object(what, entry.key()).await?;
                    entry.insert(object);
                }
            }
            if !batch.expected.iter().all(|expected| stands(&found, expected)) {
                return Ok(Outcome::Conflict);
            }
            if !self.decide(what, &found, &groups, &batch.expected).await? {
                continue;
            }
            for (before, name, writes) in others {
                if self.change(what, name, before.as_ref(), writes).await?.is_none() {
                    return Ok(Outcome::Conflict);
                }
            }
            return Ok(Outcome::Done);
        }
        Err(StoreError::Changed("the same record"))
    }

    /// Changes what is expected to stand as it was found, written to or not; false where it is so no more.
    async fn decide(
        &self,
        what: &'static str,
        found: &BTreeMap<String, Found>,
        groups: &BTreeMap<String, Vec<&Write>>,
        expected: &[Write],
    ) -> Result<bool, StoreError> {
        for (name, before) in found {
            let nothing = expected.iter().filter(|e| secrets::object_of(e.table, &e.name) == *name).collect();
            // What stands is written again: that it still does is what is asked.
            let writes: &Vec<&Write> = groups.get(name).unwrap_or(&nothing);
            if self.change(what, name, before.as_ref(), writes).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Batches of one change each, which are done or not each by itself; and when.
    pub(super) async fn each(
        &self,
        what: &'static str,
        batches: &[Batch],
    ) -> Result<Vec<(Outcome, i64)>, StoreError> {
        let mut outcomes = vec![(Outcome::Conflict, 0); batches.len()];
        let mut objects: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, batch) in batches.iter().enumerate() {
            let Some(write) = batch.writes.first() else { continue };
            objects.entry(secrets::object_of(write.table, &write.name)).or_default().push(index);
        }
        for (name, indices) in objects {
            for (index, at) in self.each_of(what, &name, &indices, batches).await? {
                if let Some(outcome) = outcomes.get_mut(index) {
                    *outcome = (Outcome::Done, at);
                }
            }
        }
        Ok(outcomes)
    }

    /// The same of one object; which were done.
    async fn each_of(
        &self,
        what: &'static str,
        name: &str,
        indices: &[usize],
        batches: &[Batch],
    ) -> Result<Vec<(usize, i64)>, StoreError> {
        for _ in 0..TRIES {
            let found = BTreeMap::from([(name.to_owned(), self.object(what, name).await?)]);
            let good = |index: &&usize| {
                batches
                    .get(**index)
                    .is_some_and(|b| b.expected.iter().all(|expected| stands(&found, expected)))
            };
            let good: Vec<usize> = indices.iter().filter(good).copied().collect();
            let writes: Vec<_> =
                good.iter().filter_map(|index| batches.get(*index)?.writes.first()).collect();
            if writes.is_empty() {
                return Ok(Vec::new());
            }
            let before = found.get(name).and_then(Option::as_ref);
            if let Some(at) = self.change(what, name, before, &writes).await? {
                return Ok(good.into_iter().map(|index| (index, at)).collect());
            }
        }
        Err(StoreError::Changed("the same record"))
    }

    /// Any number of changes, each for itself, whatever stood there.
    pub(super) async fn write_all(&self, what: &'static str, writes: Vec<Write>) -> Result<(), StoreError> {
        for (name, writes) in by_object(&writes) {
            let (mut some, mut bytes) = (Vec::new(), 0);
            for write in writes {
                let size = write.name.len() + write.value.as_ref().map_or(0, Vec::len);
                if bytes + size > LARGEST && !some.is_empty() {
                    self.write(what, &name, &std::mem::take(&mut some)).await?;
                    bytes = 0;
                }
                bytes += size;
                some.push(write);
            }
            self.write(what, &name, &some).await?;
        }
        Ok(())
    }

    async fn write(&self, what: &'static str, name: &str, writes: &[&Write]) -> Result<(), StoreError> {
        for _ in 0..TRIES {
            match self.client.merge(&self.path(name), &secrets::patch(writes, None)).await {
                Ok(_) => return Ok(()),
                Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {
                    if self.change(what, name, None, writes).await?.is_some() {
                        return Ok(());
                    }
                }
                Err(error) if error.status() == Some(StatusCode::CONFLICT) => {}
                Err(error) => return Err(failed(what, name, error)),
            }
        }
        Err(StoreError::Changed("the same record"))
    }

    /// Changes an object that is as it was found; its new version, or none where it is another by now.
    async fn change(
        &self,
        what: &'static str,
        name: &str,
        before: Option<&Value>,
        writes: &[&Write],
    ) -> Result<Option<i64>, StoreError> {
        let Some(table) = writes.first().map(|write| write.table) else { return Ok(Some(0)) };
        let written = match before {
            Some(before) => {
                let patch = secrets::patch(writes, secrets::version(before));
                self.client.merge(&self.path(name), &patch).await
            }
            None => {
                let mut object = secrets::empty(name, self.client.namespace(), table);
                let there: Vec<_> = writes.iter().filter(|write| write.value.is_some()).copied().collect();
                let mut said = secrets::patch(&there, None);
                if let (Some(object), Some(data)) = (object.as_object_mut(), said.get_mut("data")) {
                    object.insert("data".into(), data.take());
                }
                self.client.create(&self.path(""), &object).await
            }
        };
        match written {
            Ok(object) => {
                Ok(Some(secrets::version(&object).and_then(|v| v.parse().ok()).unwrap_or_default()))
            }
            Err(error) if matches!(error.status(), Some(StatusCode::CONFLICT | StatusCode::NOT_FOUND)) => {
                Ok(None)
            }
            Err(error) => Err(failed(what, name, error)),
        }
    }

    async fn object(&self, what: &'static str, name: &str) -> Result<Found, StoreError> {
        match self.client.get(&self.path(name)).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => Ok(None),
            Err(error) => Err(failed(what, name, error)),
        }
    }

    async fn all(&self, what: &'static str, selector: &str) -> Result<Records, StoreError> {
        let path = format!("{}?labelSelector={}&limit={PAGE}", self.path(""), escaped(selector));
        let (mut records, mut next) = (Records::new(), path.clone());
        loop {
            let page = self.client.get(&next).await.map_err(|error| failed(what, selector, error))?;
            for object in page.get("items").and_then(Value::as_array).into_iter().flatten() {
                records.extend(secrets::records(object));
            }
            match page.pointer("/metadata/continue").and_then(Value::as_str).filter(|next| !next.is_empty()) {
                Some(token) => next = format!("{path}&continue={}", escaped(token)),
                None => return Ok(records),
            }
        }
    }

    /// Of an object; without a name, of all of them.
    fn path(&self, name: &str) -> String {
        let all = format!("/api/v1/namespaces/{}/secrets", self.client.namespace());
        if name.is_empty() { all } else { format!("{all}/{name}") }
    }
}

fn stands(found: &BTreeMap<String, Found>, expected: &Write) -> bool {
    let object = found.get(&secrets::object_of(expected.table, &expected.name)).and_then(Option::as_ref);
    let records = object.map(secrets::records).unwrap_or_default();
    records.get(&(expected.table, expected.name.clone())) == expected.value.as_ref()
}

fn by_object(writes: &[Write]) -> BTreeMap<String, Vec<&Write>> {
    let mut groups: BTreeMap<String, Vec<&Write>> = BTreeMap::new();
    for write in writes {
        groups.entry(secrets::object_of(write.table, &write.name)).or_default().push(write);
    }
    groups
}

/// A Secret that would be larger than 1 MiB is refused as invalid; a request that is too long, before it is looked at.
fn failed(what: &'static str, object: &str, error: ApiError) -> StoreError {
    match error.status() {
        Some(StatusCode::UNPROCESSABLE_ENTITY | StatusCode::PAYLOAD_TOO_LARGE) => {
            StoreError::Full { what, object: object.to_owned(), reason: error.to_string() }
        }
        _ => StoreError::Kubernetes(what, error),
    }
}
