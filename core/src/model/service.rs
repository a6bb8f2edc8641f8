//! Services, the endpoints behind them, and who answers at an address.

use std::net::IpAddr;
use std::sync::Arc;

use super::{
    AccessPolicy, AppCheck, ConcurrencyMode, External, Fits, Location, MtlsMode, Name, QualifiedName,
    RateLimit, Ratio, Route, SpiffeId, TokenPolicy, Traffic,
};

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub enum Protocol {
    /// Found out by listening to both ends.
    #[default]
    Detect,
    /// HTTP/1.1.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC, on HTTP/2.
    Grpc,
    /// Bytes.
    Tcp,
    /// TLS of the app's own.
    Tls,
}

/// A service as callers see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: QualifiedName,
    /// Its virtual addresses.
    pub addresses: Vec<IpAddr>,
    /// The ports callers use, by number; none: every port, and what is spoken is found out.
    pub ports: Vec<ServicePort>,
    /// How it is to be called.
    pub traffic: Box<Traffic>,
    /// The routes that it is called by, the oldest first.
    pub routes: Vec<Route>,
    /// Where it is, where that is outside the mesh.
    pub external: Option<External>,
    /// Whose tokens its callers prove, where one of its routes asks for claims; none: no one's.
    pub tokens: Option<Arc<TokenPolicy>>,
}

/// A port that callers use, or an app's, with what is spoken there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The number.
    pub port: u16,
    /// The name, where it has one.
    pub name: String,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// One workload behind a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Which workload.
    pub workload: QualifiedName,
    /// Where it is reached; IPv4, IPv6 or both.
    pub addresses: Vec<IpAddr>,
    /// The identity it must prove; none: it has no sidecar and is called in plaintext.
    pub identity: Option<SpiffeId>,
    /// The port of its sidecar that takes mesh traffic.
    pub inbound_port: Option<u16>,
    /// Its locality.
    pub zone: String,
    /// The node of a cluster that it runs on; empty: unknown, or there is no cluster.
    pub node: Arc<str>,
    /// Its share of the traffic, against 1.
    pub weight: u32,
    /// Which of its app's ports serves which service port; none are said: each serves its own number.
    pub ports: Vec<PortMap>,
    /// Whether its app works, by the checks of its health.
    pub healthy: bool,
    /// Which of its service's priorities it fits.
    pub fits: Fits,
}

/// A service port and the app's port behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortMap {
    /// The port callers use.
    pub port: u16,
    /// The port the app listens on.
    pub target_port: u16,
}

impl Service {
    /// Whether it may be called on this port.
    pub fn takes(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.iter().any(|declared| declared.port == port)
    }
}

impl Endpoint {
    /// Whether another is reached as this one is, and may be taken for it.
    pub fn is_same_place(&self, other: &Self) -> bool {
        self.place() == other.place()
    }

    /// Everything but how its app is and what it fits, which change while it stays.
    fn place(&self) -> impl PartialEq {
        let Self {
            workload,
            addresses,
            identity,
            inbound_port,
            zone,
            node,
            weight,
            ports,
            healthy: _,
            fits: _,
        } = self;
        (workload, addresses, identity, inbound_port, zone, node, weight, ports)
    }

    /// Where it is.
    pub fn location(&self) -> Location<'_> {
        Location { zone: &self.zone, node: &self.node }
    }

    /// The app's port behind a service port.
    pub fn target_port(&self, port: u16) -> Option<u16> {
        if self.ports.is_empty() {
            return Some(port);
        }
        self.ports.iter().find(|map| map.port == port).map(|map| map.target_port)
    }
}

/// Who answers at an IP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A service, of which this is a virtual address.
    Service(QualifiedName),
    /// A workload, of which this is an own address.
    Workload {
        /// How to reach it. Its port map says nothing: an address is called on the app's ports.
        endpoint: Endpoint,
        /// The service that it first offers.
        service: Option<QualifiedName>,
        /// What is known of the app's ports.
        target_ports: Vec<ServicePort>,
    },
}

/// What a sidecar must know of the workload it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Its name.
    pub name: QualifiedName,
    /// The service account it runs as.
    pub service_account: Name,
    /// The app's ports that serve something.
    pub ports: Vec<InboundPort>,
    /// Who may do what, as far as policies say it.
    pub policies: Vec<AccessPolicy>,
    /// How often who may call.
    pub limits: Vec<RateLimit>,
    /// What holds of the app's other ports.
    pub concurrency: ConcurrencyMode,
    /// How its app is asked whether it works.
    pub checks: Vec<AppCheck>,
    /// Whose tokens requests carry. Of those about a port the first holds: it is the most precise.
    pub tokens: Vec<Arc<TokenPolicy>>,
    /// Whether the app's other ports take plaintext; none: as the mesh has it.
    pub mtls: Option<MtlsMode>,
}

/// A port of the app that serves something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundPort {
    /// The app's port.
    pub port: u16,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The service it serves.
    pub service: QualifiedName,
    /// Whether it is found out how many requests it is given at once.
    pub concurrency: ConcurrencyMode,
    /// Whether it takes plaintext; none: as the mesh has it.
    pub mtls: Option<MtlsMode>,
    /// Of how many requests there are traces that nobody has decided about; none: as the mesh has it.
    pub sampling: Option<Arc<InboundSampling>>,
}

/// What is said of the traces of requests that come to a service without a decision, as those from outside the mesh do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct InboundSampling {
    /// Of how many there are traces, where no route says it.
    pub service: Option<Ratio>,
    /// The service's own routes, if one of them says it; of each, which requests it is for and how many of them.
    pub routes: Vec<Route>,
}

impl Workload {
    /// The policy about the tokens of a port's callers: the most precise one that is about it.
    pub fn token_policy(&self, port: u16) -> Option<&Arc<TokenPolicy>> {
        self.tokens.iter().find(|policy| policy.ports.is_empty() || policy.ports.contains(&port))
    }

    /// Whether a port of the app takes plaintext, in a mesh of this mode. One that serves several services is as strict as the
    /// strictest of them.
    pub fn mtls(&self, port: u16, mesh: MtlsMode) -> MtlsMode {
        let mut declared = self.ports.iter().filter(|declared| declared.port == port).peekable();
        if declared.peek().is_none() {
            return self.mtls.unwrap_or(mesh);
        }
        match declared.any(|declared| declared.mtls.unwrap_or(mesh) == MtlsMode::Strict) {
            true => MtlsMode::Strict,
            false => MtlsMode::Permissive,
        }
    }

    /// What is said of the traces of requests to a port of the app that nobody has decided about, and for which of the services behind it.
    pub fn sampling(&self, port: u16) -> Option<(&QualifiedName, &Arc<InboundSampling>)> {
        let mut declared = self.ports.iter().filter(|declared| declared.port == port);
        declared.find_map(|declared| Some((&declared.service, declared.sampling.as_ref()?)))
    }

    /// Whether it is found out how many requests a port of the app is given at once. One that serves several services is
    /// protected where one of them says so.
    pub fn concurrency(&self, port: u16) -> ConcurrencyMode {
        let mut declared = self.ports.iter().filter(|declared| declared.port == port).peekable();
        if declared.peek().is_none() {
            return self.concurrency;
        }
        match declared.any(|declared| declared.concurrency == ConcurrencyMode::Adaptive) {
            true => ConcurrencyMode::Adaptive,
            false => ConcurrencyMode::Off,
        }
    }
}
