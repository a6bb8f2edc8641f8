//! `weft.mesh/v1alpha1 Workload`: one endpoint at an address, or all those that DNS knows by a name.

use std::collections::HashMap;
use std::net::IpAddr;

use super::decode::Field;
use super::document::{Places, field_name};
use super::resource::{Spec, WorkloadPort, WorkloadSpec};
use super::service::port_name;
use crate::model::{DnsQuestion, Protocol};

const FIELDS: [&str; 7] = ["address", "srv", "ports", "serviceAccount", "zone", "weight", "mtls"];
/// What may be said to be spoken.
pub(super) const PROTOCOLS: [(&str, Protocol); 5] = [
    ("http", Protocol::Http),
    ("http2", Protocol::Http2),
    ("grpc", Protocol::Grpc),
    ("tcp", Protocol::Tcp),
    ("tls", Protocol::Tls),
];

/// Where it is, or they are.
enum Place {
    At(IpAddr),
    Asked(DnsQuestion),
}

pub(super) fn read(spec: &Field<'_>, places: &mut Places) -> Option<Spec> {
    let object = spec.object(&FIELDS)?;
    let srv = object.field("srv");
    let address = match &srv {
        Some(_) => object.field("address"),
        None => object.required("address", "write the IP address or the DNS name where it is reached"),
    };
    places.extend(address.as_ref().map(|field| ("spec.address".to_owned(), field.place())));
    if let (Some(address), Some(_)) = (&address, &srv) {
        address.mistake("spec.srv says where it is as well", "keep one of them");
        return None;
    }
    let ports = object.field("ports").and_then(|field| field.list()).unwrap_or_default();
    if let (Some(_), Some(second)) = (&srv, ports.get(1)) {
        second.mistake("an SRV record has one port", "keep the one that it is");
    }
    let ports = read_ports(&ports, srv.is_some());
    let service_account = object.field("serviceAccount");
    let zone = object.field("zone").and_then(|field| field.text()).unwrap_or_default().to_owned();
    let weight = object.field("weight").and_then(|field| field.integer(0..=1_000_000)).unwrap_or(1);
    let mtls_field = object.field("mtls");
    let mtls = mtls_field.as_ref().and_then(Field::bool).unwrap_or(false);
    if let (Some(field), true, None) = (&mtls_field, mtls, &service_account) {
        field.mistake(
            "mtls needs the service account that it proves",
            "write serviceAccount: NAME, or mtls: false",
        );
    }
    let service_account = service_account.and_then(|field| field_name(&field));
    let place = match &srv {
        Some(field) => {
            Place::Asked(DnsQuestion::Service(field.parse("write a name as in _pg._tcp.example.com")?))
        }
        None => read_address(&address?)?,
    };
    Some(match place {
        Place::At(address) => {
            Spec::Workload(WorkloadSpec { address, ports, service_account, zone, weight, mtls })
        }
        Place::Asked(question) => Spec::NamedWorkload(question),
    })
}

fn read_address(field: &Field<'_>) -> Option<Place> {
    let is_address = field.text()?.parse::<IpAddr>().is_ok();
    if !is_address {
        let name = field.parse("write an IP address, or a name that DNS knows")?;
        return Some(Place::Asked(DnsQuestion::Host(name)));
    }
    let address: IpAddr = field.parse("write an IP address")?;
    if address.is_unspecified() || address.is_multicast() {
        field.mistake(format!("{address} is nobody's address"), "write the address where it is reached");
        return None;
    }
    Some(Place::At(address))
}

/// Those of an SRV record say their number themselves.
fn read_ports(fields: &[Field<'_>], is_srv: bool) -> Vec<WorkloadPort> {
    let mut numbers: HashMap<u16, String> = HashMap::new();
    let mut names: HashMap<String, String> = HashMap::new();
    let mut ports = Vec::new();
    for field in fields {
        let Some(port) = read_port(field, is_srv) else { continue };
        if let Some(first) = numbers.insert(port.port, field.path().to_owned()) {
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
        ports.push(port);
    }
    ports
}

fn read_port(field: &Field<'_>, is_srv: bool) -> Option<WorkloadPort> {
    let object = field.object(&["port", "name", "protocol"])?;
    let name = object.field("name").and_then(|field| port_name(&field)).unwrap_or_default();
    let protocol = object.field("protocol").and_then(|field| field.choice(&PROTOCOLS)).unwrap_or_default();
    let port = match (object.field("port"), is_srv) {
        (Some(field), true) => {
            field.mistake("the SRV record says which port it is", "leave port out");
            return None;
        }
        (None, true) => 0,
        (_, false) => object.required("port", "write the port it listens on")?.port()?,
    };
    Some(WorkloadPort { port, name, protocol })
}
