//! What DNS answered, as the `Workload`s that it stands for.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::resource::{Resource, Spec};
use super::restore;
use crate::model::DnsQuestion;

/// Where one of those that were asked for is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    /// Its address.
    pub address: IpAddr,
    /// Its port, where an SRV record says it.
    pub port: Option<u16>,
    /// Its share of the traffic, where an SRV record says it; 0: next to none (RFC 2782).
    pub weight: Option<u16>,
}

/// A `Workload` for each of those that were found: as the document is that asks for them, each at its own place. `origin` is
/// where they are said to come from.
pub fn found(asking: &Resource, found: &[Found], origin: &str) -> Vec<Resource> {
    let Spec::NamedWorkload(question) = &asking.spec else { return Vec::new() };
    let Some(namespace) = &asking.namespace else { return Vec::new() };
    let workload = |found: &Found| restore(&document(asking, question, found)?, namespace, origin).ok();
    found.iter().filter_map(workload).collect()
}

fn document(asking: &Resource, question: &DnsQuestion, found: &Found) -> Option<Value> {
    let mut document = asking.document.clone();
    // What a cluster says of the document itself says nothing of them.
    document.as_object_mut()?.remove("status");
    let metadata = document.get_mut("metadata")?.as_object_mut()?;
    metadata.insert("name".into(), json!(name(asking, found)));
    let spec = document.get_mut("spec")?.as_object_mut()?;
    spec.insert("address".into(), json!(found.address.to_string()));
    if let DnsQuestion::Service(_) = question {
        spec.remove("srv");
        set_port(spec, found.port?);
        // A weight of 0 is told from none at all, which would be nobody's turn.
        spec.insert("weight".into(), json!(found.weight.unwrap_or(1).max(1)));
    }
    Some(document)
}

fn set_port(spec: &mut Map<String, Value>, number: u16) {
    let mut ports = spec.remove("ports").unwrap_or_else(|| json!([{}]));
    if let Some(port) = ports.get_mut(0).and_then(Value::as_object_mut) {
        port.insert("port".into(), json!(number));
    }
    spec.insert("ports".into(), ports);
}

/// `pg.10-0-0-9`, and with a port of its own `pg.10-0-0-9.5432`.
fn name(asking: &Resource, found: &Found) -> String {
    let address = match found.address {
        IpAddr::V4(address) => address.to_string().replace('.', "-"),
        IpAddr::V6(address) => address.segments().map(|segment| format!("{segment:x}")).join("-"),
    };
    match found.port {
        Some(port) => format!("{}.{address}.{port}", asking.name),
        None => format!("{}.{address}", asking.name),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{SourceFile, read};
    use super::*;

    fn asking(spec: &str) -> Resource {
        let text = format!(
            "apiVersion: weft.mesh/v1alpha1\nkind: Workload\nmetadata: {{name: pg, labels: {{app: pg}}}}\nspec: {spec}\n"
        );
        let file = SourceFile { name: "pg.yaml", text: &text };
        let mut reading = read(&[file], &"shop".parse().unwrap());
        assert_eq!(reading.problems, []);
        reading.resources.pop().unwrap()
    }

    fn workloads(asking: &Resource, all: &[Found]) -> Vec<(String, String, Vec<u16>, u32)> {
        let shown = |resource: Resource| {
            assert_eq!((resource.labels.get("app").unwrap().as_str(), resource.file.as_str()), ("pg", "dns"));
            let Spec::Workload(spec) = &resource.spec else { panic!("{resource:?}") };
            let ports = spec.ports.iter().map(|port| port.port).collect();
            (resource.key().to_string(), spec.address.to_string(), ports, spec.weight)
        };
        found(asking, all, "dns").into_iter().map(shown).collect()
    }

    #[test]
    fn each_address_of_a_host_is_a_workload_like_the_one_that_asks() {
        let asking = asking("{address: pg.example.com, ports: [{port: 5432}], weight: 3}");
        let at = |address: &str| Found { address: address.parse().unwrap(), port: None, weight: None };
        let expected = [
            ("Workload shop/pg.10-0-0-9".into(), "10.0.0.9".into(), vec![5432], 3),
            ("Workload shop/pg.fd00-0-0-0-0-0-0-9".into(), "fd00::9".into(), vec![5432], 3),
        ];
        assert_eq!(workloads(&asking, &[at("10.0.0.9"), at("fd00::9")]), expected);
    }

    #[test]
    fn a_service_record_says_port_and_weight() {
        let asking = asking("{srv: _pg._tcp.example.com, ports: [{name: pg}]}");
        let at = |port, weight| Found {
            address: "10.0.0.9".parse().unwrap(),
            port: Some(port),
            weight: Some(weight),
        };
        let expected = [
            ("Workload shop/pg.10-0-0-9.5432".into(), "10.0.0.9".into(), vec![5432], 60),
            ("Workload shop/pg.10-0-0-9.5433".into(), "10.0.0.9".into(), vec![5433], 1),
        ];
        assert_eq!(workloads(&asking, &[at(5432, 60), at(5433, 0)]), expected);
    }
}
