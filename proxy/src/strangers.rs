//! Calls without an identity: which are let in as probes, and who else was let in, as one worker tells of it: each caller once in
//! a while.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_core::authorize::OutsideProbes;

use crate::state::{Discovery, PlaintextCall};

/// For how long a caller is not told of again.
const AGAIN: Duration = Duration::from_secs(10);

/// Callers that are remembered.
const MOST: usize = 256;

/// What a worker knows of callers without an identity.
#[derive(Debug, Default)]
pub struct Strangers {
    /// What is asked of the app from outside the mesh.
    pub probes: Arc<OutsideProbes>,
    /// When each was told of last.
    told: RefCell<HashMap<(IpAddr, u16), Instant>>,
}

impl Strangers {
    /// Nobody was heard yet.
    pub fn new(probes: Arc<OutsideProbes>) -> Self {
        Self { probes, told: RefCell::default() }
    }

    /// A call from this address to this port of the app was let in.
    pub fn hear(&self, from: IpAddr, port: u16, discovery: &Discovery) {
        let (mut known, now) = (self.told.borrow_mut(), Instant::now());
        let is_recent = |told: &Instant| now.duration_since(*told) < AGAIN;
        if known.get(&(from, port)).is_some_and(is_recent) {
            return;
        }
        if known.len() >= MOST {
            known.retain(|_, told| is_recent(told));
        }
        // Of a crowd not everyone is told of.
        if known.len() < MOST && discovery.tell_plaintext(PlaintextCall { from, port }) {
            known.insert((from, port), now);
        }
    }
}
