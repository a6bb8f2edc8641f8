//! Where a host outside the mesh is: asked of the pod's resolvers when it is first called, and again when what they said no
//! longer holds. What is known goes on to be used while they are asked, and where they fail.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use weft_core::model::{Endpoint, Fits, Origination, QualifiedName};

use crate::dns::Forwarder;
use crate::worker::Worker;

/// How long an answer is taken to hold at least, and at most.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(3600);

/// Addresses of a host that are called.
const MOST: usize = 64;

/// The pod's resolvers, where there are any.
#[derive(Debug, Clone, Default)]
pub struct Names(Option<Arc<Forwarder>>);

/// One host.
#[derive(Debug)]
pub(super) struct Egress {
    host: Box<str>,
    names: Names,
    found: RefCell<Found>,
    asking: Cell<bool>,
    answered: Notify,
}

#[derive(Debug, Default)]
struct Found {
    addresses: Vec<IpAddr>,
    until: Option<Instant>,
    /// Counts what was another than before.
    generation: u64,
}

/// A host outside the mesh, as a cluster calls it.
#[derive(Debug)]
pub(super) struct Outside {
    pub(super) egress: Rc<Egress>,
    /// Which of the host's addresses the upstreams are of.
    seen: u64,
    pub(super) port: u16,
    pub(super) origination: Option<Rc<Origination>>,
    /// Which of them do not work, by our own checks.
    pub(super) failing: Vec<QualifiedName>,
}

impl Outside {
    /// The host on a port. What was known of it before is known still.
    pub(super) fn new(
        host: &str,
        port: u16,
        origination: Option<Rc<Origination>>,
        before: Option<Self>,
        names: &Names,
    ) -> Self {
        let egress = before.map(|before| before.egress).filter(|egress| egress.host() == host);
        let egress = egress.unwrap_or_else(|| Rc::new(Egress::new(host, names.clone())));
        Self { egress, seen: 0, port, origination, failing: Vec::new() }
    }

    /// Whether its addresses are others than when they were last taken.
    pub(super) fn has_moved(&self) -> bool {
        self.seen != self.egress.generation()
    }

    /// Its addresses, each an endpoint of `service`.
    pub(super) fn take_endpoints(&mut self, service: &QualifiedName) -> Vec<Arc<Endpoint>> {
        self.seen = self.egress.generation();
        let mut endpoints = endpoints_at(service, &self.egress.found.borrow().addresses);
        for endpoint in &mut endpoints {
            endpoint.healthy = !self.failing.contains(&endpoint.workload);
        }
        endpoints.into_iter().map(Arc::new).collect()
    }
}

/// A host's addresses, paired: each place has one of IPv4, one of IPv6 or both, in the order in which they are tried, and is an
/// endpoint of `service`, named by its first address.
pub fn endpoints_at(service: &QualifiedName, addresses: &[IpAddr]) -> Vec<Endpoint> {
    let (v4, v6): (Vec<_>, Vec<_>) = addresses.iter().copied().partition(IpAddr::is_ipv4);
    let of = |all: &[IpAddr], index: usize| all.get(index).copied();
    let places = (0..v4.len().max(v6.len())).map(|index| [of(&v4, index), of(&v6, index)]);
    places.filter_map(|both| at(service, both.into_iter().flatten().collect())).collect()
}

fn at(service: &QualifiedName, addresses: Vec<IpAddr>) -> Option<Endpoint> {
    let name = addresses.first()?.to_string().replace([':', '.'], "-");
    Some(Endpoint {
        workload: QualifiedName::new(service.namespace.clone(), format!("ip-{name}-x").parse().ok()?),
        addresses,
        identity: None,
        inbound_port: None,
        zone: String::new(),
        node: Arc::default(),
        weight: 1,
        ports: Vec::new(),
        healthy: true,
        fits: Fits::default(),
    })
}

impl Names {
    /// Those that this asks.
    pub fn new(forwarder: Forwarder) -> Self {
        Self(Some(Arc::new(forwarder)))
    }

    /// The addresses of a host, in order, and how long that holds; none: nobody says, and how long that does.
    pub async fn addresses(&self, host: &str) -> (Option<Vec<IpAddr>>, Duration) {
        let answer = match &self.0 {
            Some(forwarder) => forwarder.addresses(host).await,
            None => None,
        };
        let Some((mut addresses, holds)) = answer else { return (None, SHORTEST) };
        addresses.sort_unstable();
        addresses.dedup();
        addresses.truncate(MOST);
        (Some(addresses), holds.clamp(SHORTEST, LONGEST))
    }
}

impl Egress {
    /// Of a host of which nothing is known yet.
    fn new(host: &str, names: Names) -> Self {
        Self {
            host: host.into(),
            names,
            found: RefCell::default(),
            asking: Cell::default(),
            answered: Notify::new(),
        }
    }

    /// Its name.
    fn host(&self) -> &str {
        &self.host
    }

    /// Differs from what it was when the addresses were others.
    fn generation(&self) -> u64 {
        self.found.borrow().generation
    }

    /// Asks where that is due, and waits for the answer where nothing is known.
    pub(super) async fn look_up(self: &Rc<Self>, worker: &Worker) {
        let (is_due, is_known) = {
            let found = self.found.borrow();
            let is_due = found.until.is_none_or(|until| until <= Instant::now());
            (is_due, !found.addresses.is_empty())
        };
        if !is_due {
            return;
        }
        let answered = self.answered.notified();
        if !self.asking.replace(true) {
            let egress = Rc::clone(self);
            worker.spawn("egress-lookup", async move { egress.ask().await });
        }
        if !is_known {
            answered.await;
        }
    }

    async fn ask(&self) {
        let (answer, holds) = self.names.addresses(&self.host).await;
        let mut found = self.found.borrow_mut();
        match answer {
            Some(addresses) if addresses != found.addresses => {
                tracing::debug!(host = %self.host, ?addresses, "a host outside the mesh was looked up");
                found.addresses = addresses;
                found.generation += 1;
            }
            Some(_) => {}
            None => tracing::info!(host = %self.host, "a host outside the mesh could not be looked up"),
        }
        found.until = Some(Instant::now() + holds);
        drop(found);
        self.asking.set(false);
        self.answered.notify_waiters();
    }
}
