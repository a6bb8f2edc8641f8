//! A trust domain at a fixed time, and handshakes that need no network.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, ClientConnection, Error, ServerConfig, ServerConnection};
use weft_certs::{Authority, Credentials, IssueParams, KeyPair, request, sni};
use weft_core::model::{SpiffeId, TrustDomain};

/// A moment in 2026, not on a whole second.
pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_790_000_000_250)
}

pub(crate) fn domain() -> TrustDomain {
    "mesh.local".parse().unwrap()
}

pub(crate) fn id(account: &str) -> SpiffeId {
    format!("spiffe://mesh.local/ns/shop/sa/{account}").parse().unwrap()
}

pub(crate) fn authority() -> Authority {
    Authority::create(&domain(), now()).unwrap()
}

pub(crate) fn wanted(account: &str, ttl: Duration) -> IssueParams {
    IssueParams { identity: id(account), dns: Vec::new(), ips: Vec::new(), ttl, now: now() }
}

pub(crate) fn credentials(authority: &Authority, account: &str) -> Credentials {
    credentials_for(authority, account, Duration::from_hours(24))
}

pub(crate) fn credentials_for(authority: &Authority, account: &str, ttl: Duration) -> Credentials {
    let key = KeyPair::generate().unwrap();
    let issued = authority.sign(&request(&key).unwrap(), &wanted(account, ttl)).unwrap();
    Credentials::new(issued.chain, &key, &authority.anchors(), &domain()).unwrap()
}

/// What each side says of a handshake that came to nothing.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) client: Option<Error>,
    pub(crate) server: Option<Error>,
}

/// A whole handshake at a moment, in memory.
pub(crate) fn handshake_at(
    time: SystemTime,
    client: &ClientConfig,
    server: &ServerConfig,
) -> Result<(ClientConnection, ServerConnection), Failure> {
    let (mut client, mut server) = (client.clone(), server.clone());
    client.time_provider = Arc::new(At(time));
    server.time_provider = Arc::new(At(time));
    let name: ServerName<'static> = sni::for_port(8080);
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    let mut failure = Failure { client: None, server: None };
    while (client.wants_write() || server.wants_write())
        && (failure.client.is_none() || failure.server.is_none())
    {
        let mut sent = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut sent).unwrap();
        }
        let mut rest = sent.as_slice();
        while !rest.is_empty() && failure.server.is_none() {
            server.read_tls(&mut rest).unwrap();
            failure.server = server.process_new_packets().err();
        }
        let mut sent = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut sent).unwrap();
        }
        let mut rest = sent.as_slice();
        while !rest.is_empty() && failure.client.is_none() {
            client.read_tls(&mut rest).unwrap();
            failure.client = client.process_new_packets().err();
        }
    }
    match failure {
        Failure { client: None, server: None } => Ok((client, server)),
        failure => Err(failure),
    }
}

pub(crate) fn handshake(
    client: &ClientConfig,
    server: &ServerConfig,
) -> Result<(ClientConnection, ServerConnection), Failure> {
    handshake_at(now(), client, server)
}

#[derive(Debug)]
struct At(SystemTime);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        self.0.duration_since(SystemTime::UNIX_EPOCH).ok().map(UnixTime::since_unix_epoch)
    }
}
