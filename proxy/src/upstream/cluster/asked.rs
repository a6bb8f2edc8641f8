//! What of a request decides how a cluster is called: which endpoint it stays with, and what it is tried with.

use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderName;
use weft_core::balance;
use weft_core::fault::{self, Injected};
use weft_core::model::{BalancingPolicy, Fault, HashKey};

use super::Cluster;
use crate::affinity::{self, Key};
use crate::http::head::Fields;
use crate::worker::Worker;

impl Cluster {
    /// What tells a request from others, where equal ones are to go to the same endpoint.
    pub fn key(&self, fields: &impl Fields, client: IpAddr, rng: &mut fastrand::Rng) -> Option<Key> {
        let state = self.state.borrow();
        let BalancingPolicy::ConsistentHash(key) = &state.traffic.balancing.policy else { return None };
        let hash = match key {
            HashKey::Header(_) => fields.first(state.hashed.as_ref()?).map(balance::hash)?,
            HashKey::Cookie(cookie) => return Some(affinity::by_cookie(cookie, fields, rng)),
            HashKey::SourceIp => match client.to_canonical() {
                IpAddr::V4(v4) => balance::hash(&v4.octets()),
                IpAddr::V6(v6) => balance::hash(&v6.octets()),
            },
        };
        Some(Key { hash, told: None })
    }

    /// What a request is to be tried with. Where a route led it here, `called` is whom it was for; what holds of both, such
    /// as a fault of the whole mesh, was drawn there, and is not drawn twice.
    pub fn inject(&self, called: Option<&Self>, fields: &impl Fields, worker: &Worker) -> Injected {
        let state = self.state.borrow();
        if state.traffic.faults.is_empty() {
            return Injected::default();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let has = |name: &str, value: &str| {
            name.parse::<HeaderName>()
                .is_ok_and(|name| fields.all(&name).any(|found| found == value.as_bytes()))
        };
        let drawn = called.map(|called| called.state.borrow());
        let is_new =
            |fault: &&Fault| drawn.as_ref().is_none_or(|drawn| !drawn.traffic.faults.contains(fault));
        let by_caller = state.traffic.faults.iter().any(|fault| !fault.from.is_empty());
        let own = if by_caller { worker.own_identity() } else { None };
        let is_ours = |fault: &&Fault| fault::is_for(fault, own.as_ref());
        let faults = state.traffic.faults.iter().filter(is_new).filter(is_ours);
        fault::inject(faults, has, now, &mut worker.rng.borrow_mut())
    }
}
