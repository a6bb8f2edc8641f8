//! `backendRefs`: where requests and connections go.

use super::super::decode::{Field, Object};
use super::super::document::field_name;
use super::filter::{self, Where};
use super::items;
use crate::model::{Backend, BackendTarget, Filters, Name, QualifiedName};

const BACKENDS: usize = 16;
const MOST_WEIGHT: u32 = 1_000_000;

pub(super) fn read_backends(
    rule: &Field<'_>,
    object: &Object<'_>,
    place: Where<'_>,
    namespace: &Name,
) -> Vec<Backend> {
    let fields = items(object, "backendRefs", BACKENDS);
    let backends: Vec<_> = fields.iter().filter_map(|field| read_backend(field, place, namespace)).collect();
    if place == Where::Connections && backends.iter().all(|backend| backend.weight == 0) {
        rule.note("no backend has a share: connections are refused");
    }
    backends
}

fn read_backend(field: &Field<'_>, place: Where<'_>, namespace: &Name) -> Option<Backend> {
    let fields: &[&str] = match place {
        Where::Connections => &["group", "kind", "name", "namespace", "port", "weight"],
        Where::Rule | Where::Backend(..) => {
            &["group", "kind", "name", "namespace", "port", "weight", "filters"]
        }
    };
    let object = field.object(fields)?;
    let weight = match object.field("weight") {
        Some(weight) => weight.integer(0..=MOST_WEIGHT)?,
        None => 1,
    };
    let filters = match place {
        Where::Backend(kind, matches) => filter::read(kind, &object, matches, place, namespace),
        Where::Rule | Where::Connections => Filters::default(),
    };
    Some(Backend { target: read_target(field, &object, namespace)?, weight, filters })
}

/// What a reference to a backend names.
pub(super) fn read_target(field: &Field<'_>, object: &Object<'_>, namespace: &Name) -> Option<BackendTarget> {
    let group = object.field("group").and_then(|field| field.text()).unwrap_or_default();
    let kind = object.field("kind").and_then(|field| field.text()).unwrap_or("Service");
    let name = object.required("name", "write the Service's name").and_then(|name| field_name(&name));
    let port = object.field("port").map(|port| port.port());
    let namespace = match object.field("namespace") {
        Some(field) => field_name(&field)?,
        None => namespace.clone(),
    };
    if (group, kind) != ("", "Service") && (group, kind) != ("core", "Service") {
        field.note(format!(
            "a {kind} is no backend that requests can be sent to: its share is answered with 500"
        ));
        return Some(BackendTarget::OtherKind);
    }
    let Some(port) = port else {
        object.required("port", "write the Service's port");
        return None;
    };
    Some(BackendTarget::Service(QualifiedName::new(namespace, name?), port?))
}
