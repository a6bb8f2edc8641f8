//! One of several control planes whose store is in their cluster.
//!
//! Each says that it is there by a lease of its own (`coordination.k8s.io/v1`), which it renews and which says how far its sidecars have
//! come; one more is who leads. Nothing ends with a lease, as it would in etcd: who has been silent for long enough is taken for lost by
//! all that see it, and whoever leads clears away what it had written. Silence is counted in our own signs of life that came back to us
//! meanwhile: while the API server is away nobody is lost.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, timeout};
use weft_runtime::task;

use super::others::Said;
use super::{BACKLOG, FollowError, Followers, Happened, Others};
use crate::kubernetes::{ApiError, Client, Collection, Event, Lease, Watch};
use crate::leader::Leadership;
use crate::report::{chain, rfc3339_micros};
use crate::store::{self, LABEL, Records, Registering, Registration, StoreError, Table, decode};

/// The leases of control planes are found by it.
const REPLICA: &str = "weft.mesh/replica";
/// Where a lease says how the sidecars are.
const SAID: &str = "weft.mesh/sidecars";
/// How often it is looked whether we have something else to say.
const LOOK: Duration = Duration::from_millis(250);
/// How often we say that we are there.
const BEAT: Duration = Duration::from_secs(3);
/// After so many of our own signs of life one that gives none is lost.
const SILENT: u32 = 4;
/// For our lease to be taken away at the end.
const LEAVING: Duration = Duration::from_secs(1);

const SECRETS: Collection = Collection { group: "", versions: &["v1"], plural: "secrets" };
const LEASES: Collection = Collection { group: "coordination.k8s.io", versions: &["v1"], plural: "leases" };

/// Our place among them.
#[derive(Debug)]
pub(crate) struct InCluster {
    client: Arc<Client>,
    lease: Arc<Lease>,
    id: String,
    beat: Duration,
    others: Arc<Others>,
    seen: Mutex<Seen>,
}

/// What was seen of the store and of the others.
#[derive(Debug, Default)]
struct Seen {
    /// The records of each object.
    objects: BTreeMap<String, Records>,
    /// Objects, or leases, that the list under way has not told of yet.
    unseen: BTreeMap<Collection, BTreeSet<String>>,
    /// Those who are there, and how often we have given signs of life since their last.
    present: BTreeMap<String, u32>,
    are_listed: bool,
    /// When ours was counted last.
    counted: Option<Instant>,
}

impl InCluster {
    /// One more, which holds this lease where it leads.
    pub(crate) fn join(client: Arc<Client>, lease: Arc<Lease>, id: String) -> Arc<Self> {
        Self::join_beating(client, lease, id, BEAT)
    }

    fn join_beating(client: Arc<Client>, lease: Arc<Lease>, id: String, beat: Duration) -> Arc<Self> {
        Arc::new(Self { client, lease, id, beat, others: Arc::default(), seen: Mutex::default() })
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn others(&self) -> &Arc<Others> {
        &self.others
    }

    pub(super) fn leadership(&self) -> Leadership {
        Leadership::of(self.lease.leads())
    }

    pub(super) async fn lead(self: Arc<Self>) {
        self.lease.clone().run().await;
    }

    /// Lets another lead, and says that we are gone; what we wrote of our sidecars stays until they are back elsewhere.
    pub(super) async fn leave(&self) {
        self.lease.leave().await;
        // The others notice in any case.
        let _ = timeout(LEAVING, self.client.delete(&self.lease_path(&self.id))).await;
    }

    /// Says that we are there, and how far our sidecars have come, for ever.
    pub(super) async fn attend(self: Arc<Self>, followers: Arc<Followers>) {
        let mut look = interval(LOOK.min(self.beat));
        let (mut last, mut due) = (None, Instant::now());
        loop {
            look.tick().await;
            let said = Said::of(&followers);
            if last.as_ref() == Some(&said) && Instant::now() < due {
                continue;
            }
            // What is not heard of in time is said again: who waited longer for an answer would be silent meanwhile.
            match timeout(self.beat, self.say(&said)).await.unwrap_or(Err(ApiError::Late)) {
                Ok(is_new) => {
                    if is_new && last.is_some() {
                        tracing::warn!(
                            replica = self.id,
                            "others took us for lost: what is connected is written again"
                        );
                        followers.registry.write_all_again();
                    }
                    (last, due) = (Some(said), Instant::now() + self.beat);
                }
                Err(error) => tracing::debug!(reason = chain(&error), "cannot say that we are there"),
            }
        }
    }

    /// Writes our lease; whether it was not there.
    async fn say(&self, said: &Said) -> Result<bool, ApiError> {
        let spec = json!({
            "holderIdentity": self.id,
            "leaseDurationSeconds": (self.beat * SILENT).as_secs().max(1),
            "renewTime": rfc3339_micros(SystemTime::now()),
        });
        let annotations = json!({SAID: serde_json::to_string(said)?});
        let patch = json!({"metadata": {"annotations": annotations}, "spec": spec});
        match self.client.merge(&self.lease_path(&self.id), &patch).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {}
            written => return written.map(|_| false),
        }
        let labels = json!({REPLICA: "control-plane", "app.kubernetes.io/managed-by": "weft"});
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": self.id,
                "namespace": self.client.namespace(),
                "labels": labels,
                "annotations": annotations,
            },
            "spec": spec,
        });
        self.client.create(&self.lease_path(""), &lease).await.map(|_| true)
    }

    /// Follows what the others change, for ever.
    pub(super) async fn follow(self: Arc<Self>, followers: Arc<Followers>) {
        let (sender, mut events) = mpsc::channel(BACKLOG);
        for (collection, label) in [(SECRETS, LABEL), (LEASES, REPLICA)] {
            let watch = Watch::new(self.client.clone(), collection, sender.clone()).of_ours(label);
            task::spawn("store-watch", watch.run());
        }
        drop(sender);
        let (mut all_anew, mut are_listed) = (true, false);
        while let Some((collection, event)) = events.recv().await {
            are_listed |= matches!(event, Event::Listed) && collection == SECRETS;
            let followed = if collection == SECRETS {
                self.take_object(&followers, event).await
            } else {
                self.take_lease(&followers, event).await
            };
            if let Err(error) = followed {
                tracing::warn!(reason = chain(&error), "cannot follow what others change");
                all_anew = true;
            }
            // What went before the first list was made is not told by it.
            if all_anew && are_listed {
                match followers.read_anew().await {
                    Ok(()) => all_anew = false,
                    Err(error) => {
                        tracing::warn!(reason = chain(&error), "cannot read anew what others have changed");
                    }
                }
            }
        }
    }

    async fn take_object(&self, followers: &Followers, event: Event) -> Result<(), FollowError> {
        let happened = {
            let mut seen = self.lock();
            match event {
                Event::Listing => {
                    let known = seen.objects.keys().cloned().collect();
                    seen.unseen.insert(SECRETS, known);
                    Vec::new()
                }
                Event::Is(_, object) => seen.object(&object, store::records(&object)),
                Event::Gone(object) => seen.object(&object, Records::new()),
                // Every cluster has both kinds.
                Event::Absent => Vec::new(),
                Event::Listed => {
                    let gone = seen.unseen.remove(&SECRETS).unwrap_or_default();
                    gone.iter().flat_map(|name| seen.records_of(name, 0, Records::new())).collect()
                }
            }
        };
        if happened.is_empty() { Ok(()) } else { followers.take(happened).await }
    }

    async fn take_lease(&self, followers: &Followers, event: Event) -> Result<(), FollowError> {
        let is_ours = match event {
            Event::Listing => {
                let mut seen = self.lock();
                let known = seen.present.keys().cloned().collect();
                seen.unseen.insert(LEASES, known);
                false
            }
            Event::Is(_, lease) => self.hear(&lease),
            Event::Gone(lease) => {
                self.forget(name_of(&lease));
                true
            }
            Event::Absent => false,
            Event::Listed => {
                let mut seen = self.lock();
                seen.are_listed = true;
                let gone = seen.unseen.remove(&LEASES).unwrap_or_default();
                drop(seen);
                gone.iter().for_each(|id| self.forget(id));
                true
            }
        };
        if is_ours { self.clear_away(followers).await } else { Ok(()) }
    }

    /// Hears what a control plane says; whether it was us.
    fn hear(&self, lease: &Value) -> bool {
        let id = name_of(lease);
        let mut seen = self.lock();
        if let Some(unseen) = seen.unseen.get_mut(&LEASES) {
            unseen.remove(id);
        }
        if id != self.id {
            seen.present.insert(id.to_owned(), 0);
            drop(seen);
            let said = lease.pointer("/metadata/annotations").and_then(|all| all.get(SAID)?.as_str());
            self.others.hear(id, Some(said.unwrap_or_default().as_bytes()));
            return false;
        }
        // More signs than these say that something has changed; that takes no time.
        let now = Instant::now();
        if seen.counted.is_some_and(|at| now.duration_since(at) < self.beat.mul_f64(0.8)) {
            return false;
        }
        seen.counted = Some(now);
        for silent in seen.present.values_mut() {
            *silent = silent.saturating_add(1);
        }
        let lost: Vec<_> =
            seen.present.iter().filter(|(_, silent)| **silent > SILENT).map(|(id, _)| id.clone()).collect();
        drop(seen);
        for id in &lost {
            tracing::warn!(replica = id, "a control plane gives no sign of life any more");
            self.forget(id);
        }
        true
    }

    fn forget(&self, id: &str) {
        self.lock().present.remove(id);
        self.others.hear(id, None);
    }

    /// Gives time to workloads whose control plane is not there, and, where we lead, takes away what it has written.
    async fn clear_away(&self, followers: &Followers) -> Result<(), FollowError> {
        let lost = {
            let seen = self.lock();
            if !seen.are_listed {
                return Ok(());
            }
            seen.orphans(&self.id)
        };
        for registering in &lost {
            followers.registry.orphan(&registering.name);
        }
        if !*self.lease.leads().borrow() {
            return Ok(());
        }
        if !lost.is_empty() {
            followers.store.register(&lost).await?;
        }
        self.clear_leases().await
    }

    /// Of those who are not there.
    async fn clear_leases(&self) -> Result<(), FollowError> {
        let path =
            format!("{}?labelSelector={REPLICA}", self.lease_path("")).replace("weft.mesh/", "weft.mesh%2F");
        let page = self.client.get(&path).await?;
        for lease in page.get("items").and_then(Value::as_array).into_iter().flatten() {
            let id = name_of(lease);
            if id == self.id || self.lock().present.contains_key(id) {
                continue;
            }
            match self.client.delete(&self.lease_path(id)).await {
                Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {}
                done => done?,
            }
        }
        Ok(())
    }

    /// Of one; without a name, of all of them.
    fn lease_path(&self, id: &str) -> String {
        let all = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.client.namespace());
        if id.is_empty() { all } else { format!("{all}/{id}") }
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    /// What has happened to the records of an object that is so now.
    fn object(&mut self, object: &Value, records: Records) -> Vec<Happened> {
        let name = name_of(object);
        if let Some(unseen) = self.unseen.get_mut(&SECRETS) {
            unseen.remove(name);
        }
        let at = store::version(object).and_then(|version| version.parse().ok()).unwrap_or_default();
        self.records_of(name, at, records)
    }

    fn records_of(&mut self, name: &str, at: i64, after: Records) -> Vec<Happened> {
        let before = self.objects.insert(name.to_owned(), after.clone()).unwrap_or_default();
        let mut happened = Vec::new();
        for ((table, name), value) in &before {
            if !after.contains_key(&(*table, name.clone())) {
                // Whoever took it away was not necessarily the one whose it was.
                let is_orphaned = *table == Table::Registrations && !self.is_present(value);
                happened.push(Happened { table: *table, name: name.clone(), value: None, at, is_orphaned });
            }
        }
        for ((table, name), value) in after {
            if before.get(&(table, name.clone())) != Some(&value) {
                happened.push(Happened { table, name, value: Some(value), at, is_orphaned: false });
            }
        }
        happened
    }

    /// Whether the control plane is there that wrote a registration.
    fn is_present(&self, record: &[u8]) -> bool {
        replica_of(record).is_ok_and(|replica| self.present.contains_key(&replica))
    }

    /// The registrations whose control plane is not there, each to be taken away.
    fn orphans(&self, own: &str) -> Vec<Registering> {
        let all = self.objects.values().flatten().filter(|((table, _), _)| *table == Table::Registrations);
        let is_orphan = |record: &[u8]| {
            replica_of(record).map_or(true, |replica| replica != own && !self.present.contains_key(&replica))
        };
        let lost = all.filter(|(_, record)| is_orphan(record));
        lost.map(|((_, name), record)| Registering {
            name: name.clone(),
            record: None,
            before: Some(record.clone()),
        })
        .collect()
    }
}

fn replica_of(record: &[u8]) -> Result<String, StoreError> {
    decode::<Registration>("a registration", record).map(|registration| registration.replica)
}

fn name_of(object: &Value) -> &str {
    object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default()
}
