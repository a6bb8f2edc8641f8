//! Services outside the mesh, as sidecars call them by host name.

use super::{HostName, HostPattern, Name, PortMap, Protocol, QualifiedName, ServicePort};

/// What makes a service one outside the mesh: its endpoints are found by DNS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct External {
    /// The host that its addresses stand for; none: it has patterns only, and no addresses.
    pub host: Option<HostName>,
    /// Which port of the host is behind which of its own.
    pub ports: Vec<PortMap>,
    /// Whether sidecars speak TLS for apps that do not.
    pub tls: Option<Origination>,
}

/// A port of a service outside the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalPort {
    /// The port that apps call.
    pub port: u16,
    /// The host's port.
    pub target_port: u16,
    /// Its name; empty: none.
    pub name: String,
    /// What is spoken there by the app.
    pub protocol: Protocol,
}

/// TLS that a sidecar speaks for an app that does not.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origination {
    /// The name that is asked for and that the server must prove.
    pub server_name: HostName,
    /// Who may vouch for it, as PEM; empty: the public authorities.
    pub ca: String,
}

/// By which hosts a service outside the mesh is known; every sidecar knows all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalHosts {
    /// The service.
    pub service: QualifiedName,
    /// Its hosts.
    pub hosts: Vec<HostPattern>,
    /// Its ports.
    pub ports: Vec<u16>,
}

impl External {
    /// The host's port behind a port of the service.
    pub fn target_port(&self, port: u16) -> Option<u16> {
        self.ports.iter().find(|map| map.port == port).map(|map| map.target_port)
    }
}

impl From<&ExternalPort> for ServicePort {
    fn from(port: &ExternalPort) -> Self {
        Self { port: port.port, name: port.name.clone(), protocol: port.protocol }
    }
}

/// The service that a host in lower case belongs to: one of the caller's own namespace first, then the most exact pattern,
/// then the first by name. With a port: only one that has it.
pub fn external_service<'e>(
    externals: &'e [ExternalHosts],
    host: &str,
    port: Option<u16>,
    own: Option<&Name>,
) -> Option<&'e QualifiedName> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let here = externals.iter().filter(|external| port.is_none_or(|port| external.ports.contains(&port)));
    let fitting = here.filter_map(|external| {
        let fitting = external.hosts.iter().filter(|pattern| pattern.fits(host));
        Some((external, fitting.map(HostPattern::rank).max()?))
    });
    let best = fitting.min_by_key(|(external, rank)| {
        let is_own = own == Some(&external.service.namespace);
        (!is_own, std::cmp::Reverse(*rank), &external.service)
    });
    best.map(|(external, _)| &external.service)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(service: &str, hosts: &[&str], ports: &[u16]) -> ExternalHosts {
        ExternalHosts {
            service: service.parse().unwrap(),
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            ports: ports.to_vec(),
        }
    }

    #[test]
    fn a_host_belongs_to_the_nearest_and_most_exact() {
        let all = [
            hosts("default/wide", &["*.example.com"], &[443]),
            hosts("default/api", &["api.example.com"], &[443, 80]),
            hosts("shop/own", &["*.example.com"], &[443]),
        ];
        let found = |host: &str, port: Option<u16>, own: &str| {
            let own: Name = own.parse().unwrap();
            external_service(&all, host, port, Some(&own)).map(ToString::to_string)
        };
        assert_eq!(found("api.example.com", None, "default").as_deref(), Some("default/api"));
        assert_eq!(found("api.example.com.", Some(80), "default").as_deref(), Some("default/api"));
        assert_eq!(found("www.example.com", Some(443), "default").as_deref(), Some("default/wide"));
        assert_eq!(found("api.example.com", Some(443), "shop").as_deref(), Some("shop/own"));
        assert_eq!(found("api.example.com", Some(443), "other").as_deref(), Some("default/api"));
        assert_eq!(found("example.com", None, "default"), None);
        assert_eq!(found("www.example.com", Some(80), "default"), None);
    }
}
