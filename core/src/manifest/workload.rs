//! `weft.mesh/v1alpha1 Workload`.

use std::collections::HashMap;
use std::net::IpAddr;

use super::decode::Field;
use super::document::{Places, field_name};
use super::resource::{WorkloadPort, WorkloadSpec};
use super::service::port_name;
use crate::model::Protocol;

const FIELDS: [&str; 6] = ["address", "ports", "serviceAccount", "zone", "weight", "mtls"];
/// What may be said to be spoken.
pub(super) const PROTOCOLS: [(&str, Protocol); 5] = [
    ("http", Protocol::Http),
    ("http2", Protocol::Http2),
    ("grpc", Protocol::Grpc),
    ("tcp", Protocol::Tcp),
    ("tls", Protocol::Tls),
];

pub(super) fn read(spec: &Field<'_>, places: &mut Places) -> Option<WorkloadSpec> {
    let spec = spec.object(&FIELDS)?;
    let address = spec.required("address", "write the IP address where it is reached");
    places.extend(address.as_ref().map(|field| ("spec.address".to_owned(), field.place())));
    let ports = spec.field("ports").and_then(|field| field.list()).unwrap_or_default();
    let ports = read_ports(&ports);
    let service_account = spec.field("serviceAccount");
    let zone = spec.field("zone").and_then(|field| field.text()).unwrap_or_default().to_owned();
    let weight = spec.field("weight").and_then(|field| field.integer(0..=1_000_000)).unwrap_or(1);
    let mtls_field = spec.field("mtls");
    let mtls = mtls_field.as_ref().and_then(Field::bool).unwrap_or(false);
    if let (Some(field), true, None) = (&mtls_field, mtls, &service_account) {
        field.mistake(
            "mtls needs the service account that it proves",
            "write serviceAccount: NAME, or mtls: false",
        );
    }
    let service_account = service_account.and_then(|field| field_name(&field));
    let address = read_address(&address?)?;
    Some(WorkloadSpec { address, ports, service_account, zone, weight, mtls })
}

fn read_address(field: &Field<'_>) -> Option<IpAddr> {
    let address: IpAddr = field.parse("write an IP address; host names cannot stand here")?;
    if address.is_unspecified() || address.is_multicast() {
        field.mistake(format!("{address} is nobody's address"), "write the address where it is reached");
        return None;
    }
    Some(address)
}

fn read_ports(fields: &[Field<'_>]) -> Vec<WorkloadPort> {
    let mut numbers: HashMap<u16, String> = HashMap::new();
    let mut names: HashMap<String, String> = HashMap::new();
    let mut ports = Vec::new();
    for field in fields {
        let Some(port) = read_port(field) else { continue };
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

fn read_port(field: &Field<'_>) -> Option<WorkloadPort> {
    let object = field.object(&["port", "name", "protocol"])?;
    let name = object.field("name").and_then(|field| port_name(&field)).unwrap_or_default();
    let protocol = object.field("protocol").and_then(|field| field.choice(&PROTOCOLS)).unwrap_or_default();
    let port = object.required("port", "write the port it listens on")?.port()?;
    Some(WorkloadPort { port, name, protocol })
}
