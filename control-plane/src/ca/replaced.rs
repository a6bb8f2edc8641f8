//! Certificates that a later one has replaced, as their holders say: nobody counts on them any more, and they are not listed.
//!
//! Whoever hears of it writes it down, so that every control plane over the same store knows: the holder says it once, to one of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use weft_certs::SETTLING;
use weft_core::model::{Name, SpiffeId};

use super::{Ca, lock};
use crate::store::{Certificate, StoreError};

/// Which they are.
#[derive(Debug, Default)]
pub(super) struct Replaced {
    /// Since when we know: clocks of others do not matter then.
    since: HashMap<String, SystemTime>,
    /// What is so of these serial numbers, and is not written down yet.
    unsaved: BTreeMap<String, bool>,
}

impl Replaced {
    /// As the store remembers.
    pub(super) fn of(issued: &HashMap<String, Arc<Certificate>>, now: SystemTime) -> Self {
        let replaced = issued.values().filter(|certificate| certificate.replaced);
        let since = replaced.map(|certificate| (certificate.serial.clone(), now)).collect();
        Self { since, unsaved: BTreeMap::new() }
    }

    /// What another control plane, or we, have written of one.
    pub(super) fn follow(&mut self, serial: &str, replaced: bool, now: SystemTime) {
        // What we have heard since goes before it, and is written next.
        if self.unsaved.contains_key(serial) {
            return;
        }
        if replaced {
            self.since.entry(serial.to_owned()).or_insert(now);
        } else {
            self.since.remove(serial);
        }
    }

    pub(super) fn retain(&mut self, is_known: impl Fn(&str) -> bool) {
        self.since.retain(|serial, _| is_known(serial));
        self.unsaved.retain(|serial, _| is_known(serial));
    }

    fn holds(&self, serial: &str) -> bool {
        self.since.contains_key(serial)
    }

    fn put(&mut self, serial: &str, now: SystemTime) {
        if !self.holds(serial) {
            self.since.insert(serial.to_owned(), now);
            self.unsaved.insert(serial.to_owned(), true);
        }
    }

    fn take_back(&mut self, serial: &str) {
        if self.since.remove(serial).is_some() {
            self.unsaved.insert(serial.to_owned(), false);
        }
    }
}

impl Ca {
    /// The certificates that are valid now and that no later one has replaced.
    pub(crate) fn valid_certificates(&self, now: SystemTime) -> Vec<Arc<Certificate>> {
        let (issued, replaced) = (self.lock(), lock(&self.replaced));
        let is_used = |c: &&Arc<Certificate>| c.not_after > now && !replaced.holds(&c.serial);
        issued.values().filter(is_used).cloned().collect()
    }

    /// The holder of this certificate says that it uses no earlier one of its workload any more.
    pub(crate) fn in_use(&self, identity: &SpiffeId, workload: &Name, serial: &str, now: SystemTime) {
        let issued = self.lock();
        let holds = |c: &Certificate| c.spiffe_id == identity.as_str() && c.workload == workload.as_str();
        let Some(used) = issued.get(serial).filter(|certificate| holds(certificate)) else { return };
        let is_earlier =
            |c: &&Arc<Certificate>| holds(c) && c.not_before <= used.not_before && c.serial != used.serial;
        let mut replaced = lock(&self.replaced);
        for earlier in issued.values().filter(is_earlier) {
            replaced.put(&earlier.serial, now);
        }
        replaced.take_back(&used.serial);
    }

    /// Writes down what was heard of, so that others know; what cannot be written now is written the next time.
    pub(super) async fn keep_replaced(&self) -> Result<(), StoreError> {
        loop {
            let next =
                lock(&self.replaced).unsaved.first_key_value().map(|(serial, is)| (serial.clone(), *is));
            let Some((serial, replaced)) = next else { return Ok(()) };
            if let Some(known) = self.certificate(&serial) {
                self.store.keep_certificate(&Certificate { replaced, ..(*known).clone() }).await?;
            }
            let mut heard = lock(&self.replaced);
            // It may have been taken back meanwhile.
            if heard.unsaved.get(&serial) == Some(&replaced) {
                heard.unsaved.remove(&serial);
            }
        }
    }

    /// How many certificates each root has in use, by the root's fingerprint.
    pub(crate) fn certificates_by_root(&self, now: SystemTime) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        let (issued, replaced) = (self.lock(), lock(&self.replaced));
        let settled = |serial: &str| replaced.since.get(serial).is_some_and(|at| *at + SETTLING <= now);
        for certificate in issued.values().filter(|c| c.not_after >= now && !settled(&c.serial)) {
            *counts.entry(certificate.root.clone()).or_default() += 1;
        }
        counts
    }
}
