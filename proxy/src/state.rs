//! What the sidecar knows of the mesh: one immutable [`Snapshot`], swapped whole by the control loop and
//! read by every worker through [`Discovery`].
//!
//! What nobody has asked for is not known: the first look-up of an address or a service subscribes to it
//! and waits for the answer, for a bounded time and only while the control plane is there.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use weft_core::model::{Endpoint, Mesh, QualifiedName, Service, ServicePort, Trust, Workload};

use crate::rates::Rates;
use crate::routing::Routing;

/// How long a look-up of a name waits for the control plane's answer.
pub const LOOKUP_LIMIT: Duration = Duration::from_secs(2);

/// How long a call is held whose address the control plane does not tell of.
pub const HOLD_LIMIT: Duration = Duration::from_secs(5);

/// Look-ups that may be on their way to the control loop.
const WANTED_LIMIT: usize = 1024;

/// Everything known of the mesh at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The configuration revision that this is of.
    pub revision: u64,
    /// Settings of the whole mesh; none before the first configuration.
    pub mesh: Option<Arc<Mesh>>,
    /// Whom to believe.
    pub trust: Option<Arc<Trust>>,
    /// The workload this sidecar serves.
    pub workload: Option<Arc<Workload>>,
    /// How often others may call it; none: as often as they like.
    pub rates: Option<Arc<Rates>>,
    /// The services asked for that exist.
    pub services: HashMap<QualifiedName, Arc<KnownService>>,
    /// The services asked for that do not.
    pub absent_services: HashSet<QualifiedName>,
    /// Who answers at which address.
    pub addresses: HashMap<IpAddr, Known>,
}

/// A service with the endpoints behind it.
#[derive(Debug)]
pub struct KnownService {
    /// What callers see.
    pub service: Service,
    /// Who is behind it. An endpoint that did not change keeps its `Arc` from one snapshot to the next.
    pub endpoints: Arc<[Arc<Endpoint>]>,
    /// Which of its addresses do not work, by our own checks, where it is outside the mesh.
    pub failing: Arc<[QualifiedName]>,
    /// The routes that our app's calls to it take.
    pub routing: Routing,
    /// Differs from any earlier value of this service.
    pub generation: u64,
}

/// Who answers at an address.
#[derive(Debug, Clone)]
pub enum Known {
    /// The service of this name; it is among the snapshot's services unless it has just gone.
    Service(QualifiedName),
    /// A workload's own address.
    Workload(Arc<KnownWorkload>),
    /// No one of the mesh.
    Absent,
}

/// A workload that is called by its own address.
#[derive(Debug)]
pub struct KnownWorkload {
    /// How to reach it. Its port map says nothing: an address is called on the app's ports.
    pub endpoint: Arc<Endpoint>,
    /// The service that it first offers.
    pub service: Option<QualifiedName>,
    /// What is known of the app's ports.
    pub target_ports: Vec<ServicePort>,
}

impl Snapshot {
    /// Whether an address of which nothing was told is of the mesh all the same: a virtual one, or that of someone behind a
    /// service that is known.
    pub fn is_of_mesh(&self, address: IpAddr) -> bool {
        let ranges = self.mesh.iter().flat_map(|mesh| &mesh.service_cidrs);
        let endpoints = || self.services.values().flat_map(|known| known.endpoints.iter());
        let is_there =
            |endpoint: &Arc<Endpoint>| endpoint.identity.is_some() && endpoint.addresses.contains(&address);
        ranges.into_iter().any(|range| range.contains(address)) || endpoints().any(is_there)
    }

    /// The service that has this virtual address.
    pub fn service_at(&self, address: IpAddr) -> Option<&Arc<KnownService>> {
        match self.addresses.get(&address)? {
            Known::Service(name) => self.services.get(name),
            Known::Workload(_) | Known::Absent => None,
        }
    }

    fn settles(&self, wanted: &Wanted) -> bool {
        match wanted {
            Wanted::Address(address) => match self.addresses.get(address) {
                Some(Known::Service(name)) => self.settles_service(name),
                Some(Known::Workload(_) | Known::Absent) => true,
                None => false,
            },
            Wanted::Service(name) => self.settles_service(name),
            Wanted::Keys(_) | Wanted::Plaintext(_) => true,
        }
    }

    /// Whether it is known if the service exists.
    pub fn settles_service(&self, name: &QualifiedName) -> bool {
        self.services.contains_key(name) || self.absent_services.contains(name)
    }
}

/// Something that a worker asked about and that nothing is known of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// Who answers here?
    Address(IpAddr),
    /// What is behind this service?
    Service(QualifiedName),
    /// What are the keys of this issuer by now? The answer comes with our workload.
    Keys(Box<str>),
    /// Nothing: someone without an identity was let in, which is to be told of.
    Plaintext(PlaintextCall),
}

/// A call without an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlaintextCall {
    /// From where.
    pub from: IpAddr,
    /// To which port of the app.
    pub port: u16,
}

/// The control plane is there and has not said: whoever it is may be of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the control plane has not answered in time")]
pub struct Unanswered;

/// The readers' side: cheap to clone, one for everybody who asks.
#[derive(Debug, Clone)]
pub struct Discovery {
    shared: Arc<Shared>,
    wanted: mpsc::Sender<Wanted>,
    changes: watch::Receiver<Change>,
}

/// The control loop's side.
#[derive(Debug)]
pub struct Publisher {
    shared: Arc<Shared>,
    changes: watch::Sender<Change>,
}

#[derive(Debug)]
struct Shared {
    snapshot: ArcSwap<Snapshot>,
    own: Vec<IpAddr>,
}

/// What readers that wait are woken by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Change {
    published: u64,
    connected: bool,
}

/// Makes both sides; `own` are the pod's addresses, which are never looked up.
pub fn channel(own: Vec<IpAddr>) -> (Discovery, Publisher, mpsc::Receiver<Wanted>) {
    let shared = Arc::new(Shared { snapshot: ArcSwap::default(), own });
    let (wanted, asked) = mpsc::channel(WANTED_LIMIT);
    let (announce, changes) = watch::channel(Change::default());
    let discovery = Discovery { shared: Arc::clone(&shared), wanted, changes };
    (discovery, Publisher { shared, changes: announce }, asked)
}

impl Discovery {
    /// What is known now. A request keeps the one it began with.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// The same for a moment, without counting among those who hold it: not to be kept across an await.
    pub fn peek(&self) -> Guard<Arc<Snapshot>> {
        self.shared.snapshot.load()
    }

    /// Whether the control plane is there.
    pub fn connected(&self) -> bool {
        self.changes.borrow().connected
    }

    /// Waits until something has changed since the last call, or since this handle was cloned.
    pub async fn changed(&mut self) {
        // The publisher is gone only when the process ends; nothing changes then.
        if self.changes.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// A snapshot that says who answers at `address`; while there is no one to ask, what is known without.
    ///
    /// # Errors
    /// The control plane is there and does not answer: it is not known whether someone of the mesh is called.
    pub async fn lookup_address(&self, address: IpAddr) -> Result<Arc<Snapshot>, Unanswered> {
        let address = address.to_canonical();
        if address.is_loopback()
            || address.is_unspecified()
            || address.is_multicast()
            || self.shared.own.contains(&address)
        {
            return Ok(self.snapshot());
        }
        self.lookup(Wanted::Address(address), HOLD_LIMIT).await
    }

    /// The service of this name, if there is one and that can be found out soon.
    pub async fn lookup_service(&self, name: &QualifiedName) -> Option<Arc<KnownService>> {
        let now = self.snapshot();
        if let Some(service) = now.services.get(name) {
            return Some(Arc::clone(service));
        }
        let then = self.lookup(Wanted::Service(name.clone()), LOOKUP_LIMIT).await.ok()?;
        then.services.get(name).cloned()
    }

    /// Says that a token names a key of its issuer that is not known. Nobody waits for the answer.
    pub fn key_is_unknown(&self, issuer: &str) {
        let _ = self.wanted.try_send(Wanted::Keys(issuer.into())); // where too much is asked, it is asked again
    }

    /// Tells of a call without an identity; false where there is too much else to tell: look-ups go first.
    pub fn tell_plaintext(&self, call: PlaintextCall) -> bool {
        self.wanted.capacity() > WANTED_LIMIT / 2 && self.wanted.try_send(Wanted::Plaintext(call)).is_ok()
    }

    async fn lookup(&self, wanted: Wanted, limit: Duration) -> Result<Arc<Snapshot>, Unanswered> {
        let now = self.snapshot();
        if now.settles(&wanted) || !self.connected() {
            return Ok(now);
        }
        let mut changes = self.changes.clone();
        changes.borrow_and_update();
        if self.wanted.try_send(wanted.clone()).is_err() {
            tracing::debug!(?wanted, "too many look-ups at once");
            return Err(Unanswered);
        }
        let deadline = Instant::now() + limit;
        loop {
            let now = self.snapshot();
            if now.settles(&wanted) || !self.connected() {
                return Ok(now);
            }
            match tokio::time::timeout_at(deadline, changes.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(Unanswered),
            }
        }
    }
}

impl Publisher {
    /// What is known now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot.load_full()
    }

    /// Puts a new snapshot in force and wakes who waits for it.
    pub fn publish(&self, snapshot: Snapshot) {
        self.shared.snapshot.store(Arc::new(snapshot));
        self.changes.send_modify(|change| change.published += 1);
    }

    /// Says whether the control plane is there; when it goes, nobody waits for it any longer.
    pub fn set_connected(&self, connected: bool) {
        self.changes
            .send_if_modified(|change| std::mem::replace(&mut change.connected, connected) != connected);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders() -> QualifiedName {
        "default/orders".parse().unwrap()
    }

    fn vip() -> IpAddr {
        "240.64.0.7".parse().unwrap()
    }

    fn with_orders() -> Snapshot {
        let service = Service {
            name: orders(),
            addresses: vec![vip()],
            ports: Vec::new(),
            traffic: Default::default(),
            routes: Vec::new(),
            external: None,
            tokens: None,
        };
        let known = KnownService {
            service,
            endpoints: Arc::from([]),
            failing: Arc::from([]),
            routing: Routing::default(),
            generation: 1,
        };
        Snapshot {
            services: HashMap::from([(orders(), Arc::new(known))]),
            addresses: HashMap::from([(vip(), Known::Service(orders()))]),
            ..Snapshot::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_known_address_is_answered_without_asking() {
        let (discovery, publisher, mut asked) = channel(Vec::new());
        publisher.set_connected(true);
        publisher.publish(with_orders());
        let snapshot = discovery.lookup_address("::ffff:240.64.0.7".parse().unwrap()).await.unwrap();
        assert!(snapshot.service_at(vip()).is_some());
        assert!(asked.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_address_is_asked_for_and_waited_for() {
        let (discovery, publisher, mut asked) = channel(Vec::new());
        publisher.set_connected(true);
        let answer = async {
            assert_eq!(asked.recv().await, Some(Wanted::Address(vip())));
            publisher.publish(Snapshot::default());
            publisher.publish(with_orders());
        };
        let (snapshot, ()) = tokio::join!(discovery.lookup_address(vip()), answer);
        assert!(snapshot.unwrap().service_at(vip()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_control_plane_costs_a_name_two_seconds_and_a_call_five_and_that_is_no_answer() {
        let (discovery, publisher, _asked) = channel(Vec::new());
        publisher.set_connected(true);
        let begun = Instant::now();
        assert!(discovery.lookup_service(&orders()).await.is_none());
        assert_eq!(begun.elapsed(), LOOKUP_LIMIT);
        let begun = Instant::now();
        assert_eq!(discovery.lookup_address(vip()).await.err(), Some(Unanswered));
        assert_eq!(begun.elapsed(), HOLD_LIMIT);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_a_control_plane_that_is_away() {
        let (discovery, publisher, mut asked) = channel(Vec::new());
        let begun = Instant::now();
        assert!(discovery.lookup_address(vip()).await.unwrap().addresses.is_empty());
        assert_eq!(begun.elapsed(), Duration::ZERO);
        publisher.set_connected(true);
        let leave = async {
            asked.recv().await;
            publisher.set_connected(false);
        };
        assert!(tokio::join!(discovery.lookup_address(vip()), leave).0.is_ok());
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_explicit_no_is_an_answer() {
        let (discovery, publisher, mut asked) = channel(Vec::new());
        publisher.set_connected(true);
        publisher.publish(Snapshot {
            absent_services: HashSet::from([orders()]),
            addresses: HashMap::from([(vip(), Known::Absent)]),
            ..Snapshot::default()
        });
        assert!(discovery.lookup_service(&orders()).await.is_none());
        assert!(discovery.lookup_address(vip()).await.unwrap().service_at(vip()).is_none());
        assert!(asked.try_recv().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn own_and_loopback_addresses_are_never_asked_for() {
        let own: IpAddr = "10.0.0.2".parse().unwrap();
        let (discovery, publisher, mut asked) = channel(vec![own]);
        publisher.set_connected(true);
        for address in
            [own, "127.0.0.53".parse().unwrap(), "::1".parse().unwrap(), "224.0.0.1".parse().unwrap()]
        {
            assert!(discovery.lookup_address(address).await.is_ok());
        }
        assert!(asked.try_recv().is_err());
    }
}
