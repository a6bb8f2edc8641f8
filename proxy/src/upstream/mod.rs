//! Stages 6 and 7: which endpoint, and a connection to it.

mod attempt;
mod cluster;
mod dial;
mod pool;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use weft_certs::sni;
use weft_core::balance::PeakEwma;
use weft_core::model::{Endpoint, SpiffeId};

pub use attempt::{Opened, open, send};
pub use cluster::{Cluster, Source};
pub use dial::Dialer;
pub use pool::Lease;

use crate::failure::ErrorCode;
use crate::observe::Security;
use crate::stream::Stream;
use crate::tls::Carries;
use crate::worker::Worker;
use pool::Pool;

/// What an endpoint that cannot be reached is taken to cost.
const UNREACHABLE: Duration = Duration::from_secs(1);

/// One place that connections are made to: an endpoint's port.
#[derive(Debug)]
pub struct Upstream {
    endpoint: Option<Arc<Endpoint>>,
    addresses: Vec<SocketAddr>,
    secure: Option<Secure>,
    weight: u32,
    load: RefCell<PeakEwma>,
    pool: Pool,
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
            secure,
            weight: endpoint.weight,
            load: RefCell::new(PeakEwma::new(typical, now)),
            pool: Pool::default(),
        }
    }

    /// The app behind this sidecar.
    fn of_app(address: SocketAddr, now: Instant) -> Self {
        Self {
            endpoint: None,
            addresses: vec![address],
            secure: None,
            weight: 1,
            load: RefCell::new(PeakEwma::new(Duration::ZERO, now)),
            pool: Pool::default(),
        }
    }

    /// Where it is dialled first.
    pub fn address(&self) -> Option<SocketAddr> {
        self.addresses.first().copied()
    }

    /// How the hop to it is protected; the way to our own app is no hop.
    pub fn security(&self) -> Option<Security> {
        self.endpoint.as_ref()?;
        Some(if self.secure.is_some() { Security::Mutual } else { Security::Plaintext })
    }

    /// Opens a connection to it that carries `carries`.
    async fn connect(&self, worker: &Worker, carries: Carries) -> Result<Stream, ErrorCode> {
        let tcp = worker.dialer.dial(&self.addresses).await?;
        match &self.secure {
            None => Ok(tcp.into()),
            Some(secure) => {
                let name = secure.server_name.clone();
                worker.tls_client.connect(tcp, &secure.expected, name, carries).await
            }
        }
    }
}

/// A request or connection that an upstream is busy with, until dropped.
#[derive(Debug)]
pub struct InFlight {
    upstream: Rc<Upstream>,
    begun: Instant,
    took: Option<Duration>,
}

impl InFlight {
    fn begin(upstream: Rc<Upstream>, now: Instant) -> Self {
        upstream.load.borrow_mut().start();
        Self { upstream, begun: now, took: None }
    }

    /// How the hop to it is protected; the way to our own app is no hop.
    pub fn security(&self) -> Option<Security> {
        self.upstream.security()
    }

    /// It was answered, in a way that says how fast the upstream is.
    pub fn answered(&mut self) {
        self.took = Some(self.begun.elapsed());
    }

    /// It could not be reached.
    fn unreachable(&mut self) {
        self.took = Some(UNREACHABLE);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.upstream.load.borrow_mut().finish(Instant::now(), self.took);
    }
}
