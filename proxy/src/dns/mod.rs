//! The pod's resolver: names of the mesh are answered from what discovery knows, everything else goes, byte for byte,
//! to the resolvers that the pod had anyway, and what they say is remembered for as long as it holds.
//!
//! Answers are not looked into: that a name of somebody else's resolves to an address of ours ("rebinding") is for who
//! serves at that address to notice, as it would be without us. An answer that was truncated for UDP is passed on as it
//! is, and the program comes again over TCP, which we then do too. Whole zones (AXFR) are not carried.

mod answer;
mod cache;
mod count;
mod forward;
mod lookup;
mod names;
mod resolv_conf;
mod serve;
#[cfg(test)]
mod tests;
mod upstream;
pub mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Semaphore;
use weft_runtime::metrics::Registry;
use weft_runtime::task;

use crate::credentials::CredentialStore;
use crate::state::Discovery;
use answer::Mesh;
use count::{By, Count};
use forward::Forwarded;
pub use forward::Forwarder;
pub use resolv_conf::ResolvConf;
use wire::{Query, Rcode, Reply, Unreadable, kind};

/// Questions over UDP that may wait for an answer at once; more are dropped, as a full queue would.
const CONCURRENT: usize = 512;

/// TCP connections that may be open at once.
const CONNECTIONS: usize = 64;

/// Answers questions. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Resolver(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    discovery: Discovery,
    credentials: CredentialStore,
    forwarder: Arc<Forwarder>,
    count: Count,
    questions: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

/// How a question came, which decides how it is passed on and how long an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Transport {
    Udp,
    Tcp,
}

impl Resolver {
    /// Answers from `discovery`, and for the rest asks the pod's own resolvers.
    pub fn new(
        discovery: Discovery,
        credentials: CredentialStore,
        forwarder: Forwarder,
        registry: &Registry,
    ) -> Self {
        Self(Arc::new(Shared {
            discovery,
            credentials,
            forwarder: Arc::new(forwarder),
            count: Count::new(registry),
            questions: Arc::new(Semaphore::new(CONCURRENT)),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
        }))
    }

    /// Listens on an address, over UDP and TCP.
    pub async fn listen(&self, address: SocketAddr) -> io::Result<(SocketAddr, SocketAddr)> {
        let udp = UdpSocket::bind(address).await?;
        let tcp = TcpListener::bind(address).await?;
        let bound = (udp.local_addr()?, tcp.local_addr()?);
        task::spawn("dns-udp", serve::udp(self.clone(), udp));
        task::spawn("dns-tcp", serve::tcp(self.clone(), tcp));
        Ok(bound)
    }

    /// The answer to a packet; none where it is no question.
    async fn answer(self, message: Bytes, transport: Transport) -> Option<Vec<u8>> {
        let (by, answer) = match Query::parse(&message) {
            Ok(query) => {
                let (by, answer) = self.answer_query(&message, &query, transport).await;
                let limit = if transport == Transport::Udp { query.payload() } else { usize::from(u16::MAX) };
                (by, Some(wire::fit(answer, limit, query.end())))
            }
            Err(Unreadable::Noise) => (By::Refused, None),
            Err(Unreadable::Malformed) => (By::Refused, wire::bare(&message, Rcode::FormErr)),
            Err(Unreadable::OtherOperation) => {
                let passed = self.0.forwarder.pass(&message, transport).await;
                (By::Upstream, passed.or_else(|| wire::bare(&message, Rcode::ServFail)))
            }
        };
        match &answer {
            Some(answer) => self.0.count.answered(by, answer),
            None => self.0.count.unanswered(by),
        }
        answer
    }

    async fn answer_query(&self, message: &[u8], query: &Query, transport: Transport) -> (By, Vec<u8>) {
        let refuse = |rcode| (By::Refused, Reply::to(query, rcode).finish());
        if query.edns.is_some_and(|edns| edns.version > 0) {
            return refuse(Rcode::BadVers); // RFC 6891 section 6.1.3
        }
        if matches!(query.kind, kind::AXFR | kind::IXFR) {
            return refuse(Rcode::Refused);
        }
        let upstream = self.0.forwarder.upstream();
        // Names without a namespace are looked for in our own.
        let own = self.0.credentials.current().and_then(|(_, own)| own.identity().service_account());
        let own = own.map(|(namespace, _)| namespace);
        let mesh =
            Mesh { discovery: &self.0.discovery, own: own.as_ref(), search: &upstream.settings.search };
        if let Some(answer) = mesh.answer(query).await {
            return (By::Mesh, answer);
        }
        match self.0.forwarder.ask(message, query, transport, &upstream).await {
            Forwarded::Fresh(answer) => (By::Upstream, answer),
            Forwarded::Remembered(answer) => (By::Cache, answer),
        }
    }
}

/// A message behind its length (RFC 1035 section 4.2.2).
fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok([&length.to_be_bytes(), message].concat())
}
