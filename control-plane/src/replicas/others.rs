//! What other control planes over the same store say of the sidecars that are connected to them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::Followers;
use crate::push::SyncState;

/// Sidecars that one names, at most.
const NAMED: usize = 100;

/// What one says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Said {
    /// The trust that it tells of.
    pub(super) sequence: u64,
    /// Its sidecars that do not hold that trust yet.
    pub(super) unaware: Vec<String>,
    /// The revision that it tells of.
    #[serde(default)]
    pub(super) revision: u64,
    /// Its sidecars that do not hold yet what they were told; where they are too many to be named, none is known to.
    #[serde(default)]
    pub(super) behind: Option<Vec<String>>,
    /// Where the others ask it; none: it is of a version that is not asked.
    #[serde(default)]
    pub(super) address: Option<SocketAddr>,
}

impl Said {
    /// What is to be said of our sidecars.
    pub(super) fn of(followers: &Followers) -> Self {
        Self {
            sequence: followers.world.read(|known| known.trust().sequence),
            unaware: followers.keeper.unaware_here(),
            revision: followers.world.revision(),
            behind: Self::naming(followers.keeper.live.behind()),
            address: Some(followers.address),
        }
    }

    /// With this many names at most.
    fn naming(behind: Vec<String>) -> Option<Vec<String>> {
        (behind.len() <= NAMED).then_some(behind)
    }
}

/// What all of them say.
#[derive(Debug, Default)]
pub(crate) struct Others(Mutex<BTreeMap<String, Said>>);

impl Others {
    /// Who does not hold the trust of this number yet, as far as the others know.
    pub(crate) fn unaware(&self, sequence: u64) -> Vec<String> {
        let mut unaware = Vec::new();
        for (id, said) in self.lock().iter() {
            if said.sequence == sequence {
                unaware.extend(said.unaware.iter().take(NAMED).cloned());
            } else {
                unaware.push(format!("the sidecars of control plane {id}"));
            }
        }
        unaware
    }

    /// How far a sidecar has come that is connected to one of them.
    pub(crate) fn sync_state(&self, id: &str, workload: &str) -> Option<SyncState> {
        let others = self.lock();
        let said = others.get(id)?;
        let behind = said.behind.as_ref()?;
        let in_sync = !behind.iter().any(|name| name == workload);
        let revision = if in_sync { said.revision } else { 0 };
        Some(SyncState { revision, in_sync, ..SyncState::default() })
    }

    /// Who they are, and where each is asked.
    pub(crate) fn addresses(&self) -> Vec<(String, Option<SocketAddr>)> {
        self.lock().iter().map(|(id, said)| (id.clone(), said.address)).collect()
    }

    /// One says something; nothing: it is gone.
    pub(super) fn hear(&self, id: &str, said: Option<&[u8]>) {
        let mut others = self.lock();
        match said.map(serde_json::from_slice::<Said>) {
            Some(Ok(said)) => drop(others.insert(id.to_owned(), said)),
            // What cannot be read was said by another version: its sidecars are waited for, which is safe.
            Some(Err(_)) => {
                let said = Said {
                    sequence: u64::MAX,
                    unaware: Vec::new(),
                    revision: 0,
                    behind: None,
                    address: None,
                };
                others.insert(id.to_owned(), said);
            }
            None => drop(others.remove(id)),
        }
    }

    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Said>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_say_that_its_sidecars_know_is_waited_for() {
        let others = Others::default();
        assert_eq!(others.unaware(3), [""; 0]);
        others.hear("a", Some(br#"{"sequence": 3, "unaware": ["default/web"]}"#));
        others.hear("b", Some(br#"{"sequence": 2, "unaware": []}"#));
        others.hear("c", Some(b"?"));
        let waited_for =
            ["default/web", "the sidecars of control plane b", "the sidecars of control plane c"];
        assert_eq!(others.unaware(3), waited_for);
        others
            .hear("d", Some(br#"{"sequence": 3, "unaware": [], "revision": 7, "behind": ["default/web"]}"#));
        let far = |id, name| others.sync_state(id, name).map(|sync| (sync.revision, sync.in_sync));
        assert_eq!(
            (far("d", "default/web"), far("d", "default/orders")),
            (Some((0, false)), Some((7, true)))
        );
        others.hear("e", Some(br#"{"sequence": 3, "unaware": [], "address": "10.0.0.1:7443"}"#));
        let asked: Vec<_> = others.addresses().into_iter().filter_map(|(_, address)| address).collect();
        assert_eq!(
            (asked.as_slice(), others.addresses().len()),
            (["10.0.0.1:7443".parse().unwrap()].as_slice(), 5)
        );
        others.hear("e", None);
        assert_eq!((far("a", "default/web"), far("e", "default/web")), (None, None));
        others.hear("b", None);
        others.hear("c", None);
        others.hear("a", Some(br#"{"sequence": 3, "unaware": []}"#));
        assert_eq!(others.unaware(3), [""; 0]);
    }
}
