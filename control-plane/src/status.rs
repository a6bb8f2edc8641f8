//! Who is connected, and how far each has come: what `weft status` shows.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use weft_core::model::QualifiedName;

use crate::asks::Asks;
use crate::push::{Mailbox, Subscribers, SyncState};

/// The connected sidecars, by workload.
#[derive(Default)]
pub(crate) struct Live {
    connected: Mutex<HashMap<QualifiedName, Connected>>,
    asks: Arc<Asks>,
}

/// What is known of a connected sidecar.
struct Connected {
    mailbox: Arc<Mailbox>,
    plaintext: Vec<PlaintextCaller>,
}

/// What a control plane knows of a sidecar that is connected to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    /// How far it has come.
    pub sync: SyncState,
    /// Who was let in without an identity.
    pub plaintext: Vec<PlaintextCaller>,
}

/// Which of the connected sidecars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    /// Those that let somebody in without an identity.
    WithPlaintext,
}

/// Who was let in without an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PlaintextCaller {
    /// From where.
    pub address: IpAddr,
    /// To which port of the app.
    pub port: u16,
    /// When it was heard last.
    pub last_seen: SystemTime,
}

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
        let connected = Connected { mailbox: mailbox.clone(), plaintext: Vec::new() };
        self.lock().insert(workload.clone(), connected);
        Listed { live: self, workload: workload.clone(), mailbox }
    }

    /// Questions to those that are connected.
    pub(crate) fn asks(&self) -> &Arc<Asks> {
        &self.asks
    }

    /// What is known of a sidecar, where it is connected.
    pub(crate) fn one(&self, workload: &QualifiedName) -> Option<Known> {
        self.lock().get(workload).map(Connected::known)
    }

    /// What is known of those that are connected.
    pub(crate) fn known(&self, which: Which) -> Vec<(QualifiedName, Known)> {
        let live = self.lock();
        let wanted = |connected: &Connected| which == Which::All || !connected.plaintext.is_empty();
        let wanted = live.iter().filter(|(_, connected)| wanted(connected));
        wanted.map(|(name, connected)| (name.clone(), connected.known())).collect()
    }

    /// The connected sidecars that do not hold yet what they were to be told.
    pub(crate) fn behind(&self) -> Vec<String> {
        let live = self.lock();
        let behind = live.iter().filter(|(_, connected)| !connected.mailbox.sync_state().in_sync);
        let mut names: Vec<_> = behind.map(|(name, _)| name.to_string()).collect();
        names.sort();
        names
    }

    /// The connected sidecars that have not said that they hold the trust of this hash.
    pub(crate) fn unaware(&self, trust: u64) -> Vec<QualifiedName> {
        let held = |connected: &Connected| connected.mailbox.sync_state().trust == Some(trust);
        let live = self.lock();
        let mut unaware: Vec<_> =
            live.iter().filter(|(_, connected)| !held(connected)).map(|(name, _)| name.clone()).collect();
        unaware.sort();
        unaware
    }

    /// The connected sidecars that are among these, by name.
    pub(crate) fn among(&self, subscribers: &Subscribers) -> Vec<QualifiedName> {
        let live = self.lock();
        let among = live.iter().filter(|(_, connected)| subscribers.contains(&connected.mailbox));
        let mut among: Vec<_> = among.map(|(name, _)| name.clone()).collect();
        among.sort();
        among
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<QualifiedName, Connected>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connected {
    fn known(&self) -> Known {
        Known { sync: self.mailbox.sync_state(), plaintext: self.plaintext.clone() }
    }
}

impl Listed<'_> {
    /// The sidecar has told who was let in without an identity: all of them.
    pub(crate) fn heard_plaintext(&self, callers: Vec<PlaintextCaller>) {
        if let Some(connected) = self.live.lock().get_mut(&self.workload)
            && self.is(connected)
        {
            connected.plaintext = callers;
        }
    }

    /// Whether no later stream has taken its place.
    fn is(&self, connected: &Connected) -> bool {
        Arc::ptr_eq(&connected.mailbox, &self.mailbox)
    }
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        let mut live = self.live.lock();
        if live.get(&self.workload).is_some_and(|connected| self.is(connected)) {
            live.remove(&self.workload);
        }
    }
}
