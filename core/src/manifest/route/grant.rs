//! `ReferenceGrant`: which routes of other namespaces may send traffic to a namespace's services.

use super::super::decode::Field;
use super::super::document::field_name;
use super::super::kind::Kind;
use super::super::resource::GrantSpec;
use super::{GROUP, items};

const ENTRIES: usize = 16;

pub(in super::super) fn read(spec: &Field<'_>) -> Option<GrantSpec> {
    let spec = spec.object(&["from", "to"])?;
    let hint = "a grant says from where and to what";
    for key in ["from", "to"] {
        if let Some(field) = spec.required(key, hint)
            && field.list().is_some_and(|list| list.is_empty())
        {
            field.mistake("at least one is expected", hint);
        }
    }
    let mut grant = GrantSpec::default();
    for field in items(&spec, "from", ENTRIES) {
        let Some(object) = field.object(&["group", "kind", "namespace"]) else { continue };
        let group = object.required("group", "write group: gateway.networking.k8s.io");
        let kind = object.required("kind", "write a kind of route, such as HTTPRoute");
        let namespace = object.required("namespace", "write the routes' namespace");
        let (Some(group), Some(kind), Some(namespace)) = (group, kind, namespace) else { continue };
        let (Some(group), Some(kind), Some(namespace)) = (group.text(), kind.text(), field_name(&namespace))
        else {
            continue;
        };
        // Of what is no route, others may make use.
        let route = Kind::ROUTES.into_iter().find(|route| group == GROUP && route.as_str() == kind);
        grant.from.extend(route.map(|route| (route, namespace)));
    }
    for field in items(&spec, "to", ENTRIES) {
        let Some(object) = field.object(&["group", "kind", "name"]) else { continue };
        let group = object.required("group", "write group: \"\"").and_then(|field| field.text());
        let kind = object.required("kind", "write kind: Service").and_then(|field| field.text());
        let name = match object.field("name") {
            Some(name) => match field_name(&name) {
                Some(name) => Some(name),
                None => continue,
            },
            None => None,
        };
        if matches!((group, kind), (Some("" | "core"), Some("Service"))) {
            grant.to.push(name);
        }
    }
    Some(grant)
}
