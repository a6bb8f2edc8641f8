//! What of a request decides how a cluster is called: what holds for it, which endpoint it stays with, and what it is tried
//! with.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::HeaderName;
use weft_core::balance;
use weft_core::fault::{self, Injected};
use weft_core::hedge::{self, Latencies};
use weft_core::limits::Limits;
use weft_core::model::{BalancingPolicy, Fault, HashKey, Hedging, Ratio};
use weft_core::plan::Plan;
use weft_core::retry::budget_of;
use weft_core::route::Rule;

use super::super::extra::Extra;
use super::Cluster;
use crate::affinity::{self, Key};
use crate::http::Planned;
use crate::http::head::Fields;
use crate::routing::Routing;
use crate::worker::Worker;

impl Cluster {
    /// What holds for a request of this method that falls under a route's rule, or none. It counts as asked for.
    pub fn plan(&self, rule: Option<&Rule>, method: &str) -> Option<Planned> {
        let state = &mut *self.state.borrow_mut();
        let plan = match rule.filter(|rule| rule.says_how()) {
            None => Rc::clone(state.plan.as_ref()?),
            Some(rule) => Rc::new(rule.plan(&state.traffic)?),
        };
        if plan.adds_load() {
            let service = self.name();
            let extra = state.extra.get_or_insert_with(|| {
                Extra::new(&self.site.extras, service.as_ref(), budget_of(&state.traffic))
            });
            extra.asked();
        }
        let twice = plan.twice(method);
        Some(Planned { plan, twice })
    }

    /// Whether something may be sent beside what was asked for. What is taken is not given back.
    pub fn take_extra(&self) -> bool {
        self.state.borrow_mut().extra.as_mut().is_some_and(Extra::take)
    }

    /// After how long a second endpoint is asked; none: not, for it is not known yet how long answers take.
    pub fn hedges_after(&self, hedging: &Hedging) -> Option<Duration> {
        hedge::wait(hedging, self.state.borrow_mut().latencies.as_mut(), Instant::now())
    }

    /// A request was answered after so long, by whichever endpoint.
    pub fn answered_after(&self, took: Duration) {
        let now = Instant::now();
        self.state.borrow_mut().latencies.get_or_insert_with(|| Latencies::new(now)).record(took, now);
    }

    /// How long a request that falls under a route's rule, or none, may take, as it is said now.
    pub fn limits(&self, rule: Option<&Rule>) -> Limits {
        let state = self.state.borrow();
        let plan = match rule {
            Some(rule) => rule.plan(&state.traffic),
            None => Plan::of(&state.traffic, None),
        };
        plan.map(|plan| plan.limits).unwrap_or_default()
    }

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

    /// Of how many traces that begin with its requests the policy for it says that they are recorded.
    pub fn sampling(&self) -> Option<Ratio> {
        self.state.borrow().traffic.sampling
    }

    /// Whether a policy for it, or for one of its routes, says so.
    pub fn may_sample(&self) -> bool {
        let state = self.state.borrow();
        state.traffic.sampling.is_some() || state.routing.as_ref().is_some_and(Routing::may_sample)
    }

    /// What a request is to be tried with. Where a route led it here, `called` is whom it was for; what holds of both, such
    /// as a fault of the whole mesh, was drawn there, and is not drawn twice.
    pub fn inject(&self, called: Option<&Self>, fields: &impl Fields, worker: &Worker) -> Injected {
        let state = self.state.borrow();
        if state.traffic.faults.is_empty() {
            return Injected::default();
        }
        let drawn = called.map(|called| called.state.borrow());
        let drawn = drawn.as_ref().map_or(&[][..], |drawn| &drawn.traffic.faults);
        inject(&state.traffic.faults, drawn, fields, worker)
    }
}

/// Draws those of `faults` that are for requests like this one of our app's, without those that were drawn already.
pub fn inject(faults: &[Fault], drawn: &[Fault], fields: &impl Fields, worker: &Worker) -> Injected {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let has = |name: &str, value: &str| {
        name.parse::<HeaderName>().is_ok_and(|name| fields.all(&name).any(|found| found == value.as_bytes()))
    };
    let by_caller = faults.iter().any(|fault| !fault.from.is_empty());
    let own = if by_caller { worker.own_identity() } else { None };
    let is_ours = |fault: &&Fault| !drawn.contains(fault) && fault::is_for(fault, own.as_ref());
    fault::inject(faults.iter().filter(is_ours), has, now, &mut worker.rng.borrow_mut())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::HeaderMap;
    use weft_core::model::{Balancing, Service, Traffic};

    use super::super::{Site, Source};
    use super::*;
    use crate::routing::Routing;
    use crate::state::{KnownService, Snapshot};

    #[test]
    fn callers_are_told_apart_by_their_address_where_that_is_said() {
        let name: weft_core::model::QualifiedName = "default/orders".parse().unwrap();
        let policy = BalancingPolicy::ConsistentHash(HashKey::SourceIp);
        let balancing = Balancing { policy, ..Balancing::default() };
        let service = Service {
            name: name.clone(),
            addresses: Vec::new(),
            ports: Vec::new(),
            traffic: Box::new(Traffic { balancing, ..Traffic::default() }),
            routes: Vec::new(),
            external: None,
            tokens: None,
        };
        let (endpoints, failing) = (Arc::from([]), Arc::from([]));
        let known = KnownService { service, endpoints, failing, routing: Routing::default(), generation: 1 };
        let mut snapshot = Snapshot::default();
        snapshot.services.insert(name.clone(), Arc::new(known));
        let cluster = Cluster::new(Source::Service(name, 80), &Arc::new(snapshot), Site::default());
        let mut rng = fastrand::Rng::with_seed(1);
        let mut key = |client: &str| {
            let key = cluster.key(&HeaderMap::new(), client.parse().unwrap(), &mut rng);
            key.map(|key| key.hash).unwrap()
        };
        assert_eq!(key("10.0.0.1"), key("::ffff:10.0.0.1"));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
        assert_ne!(key("fd00::1"), key("fd00::2"));
    }
}
