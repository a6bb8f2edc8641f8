//! The endpoints behind one destination, as a worker sees them: kept in step with the snapshot, drawn from by cost.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::time::Instant;

use weft_core::balance::{Balancer, Load, Member, PeakEwma};
use weft_core::model::{Endpoint, Protocol, QualifiedName, Traffic};

use super::{InFlight, Upstream};
use crate::observe::Security;
use crate::state::{Known, Snapshot};

/// Where a cluster's endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A service's port.
    Service(QualifiedName, u16),
    /// A workload called by its own address.
    Workload(IpAddr, u16),
    /// The app behind this sidecar.
    App(SocketAddr),
}

/// The endpoints behind one destination.
#[derive(Debug)]
pub struct Cluster {
    source: Source,
    /// Our own zone; empty: unknown.
    zone: Arc<str>,
    protocol: Cell<Protocol>,
    /// Whether the server spoke first when it was last found out.
    pub speaks_first: Cell<bool>,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    /// The snapshot that this is of. Weak: it is only compared, and must not be kept alive.
    seen: Weak<Snapshot>,
    generation: u64,
    traffic: Traffic,
    upstreams: Vec<Rc<Upstream>>,
    /// None: to be made anew with the next choice.
    balancer: Option<Balancer>,
}

impl Cluster {
    /// The endpoints behind `source`, as `snapshot` has them, seen from `zone`.
    pub fn new(source: Source, snapshot: &Arc<Snapshot>, zone: Arc<str>) -> Self {
        let cluster = Self {
            source,
            zone,
            protocol: Cell::default(),
            speaks_first: Cell::default(),
            state: RefCell::new(State {
                seen: Weak::new(),
                generation: 0,
                traffic: Traffic::default(),
                upstreams: Vec::new(),
                balancer: None,
            }),
        };
        if let Source::App(address) = &cluster.source {
            let upstreams = vec![Rc::new(Upstream::of_app(*address, Instant::now()))];
            cluster.state.borrow_mut().replace(upstreams);
        }
        cluster.refresh(snapshot);
        cluster
    }

    /// What is spoken there, as far as it was declared.
    pub fn protocol(&self) -> Protocol {
        self.protocol.get()
    }

    /// How connections to its endpoints are protected: mutually, as soon as one of them has a sidecar.
    pub fn security(&self) -> Security {
        let state = self.state.borrow();
        let mutual = state.upstreams.iter().any(|upstream| upstream.security() == Some(Security::Mutual));
        if mutual { Security::Mutual } else { Security::Plaintext }
    }

    /// Takes over what has changed since the last snapshot. What has not keeps its connections and measurements.
    pub fn refresh(&self, snapshot: &Arc<Snapshot>) {
        let mut state = self.state.borrow_mut();
        if std::ptr::eq(state.seen.as_ptr(), Arc::as_ptr(snapshot)) {
            return;
        }
        state.seen = Arc::downgrade(snapshot);
        match &self.source {
            Source::App(_) => {}
            Source::Service(name, port) => {
                let Some(known) = snapshot.services.get(name) else {
                    state.generation = 0;
                    return state.replace(Vec::new());
                };
                if state.generation == known.generation {
                    return;
                }
                state.generation = known.generation;
                let declared = known.service.ports.iter().find(|declared| declared.port == *port);
                self.protocol.set(declared.map_or(Protocol::Detect, |declared| declared.protocol));
                let places = known.endpoints.iter().filter_map(|e| Some((e, e.target_port(*port)?)));
                state.traffic.clone_from(&known.service.traffic);
                state.rebuild(places);
            }
            Source::Workload(address, port) => {
                let Some(Known::Workload(known)) = snapshot.addresses.get(address) else {
                    return state.replace(Vec::new());
                };
                let declared = known.target_ports.iter().find(|declared| declared.port == *port);
                self.protocol.set(declared.map_or(Protocol::Detect, |declared| declared.protocol));
                // It counts as the service's that it first offers.
                let service = known.service.as_ref().and_then(|name| snapshot.services.get(name));
                state.traffic = service.map(|known| known.service.traffic.clone()).unwrap_or_default();
                state.rebuild([(&known.endpoint, *port)].into_iter());
            }
        }
    }

    /// The upstream for the next request, preferably not `avoid`; none where there is no endpoint.
    pub fn pick(&self, rng: &mut fastrand::Rng, avoid: Option<&Rc<Upstream>>) -> Option<InFlight> {
        let state = &mut *self.state.borrow_mut();
        let now = Instant::now();
        if state.balancer.as_ref().is_none_or(|balancer| balancer.is_stale(now)) {
            state.balancer = Some(state.rebalance(&self.zone, now, rng));
        }
        let upstreams = &state.upstreams;
        let load = Load {
            cost: &|index| upstreams.get(index).map_or(f64::INFINITY, |upstream| upstream.cost(now)),
            in_flight: &|index| upstreams.get(index).map_or(u32::MAX, |upstream| upstream.in_flight()),
            id: &|index| upstreams.get(index).map_or(0, |upstream| upstream.id),
            avoid: &|index| {
                avoid.is_some_and(|avoid| upstreams.get(index).is_some_and(|it| Rc::ptr_eq(avoid, it)))
            },
        };
        let index = state.balancer.as_mut()?.choose(None, load, rng)?;
        Some(InFlight::begin(Rc::clone(state.upstreams.get(index)?), now))
    }

    /// Closes connections that have been idle for too long.
    pub fn sweep(&self, now: Instant) {
        for upstream in &self.state.borrow().upstreams {
            upstream.pool.sweep(now);
            upstream.http2.sweep(now);
        }
    }
}

impl State {
    fn rebuild<'a>(&mut self, places: impl Iterator<Item = (&'a Arc<Endpoint>, u16)>) {
        let now = Instant::now();
        let typical = PeakEwma::typical(
            self.upstreams.iter().map(|u| u.load.borrow().clone()).collect::<Vec<_>>().iter(),
            now,
        );
        let mut before: HashMap<QualifiedName, Rc<Upstream>> = self
            .upstreams
            .drain(..)
            .filter_map(|upstream| Some((upstream.endpoint.as_ref()?.workload.clone(), upstream)))
            .collect();
        // Among the first that are heard of nobody is a newcomer.
        let since = (!before.is_empty()).then_some(now);
        let limit = self.traffic.timeouts.connect;
        let upstreams = places.map(|(endpoint, port)| match before.remove(&endpoint.workload) {
            Some(kept) if kept.endpoint.as_ref() == Some(endpoint) => {
                kept.connect_limit.set(limit);
                kept
            }
            _ => {
                let new = Upstream::of_endpoint(endpoint, port, typical, now);
                new.connect_limit.set(limit);
                Rc::new(Upstream { since, ..new })
            }
        });
        let upstreams = upstreams.collect();
        self.replace(upstreams);
    }

    fn replace(&mut self, upstreams: Vec<Rc<Upstream>>) {
        self.upstreams = upstreams;
        self.balancer = None;
    }

    fn rebalance(&self, zone: &str, now: Instant, rng: &mut fastrand::Rng) -> Balancer {
        let member = |upstream: &Rc<Upstream>| Member {
            weight: upstream.weight,
            near: upstream.is_in(zone),
            available: true,
            since: upstream.since,
        };
        let members: Vec<_> = self.upstreams.iter().map(member).collect();
        Balancer::new(&members, &self.traffic.balancing, now, rng)
    }
}
