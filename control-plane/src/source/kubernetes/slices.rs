//! Who is behind each service: all of its `discovery.k8s.io/v1 EndpointSlice`s together, by address family too.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;
use weft_core::model::QualifiedName;
use weft_core::world::{Backend, Readiness};

/// Which service a slice is of.
const OF: &str = "/metadata/labels/kubernetes.io~1service-name";

/// Every slice.
#[derive(Debug, Default)]
pub(super) struct Slices {
    slices: BTreeMap<QualifiedName, Slice>,
    of: BTreeMap<QualifiedName, BTreeSet<QualifiedName>>,
    /// Services that there are, with slices or without.
    known: BTreeSet<QualifiedName>,
}

/// A part of those behind a service.
#[derive(Debug)]
pub(super) struct Slice {
    service: QualifiedName,
    backends: Vec<Backend>,
}

impl Slices {
    /// A slice is now so; none: it is gone. The services that this is about.
    pub(super) fn put(&mut self, name: QualifiedName, slice: Option<Slice>) -> BTreeSet<QualifiedName> {
        let mut services = BTreeSet::new();
        if let Some(before) = self.slices.remove(&name) {
            if let Some(slices) = self.of.get_mut(&before.service) {
                slices.remove(&name);
                if slices.is_empty() {
                    self.of.remove(&before.service);
                }
            }
            services.insert(before.service);
        }
        if let Some(slice) = slice {
            services.insert(slice.service.clone());
            self.of.entry(slice.service.clone()).or_default().insert(name.clone());
            self.slices.insert(name, slice);
        }
        services
    }

    /// A service is there, or is not.
    pub(super) fn know(&mut self, service: &QualifiedName, is_there: bool) {
        match is_there {
            true => drop(self.known.insert(service.clone())),
            false => drop(self.known.remove(service)),
        }
    }

    /// Those behind a service, each once; none: there is no such service.
    pub(super) fn of(&self, service: &QualifiedName) -> Option<Vec<Backend>> {
        let mut merged: BTreeMap<(Option<QualifiedName>, Option<IpAddr>), Backend> = BTreeMap::new();
        let names = self.of.get(service).into_iter().flatten();
        for backend in names.filter_map(|name| self.slices.get(name)).flat_map(|slice| &slice.backends) {
            // Who has no name is known by its address.
            let address = backend.addresses.first().copied().filter(|_| backend.pod.is_none());
            match merged.get_mut(&(backend.pod.clone(), address)) {
                Some(known) => add(known, backend),
                None => drop(merged.insert((backend.pod.clone(), address), backend.clone())),
            }
        }
        self.known.contains(service).then(|| merged.into_values().collect())
    }
}

/// The same pod in another slice: of the other address family, of other ports, or while it moves from one to the other.
fn add(known: &mut Backend, other: &Backend) {
    for address in &other.addresses {
        if !known.addresses.contains(address) {
            known.addresses.push(*address);
        }
    }
    known.addresses.sort();
    known.ports.extend(other.ports.clone());
    known.readiness = known.readiness.max(other.readiness);
    if known.zone.is_empty() {
        known.zone.clone_from(&other.zone);
    }
    if known.node.is_empty() {
        known.node.clone_from(&other.node);
    }
}

/// A slice; none: it is no service's, or is about names.
pub(super) fn read(object: &Value) -> Option<Slice> {
    let namespace = object.pointer("/metadata/namespace")?.as_str()?;
    let service = object.pointer(OF)?.as_str()?;
    let service = QualifiedName::new(namespace.parse().ok()?, service.parse().ok()?);
    if object.get("addressType")?.as_str()? == "FQDN" {
        return None;
    }
    let ports = object.get("ports").and_then(Value::as_array).into_iter().flatten();
    let is_tcp = |port: &&Value| port.get("protocol").and_then(Value::as_str).is_none_or(|it| it == "TCP");
    let port = |port: &Value| {
        let number = port.get("port")?.as_u64().and_then(|port| u16::try_from(port).ok())?;
        Some((port.get("name").and_then(Value::as_str).unwrap_or_default().to_owned(), number))
    };
    let ports: BTreeMap<_, _> = ports.filter(is_tcp).filter_map(port).collect();
    let endpoints = object.get("endpoints").and_then(Value::as_array).into_iter().flatten();
    let backends = endpoints.filter_map(|endpoint| backend(endpoint, namespace, &ports)).collect();
    Some(Slice { service, backends })
}

fn backend(endpoint: &Value, namespace: &str, ports: &BTreeMap<String, u16>) -> Option<Backend> {
    // All of them are the same endpoint, and only the first is to be used.
    let address = endpoint.get("addresses")?.as_array()?.first()?.as_str()?.parse().ok()?;
    let is_pod = endpoint.pointer("/targetRef/kind").and_then(Value::as_str) == Some("Pod");
    let pod = endpoint.pointer("/targetRef/name").and_then(Value::as_str).filter(|_| is_pod);
    let pod = pod.map(|name| Some(QualifiedName::new(namespace.parse().ok()?, name.parse().ok()?)));
    let text = |key: &str| endpoint.get(key).and_then(Value::as_str).unwrap_or_default();
    Some(Backend {
        pod: pod.flatten(),
        addresses: vec![address],
        ports: ports.clone(),
        readiness: readiness(endpoint.get("conditions").unwrap_or(&Value::Null)),
        zone: text("zone").to_owned(),
        node: text("nodeName").into(),
    })
}

/// What is not said is as it is for a pod in its best days.
fn readiness(conditions: &Value) -> Readiness {
    let said = |key: &str| conditions.get(key).and_then(Value::as_bool);
    let ready = said("ready").unwrap_or(true);
    match (ready, said("serving").unwrap_or(ready), said("terminating").unwrap_or(false)) {
        (true, _, _) => Readiness::Ready,
        (false, true, true) => Readiness::Leaving,
        (false, _, _) => Readiness::Not,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn slice(family: &str, endpoints: &Value) -> Option<Slice> {
        read(&json!({
            "metadata": {"namespace": "shop", "name": "x", "labels": {"kubernetes.io/service-name": "orders"}},
            "addressType": family,
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}],
            "endpoints": endpoints,
        }))
    }

    fn named(pod: &str, address: &str, conditions: &Value) -> Value {
        json!({"addresses": [address], "conditions": conditions, "zone": "a", "nodeName": "n1", "targetRef": {"kind": "Pod", "name": pod}})
    }

    #[test]
    fn all_slices_of_a_service_are_one_and_both_families_one_endpoint() {
        let mut slices = Slices::default();
        let orders: QualifiedName = "shop/orders".parse().unwrap();
        let four = slice(
            "IPv4",
            &json!([named("o-1", "10.1.0.1", &json!({"ready": true})), {"addresses": ["192.0.2.7"]}]),
        );
        let six = slice("IPv6", &json!([named("o-1", "fd00::1", &json!({"ready": true}))]));
        slices.know(&orders, true);
        assert_eq!(slices.of(&orders), Some(Vec::new()));
        assert_eq!(slices.put("shop/four".parse().unwrap(), four), [orders.clone()].into());
        slices.put("shop/six".parse().unwrap(), six);
        let all = slices.of(&orders).unwrap();
        assert_eq!(all.len(), 2);
        let pod = all.iter().find(|backend| backend.pod.is_some()).unwrap();
        assert_eq!(pod.addresses.len(), 2);
        assert_eq!(pod.ports, BTreeMap::from([("http".to_owned(), 8080)]));
        assert_eq!((pod.zone.as_str(), pod.node.as_ref()), ("a", "n1"));
        slices.put("shop/four".parse().unwrap(), None);
        assert_eq!(slices.of(&orders).unwrap().len(), 1);
        slices.know(&orders, false);
        assert_eq!(slices.of(&orders), None);
        assert!(slice("FQDN", &json!([])).is_none());
    }

    #[test]
    fn readiness_is_what_the_conditions_say() {
        let check =
            |conditions: Value, expected| assert_eq!(readiness(&conditions), expected, "{conditions}");
        check(json!({}), Readiness::Ready);
        check(json!({"ready": true}), Readiness::Ready);
        check(json!({"ready": false}), Readiness::Not);
        check(json!({"ready": false, "serving": true, "terminating": true}), Readiness::Leaving);
        check(json!({"ready": false, "serving": false, "terminating": true}), Readiness::Not);
        // `publishNotReadyAddresses` makes even who leaves ready.
        check(json!({"ready": true, "serving": false, "terminating": true}), Readiness::Ready);
    }
}
