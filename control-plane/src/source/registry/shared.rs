//! Registrations in a store that several control planes share.
//!
//! Each writes down who is connected to it, under a lease that it renews. A sidecar that moves to another one is written anew by that
//! one; the former sees it, and lets go. When a control plane dies, its lease leaves its sidecars as long as they need to be back
//! elsewhere.

use std::time::Duration;

use tokio::time::Instant;
use weft_core::model::QualifiedName;
use weft_core::world::Change;

use super::{Entry, Registering, Registry, State, Written, known};
use crate::store::{Registration, StoreError, decode};

/// How long a workload stays whose control plane is lost. Its sidecar is back elsewhere in seconds, if it can be; and if it cannot
/// because control plane and store are cut off from each other, it may be well.
const ORPHANED: Duration = Duration::from_mins(1);

impl Registry {
    /// Whether a workload is connected to another control plane, as far as the store says.
    pub(super) fn is_elsewhere(&self, registration: &Registration) -> bool {
        !self.replica.is_empty() && registration.replica != self.replica
    }

    /// Notes what became of a change in the store; none: something else stood there.
    pub(super) fn written(
        &self,
        state: &mut State,
        name: &QualifiedName,
        change: Registering,
        at: Option<i64>,
    ) {
        if self.replica.is_empty() {
            return;
        }
        let Some(at) = at else {
            tracing::debug!(workload = %name, "somebody else has written of it; what, is told");
            state.gone.remove(name);
            return;
        };
        match (change.record, state.entries.get_mut(name)) {
            (Some(record), Some(entry)) => entry.written = Some(Written { record, at }),
            // It went while it was written down.
            (Some(record), None) => {
                state.gone.insert(name.clone(), record);
                state.unsaved.insert(name.clone());
            }
            (None, _) => drop(state.gone.remove(name)),
        }
    }

    /// Takes over what the store says of a workload since then; none: nothing.
    pub(crate) fn follow(&self, name: &str, record: Option<&[u8]>, at: i64) -> Result<(), StoreError> {
        let Ok(name) = name.parse::<QualifiedName>() else { return Ok(()) };
        let registration =
            record.map(|record| decode::<Registration>("a registration", record)).transpose()?;
        let mut state = self.lock();
        let ours = state.entries.get(&name).filter(|entry| !self.is_elsewhere(&entry.registration));
        // What we have not written yet is newer, and so is what we have written since.
        if ours.is_some_and(|entry| entry.written.as_ref().is_none_or(|written| at <= written.at)) {
            return Ok(());
        }
        let is_ours = ours.is_some();
        match registration {
            Some(registration) if !self.is_elsewhere(&registration) => {}
            Some(registration) => self.hand_over(&mut state, name, registration),
            // Our lease was lost: it is written again.
            None if is_ours => self.write_again(&mut state, &name),
            None => {
                if state.take_out(&name).is_some() {
                    tracing::info!(workload = %name, "left, or was lost by the control plane that it was connected to");
                    self.world.apply(Change::Unregistered(name));
                }
            }
        }
        Ok(())
    }

    /// The control plane that a workload was connected to is gone, or cut off: the workload stays until it had time to be back.
    pub(crate) fn orphan(&self, name: &str) {
        let Ok(name) = name.parse::<QualifiedName>() else { return };
        let mut state = self.lock();
        match state.entries.get(&name) {
            Some(entry) if self.is_elsewhere(&entry.registration) => self.give_time(&mut state, &name),
            // Our own lease was lost: it is written again.
            Some(_) => self.write_again(&mut state, &name),
            None => {}
        }
    }

    fn give_time(&self, state: &mut State, name: &QualifiedName) {
        let until = Some(Instant::now() + ORPHANED);
        if let Some(entry) = state.entries.get_mut(name).filter(|entry| entry.until.is_none()) {
            entry.until = until;
            state.lost += usize::from(entry.is_lost());
            self.changed.notify_one();
        }
    }

    /// Takes over what the store says of all workloads.
    pub(crate) async fn follow_all(&self) -> Result<(), StoreError> {
        let found = self.store.registrations().await?;
        let named = |found: &Registration| format!("{}/{}", found.namespace, found.workload).parse().ok();
        let there: std::collections::BTreeMap<QualifiedName, Registration> =
            found.into_iter().filter_map(|found| Some((named(&found)?, found))).collect();
        let mut state = self.lock();
        let known: Vec<_> = state.entries.keys().filter(|name| !there.contains_key(*name)).cloned().collect();
        for name in known {
            let Some(entry) = state.entries.get(&name) else { continue };
            if self.is_elsewhere(&entry.registration) {
                self.give_time(&mut state, &name);
            } else {
                self.write_again(&mut state, &name);
            }
        }
        for (name, registration) in there {
            let is_unsaved = state.unsaved.contains(&name);
            if self.is_elsewhere(&registration) && !is_unsaved {
                self.hand_over(&mut state, name, registration);
            }
        }
        Ok(())
    }

    /// Writes everybody down again who is connected to us: under another lease.
    pub(crate) fn write_all_again(&self) {
        let mut state = self.lock();
        let ours = state.entries.iter().filter(|(_, entry)| !self.is_elsewhere(&entry.registration));
        let names: Vec<_> = ours.map(|(name, _)| name.clone()).collect();
        for name in names {
            self.write_again(&mut state, &name);
        }
    }

    fn write_again(&self, state: &mut State, name: &QualifiedName) {
        if let Some(entry) = state.entries.get_mut(name) {
            entry.written = None;
            state.unsaved.insert(name.clone());
            self.changed.notify_one();
        }
    }

    /// The workload is connected elsewhere: a stream of it that we have ends.
    fn hand_over(&self, state: &mut State, name: QualifiedName, registration: Registration) {
        let Some(known) = known(&registration) else { return };
        let former = state.take_out(&name).map(|entry| entry.former).unwrap_or_default();
        state.gone.remove(&name);
        let entry = Entry { registration, stream: None, until: None, former, written: None };
        state.put(name, entry);
        self.world.apply(Change::Registered(known));
    }
}
