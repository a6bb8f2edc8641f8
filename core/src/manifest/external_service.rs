//! `weft.mesh/v1alpha1 ExternalService`: who is called outside the mesh, by host name.

use std::collections::HashSet;

use super::decode::Field;
use super::document::Places;
use super::service::port_name;
use super::workload::PROTOCOLS;
use crate::model::{ExternalPort, HostName, HostPattern, Origination, Protocol};

const HOSTS: usize = 64;
const PORTS: usize = 64;
const CA_BYTES: usize = 64 * 1024;

/// What an `ExternalService` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExternalServiceSpec {
    /// The hosts; at most one of them exact, which is the one that the service's addresses stand for.
    pub hosts: Vec<HostPattern>,
    /// Its ports.
    pub ports: Vec<ExternalPort>,
    /// Whether sidecars speak TLS for apps that do not.
    pub tls: Option<Origination>,
}

impl ExternalServiceSpec {
    /// The one host that is not a pattern.
    pub fn host(&self) -> Option<&str> {
        self.hosts.iter().find_map(|host| match host {
            HostPattern::Exact(name) => Some(&**name),
            HostPattern::Below(_) => None,
        })
    }
}

pub(super) fn read(spec: &Field<'_>, places: &mut Places) -> Option<ExternalServiceSpec> {
    let spec = spec.object(&["hosts", "ports", "tls"])?;
    let hosts_field = spec.required("hosts", "write hosts: [api.example.com]")?;
    places.insert("spec.hosts".to_owned(), hosts_field.place());
    let hosts = read_hosts(&hosts_field);
    let ports_field = spec.required("ports", "write ports: [{port: 443, protocol: tls}]")?;
    let ports = read_ports(&ports_field);
    let has_exact = hosts.iter().any(|host| matches!(host, HostPattern::Exact(_)));
    let has_pattern = hosts.iter().any(|host| matches!(host, HostPattern::Below(_)));
    let names_hosts = |port: &ExternalPort| matches!(port.protocol, Protocol::Tls | Protocol::Http);
    if has_pattern && !ports.iter().any(names_hosts) {
        hosts_field.mistake(
            "hosts below a domain are told apart by the name that a client of TLS asks for, or by the host of requests of HTTP/1, and no port is of either",
            "write protocol: tls or protocol: http, or name one host",
        );
    }
    let tls = spec.field("tls").and_then(|field| read_tls(&field, &hosts));
    if let (Some(field), Some(_)) = (spec.field("tls"), &tls) {
        if !has_exact {
            field.mistake("TLS is spoken for one host", "write it in hosts");
        }
        if ports.iter().all(|port| port.protocol == Protocol::Tls) {
            field.mistake(
                "the app speaks TLS itself on every port of protocol tls",
                "write a port of protocol http, http2, grpc or tcp, or take it out",
            );
        }
    }
    Some(ExternalServiceSpec { hosts, ports, tls })
}

fn read_hosts(field: &Field<'_>) -> Vec<HostPattern> {
    let fields = field.list().unwrap_or_default();
    if fields.is_empty() {
        field.mistake("no host", "write hosts: [api.example.com]");
    }
    if fields.len() > HOSTS {
        field.mistake(format!("{} are more than {HOSTS}", fields.len()), "write several resources");
    }
    let mut hosts: Vec<HostPattern> = Vec::new();
    for field in &fields {
        let Some(host) = field.parse::<HostPattern>("write api.example.com or *.example.com") else {
            continue;
        };
        if hosts.contains(&host) {
            field.mistake(format!("{host} is there twice"), "keep one of them");
        }
        let is_exact = |host: &HostPattern| matches!(host, HostPattern::Exact(_));
        if is_exact(&host) && hosts.iter().any(is_exact) {
            field.mistake(
                "a second host: connections that name none could go to either",
                "write an ExternalService for each, or *.DOMAIN",
            );
        }
        hosts.push(host);
    }
    hosts
}

fn read_ports(field: &Field<'_>) -> Vec<ExternalPort> {
    let fields = field.list().unwrap_or_default();
    if fields.is_empty() {
        field.mistake("no port", "write ports: [{port: 443, protocol: tls}]");
    }
    if fields.len() > PORTS {
        field.mistake(format!("{} are more than {PORTS}", fields.len()), format!("write {PORTS} at most"));
    }
    let mut seen = HashSet::new();
    let mut ports = Vec::new();
    for field in &fields {
        let Some(port) = read_port(field) else { continue };
        if !seen.insert(port.port) {
            field.mistake(format!("port {} is there twice", port.port), "keep one of them");
        }
        ports.push(port);
    }
    ports
}

fn read_port(field: &Field<'_>) -> Option<ExternalPort> {
    let object = field.object(&["port", "targetPort", "name", "protocol"])?;
    let name = object.field("name").and_then(|field| port_name(&field)).unwrap_or_default();
    let protocol = object.field("protocol").and_then(|field| field.choice(&PROTOCOLS)).unwrap_or_default();
    let port = object.required("port", "write the port that apps call")?.port()?;
    let target_port = match object.field("targetPort") {
        Some(target) => target.port()?,
        None => port,
    };
    Some(ExternalPort { port, target_port, name, protocol })
}

fn read_tls(field: &Field<'_>, hosts: &[HostPattern]) -> Option<Origination> {
    let object = field.object(&["originate", "sni", "ca"])?;
    let originates = object.required("originate", "write originate: true, or take tls out")?.bool()?;
    let sni = object.field("sni").and_then(|sni| sni.parse::<HostName>("write a host name"));
    let ca = object.field("ca").and_then(|ca| read_ca(&ca)).unwrap_or_default();
    if !originates {
        return None;
    }
    let host = hosts.iter().find_map(|host| match host {
        HostPattern::Exact(name) => name.parse::<HostName>().ok(),
        HostPattern::Below(_) => None,
    });
    Some(Origination { server_name: sni.or(host)?, ca })
}

/// Certificates as text. Whether they are sound, only who uses them finds out.
fn read_ca(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if !text.contains("-----BEGIN CERTIFICATE-----") || text.len() > CA_BYTES {
        field.mistake(
            format!("no certificates in PEM, {} KiB at most", CA_BYTES / 1024),
            "write ca: | and the certificates under it, or leave it out for the public roots",
        );
        return None;
    }
    Some(text.to_owned())
}
