//! Who is connected, and how far each has come: what `weft status` shows.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_core::model::QualifiedName;

use crate::push::{Mailbox, SyncState};

/// The mailboxes of the connected sidecars, by workload.
#[derive(Default)]
pub(crate) struct Live(Mutex<HashMap<QualifiedName, Arc<Mailbox>>>);

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Live").field(&self.lock().len()).finish()
    }
}

/// Lists a sidecar until it is dropped.
#[derive(Debug)]
pub(crate) struct Listed<'a> {
    live: &'a Live,
    workload: QualifiedName,
    mailbox: Arc<Mailbox>,
}

impl Live {
    /// Lists a sidecar, in the place of an earlier stream of its workload.
    pub(crate) fn list(&self, workload: &QualifiedName, mailbox: Arc<Mailbox>) -> Listed<'_> {
        self.lock().insert(workload.clone(), mailbox.clone());
        Listed { live: self, workload: workload.clone(), mailbox }
    }

    /// How far a connected sidecar has come.
    pub(crate) fn sync_state(&self, workload: &QualifiedName) -> Option<SyncState> {
        self.lock().get(workload).map(|mailbox| mailbox.sync_state())
    }

    /// The connected sidecars that have not said that they hold the trust of this hash.
    pub(crate) fn unaware(&self, trust: u64) -> Vec<QualifiedName> {
        let held = |mailbox: &Arc<Mailbox>| mailbox.sync_state().trust == Some(trust);
        let live = self.lock();
        let mut unaware: Vec<_> =
            live.iter().filter(|(_, mailbox)| !held(mailbox)).map(|(name, _)| name.clone()).collect();
        unaware.sort();
        unaware
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QualifiedName, Arc<Mailbox>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let mut live = self.live.lock();
        if live.get(&self.workload).is_some_and(|mailbox| Arc::ptr_eq(mailbox, &self.mailbox)) {
            live.remove(&self.workload);
        }
    }
}
