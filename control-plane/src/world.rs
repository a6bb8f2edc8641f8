//! What is known, folded from all sources and published: the first change at once, those that follow together.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use weft_core::compile::compile_one;
use weft_core::model::{QualifiedName, ResourceName};
use weft_core::world::{Change, Defaults, World as Known};

use crate::leader::Leadership;
use crate::metrics::Metrics;
use crate::push::Hub;
use crate::report::chain;
use crate::store::{Allocation, Store, StoreError};

/// How long changes gather once one has been published.
const GATHER: Duration = Duration::from_millis(20);
/// How long a caller waits for its change to be published.
const PUBLISHED: Duration = Duration::from_secs(2);

/// What is known, and its publication.
pub(crate) struct World {
    state: Mutex<State>,
    wake: Notify,
    published: watch::Sender<u64>,
    hub: Arc<Hub>,
    store: Store,
    leads: Leadership,
    metrics: Arc<Metrics>,
}

struct State {
    known: Known,
    revision: u64,
    /// Counts changes.
    change: u64,
    affected: BTreeSet<ResourceName>,
    since: Option<Instant>,
    allocated: BTreeMap<QualifiedName, Vec<IpAddr>>,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").field("change", &self.lock().change).finish_non_exhaustive()
    }
}

impl World {
    /// A world that knows nothing yet but which addresses it gave out before.
    pub(crate) async fn open(
        defaults: Defaults,
        store: Store,
        leads: Leadership,
        hub: Arc<Hub>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, StoreError> {
        let allocations = store.allocations().await?;
        let allocated = allocations.into_iter().filter_map(|a| Some((a.service.parse().ok()?, a.addresses)));
        let known = Known::new(defaults, allocated.collect());
        let state = State {
            known,
            revision: 0,
            change: 0,
            affected: BTreeSet::from([ResourceName::Mesh]),
            since: None,
            allocated: BTreeMap::new(),
        };
        let (published, _) = watch::channel(0);
        let wake = Notify::new();
        wake.notify_one();
        Ok(Arc::new(Self { state: Mutex::new(state), wake, published, hub, store, leads, metrics }))
    }

    /// Folds a change in.
    pub(crate) fn apply(&self, change: Change) {
        let mut state = self.lock();
        state.fold(change);
        drop(state);
        self.wake.notify_one();
    }

    /// Takes over which addresses a service was given by whoever gives them out.
    pub(crate) fn take_over(&self, allocation: Allocation) {
        let Ok(service) = allocation.service.parse::<QualifiedName>() else { return };
        let mut state = self.lock();
        state.allocated.remove(&service);
        state.fold(Change::Allocated { service, addresses: allocation.addresses });
        drop(state);
        self.wake.notify_one();
    }

    /// Puts a configuration into force, and waits until it is published.
    pub(crate) async fn configure(&self, revision: u64, changes: Vec<Change>) {
        self.load(revision, changes);
        self.caught_up().await;
    }

    /// Waits until everything folded in so far is published.
    pub(crate) async fn caught_up(&self) {
        let change = self.lock().change;
        let mut published = self.published.subscribe();
        // Late is not lost: what is slow here is published all the same.
        let _ = timeout(PUBLISHED, published.wait_for(|published| *published >= change)).await;
    }

    /// The same without waiting.
    pub(crate) fn load(&self, revision: u64, changes: Vec<Change>) {
        let mut state = self.lock();
        state.revision = revision;
        state.change += 1;
        changes.into_iter().for_each(|change| state.fold(change));
        drop(state);
        self.wake.notify_one();
    }

    /// Looks at what is known.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&Known) -> T) -> T {
        look(&self.lock().known)
    }

    /// Changes whenever something was published.
    pub(crate) fn published(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// The configuration revision in force.
    pub(crate) fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Publishes what changes, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let (mut begins, mut led) = (self.leads.clone(), self.leads.holds());
        loop {
            tokio::select! {
                () = self.wake.notified() => {}
                // Then there may be something to be written down.
                () = begins.begins(), if !led => {}
            }
            led = self.leads.holds();
            self.publish();
            self.save().await;
            sleep(GATHER).await;
        }
    }

    fn publish(&self) {
        let mut state = self.lock();
        let affected = std::mem::take(&mut state.affected);
        let since = state.since.take();
        let (revision, change) = (state.revision, state.change);
        let compile = |name: ResourceName| {
            let resource = compile_one(&state.known, &name);
            (name, resource)
        };
        let compiled: Vec<_> = affected.into_iter().map(compile).collect();
        drop(state);
        let (snapshot, changed) = self.hub.snapshot().next(revision, compiled);
        self.hub.publish(snapshot, &changed, since.unwrap_or_else(Instant::now));
        self.metrics.config_version.set(i64::try_from(revision).unwrap_or(i64::MAX));
        self.published.send_replace(change);
    }

    /// Writes down the virtual addresses that were given out, where it is us who gives them out. What is lost in a crash is given
    /// out alike again.
    async fn save(&self) {
        if !self.leads.holds() {
            return;
        }
        let allocated = std::mem::take(&mut self.lock().allocated);
        if allocated.is_empty() {
            return;
        }
        let allocation = |(name, addresses): (&QualifiedName, &Vec<IpAddr>)| Allocation {
            service: name.to_string(),
            addresses: addresses.clone(),
        };
        let allocations: Vec<_> = allocated.iter().map(allocation).collect();
        if let Err(error) = self.store.keep_allocations(&allocations).await {
            tracing::error!(reason = chain(&error), "cannot write down virtual addresses");
            let mut state = self.lock();
            for (name, addresses) in allocated {
                state.allocated.entry(name).or_insert(addresses);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fold(&mut self, change: Change) {
        let effects = self.known.apply(change);
        self.affected.extend(effects.affected);
        self.allocated.extend(effects.allocated);
        self.change += 1;
        self.since.get_or_insert_with(Instant::now);
    }
}
