//! Stages 6 and 7: which endpoint, and a connection to it.

mod attempt;
mod bulkhead;
mod cluster;
mod dial;
mod egress;
mod extra;
mod hedge;
pub mod http1;
pub mod http2;
mod limiter;
mod watch;

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use weft_certs::sni;
use weft_core::balance::{self, Member, PeakEwma};
use weft_core::breaker::Verdict;
use weft_core::model::{Endpoint, Fits, Location, Origination, Priority, SpiffeId};

pub use attempt::{Attempts, Opened, open};
pub use bulkhead::{Berth, Bulkheads, Slot};
pub use cluster::{Cluster, Site, Source, inject};
pub use dial::{Dialer, may_dial_as_others};
pub use egress::{Names, endpoints_at};
pub use extra::Extras;
pub use hedge::{Further, Hedge};
pub use limiter::Limiters;
pub use watch::{Breakers, Listed, Ticket};

use crate::failure::ErrorCode;
use crate::observe::Security;
use crate::stream::Stream;
use crate::tls::Carries;
use crate::worker::Worker;
use bulkhead::Room;
use limiter::Admission;
use watch::Watched;

/// What an endpoint is taken to cost that cannot be reached, or whose sidecar refuses more.
const UNREACHABLE: Duration = Duration::from_secs(1);

/// One place that connections are made to: an endpoint's port.
#[derive(Debug)]
pub struct Upstream {
    endpoint: Option<Arc<Endpoint>>,
    addresses: Vec<SocketAddr>,
    /// Whose address it is called from; none: our own.
    caller: Option<IpAddr>,
    secure: Option<Secure>,
    /// TLS that we speak for the app, where it is outside the mesh.
    origination: Option<Rc<Origination>>,
    weight: u32,
    /// What tells it from others of the same service, the same in all sidecars.
    id: u64,
    /// When it came or came back; none: it was there before we were.
    since: Cell<Option<Instant>>,
    /// Whether its app works, by the checks of its health.
    healthy: Cell<bool>,
    /// Which of its service's priorities it fits.
    fits: Cell<Fits>,
    /// How long making a connection may take, where a policy says so.
    connect_limit: Cell<Option<Duration>>,
    /// The room for connections to its service, where these are limited.
    room: RefCell<Option<Arc<Room>>>,
    load: RefCell<PeakEwma>,
    watched: Rc<Watched>,
    /// Its idle connections of HTTP/1.
    pub http1: http1::Idle,
    http2: http2::Pool,
}

#[derive(Debug)]
struct Secure {
    expected: SpiffeId,
    server_name: ServerName<'static>,
}

impl Upstream {
    /// The app's `port` at an endpoint: through its sidecar where it has one, else in plaintext.
    fn of_endpoint(endpoint: &Arc<Endpoint>, port: u16, typical: Duration, now: Instant) -> Self {
        let (dialled, secure) = match (&endpoint.identity, endpoint.inbound_port) {
            (Some(identity), Some(inbound)) => {
                (inbound, Some(Secure { expected: identity.clone(), server_name: sni::for_port(port) }))
            }
            // Without a sidecar there is no one who could prove an identity.
            _ => (port, None),
        };
        let addresses = endpoint.addresses.iter().map(|ip| SocketAddr::new(*ip, dialled)).collect();
        Self {
            endpoint: Some(Arc::clone(endpoint)),
            addresses,
            caller: None,
            secure,
            origination: None,
            weight: endpoint.weight,
            id: balance::hash(endpoint.workload.to_string().as_bytes()),
            since: Cell::default(),
            healthy: Cell::new(endpoint.healthy),
            fits: Cell::new(endpoint.fits),
            connect_limit: Cell::default(),
            room: RefCell::default(),
            load: RefCell::new(PeakEwma::new(typical, now)),
            watched: Rc::default(),
            http1: http1::Idle::default(),
            http2: http2::Pool::default(),
        }
    }

    /// The app behind this sidecar.
    fn of_app(address: SocketAddr, caller: Option<IpAddr>, now: Instant) -> Self {
        Self {
            endpoint: None,
            addresses: vec![address],
            caller,
            secure: None,
            origination: None,
            weight: 1,
            id: 0,
            since: Cell::default(),
            healthy: Cell::new(true),
            fits: Cell::default(),
            connect_limit: Cell::default(),
            room: RefCell::default(),
            load: RefCell::new(PeakEwma::new(Duration::ZERO, now)),
            watched: Rc::default(),
            http1: http1::Idle::default(),
            http2: http2::Pool::default(),
        }
    }

    /// Where it is dialled first.
    pub fn address(&self) -> Option<SocketAddr> {
        self.addresses.first().copied()
    }

    /// How the hop to it is protected; the way to our own app is no hop.
    pub fn security(&self) -> Option<Security> {
        self.endpoint.as_ref()?;
        Some(match (&self.secure, &self.origination) {
            (Some(_), _) => Security::Mutual,
            (None, Some(_)) => Security::Server,
            (None, None) => Security::Plaintext,
        })
    }

    /// What its checks say now, and which priorities it fits. One that works again came back just now.
    fn heed(&self, endpoint: &Endpoint, now: Instant) {
        self.fits.set(endpoint.fits);
        if !self.healthy.replace(endpoint.healthy) && endpoint.healthy {
            self.since.set(Some(now));
        }
    }

    /// What a choice must know of it, seen from where we are.
    fn member(&self, from: Location<'_>, priorities: &[Priority]) -> Member {
        let at = self.endpoint.as_ref().map(|endpoint| endpoint.location()).unwrap_or_default();
        Member {
            weight: self.weight,
            near: at.is_in_zone_of(from),
            rank: self.fits.get().rank(priorities, at, from),
            available: self.healthy.get(),
            since: self.since.get(),
        }
    }

    fn cost(&self, now: Instant) -> f64 {
        self.load.borrow().cost(now, self.weight)
    }

    fn in_flight(&self) -> u32 {
        self.load.borrow().in_flight()
    }

    /// Opens a connection to it that carries `carries`.
    async fn connect(&self, worker: &Worker, carries: Carries) -> Result<Stream, ErrorCode> {
        let room = self.room.borrow().clone();
        let Some(room) = room else { return self.connect_freely(worker, carries).await };
        let berth = room.berth().await?;
        Ok(self.connect_freely(worker, carries).await?.in_berth(berth))
    }

    async fn connect_freely(&self, worker: &Worker, carries: Carries) -> Result<Stream, ErrorCode> {
        if let (None, Some(app)) = (&self.endpoint, self.address()) {
            return worker.dialer.dial_app(self.caller, app).await.map(Stream::from);
        }
        match self.connect_limit.get() {
            None => {
                let tcp = worker.dialer.dial(&self.addresses).await?;
                self.secure(worker, tcp, carries).await
            }
            // What a policy allows is for all of it, the handshake too.
            Some(limit) => {
                let connecting = async {
                    let tcp = worker.dialer.dial_within(limit, &self.addresses).await?;
                    self.secure(worker, tcp, carries).await
                };
                timeout(limit, connecting).await.unwrap_or(Err(ErrorCode::ConnectTimeout))
            }
        }
    }

    async fn secure(&self, worker: &Worker, tcp: TcpStream, carries: Carries) -> Result<Stream, ErrorCode> {
        match (&self.secure, &self.origination) {
            (None, None) => Ok(tcp.into()),
            (None, Some(origination)) => worker.tls_client.originate(tcp, origination, carries).await,
            (Some(secure), _) => {
                let name = secure.server_name.clone();
                worker.tls_client.connect(tcp, &secure.expected, name, carries, &worker.ties).await
            }
        }
    }
}

/// A request or connection that an upstream is busy with, until dropped.
#[derive(Debug)]
pub struct InFlight {
    upstream: Rc<Upstream>,
    begun: Instant,
    took: Option<Took>,
    /// Whether its connection was made for it.
    is_first: bool,
    /// Where a circuit breaker waits for what becomes of it.
    ticket: Option<Ticket>,
    /// Its place among the service's requests, where they are limited.
    slot: Option<Slot>,
    /// Its place among those that the app works on, where it is found out how many these may be.
    admission: Option<Admission>,
}

/// What is known of how fast an upstream is.
#[derive(Debug, Clone, Copy)]
enum Took {
    /// It answered after so long.
    Answered(Duration),
    /// It could not be reached, or not within its sidecar's limit.
    Unreachable,
}

impl InFlight {
    fn begin(upstream: Rc<Upstream>, now: Instant) -> Self {
        upstream.load.borrow_mut().start();
        let ticket = upstream.watched.send(now);
        Self { upstream, begun: now, took: None, is_first: false, ticket, slot: None, admission: None }
    }

    /// How the hop to it is protected; the way to our own app is no hop.
    pub fn security(&self) -> Option<Security> {
        self.upstream.security()
    }

    /// Where it is dialled first.
    pub fn address(&self) -> Option<SocketAddr> {
        self.upstream.address()
    }

    /// What tells its endpoint from others of the same service, the same in all sidecars.
    pub fn endpoint_id(&self) -> u64 {
        self.upstream.id
    }

    /// Hands over the duty to say what became of it.
    pub fn take_ticket(&mut self) -> Option<Ticket> {
        self.ticket.take()
    }

    /// When it was sent on the connection that it has.
    pub fn begun(&self) -> Instant {
        self.begun
    }

    /// A connection had to be made for it.
    fn connected(&mut self) {
        self.begun = Instant::now();
        self.is_first = true;
    }

    /// What it is sent to.
    pub fn upstream(&self) -> &Rc<Upstream> {
        &self.upstream
    }

    /// It was answered, in a way that says how fast the upstream is.
    pub fn answered(&mut self) {
        self.took = Some(Took::Answered(self.begun.elapsed()));
        if let Some(admission) = self.admission.take() {
            admission.answered();
        }
    }

    /// Its sidecar refuses it, for its app has enough to do: others are asked rather, for a while.
    pub fn has_enough(&mut self) {
        self.took = Some(Took::Unreachable);
    }

    /// It is no request any more, and may last: nothing that the app works on.
    pub fn becomes_something_else(&mut self) {
        self.admission = None;
    }

    /// It could not be reached.
    pub(crate) fn unreachable(&mut self) {
        self.took = Some(Took::Unreachable);
        if let Some(ticket) = self.ticket.take() {
            ticket.judge(Verdict::Failed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut load = self.upstream.load.borrow_mut();
        match self.took {
            // It counts as of when it was answered, which needs no look at the clock.
            Some(Took::Answered(took)) if self.is_first => load.finish_first(self.begun + took, took),
            Some(Took::Answered(took)) => load.finish(self.begun + took, Some(took)),
            Some(Took::Unreachable) => load.finish(Instant::now(), Some(UNREACHABLE)),
            None => load.finish(self.begun, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_core::model::PlaceWanted;

    use super::*;

    #[test]
    fn an_endpoint_whose_sidecar_refuses_costs_more_than_one_that_answers() {
        let upstream = || Rc::new(Upstream::of_app(([127, 0, 0, 1], 80).into(), None, Instant::now()));
        let (full, free) = (upstream(), upstream());
        for (upstream, refuses) in [(&full, true), (&free, false)] {
            let mut flight = InFlight::begin(Rc::clone(upstream), Instant::now());
            flight.answered();
            if refuses {
                flight.has_enough();
            }
        }
        let now = Instant::now();
        assert!(full.cost(now) > 10.0 * free.cost(now), "{} {}", full.cost(now), free.cost(now));
        assert_eq!((full.in_flight(), free.in_flight()), (0, 0));
    }

    #[test]
    fn who_is_on_our_node_has_the_priority_of_our_node_and_who_is_in_our_zone_is_near() {
        let priorities = [Priority {
            labels: std::collections::BTreeMap::new(),
            place: Some(PlaceWanted::CallersNode),
            failover_below: weft_core::model::Ratio::NONE,
        }];
        let site = Site { zone: "a".into(), node: "n1".into(), ..Site::default() };
        let seen = |zone: &str, node: &str| {
            let endpoint = Endpoint {
                workload: "default/orders-1".parse().unwrap(),
                addresses: vec![[10, 0, 0, 1].into()],
                identity: None,
                inbound_port: None,
                zone: zone.to_owned(),
                node: node.into(),
                weight: 1,
                ports: Vec::new(),
                healthy: true,
                fits: Fits::of(&priorities, &std::collections::BTreeMap::new(), zone),
            };
            let upstream =
                Upstream::of_endpoint(&Arc::new(endpoint), 80, Duration::from_millis(1), Instant::now());
            let member = upstream.member(site.location(), &priorities);
            (member.rank, member.near)
        };
        assert_eq!(seen("a", "n1"), (0, true));
        assert_eq!(seen("a", "n2"), (1, true));
        assert_eq!(seen("b", "n3"), (1, false));
        assert_eq!(seen("", ""), (1, false));
    }
}
