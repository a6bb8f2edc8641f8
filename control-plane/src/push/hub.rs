//! Joins the published snapshot to the sessions: marks what changed, for those that subscribe to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use weft_core::model::ResourceName;

use super::{Session, Snapshot, title};

/// How far a sidecar has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct SyncState {
    /// The revision that it was last brought to.
    pub revision: u64,
    /// It has acked the newest of everything that concerns it.
    pub in_sync: bool,
    /// What it did not take, and why.
    pub rejected: Vec<(String, String)>,
    /// The hash of the trust that is in force there.
    pub trust: Option<u64>,
}

/// Sessions.
#[derive(Debug, Default)]
pub(crate) struct Subscribers(BTreeSet<u64>);

impl Subscribers {
    /// Whether this is the mailbox of one of them.
    pub(crate) fn contains(&self, mailbox: &Mailbox) -> bool {
        self.0.contains(&mailbox.id)
    }
}

/// One session's dirty names, and how far it has come.
#[derive(Debug)]
pub(crate) struct Mailbox {
    id: u64,
    state: Mutex<MailboxState>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct MailboxState {
    dirty: BTreeMap<ResourceName, Instant>,
    sync: SyncState,
}

/// The published snapshot and everyone who is told of it.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    snapshot: ArcSwap<Snapshot>,
    interest: Mutex<Interest>,
}

#[derive(Debug, Default)]
struct Interest {
    next_id: u64,
    mailboxes: HashMap<u64, Arc<Mailbox>>,
    by_name: HashMap<ResourceName, BTreeSet<u64>>,
}

impl Hub {
    /// What is published now.
    pub(crate) fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Publishes a snapshot; `changed` is what differs from the one before.
    pub(crate) fn publish(&self, snapshot: Snapshot, changed: &[ResourceName], now: Instant) {
        // First the snapshot, then the marks: whoever subscribes in between reads the new one.
        self.snapshot.store(Arc::new(snapshot));
        let interest = lock(&self.interest);
        let mut woken = BTreeSet::new();
        for key in changed {
            for id in interest.by_name.get(key).into_iter().flatten() {
                if let Some(mailbox) = interest.mailboxes.get(id) {
                    lock(&mailbox.state).dirty.entry(key.clone()).or_insert(now);
                    woken.insert(*id);
                }
            }
        }
        for mailbox in woken.iter().filter_map(|id| interest.mailboxes.get(id)) {
            mailbox.wake.notify_one();
        }
    }

    /// A mailbox for a new session.
    pub(crate) fn join(&self) -> Arc<Mailbox> {
        let mut interest = lock(&self.interest);
        interest.next_id += 1;
        let id = interest.next_id;
        let mailbox = Arc::new(Mailbox { id, state: Mutex::default(), wake: Notify::new() });
        interest.mailboxes.insert(id, mailbox.clone());
        mailbox
    }

    /// Tells the session of changes to these from now on. To be called before the snapshot is read.
    pub(crate) fn watch<'a>(&self, mailbox: &Mailbox, keys: impl IntoIterator<Item = &'a ResourceName>) {
        let mut interest = lock(&self.interest);
        for key in keys {
            interest.by_name.entry(key.clone()).or_default().insert(mailbox.id);
        }
    }

    /// No longer tells it of these.
    pub(crate) fn unwatch<'a>(&self, mailbox: &Mailbox, keys: impl IntoIterator<Item = &'a ResourceName>) {
        let mut interest = lock(&self.interest);
        for key in keys {
            if let Some(ids) = interest.by_name.get_mut(key) {
                ids.remove(&mailbox.id);
                if ids.is_empty() {
                    interest.by_name.remove(key);
                }
            }
        }
    }

    /// The sessions that are told of one of these.
    pub(crate) fn subscribers(&self, names: &[ResourceName]) -> Subscribers {
        let interest = lock(&self.interest);
        let ids = names.iter().filter_map(|name| interest.by_name.get(name));
        Subscribers(ids.flatten().copied().collect())
    }

    /// The session is over.
    pub(crate) fn leave(&self, mailbox: &Mailbox, session: &Session) {
        self.unwatch(mailbox, session.subscriptions());
        lock(&self.interest).mailboxes.remove(&mailbox.id);
    }
}

impl Mailbox {
    /// Waits until something is dirty.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes the dirty names out; until `report`, the session counts as out of sync.
    pub(crate) fn take(&self) -> BTreeMap<ResourceName, Instant> {
        let mut state = lock(&self.state);
        state.sync.in_sync &= state.dirty.is_empty();
        std::mem::take(&mut state.dirty)
    }

    /// Notes how far the session has come.
    pub(crate) fn report(&self, session: &Session) {
        let named = |(name, reason): (&ResourceName, &String)| (title(name), reason.clone());
        lock(&self.state).sync = SyncState {
            revision: session.revision(),
            in_sync: session.in_sync(),
            rejected: session.rejected().iter().map(named).collect(),
            trust: session.trust(),
        };
    }

    /// How far the session has come.
    pub(crate) fn sync_state(&self) -> SyncState {
        let state = lock(&self.state);
        let mut sync = state.sync.clone();
        sync.in_sync &= state.dirty.is_empty();
        sync
    }
}

/// Nothing panics while it holds one of these; if it did, the data would still be whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use weft_core::model::{Resource, Service};

    use super::*;

    fn name(service: &str) -> ResourceName {
        ResourceName::Service(service.parse().unwrap())
    }

    fn present(service: &str) -> (ResourceName, Option<Resource>) {
        let resource = Service {
            name: service.parse().unwrap(),
            addresses: Vec::new(),
            ports: Vec::new(),
            traffic: Default::default(),
            routes: Vec::new(),
            external: None,
            tokens: None,
        };
        (name(service), Some(Resource::Service(resource)))
    }

    #[tokio::test]
    async fn only_those_who_subscribe_to_what_changed_are_woken() {
        let hub = Hub::default();
        let (orders, web) = (hub.join(), hub.join());
        hub.watch(&orders, [&name("default/orders")]);
        hub.watch(&web, [&name("default/web")]);
        let (snapshot, changed) = hub.snapshot().next(1, [present("default/orders")]);
        hub.publish(snapshot, &changed, Instant::now());
        orders.woken().await;
        assert!(!orders.sync_state().in_sync);
        assert_eq!(orders.take().len(), 1);
        assert_eq!(web.take().len(), 0);
        hub.unwatch(&orders, [&name("default/orders")]);
        let (snapshot, changed) = hub.snapshot().next(2, [(name("default/orders"), None)]);
        hub.publish(snapshot, &changed, Instant::now());
        assert_eq!(orders.take().len(), 0);
    }
}
