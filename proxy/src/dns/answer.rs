//! Answers about names of the mesh, from what discovery knows.

use std::net::IpAddr;

use futures_util::future::join_all;
use tokio::time::timeout;
use weft_core::model::{
    Endpoint, HostName, Name as Label, Protocol, QualifiedName, ServicePort, external_service,
};

use super::names::{self, Candidate, Part};
use super::wire::{HEADER, IN, Name, Owner, Query, Rcode, Reply, kind};
use crate::state::{Discovery, Known, KnownService, LOOKUP_LIMIT, Snapshot};

/// How long an answer holds, in seconds, and how long that there is none: services come and go.
const TTL: u32 = 5;

/// What a question is answered from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mesh<'a> {
    pub(super) discovery: &'a Discovery,
    /// Where names without a namespace are looked for.
    pub(super) own: Option<&'a Label>,
    /// What the pod's programs append to names.
    pub(super) search: &'a [Vec<String>],
}

impl Mesh<'_> {
    /// Answers a question about a name of the mesh, looking it up where it is not known yet; none: the name is not ours.
    pub(super) async fn answer(self, query: &Query) -> Option<Vec<u8>> {
        if query.class != IN {
            return None;
        }
        let Some(labels) = query.name.labels() else {
            // No service is called so, but it may lie in our domain.
            let apex = names::ours_at(&query.name)? + HEADER;
            let zone = Zone { apex, revision: self.discovery.snapshot().revision };
            return Some(zone.close(start(query, Rcode::NxDomain)));
        };
        let (places, labels): (Vec<usize>, Vec<String>) = labels.into_iter().unzip();
        let place = |label: usize| HEADER + places.get(label).copied().unwrap_or_default();
        if let Some(answer) = self.outside(query, &labels.join(".")).await {
            return Some(answer);
        }
        if let Some(address) = names::address(&labels) {
            return self.name_of(query, address).await;
        }
        let candidates = names::candidates(&labels, self.own, self.search);
        let services = candidates.iter().map(|candidate| self.discovery.lookup_service(&candidate.service));
        // All are looked up at once, and the first that exists counts.
        let services = join_all(services).await;
        for (candidate, service) in candidates.iter().zip(services) {
            if let Some(service) = service {
                let zone = Zone { apex: place(candidate.apex), revision: self.discovery.snapshot().revision };
                return Some(of_service(query, candidate, &service, zone));
            }
        }
        let snapshot = self.discovery.snapshot();
        let ours = names::is_ours(&labels);
        // A name of one label is no one else's, nor is one in our own domain. While the control plane is slow to answer,
        // or away, the app had better ask again.
        let unsettled = candidates.iter().any(|candidate| !snapshot.settles_service(&candidate.service));
        if unsettled && (ours || (labels.len() == 1 && self.discovery.connected())) {
            return Some(Reply::to(query, Rcode::ServFail).finish());
        }
        // Nobody else is to be asked about, or told of, names in our own domain.
        ours.then(|| {
            let zone = Zone { apex: place(labels.len() - 1), revision: snapshot.revision };
            let exists = labels.len() == 1
                || names::namespace(&labels).is_some_and(|name| self.has_namespace(&snapshot, name));
            let asks_for_zone = labels.len() == 1 && query.kind == kind::SOA;
            let mut reply = start(query, if exists { Rcode::NoError } else { Rcode::NxDomain });
            if asks_for_zone {
                reply.answer(Owner::At(HEADER), kind::SOA, TTL, &zone.soa());
            }
            zone.close(reply)
        })
    }

    /// Answers for a host outside the mesh that a document names: its calls come to us by an address of our own, whatever
    /// is spoken.
    async fn outside(self, query: &Query, host: &str) -> Option<Vec<u8>> {
        let mesh = self.discovery.snapshot().mesh.clone()?;
        let name = external_service(&mesh.externals, host, None, self.own)?;
        let service = self.discovery.lookup_service(name).await?;
        let is_this = |known: &HostName| known.as_str() == host;
        service.service.external.as_ref()?.host.as_ref().filter(|known| is_this(known))?;
        if service.service.addresses.is_empty() {
            return None;
        }
        let asked = Asked { query, service: &service };
        let mut reply = start(query, Rcode::NoError);
        match query.kind {
            kind::A | kind::AAAA | kind::ANY => asked.add_addresses(&mut reply, &service.service.addresses),
            // What they would hold are addresses, or ways around us.
            kind::HTTPS | kind::SVCB => {}
            _ => return None,
        }
        Some(Zone { apex: HEADER, revision: self.discovery.snapshot().revision }.close(reply))
    }

    /// Whether there are names below `NAMESPACE.mesh`: then it exists too (RFC 8020).
    fn has_namespace(&self, snapshot: &Snapshot, name: &str) -> bool {
        self.own.is_some_and(|own| own.as_str() == name)
            || snapshot.services.keys().any(|service| service.namespace.as_str() == name)
    }

    /// The service whose virtual address this is.
    async fn name_of(self, query: &Query, address: IpAddr) -> Option<Vec<u8>> {
        let mesh = self.discovery.snapshot().mesh.clone();
        let virtual_one =
            mesh.is_some_and(|mesh| mesh.service_cidrs.iter().any(|range| range.contains(address)));
        let snapshot = match virtual_one {
            true => {
                timeout(LOOKUP_LIMIT, self.discovery.lookup_address(address)).await.ok().and_then(Result::ok)
            }
            false => None,
        };
        let snapshot = snapshot.unwrap_or_else(|| self.discovery.snapshot());
        let zone = Zone { apex: HEADER, revision: snapshot.revision };
        match snapshot.addresses.get(&address) {
            Some(Known::Service(service)) => {
                let mut reply = start(query, Rcode::NoError);
                if matches!(query.kind, kind::PTR | kind::ANY) {
                    let name = Name::of(names::full_name(service))?;
                    reply.answer(Owner::At(HEADER), kind::PTR, TTL, name.as_bytes());
                }
                Some(zone.close(reply))
            }
            _ if !virtual_one => None,
            None if self.discovery.connected() => Some(Reply::to(query, Rcode::ServFail).finish()),
            _ => Some(zone.close(start(query, Rcode::NxDomain))),
        }
    }
}

fn start(query: &Query, rcode: Rcode) -> Reply {
    Reply::to(query, rcode).authoritative()
}

/// Whose word it is that there is no record.
#[derive(Debug, Clone, Copy)]
struct Zone {
    /// Where in the question the zone's name stands.
    apex: usize,
    revision: u64,
}

impl Zone {
    /// The message; where nothing was answered it says for how long that holds (RFC 2308 section 3).
    fn close(self, mut reply: Reply) -> Vec<u8> {
        if reply.is_empty() {
            reply.authority(Owner::At(self.apex), kind::SOA, TTL, &self.soa());
        }
        reply.finish()
    }

    fn soa(self) -> Vec<u8> {
        let mut data = b"\x04weft\x04mesh\0\x0ahostmaster\x04weft\x04mesh\0".to_vec();
        // Serial numbers wrap around (RFC 1982).
        let serial = u32::try_from(self.revision & u64::from(u32::MAX)).unwrap_or_default();
        data.extend([serial, 3600, 600, 86_400, TTL].map(u32::to_be_bytes).concat());
        data
    }
}

fn of_service(query: &Query, candidate: &Candidate, service: &KnownService, zone: Zone) -> Vec<u8> {
    let asked = Asked { query, service };
    let reply = match &candidate.part {
        Part::Whole => asked.whole(),
        Part::Workload(workload) => asked.workload(workload),
        Part::Port(port) => asked.port(port),
        Part::Protocol => start(query, Rcode::NoError),
        Part::Nothing => start(query, Rcode::NxDomain),
    };
    zone.close(reply)
}

/// A question about a service that exists.
struct Asked<'a> {
    query: &'a Query,
    service: &'a KnownService,
}

impl Asked<'_> {
    fn whole(&self) -> Reply {
        let mut reply = start(self.query, Rcode::NoError);
        if self.query.kind == kind::SRV {
            let ports: Vec<&ServicePort> = self.service.service.ports.iter().collect();
            self.add_ports(&mut reply, &ports);
        } else {
            self.add_addresses(&mut reply, &self.addresses());
        }
        reply
    }

    fn workload(&self, name: &str) -> Reply {
        let mut endpoints = self.service.endpoints.iter();
        let Some(endpoint) = endpoints.find(|endpoint| endpoint.workload.name.as_str() == name) else {
            return start(self.query, Rcode::NxDomain);
        };
        let mut reply = start(self.query, Rcode::NoError);
        self.add_addresses(&mut reply, &endpoint.addresses);
        reply
    }

    fn port(&self, name: &str) -> Reply {
        let ports = ports_called(name, &self.service.service.ports);
        if ports.is_empty() {
            return start(self.query, Rcode::NxDomain);
        }
        let mut reply = start(self.query, Rcode::NoError);
        if matches!(self.query.kind, kind::SRV | kind::ANY) {
            self.add_ports(&mut reply, &ports);
        }
        reply
    }

    /// The virtual addresses; those of a headless service are its workloads', in another order each time, so that
    /// clients which take the first spread.
    fn addresses(&self) -> Vec<IpAddr> {
        if !self.service.service.addresses.is_empty() {
            return self.service.service.addresses.clone();
        }
        let mut addresses: Vec<_> =
            self.callable().flat_map(|endpoint| &endpoint.addresses).copied().collect();
        fastrand::shuffle(&mut addresses);
        addresses
    }

    /// The workloads whose apps work; all, where none does.
    fn callable(&self) -> impl Iterator<Item = &Endpoint> {
        let endpoints = &self.service.endpoints;
        let any = endpoints.iter().any(|endpoint| endpoint.healthy);
        endpoints.iter().map(AsRef::as_ref).filter(move |endpoint: &&Endpoint| endpoint.healthy || !any)
    }

    fn add_addresses(&self, reply: &mut Reply, addresses: &[IpAddr]) {
        for address in addresses {
            let (kind, data) = record(*address);
            if self.query.kind == kind || self.query.kind == kind::ANY {
                reply.answer(Owner::At(HEADER), kind, TTL, &data);
            }
        }
    }

    /// Hosts and ports (RFC 2782), and the hosts' addresses besides.
    fn add_ports(&self, reply: &mut Reply, ports: &[&ServicePort]) {
        let name = &self.service.service.name;
        let mut hosts = Vec::new();
        if self.service.service.addresses.is_empty() {
            let mut endpoints: Vec<&Endpoint> = self.callable().collect();
            fastrand::shuffle(&mut endpoints);
            for endpoint in endpoints {
                let Some(host) = name_of_workload(&endpoint.workload, name) else { continue };
                let targets = ports.iter().filter_map(|port| endpoint.target_port(port.port));
                hosts.push((host, targets.collect(), endpoint.weight, endpoint.addresses.as_slice()));
            }
        } else if let Some(host) = Name::of(names::full_name(name)) {
            let targets: Vec<u16> = ports.iter().map(|port| port.port).collect();
            hosts.push((host, targets, 1, self.service.service.addresses.as_slice()));
        }
        let mut besides = Vec::new();
        for (host, targets, weight, addresses) in &hosts {
            for target in targets {
                let weight = u16::try_from(*weight).unwrap_or(u16::MAX);
                let mut data = [0, weight, *target].map(u16::to_be_bytes).concat();
                let before_host = data.len();
                data.extend(host.as_bytes());
                if let Some(at) = reply.answer(Owner::At(HEADER), kind::SRV, TTL, &data) {
                    besides.push((at + before_host, host, addresses));
                }
            }
        }
        besides.dedup_by_key(|(_, host, _)| *host);
        for (at, host, addresses) in besides {
            let owner = if at < 0x4000 { Owner::At(at) } else { Owner::Name(host) };
            for address in *addresses {
                let (kind, data) = record(*address);
                reply.additional(owner, kind, TTL, &data);
            }
        }
    }
}

fn record(address: IpAddr) -> (u16, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (kind::A, v4.octets().to_vec()),
        IpAddr::V6(v6) => (kind::AAAA, v6.octets().to_vec()),
    }
}

fn name_of_workload(workload: &QualifiedName, service: &QualifiedName) -> Option<Name> {
    Name::of(workload.name.as_str().split('.').chain(names::full_name(service)))
}

/// The ports that `_NAME._tcp` asks for: those of this name, else the one of this number, else those that speak it, else
/// those of which nothing is said that would speak against it.
fn ports_called<'a>(name: &str, ports: &'a [ServicePort]) -> Vec<&'a ServicePort> {
    let number = name.parse::<u16>().ok();
    let unnamed = |port: &ServicePort| port.name.is_empty() && port.protocol == Protocol::Detect;
    let rules: [&dyn Fn(&ServicePort) -> bool; 4] = [
        &|port| port.name.eq_ignore_ascii_case(name),
        &|port| number == Some(port.port),
        &|port| port.name.is_empty() && spoken(port.protocol).contains(&name),
        &|port| unnamed(port) && spoken(Protocol::Http).contains(&name),
    ];
    let found = rules.iter().map(|rule| ports.iter().filter(|port| rule(port)).collect::<Vec<_>>());
    found.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
}

/// What services that speak this are called.
fn spoken(protocol: Protocol) -> &'static [&'static str] {
    match protocol {
        Protocol::Http => &["http"],
        Protocol::Http2 => &["http2", "h2c", "http"],
        Protocol::Grpc => &["grpc"],
        Protocol::Tls => &["tls", "https"],
        Protocol::Tcp => &["tcp"],
        Protocol::Detect => &[],
    }
}
