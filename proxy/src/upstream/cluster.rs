//! The endpoints behind one destination, as a worker sees them: kept in step with the snapshot, drawn from by cost.

mod asked;
mod outside;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use http::HeaderName;
use weft_core::balance::{Balancer, Load, Member, PeakEwma};
use weft_core::breaker::{self, Ejection, Standing};
use weft_core::hedge::Latencies;
use weft_core::model::{
    BalancingPolicy, ConcurrencyMode, Endpoint, HashKey, Location, Protocol, QualifiedName, Service, Traffic,
};
use weft_core::plan::Plan;

pub use asked::inject;

use super::bulkhead::{Bulkheads, Room};
use super::egress::{Names, Outside};
use super::extra::{Extra, Extras};
use super::limiter::{Limiter, Limiters};
use super::watch::Breakers;
use super::{InFlight, Upstream};
use crate::failure::ErrorCode;
use crate::observe::Security;
use crate::routing::Routing;
use crate::state::{Known, Snapshot};
use crate::tls::PublicRoots;

/// How often is drawn again, for each endpoint that is not to be drawn.
const DRAWS: usize = 4;

/// Where a cluster's endpoints come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Source {
    /// A service's port.
    Service(QualifiedName, u16),
    /// A host that is one of a service's outside the mesh, called with the app's own TLS.
    Host(QualifiedName, u16, Box<str>),
    /// A workload called by its own address.
    Workload(IpAddr, u16),
    /// The app behind this sidecar; for one caller alone, where it is called from that one's address.
    App(SocketAddr, Option<IpAddr>),
}

/// From where endpoints are called.
#[derive(Debug, Clone, Default)]
pub struct Site {
    /// Our own zone; empty: unknown.
    pub zone: Arc<str>,
    /// Our own node; empty: unknown, or there is no cluster.
    pub node: Arc<str>,
    /// The bulkheads of all workers.
    pub bulkheads: Bulkheads,
    /// The circuit breakers of all workers.
    pub breakers: Breakers,
    /// The limits of the app's ports.
    pub limiters: Limiters,
    /// What all workers may send beside what is asked for.
    pub extras: Extras,
    /// Who says where hosts outside the mesh are.
    pub names: Names,
    /// Who vouches for those whose documents name nobody.
    pub public: PublicRoots,
}

/// The endpoints behind one destination.
#[derive(Debug)]
pub struct Cluster {
    source: Source,
    site: Site,
    protocol: Cell<Protocol>,
    /// Whether the server spoke first when it was last found out.
    pub speaks_first: Cell<bool>,
    /// Counts what may be said of it anew.
    version: Cell<u64>,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    /// The snapshot that this is of. Weak: it is only compared, and must not be kept alive.
    seen: Weak<Snapshot>,
    generation: u64,
    traffic: Traffic,
    /// The header that equal requests are told by, where the policy says so.
    hashed: Option<HeaderName>,
    room: Option<Arc<Room>>,
    /// Where it is found out how many requests the app is given at once.
    limiter: Option<Arc<Limiter>>,
    /// What holds for requests of which no route says anything; none: nothing does.
    plan: Option<Rc<Plan>>,
    /// What may be sent beside what is asked for.
    extra: Option<Extra>,
    /// How long its answers take, where that must be known.
    latencies: Option<Latencies>,
    /// The routes of the service; none: it has none.
    routing: Option<Routing>,
    upstreams: Vec<Rc<Upstream>>,
    /// Where it is outside the mesh; none: it is inside.
    outside: Option<Outside>,
    /// Who takes part; none: to be found out with the next choice.
    choice: Option<Choice>,
    /// Counts what breakers change, in all workers; none: there are no breakers.
    changes: Option<Arc<AtomicU64>>,
}

/// Who takes part.
#[derive(Debug)]
struct Choice {
    /// None: nobody works, the service's circuit is open.
    balancer: Option<Balancer>,
    /// When a breaker's standing is another by itself.
    until: Option<Instant>,
    /// How many changes of breakers it takes into account.
    changes: u64,
    /// Who is not to be called, whoever asks for it.
    barred: Vec<usize>,
}

impl Site {
    /// Where we are.
    pub fn location(&self) -> Location<'_> {
        Location { zone: &self.zone, node: &self.node }
    }
}

impl Cluster {
    /// The endpoints behind `source`, as `snapshot` has them, seen from `site`.
    pub fn new(source: Source, snapshot: &Arc<Snapshot>, site: Site) -> Self {
        let cluster = Self {
            source,
            site,
            protocol: Cell::default(),
            speaks_first: Cell::default(),
            version: Cell::default(),
            state: RefCell::new(State {
                seen: Weak::new(),
                generation: 0,
                traffic: Traffic::default(),
                hashed: None,
                room: None,
                limiter: None,
                plan: None,
                extra: None,
                latencies: None,
                routing: None,
                upstreams: Vec::new(),
                outside: None,
                choice: None,
                changes: None,
            }),
        };
        if let Source::App(address, caller) = &cluster.source {
            let upstreams = vec![Rc::new(Upstream::of_app(*address, *caller, Instant::now()))];
            cluster.state.borrow_mut().replace(upstreams);
        }
        cluster.refresh(snapshot);
        cluster
    }

    /// As metrics name it.
    pub fn label(&self) -> String {
        match &self.source {
            Source::Service(name, _) | Source::Host(name, ..) => name.to_string(),
            Source::Workload(address, _) => address.to_string(),
            Source::App(address, _) => address.to_string(),
        }
    }

    /// What is spoken there, as far as it was declared.
    pub fn protocol(&self) -> Protocol {
        self.protocol.get()
    }

    /// The port that is called.
    pub fn port(&self) -> u16 {
        match &self.source {
            Source::Service(_, port) | Source::Host(_, port, _) | Source::Workload(_, port) => *port,
            Source::App(address, _) => address.port(),
        }
    }

    /// The routes of the service that this is of, and the port of it; none where it has no routes.
    pub fn routing(&self) -> Option<(Routing, u16)> {
        let Source::Service(_, port) = &self.source else { return None };
        self.state.borrow().routing.clone().map(|routing| (routing, *port))
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
        self.version.set(self.version.get().wrapping_add(1));
        match &self.source {
            Source::App(address, _) => {
                let ports = snapshot.workload.as_deref().map_or(&[][..], |workload| &workload.ports);
                let declared = ports.iter().find(|declared| declared.port == address.port());
                self.protocol.set(declared.map_or(Protocol::Detect, |declared| declared.protocol));
                let mode = snapshot.workload.as_ref().map(|workload| workload.concurrency(address.port()));
                state.limiter = match mode {
                    Some(ConcurrencyMode::Adaptive) => Some(self.site.limiters.of_port(address.port())),
                    Some(ConcurrencyMode::Off) | None => None,
                };
            }
            Source::Service(name, port) | Source::Host(name, port, _) => {
                let Some(known) = snapshot.services.get(name) else {
                    state.generation = 0;
                    state.routing = None;
                    state.outside = None;
                    return state.replace(Vec::new());
                };
                if state.generation == known.generation {
                    return;
                }
                state.generation = known.generation;
                state.routing = Some(known.routing.clone()).filter(|routing| !routing.is_empty());
                let declared = known.service.ports.iter().find(|declared| declared.port == *port);
                self.protocol.set(declared.map_or(Protocol::Detect, |declared| declared.protocol));
                let places = known.endpoints.iter().filter_map(|e| Some((e, e.target_port(*port)?)));
                state.adopt(&known.service, &self.site);
                match &known.service.external {
                    Some(external) => {
                        self.reach_out(&mut state, name, *port, external, &known.failing);
                    }
                    None => {
                        state.outside = None;
                        state.rebuild(&self.source, &self.site, places);
                    }
                }
            }
            Source::Workload(address, port) => {
                let Some(Known::Workload(known)) = snapshot.addresses.get(address) else {
                    return state.replace(Vec::new());
                };
                let declared = known.target_ports.iter().find(|declared| declared.port == *port);
                self.protocol.set(declared.map_or(Protocol::Detect, |declared| declared.protocol));
                // It counts as the service's that it first offers.
                let service = known.service.as_ref().and_then(|name| snapshot.services.get(name));
                if let Some(known) = service {
                    state.adopt(&known.service, &self.site);
                }
                let called = called_at(&known.endpoint, *address);
                state.rebuild(&self.source, &self.site, [(&called, *port)].into_iter());
            }
        }
    }

    /// The room for its requests, where they are limited.
    pub(super) fn room(&self) -> Option<Arc<Room>> {
        self.state.borrow().room.clone()
    }

    /// Finds out how many requests the app is given at once, where that is so.
    pub(super) fn limiter(&self) -> Option<Arc<Limiter>> {
        self.state.borrow().limiter.clone()
    }

    /// Whether requests may be refused because the app has enough of them.
    pub fn may_shed(&self) -> bool {
        self.state.borrow().limiter.is_some()
    }

    /// Whether there is someone else to ask than those who were.
    pub(super) fn has_others(&self, asked: &[Rc<Upstream>]) -> bool {
        let state = self.state.borrow();
        state.upstreams.iter().any(|other| !asked.iter().any(|asked| Rc::ptr_eq(other, asked)))
    }

    /// Whether there is someone else to ask than `upstream`.
    pub fn has_another(&self, upstream: &Rc<Upstream>) -> bool {
        self.state.borrow().upstreams.iter().any(|other| !Rc::ptr_eq(other, upstream))
    }

    fn name(&self) -> Option<QualifiedName> {
        match &self.source {
            Source::Service(name, _) => Some(name.clone()),
            Source::Host(..) | Source::Workload(..) | Source::App(..) => None,
        }
    }

    /// Changes whenever something else may be said of how it is called.
    pub fn version(&self) -> u64 {
        self.version.get()
    }

    /// How long a connection of bytes may lie idle, where a policy says so.
    pub fn idle(&self) -> Option<Duration> {
        self.state.borrow().traffic.timeouts.idle
    }

    /// The upstream for the next request, preferably none of `avoid`.
    pub fn pick(
        &self,
        rng: &mut fastrand::Rng,
        avoid: &[Rc<Upstream>],
        key: Option<u64>,
        stays_with: Option<u64>,
    ) -> Result<InFlight, ErrorCode> {
        let state = &mut *self.state.borrow_mut();
        let now = Instant::now();
        if let (Some(outside), Source::Service(name, _) | Source::Host(name, ..)) =
            (&state.outside, &self.source)
            && outside.has_moved()
        {
            state.spread(&self.source, &self.site, name);
        }
        let changes = state.changes.as_ref().map_or(0, |changes| changes.load(Ordering::Acquire));
        if state.choice.as_ref().is_none_or(|choice| choice.changes != changes || choice.is_stale(now)) {
            state.choice = Some(state.rebalance(self.site.location(), changes, now, rng));
        }
        let choice =
            state.choice.as_mut().and_then(|choice| Some((choice.balancer.as_mut()?, &choice.barred)));
        let (balancer, barred) = choice.ok_or(ErrorCode::CircuitOpen)?;
        let upstreams = &state.upstreams;
        let load = Load {
            cost: &|index| upstreams.get(index).map_or(f64::INFINITY, |upstream| upstream.cost(now)),
            in_flight: &|index| upstreams.get(index).map_or(u32::MAX, |upstream| upstream.in_flight()),
            id: &|index| upstreams.get(index).map_or(0, |upstream| upstream.id),
            avoid: &|index| {
                upstreams.get(index).is_some_and(|it| avoid.iter().any(|avoid| Rc::ptr_eq(avoid, it)))
            },
            failed: avoid.len(),
        };
        let stays = stays_with.and_then(|id| upstreams.iter().position(|upstream| upstream.id == id));
        let stays = stays.filter(|index| !barred.contains(index) && !(load.avoid)(*index));
        let mut chosen = stays.or_else(|| balancer.choose(key, load, rng));
        // Two are drawn and both may be such; where there is another it is found soon.
        for _ in 0..avoid.len().min(upstreams.len()) * DRAWS {
            if !chosen.is_some_and(load.avoid) {
                break;
            }
            chosen = balancer.choose(key, load, rng);
        }
        let chosen = chosen.and_then(|index| upstreams.get(index));
        Ok(InFlight::begin(Rc::clone(chosen.ok_or(ErrorCode::NoEndpoints)?), now))
    }

    /// Closes idle connections for which there are others who wait.
    pub fn let_go(&self) {
        let state = self.state.borrow();
        if !state.room.as_ref().is_some_and(|room| room.wants_connections()) {
            return;
        }
        for upstream in &state.upstreams {
            if upstream.http1.let_go() || upstream.http2.let_go() {
                return;
            }
        }
    }

    /// Closes connections that have been idle for too long.
    pub fn sweep(&self, now: Instant) {
        for upstream in &self.state.borrow().upstreams {
            upstream.http1.sweep();
            upstream.http2.sweep(now);
        }
    }
}

/// An endpoint that is dialled at `address` before any other that it has: so it is called in the family that was asked for.
fn called_at(endpoint: &Arc<Endpoint>, address: IpAddr) -> Arc<Endpoint> {
    if endpoint.addresses.first() == Some(&address) {
        return Arc::clone(endpoint);
    }
    let mut called = Endpoint::clone(endpoint);
    called.addresses.sort_by_key(|other| *other != address);
    Arc::new(called)
}

impl State {
    fn rebuild<'a>(
        &mut self,
        source: &Source,
        site: &Site,
        places: impl Iterator<Item = (&'a Arc<Endpoint>, u16)>,
    ) {
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
        let origination = self.outside.as_ref().and_then(|outside| outside.origination.clone());
        // Among the first that are heard of nobody is a newcomer.
        let since = (!before.is_empty()).then_some(now);
        let upstreams = places.map(|(endpoint, port)| match before.remove(&endpoint.workload) {
            Some(kept)
                if kept.endpoint.as_ref().is_some_and(|of| of.is_same_place(endpoint))
                    && kept.origination == origination =>
            {
                kept.heed(endpoint, now);
                kept
            }
            _ => {
                let mut new = Upstream::of_endpoint(endpoint, port, typical, now);
                new.since.set(since);
                new.origination.clone_from(&origination);
                Rc::new(new)
            }
        });
        let upstreams: Vec<_> = upstreams.collect();
        self.changes = None;
        for upstream in &upstreams {
            upstream.connect_limit.set(self.traffic.timeouts.connect);
            upstream.room.borrow_mut().clone_from(&self.room);
            let joint = self.traffic.circuit_breaker.zip(upstream.endpoint.as_ref());
            let joint = joint.map(|(settings, endpoint)| (settings, site.breakers.joint(source, endpoint)));
            self.changes = joint.as_ref().map(|(_, joint)| Arc::clone(&joint.changes));
            upstream.watched.set(joint);
        }
        self.replace(upstreams);
    }

    fn replace(&mut self, upstreams: Vec<Rc<Upstream>>) {
        self.upstreams = upstreams;
        self.choice = None;
    }

    /// Takes over what is said of how the service is to be called.
    fn adopt(&mut self, service: &Service, site: &Site) {
        let traffic = &*service.traffic;
        if self.traffic == *traffic && self.room.is_some() == traffic.bulkhead.is_some() {
            return;
        }
        self.hashed = match &traffic.balancing.policy {
            BalancingPolicy::ConsistentHash(HashKey::Header(name)) => name.parse().ok(),
            _ => None,
        };
        self.room = traffic.bulkhead.map(|settings| site.bulkheads.room(&service.name, settings));
        self.traffic.clone_from(traffic);
        self.plan = Plan::of(traffic, None).map(Rc::new);
        self.extra = None;
        self.latencies = None;
    }

    fn rebalance(&self, from: Location<'_>, changes: u64, now: Instant, rng: &mut fastrand::Rng) -> Choice {
        let mut out = Vec::new();
        let mut until = None;
        if let Some(settings) = &self.traffic.circuit_breaker {
            let standing = |upstream: &Rc<Upstream>| upstream.watched.standing(settings, now);
            let told: Vec<_> = self.upstreams.iter().map(standing).collect();
            // What cannot be said just now is asked for with the next choice.
            let unsaid = told.contains(&None).then_some(now);
            let standings: Vec<_> = told.into_iter().map(|told| told.unwrap_or(Standing::Closed)).collect();
            until = standings.iter().filter_map(Standing::until).chain(unsaid).min();
            match breaker::eject(&standings, settings) {
                Ejection::All => return Choice { balancer: None, until, changes, barred: out },
                Ejection::Some(ejected) => out = ejected,
            }
        }
        let priorities = &self.traffic.balancing.priorities;
        let member = |(index, upstream): (usize, &Rc<Upstream>)| {
            let member = upstream.member(from, priorities);
            Member { available: member.available && !out.contains(&index), ..member }
        };
        let members: Vec<_> = self.upstreams.iter().enumerate().map(member).collect();
        let balancer = Balancer::new(&members, &self.traffic.balancing, now, rng);
        let barred = members.iter().enumerate().filter(|(_, member)| !member.available);
        let barred = barred.map(|(index, _)| index).collect();
        Choice { balancer: Some(balancer), until, changes, barred }
    }
}

impl Choice {
    /// Whether it is to be found out again because time has passed.
    fn is_stale(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
            || self.balancer.as_ref().is_some_and(|balancer| balancer.is_stale(now))
    }
}
