//! `v1 Service`.

use std::collections::HashMap;
use std::net::IpAddr;

use super::decode::{Field, Object};
use super::document::{Places, selector};
use super::resource::{Distribution, DocumentedPort, ServiceAddresses, ServiceSpec, TargetPort};
use super::sources::Sources;
use super::value::is_port_name;
use crate::model::Protocol;

/// Every field of Kubernetes' ServiceSpec; those not read here concern what is outside the mesh.
const FIELDS: [&str; 20] = [
    "ports",
    "selector",
    "clusterIP",
    "clusterIPs",
    "type",
    "publishNotReadyAddresses",
    "allocateLoadBalancerNodePorts",
    "externalIPs",
    "externalName",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "sessionAffinity",
    "sessionAffinityConfig",
    "trafficDistribution",
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Transport {
    Tcp,
    Other,
}

/// What `trafficDistribution` may say. The first is what the second was called before there was a third (KEP-3015).
const DISTRIBUTIONS: [(&str, Distribution); 3] = [
    ("PreferClose", Distribution::SameZone),
    ("PreferSameZone", Distribution::SameZone),
    ("PreferSameNode", Distribution::SameNode),
];

pub(super) fn read(spec: &Field<'_>, sources: Sources, places: &mut Places) -> Option<ServiceSpec> {
    let spec = spec.object(&FIELDS)?;
    check_type(&spec);
    let selector = spec.field("selector").and_then(|field| selector(&field)).unwrap_or_default();
    let addresses = addresses(&spec, places)?;
    let ports = match addresses {
        ServiceAddresses::Headless => spec.field("ports"),
        ServiceAddresses::Chosen | ServiceAddresses::Fixed(_) => {
            spec.required("ports", "write the ports that callers use, such as ports: [{port: 80}]")
        }
    };
    let fields = ports.as_ref().and_then(Field::list);
    if let (Some(ports), Some([])) = (&ports, fields.as_deref())
        && addresses != ServiceAddresses::Headless
    {
        ports.mistake("a service has at least one port", "write ports: [{port: 80}]");
    }
    let fields = fields.unwrap_or_default();
    let ports = read_ports(&fields, places);
    let publish_not_ready =
        spec.field("publishNotReadyAddresses").and_then(|field| field.bool()).unwrap_or(false);
    let distribution = spec.field("trafficDistribution").and_then(|field| distribution(&field));
    Some(ServiceSpec { ports, selector, addresses, publish_not_ready, distribution, sources })
}

/// Kubernetes takes more words with each version of its own: they are no reason to refuse a service.
fn distribution(field: &Field<'_>) -> Option<Distribution> {
    let said = field.text();
    let known = DISTRIBUTIONS.iter().find(|(word, _)| said == Some(*word));
    if known.is_none() {
        field.note("is not known to this version: no endpoints are preferred");
    }
    known.map(|(_, meant)| *meant)
}

fn check_type(spec: &Object<'_>) {
    let Some(field) = spec.field("type") else { return };
    let types = [("ClusterIP", false), ("NodePort", false), ("LoadBalancer", false), ("ExternalName", true)];
    if field.choice(&types) == Some(true) {
        field.mistake("ExternalName is not supported by this version yet", "take the service out");
    }
}

fn addresses(spec: &Object<'_>, places: &mut Places) -> Option<ServiceAddresses> {
    let single = spec.field("clusterIP").filter(|field| field.spelling().as_deref() != Some(""));
    let listed = spec.field("clusterIPs");
    let mut fields = listed.as_ref().map(|field| field.list()).unwrap_or(Some(Vec::new()))?;
    if let Some(single) = &single {
        match fields.first() {
            None => fields.push(single.clone()),
            Some(first) if first.spelling() == single.spelling() => {}
            Some(first) => {
                first.mistake("the first of clusterIPs must be clusterIP", "write the same in both")
            }
        }
    }
    if fields.len() == 1 && fields.first().is_some_and(|field| field.spelling().as_deref() == Some("None")) {
        return Some(ServiceAddresses::Headless);
    }
    let mut fixed: Vec<IpAddr> = Vec::new();
    for field in &fields {
        let address = field.parse("write an IP address, or None for a headless service");
        let Some(address) = address.filter(|address| is_usable(field, *address)) else { continue };
        if fixed.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            field.mistake(
                format!("{address} is a second address of its family"),
                "write one IPv4 and one IPv6 address",
            );
            continue;
        }
        places.insert(format!("address {address}"), field.place());
        fixed.push(address);
    }
    Some(if fields.is_empty() { ServiceAddresses::Chosen } else { ServiceAddresses::Fixed(fixed) })
}

fn is_usable(field: &Field<'_>, address: IpAddr) -> bool {
    let unusable = address.is_unspecified() || address.is_loopback() || address.is_multicast();
    if unusable {
        field.mistake(
            format!("{address} cannot be a service's address"),
            "write an address that can be routed to",
        );
    }
    !unusable
}

fn read_ports(fields: &[Field<'_>], places: &mut Places) -> Vec<DocumentedPort> {
    let mut numbers: HashMap<(u32, bool), String> = HashMap::new();
    let mut names: HashMap<String, String> = HashMap::new();
    let mut ports = Vec::new();
    for field in fields {
        let Some((port, transport)) = read_port(field, fields.len() > 1, places) else { continue };
        let tcp = transport == Transport::Tcp;
        if let Some(first) = numbers.insert((port.port.into(), tcp), field.path().to_owned()) {
            field.mistake(format!("port {} is there twice, first as {first}", port.port), "keep one of them");
        }
        if !port.name.is_empty()
            && let Some(first) = names.insert(port.name.clone(), field.path().to_owned())
        {
            field.mistake(
                format!("the name {:?} is there twice, first as {first}", port.name),
                "name it otherwise",
            );
        }
        match transport {
            Transport::Tcp => ports.push(port),
            Transport::Other => field.note("the mesh carries TCP; this port is left alone"),
        }
    }
    ports
}

fn read_port(field: &Field<'_>, named: bool, places: &mut Places) -> Option<(DocumentedPort, Transport)> {
    let object = field.object(&["name", "port", "targetPort", "protocol", "appProtocol", "nodePort"])?;
    let name = match object.field("name") {
        Some(name) => port_name(&name).unwrap_or_default(),
        None if named => {
            object.required("name", "ports of a service with several need names");
            String::new()
        }
        None => String::new(),
    };
    let transports = [("TCP", Transport::Tcp), ("UDP", Transport::Other), ("SCTP", Transport::Other)];
    let transport =
        object.field("protocol").and_then(|field| field.choice(&transports)).unwrap_or(Transport::Tcp);
    let protocol = object.field("appProtocol").and_then(|field| field.text()).map(app_protocol);
    object.field("nodePort").map(|field| field.port());
    let target = object.field("targetPort").map(|target| (target.place(), read_target(&target)));
    let port = object.required("port", "write the port that callers use")?.port()?;
    let target = match target {
        None => TargetPort::Number(port),
        Some((place, target)) => {
            places.insert(format!("target port {port}"), place);
            target?
        }
    };
    Some((DocumentedPort { name, port, target, protocol }, transport))
}

fn read_target(field: &Field<'_>) -> Option<TargetPort> {
    if field.is_number() {
        return field.port().map(TargetPort::Number);
    }
    let text = field.text()?;
    // Kubernetes takes a number in quotes for a name, which no port can have.
    if text.parse::<u16>().is_ok() {
        field.mistake(format!("{text:?} is a text"), format!("write {text} without quotes"));
        return None;
    }
    port_name(field).map(TargetPort::Named)
}

/// The name of a port.
pub(super) fn port_name(field: &Field<'_>) -> Option<String> {
    let text = field.text()?;
    if is_port_name(text) {
        return Some(text.to_owned());
    }
    field.mistake(format!("{text:?} is no port's name"), "write lower-case letters, digits and inner '-'");
    None
}

/// What `appProtocol` means; what it does not say is found out by detection (KEP-3726 and IANA's names).
fn app_protocol(text: &str) -> Protocol {
    match text.to_ascii_lowercase().as_str() {
        "http" | "http1" | "http/1.1" | "kubernetes.io/ws" | "ws" => Protocol::Http,
        "http2" | "h2c" | "kubernetes.io/h2c" => Protocol::Http2,
        "grpc" => Protocol::Grpc,
        "tcp" | "mysql" | "postgres" | "postgresql" | "mongo" | "redis" => Protocol::Tcp,
        "tls" | "https" | "kubernetes.io/wss" | "wss" => Protocol::Tls,
        _ => Protocol::Detect,
    }
}
