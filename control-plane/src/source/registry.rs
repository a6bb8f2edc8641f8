//! The workloads that announced themselves: registered while their stream lives.
//!
//! A stream that ends cleanly takes its workload out at once; one that breaks leaves it for a second, in which a
//! sidecar that only lost its connection is back. After a restart of the control plane everyone has a little longer, and so
//! they have where many streams break at once: then it is rather our network that is gone than all of them. As long as one
//! after the other comes back, the others are waited for.
//! Where several control planes share the store, each keeps there who is connected to it (`shared`).

mod shared;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use weft_core::model::{Name, QualifiedName, SpiffeId};
use weft_core::world::{self, Change};
use weft_proto::convert::protocol_from_wire;

use crate::report::chain;
use crate::store::{Offer, OfferedPort, Registering, Registration, Store, StoreError, encode};
use crate::world::World;

/// How long a workload stays whose stream broke.
pub(crate) const LOST_GRACE: Duration = Duration::from_secs(1);
/// How long a workload stays that was registered before we were restarted.
pub(crate) const RESTART_GRACE: Duration = Duration::from_secs(10);
/// Who came back less than this ago shows that others may.
const RETURNING: Duration = Duration::from_secs(3);
/// How much longer that is waited for, at most.
const RETURNING_GRACE: Duration = Duration::from_secs(50);
/// Of so many workloads, one in four lost at once is taken for a failure of ours.
const MANY: usize = 32;
/// Workloads that may be registered at once.
const MOST: usize = 50_000;
/// Former instances of a workload that are remembered, so that one that comes back is turned away.
const FORMER: usize = 16;
/// Until a failed write is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Why a workload cannot be registered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnnounceError {
    /// Another identity holds the name.
    #[error("{workload} is registered by {holder}, which is still connected")]
    Taken {
        /// The name.
        workload: QualifiedName,
        /// Who has it.
        holder: String,
    },
    /// A sidecar that was replaced came back.
    #[error("a newer instance of {0} is registered")]
    Superseded(QualifiedName),
    /// Too many workloads.
    #[error("more than {MOST} workloads")]
    TooMany,
}

/// A workload as it is listed.
#[derive(Debug, Clone)]
pub(crate) struct Registered {
    /// What it said of itself.
    pub registration: Registration,
    /// Its stream lives.
    pub connected: bool,
}

/// The registry of workloads.
pub(crate) struct Registry {
    world: Arc<World>,
    store: Store,
    /// What we are called among those who share the store; empty: we are alone.
    replica: String,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<QualifiedName, Entry>,
    /// Names whose records in the store are out of date.
    unsaved: BTreeSet<QualifiedName>,
    /// Of those that are gone: what we had written of them.
    gone: BTreeMap<QualifiedName, Vec<u8>>,
    next_stream: u64,
    /// Workloads whose streams broke, and who may still come back.
    lost: usize,
    /// They are so many that they are waited for longer.
    is_patient: bool,
    /// When one of them came back last.
    returned: Option<Instant>,
    /// We are going down: streams that end now say nothing about their workloads.
    frozen: bool,
}

struct Entry {
    registration: Registration,
    stream: Option<Stream>,
    until: Option<Instant>,
    former: VecDeque<String>,
    /// What we have written of it, and when; none: nothing yet, where others write too.
    written: Option<Written>,
}

#[derive(Clone)]
struct Written {
    record: Vec<u8>,
    at: i64,
}

impl Entry {
    /// Its stream broke, and it is waited for.
    fn is_lost(&self) -> bool {
        self.stream.is_none() && self.until.is_some()
    }
}

struct Stream {
    number: u64,
    /// Dropped, it ends the stream.
    _hold: oneshot::Sender<()>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("workloads", &self.lock().entries.len()).finish_non_exhaustive()
    }
}

/// A stream's hold on its workload. Dropped without `end`, the stream counts as broken.
#[derive(Debug)]
pub(crate) struct Lease {
    registry: Arc<Registry>,
    workload: QualifiedName,
    stream: u64,
    held: oneshot::Receiver<()>,
}

impl Registry {
    /// The registrations that the store remembers, for a while; those of others for as long as they say.
    pub(crate) async fn open(
        store: Store,
        world: Arc<World>,
        replica: String,
    ) -> Result<Arc<Self>, StoreError> {
        let until = replica.is_empty().then(|| Instant::now() + RESTART_GRACE);
        let mut state = State::default();
        for registration in store.registrations().await? {
            // One that this version cannot read is announced again by its sidecar.
            let Some(known) = known(&registration) else { continue };
            let name = known.name.clone();
            world.apply(Change::Registered(known));
            let entry = Entry { registration, stream: None, until, former: VecDeque::new(), written: None };
            state.entries.insert(name, entry);
        }
        state.lost = state.entries.values().filter(|entry| entry.is_lost()).count();
        Ok(Arc::new(Self { world, store, replica, state: Mutex::new(state), changed: Notify::new() }))
    }

    /// Registers a workload for as long as the lease is held. An earlier stream of the workload is ended.
    pub(crate) fn announce(
        self: &Arc<Self>,
        workload: QualifiedName,
        mut registration: Registration,
    ) -> Result<Lease, AnnounceError> {
        let mut state = self.lock();
        registration.replica.clone_from(&self.replica);
        let mut former = VecDeque::new();
        let full = state.entries.len() >= MOST;
        match state.entries.get_mut(&workload) {
            Some(entry) => {
                let before = &entry.registration;
                let is_held = entry.stream.is_some() || self.is_elsewhere(before);
                if is_held && before.spiffe_id != registration.spiffe_id {
                    return Err(AnnounceError::Taken { workload, holder: before.spiffe_id.clone() });
                }
                if entry.former.contains(&registration.instance) {
                    return Err(AnnounceError::Superseded(workload));
                }
                former = std::mem::take(&mut entry.former);
                if before.instance == registration.instance {
                    registration.ready = before.ready;
                    registration.unhealthy.clone_from(&before.unhealthy);
                } else {
                    former.push_back(before.instance.clone());
                    if former.len() > FORMER {
                        former.pop_front();
                    }
                }
            }
            None if full => return Err(AnnounceError::TooMany),
            None => {}
        }
        if state.entries.get(&workload).is_some_and(Entry::is_lost) {
            state.returned = Some(Instant::now());
        }
        state.next_stream += 1;
        let number = state.next_stream;
        let (hold, held) = oneshot::channel();
        let stream = Some(Stream { number, _hold: hold });
        let entry = Entry { registration: registration.clone(), stream, until: None, former, written: None };
        state.put(workload.clone(), entry);
        if let Some(known) = known(&registration) {
            self.note(&mut state, &workload, Change::Registered(known));
        }
        Ok(Lease { registry: self.clone(), workload, stream: number, held })
    }

    /// Every workload.
    pub(crate) fn list(&self) -> Vec<Registered> {
        let listed = |entry: &Entry| Registered {
            registration: entry.registration.clone(),
            connected: entry.stream.is_some()
                || (self.is_elsewhere(&entry.registration) && entry.until.is_none()),
        };
        self.lock().entries.values().map(listed).collect()
    }

    /// Takes out whose time is over, and writes down what changed, until `freeze`.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            let next = self.reap(Instant::now());
            let saved = self.save().await;
            let wait = match (next, saved) {
                (_, false) => Some(Instant::now() + RETRY),
                (next, true) => next,
            };
            if self.is_over() {
                return;
            }
            tokio::select! {
                () = self.changed.notified() => {}
                () = sleep_until(wait) => {}
            }
        }
    }

    /// From now on streams end because we do: their workloads stay registered, for the next start.
    pub(crate) fn freeze(&self) {
        self.lock().frozen = true;
        self.changed.notify_one();
    }

    /// Whether nothing more will change and everything is written down.
    fn is_over(&self) -> bool {
        let state = self.lock();
        state.frozen && state.unsaved.is_empty()
    }

    /// Removes the workloads whose time is over; returns when the next one's is.
    fn reap(&self, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        if state.frozen {
            return None;
        }
        let more = if state.are_returning(now) { RETURNING_GRACE } else { Duration::ZERO };
        let over = |entry: &Entry| entry.until.is_some_and(|until| until + more <= now);
        let gone: Vec<_> = state.entries.iter().filter(|(_, e)| over(e)).map(|(n, _)| n.clone()).collect();
        for name in gone {
            tracing::info!(workload = %name, "lost");
            self.remove(&mut state, &name);
        }
        let next = state.entries.values().filter_map(|entry| entry.until).min()?;
        // Whose time is over is waited for by the return of others.
        Some(if more.is_zero() { next } else { next.max(now + RETURNING) })
    }

    async fn save(&self) -> bool {
        let (names, changes) = {
            let mut state = self.lock();
            let names: Vec<_> = std::mem::take(&mut state.unsaved).into_iter().collect();
            let changes = names.iter().filter_map(|name| self.change(&mut state, name));
            (names.clone(), changes.collect::<Vec<_>>())
        };
        if changes.is_empty() {
            return true;
        }
        let registering: Vec<_> = changes.iter().map(|(_, change)| change.clone()).collect();
        match self.store.register(&registering).await {
            Ok(done) => {
                let mut state = self.lock();
                for ((name, change), at) in changes.into_iter().zip(done) {
                    self.written(&mut state, &name, change, at);
                }
                state.unsaved.is_empty()
            }
            Err(error) => {
                tracing::error!(reason = chain(&error), "cannot write down registrations");
                self.lock().unsaved.extend(names);
                false
            }
        }
    }

    /// What is to be changed in the store so that it says of a workload what is so.
    fn change(&self, state: &mut State, name: &QualifiedName) -> Option<(QualifiedName, Registering)> {
        let (record, before) = match state.entries.get(name) {
            // Its own control plane sees to it.
            Some(entry) if self.is_elsewhere(&entry.registration) => return None,
            Some(entry) => {
                let record = encode("a registration", &entry.registration).ok()?;
                (Some(record), entry.written.as_ref().map(|written| written.record.clone()))
            }
            None if self.replica.is_empty() => (None, None),
            // What is not known to be ours is not ours to delete.
            None => (None, Some(state.gone.get(name)?.clone())),
        };
        Some((name.clone(), Registering { name: name.to_string(), record, before }))
    }

    fn remove(&self, state: &mut State, name: &QualifiedName) {
        if let Some(entry) = state.take_out(name) {
            if let Some(written) = entry.written {
                state.gone.insert(name.clone(), written.record);
            }
            self.note(state, name, Change::Unregistered(name.clone()));
        }
    }

    /// Under the lock, so that the world hears of changes in their order.
    fn note(&self, state: &mut State, name: &QualifiedName, change: Change) {
        self.world.apply(change);
        state.unsaved.insert(name.clone());
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// Waits until a newer stream of the workload takes its place.
    pub(crate) async fn superseded(&mut self) {
        // Nothing is ever sent: the sender is dropped when its entry is replaced.
        let _ = (&mut self.held).await;
    }

    /// Puts the workload into rotation, or takes it out.
    pub(crate) fn set_ready(&self, ready: bool) {
        let mut state = self.registry.lock();
        let Some(entry) = self.entry(&mut state) else { return };
        if entry.registration.ready != ready {
            entry.registration.ready = ready;
            let change = Change::Ready { workload: self.workload.clone(), ready };
            self.registry.note(&mut state, &self.workload, change);
        }
    }

    /// Notes as one behind which services its app does not work.
    pub(crate) fn set_unhealthy(&self, services: BTreeSet<QualifiedName>) {
        let mut state = self.registry.lock();
        let Some(entry) = self.entry(&mut state) else { return };
        let names: BTreeSet<_> = services.iter().map(ToString::to_string).collect();
        if entry.registration.unhealthy != names {
            entry.registration.unhealthy = names;
            let change = Change::Health { workload: self.workload.clone(), unhealthy: services };
            self.registry.note(&mut state, &self.workload, change);
        }
    }

    /// The sidecar said that it ends: its workload is gone at once.
    pub(crate) fn end(self) {
        let mut state = self.registry.lock();
        if !state.frozen && self.entry(&mut state).is_some() {
            tracing::info!(workload = %self.workload, "left");
            self.registry.remove(&mut state, &self.workload);
        }
    }

    /// The workload's entry, while this stream is the one that holds it.
    fn entry<'s>(&self, state: &'s mut State) -> Option<&'s mut Entry> {
        let entry = state.entries.get_mut(&self.workload)?;
        entry.stream.as_ref().is_some_and(|stream| stream.number == self.stream).then_some(entry)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut state = self.registry.lock();
        let (frozen, now) = (state.frozen, Instant::now());
        if let Some(entry) = self.entry(&mut state) {
            entry.stream = None;
            if !frozen {
                entry.until = Some(now + LOST_GRACE);
                state.lost += 1;
                state.be_patient(&self.workload, now + RESTART_GRACE);
            }
            self.registry.changed.notify_one();
        }
    }
}

impl State {
    fn put(&mut self, name: QualifiedName, entry: Entry) {
        self.lost += usize::from(entry.is_lost());
        let before = self.entries.insert(name, entry);
        self.lost -= usize::from(before.is_some_and(|before| before.is_lost()));
    }

    fn take_out(&mut self, name: &QualifiedName) -> Option<Entry> {
        let entry = self.entries.remove(name)?;
        self.lost -= usize::from(entry.is_lost());
        Some(entry)
    }

    /// Whether many are away, and one after the other comes back.
    fn are_returning(&self, now: Instant) -> bool {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < RETURNING;
        self.lost >= MANY && self.returned.is_some_and(is_recent)
    }

    /// Gives who was lost more time, and all those before, where they are too many to be gone all of them.
    fn be_patient(&mut self, newly_lost: &QualifiedName, until: Instant) {
        let was_patient = self.is_patient;
        self.is_patient = self.entries.len() >= MANY && 4 * self.lost >= self.entries.len();
        if !self.is_patient {
            return;
        }
        if was_patient {
            if let Some(entry) = self.entries.get_mut(newly_lost) {
                entry.until = Some(until);
            }
            return;
        }
        tracing::warn!(lost = self.lost, "many streams broke at once: their workloads are waited for");
        for entry in self.entries.values_mut().filter(|entry| entry.is_lost()) {
            entry.until = Some(until);
        }
    }
}

/// A record as the world takes it.
fn known(record: &Registration) -> Option<world::Registration> {
    let namespace: Name = record.namespace.parse().ok()?;
    let identity: SpiffeId = record.spiffe_id.parse().ok()?;
    let (_, service_account) = identity.service_account()?;
    let offer = |offer: &Offer| {
        let service = QualifiedName::new(namespace.clone(), offer.service.parse().ok()?);
        let port = match &offer.port {
            None => None,
            Some(OfferedPort { port, target_port, protocol }) => {
                let protocol = protocol_from_wire(*protocol).ok()?;
                Some(world::OfferedPort { port: *port, target_port: *target_port, protocol })
            }
        };
        Some(world::Offer { service, port })
    };
    Some(world::Registration {
        name: QualifiedName::new(namespace.clone(), record.workload.parse().ok()?),
        service_account,
        identity,
        addresses: record.addresses.clone(),
        inbound_port: record.inbound_port,
        offers: record.offers.iter().map(offer).collect::<Option<_>>()?,
        labels: record.labels.clone(),
        zone: record.zone.clone(),
        ready: record.ready,
        unhealthy: record.unhealthy.iter().map(|name| name.parse().ok()).collect::<Option<_>>()?,
    })
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
