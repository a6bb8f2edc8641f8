//! Kubernetes' objects as the world knows them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};
use weft_core::inject;
use weft_core::manifest::{self, Kind, Problem, Resource, ResourceKey};
use weft_core::model::{Name, QualifiedName};
use weft_core::world::Pod;

use crate::configuration::Author;
use crate::report::from_rfc3339;

/// What of an object's metadata says something to the mesh.
const METADATA: [&str; 5] = ["name", "namespace", "labels", "annotations", "creationTimestamp"];
/// What `kubectl apply` notes down for itself.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// What of a Service says something to the mesh. The API server knows more fields than any version of ours.
const SERVICE: [&str; 7] = [
    "ports",
    "selector",
    "clusterIP",
    "clusterIPs",
    "type",
    "publishNotReadyAddresses",
    "trafficDistribution",
];

/// Mistakes of an object that are told at once.
const MOST_SAID: usize = 5;

/// What an object turned out to be.
#[derive(Debug)]
pub(super) enum Seen {
    /// A resource.
    Resource(Box<Resource>),
    /// Nothing of the mesh's: a Service that is only another name for a host.
    Elsewhere(ResourceKey),
    /// Wrong, and why.
    Wrong(ResourceKey, String),
    /// Without a name that we could take.
    Nameless,
}

/// A pod; none: it has ended, and its addresses may be another's.
pub(super) fn pod(name: &QualifiedName, object: &Value) -> Option<Pod> {
    let phase = object.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if matches!(phase, "Succeeded" | "Failed") {
        return None;
    }
    let (metadata, spec) = (object.get("metadata")?, object.get("spec")?);
    let account = spec.get("serviceAccountName").and_then(Value::as_str).unwrap_or("default");
    let is_hosts = spec.get("hostNetwork") == Some(&Value::Bool(true));
    Some(Pod {
        name: name.clone(),
        service_account: account.parse().ok()?,
        labels: texts(metadata.get("labels")),
        addresses: if is_hosts { Vec::new() } else { addresses(object) },
        ports: named_ports(spec),
        opaque: opaque_ports(metadata),
        has_sidecar: !is_hosts && inject::has_sidecar(metadata, spec),
        node: spec.get("nodeName").and_then(Value::as_str).unwrap_or_default().into(),
        is_leaving: metadata.get("deletionTimestamp").is_some_and(|at| !at.is_null()),
    })
}

/// Who has written an object last, and when, as the API server remembers it; of its status, which is ours, nobody asks.
pub(super) fn author(object: &Value) -> Option<Author> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array)?;
    let said = entries.iter().filter(|entry| entry.get("subresource").is_none());
    let author = |entry: &Value| {
        let time = entry.get("time").and_then(Value::as_str).and_then(from_rfc3339);
        Some(Author { time, manager: entry.get("manager")?.as_str()?.to_owned() })
    };
    said.filter_map(author).max()
}

/// The services that a route says it is one of, each as its status names it.
pub(super) fn parents(object: &Value) -> Vec<Value> {
    let all = object.pointer("/spec/parentRefs").and_then(Value::as_array);
    let is_service = |parent: &&Value| {
        let text = |key: &str| parent.get(key).and_then(Value::as_str);
        text("kind") == Some("Service") && matches!(text("group"), Some("" | "core"))
    };
    let named = |mut parent: Value| {
        if let Some(parent) = parent.as_object_mut()
            && let Some(own) = object.pointer("/metadata/namespace")
        {
            parent.entry("namespace").or_insert_with(|| own.clone());
        }
        parent
    };
    all.into_iter().flatten().filter(is_service).cloned().map(named).collect()
}

/// A document of one of our kinds.
pub(super) fn document(kind: Kind, version: &str, mut object: Value) -> Seen {
    let Some(key) = super::key_of(&object).and_then(|(namespace, name)| {
        let namespace = if kind.is_namespaced() { Some(namespace.parse::<Name>().ok()?) } else { None };
        Some(ResourceKey { kind, namespace, name: name.parse().ok()? })
    }) else {
        return Seen::Nameless;
    };
    let is_other_name = object.pointer("/spec/type").and_then(Value::as_str) == Some("ExternalName");
    if kind == Kind::Service && is_other_name {
        return Seen::Elsewhere(key);
    }
    let group = kind.group();
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut taken = |key: &str| object.get_mut(key).map(Value::take).unwrap_or_default();
    let mut document = json!({"apiVersion": api_version, "kind": kind.as_str()});
    let mut metadata = only(taken("metadata"), &METADATA);
    if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    let spec = taken("spec");
    if let Some(document) = document.as_object_mut() {
        document.insert("metadata".into(), metadata.into());
        match kind {
            Kind::Namespace => {}
            Kind::Service => drop(document.insert("spec".into(), only(spec, &SERVICE).into())),
            _ => drop(document.insert("spec".into(), spec)),
        }
    }
    // The API server gives every object of a namespace its own.
    let Ok(unused) = "default".parse::<Name>() else { return Seen::Nameless };
    match manifest::restore(&document, &unused, super::SOURCE) {
        Ok(resource) => Seen::Resource(Box::new(resource)),
        Err(problems) => {
            let say = |problem: &Problem| match problem.hint.as_str() {
                "" => problem.message.clone(),
                hint => format!("{}; {hint}", problem.message),
            };
            let said: Vec<_> = problems.iter().take(MOST_SAID).map(say).collect();
            Seen::Wrong(key, said.join(". "))
        }
    }
}

fn only(value: Value, keys: &[&str]) -> Map<String, Value> {
    let Value::Object(mut map) = value else { return Map::new() };
    map.retain(|key, _| keys.contains(&key.as_str()));
    map
}

fn texts(value: Option<&Value>) -> BTreeMap<String, String> {
    let entries = value.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

fn addresses(object: &Value) -> Vec<IpAddr> {
    let listed = object.pointer("/status/podIPs").and_then(Value::as_array).into_iter().flatten();
    listed.filter_map(|item| item.get("ip")?.as_str()?.parse().ok()).collect()
}

/// Sidecars among the init containers serve too.
fn named_ports(spec: &Value) -> BTreeMap<String, u16> {
    let list = |key: &str| spec.get(key).and_then(Value::as_array).into_iter().flatten();
    let ports = list("initContainers")
        .chain(list("containers"))
        .flat_map(|container| container.get("ports").and_then(Value::as_array).into_iter().flatten());
    let is_tcp = |port: &&Value| port.get("protocol").and_then(Value::as_str).is_none_or(|it| it == "TCP");
    let named = ports.filter(is_tcp).filter_map(|port| {
        let number = port.get("containerPort")?.as_u64().and_then(|port| u16::try_from(port).ok())?;
        Some((port.get("name")?.as_str()?.to_owned(), number))
    });
    named.collect()
}

/// What is wrong in it was refused when the pod was made.
fn opaque_ports(metadata: &Value) -> Vec<RangeInclusive<u16>> {
    let annotation = inject::Annotation::OpaquePorts.as_str();
    let said = metadata.get("annotations").and_then(|all| all.get(annotation)).and_then(Value::as_str);
    let range = |item: &str| {
        let (first, last) = item.split_once('-').unwrap_or((item, item));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    said.into_iter().flat_map(|list| list.split(',')).filter_map(range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> QualifiedName {
        "shop/orders-1".parse().unwrap()
    }

    #[test]
    fn a_pod_is_known_by_its_account_labels_node_ports_and_sidecar() {
        let object = json!({
            "metadata": {"namespace": "shop", "name": "orders-1", "labels": {"app": "orders"},
                "annotations": {"weft.mesh/injected": "{}", "weft.mesh/opaque-ports": "3306, 9000-9010"}},
            "spec": {
                "serviceAccountName": "orders",
                "nodeName": "n1",
                "initContainers": [{"name": "weft-proxy"}],
                "containers": [{"name": "app", "ports": [
                    {"name": "http", "containerPort": 8080},
                    {"name": "dns", "containerPort": 53, "protocol": "UDP"},
                    {"containerPort": 9000},
                ]}],
            },
            "status": {"phase": "Running", "podIPs": [{"ip": "10.1.0.7"}, {"ip": "fd00::7"}]},
        });
        let read = pod(&name(), &object).unwrap();
        assert_eq!(read.service_account.as_str(), "orders");
        assert_eq!((read.labels["app"].as_str(), read.node.as_ref()), ("orders", "n1"));
        assert_eq!(read.addresses, ["10.1.0.7".parse::<IpAddr>().unwrap(), "fd00::7".parse().unwrap()]);
        assert_eq!(read.ports, BTreeMap::from([("http".to_owned(), 8080)]));
        assert_eq!((read.is_opaque(3306), read.is_opaque(9005), read.is_opaque(80)), (true, true, false));
        assert!(read.has_sidecar);
    }

    #[test]
    fn who_shares_the_node_s_network_has_no_address_of_its_own_and_who_has_ended_is_gone() {
        let pod_with = |spec: Value, phase: &str| {
            let status = json!({"phase": phase, "podIPs": [{"ip": "10.0.0.1"}]});
            let object = json!({"metadata": {"name": "x"}, "spec": spec, "status": status});
            pod(&name(), &object)
        };
        let host = pod_with(json!({"hostNetwork": true}), "Running").unwrap();
        assert!(host.addresses.is_empty() && !host.has_sidecar);
        assert_eq!(
            (host.service_account.as_str(), host.node.as_ref()),
            ("default", ""),
            "it has no node yet"
        );
        assert_eq!(pod_with(json!({}), "Succeeded"), None);
        assert_eq!(pod_with(json!({}), "Failed"), None);
    }

    #[test]
    fn the_author_is_who_wrote_last_and_not_who_says_how_it_is() {
        let entry = |manager: &str, time: &str, more: Value| {
            let mut entry = json!({"manager": manager, "operation": "Update", "time": time});
            entry.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            entry
        };
        let object = json!({"metadata": {"managedFields": [
            entry("helm", "2026-11-26T10:00:00Z", json!({})),
            entry("kubectl-edit", "2026-11-26T10:00:01Z", json!({})),
            entry("weft", "2026-11-26T10:00:02Z", json!({"subresource": "status"})),
        ]}});
        let found = author(&object).unwrap();
        assert_eq!(found.manager, "kubectl-edit");
        assert_eq!(found.time.map(crate::report::rfc3339_seconds).as_deref(), Some("2026-11-26T10:00:01Z"));
        assert_eq!(author(&json!({"metadata": {}})), None);
    }

    #[test]
    fn documents_are_read_as_files_are_and_what_is_wrong_is_said() {
        let service = |spec: Value| {
            json!({"metadata": {"namespace": "shop", "name": "orders", "resourceVersion": "7", "managedFields": [],
                "annotations": {LAST_APPLIED: "{}"}}, "spec": spec, "status": {"loadBalancer": {}}})
        };
        let spec = json!({"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd00:96::9"], "newIn2030": 1,
            "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}], "selector": {"app": "orders"}});
        let Seen::Resource(read) = document(Kind::Service, "v1", service(spec)) else {
            panic!("it is right")
        };
        assert_eq!(read.key().to_string(), "Service shop/orders");
        assert!(read.document.pointer("/metadata/resourceVersion").is_none() && read.annotations.is_empty());
        let other =
            document(Kind::Service, "v1", service(json!({"type": "ExternalName", "externalName": "h"})));
        assert!(matches!(other, Seen::Elsewhere(_)), "{other:?}");
        let policy = json!({"metadata": {"namespace": "shop", "name": "p"}, "spec": {"targetRef": {"kind": "Service", "name": "x"}, "timeouts": {"request": "soon"}}});
        let Seen::Wrong(key, problem) = document(Kind::TrafficPolicy, "v1alpha1", policy) else {
            panic!("it is wrong")
        };
        assert_eq!(key.to_string(), "TrafficPolicy shop/p");
        assert!(
            problem.contains("spec.timeouts.request") && problem.contains("write a duration"),
            "{problem}"
        );
    }
}
