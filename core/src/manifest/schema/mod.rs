//! CustomResourceDefinitions for the kinds that are ours: what a cluster's API server refuses before we see it.
//!
//! A schema says of each field what its reader takes, as far as OpenAPI can; a test walks over both and finds every
//! field that only the reader knows. What a schema cannot say is told in the object's status.

mod policies;
mod resources;
mod traffic;

use serde_json::{Map, Value, json};

use super::Kind;

/// The kinds that are ours.
pub const KINDS: [Kind; 8] = [
    Kind::AuthorizationPolicy,
    Kind::ExternalService,
    Kind::FaultInjection,
    Kind::JwtAuthentication,
    Kind::MeshConfig,
    Kind::RateLimit,
    Kind::TrafficPolicy,
    Kind::Workload,
];

/// Gateway API durations (GEP-2257).
const DURATION: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";
/// An object's name (RFC 1123).
const NAME: &str = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$";

/// The definitions of all kinds that are ours.
pub fn definitions() -> Vec<Value> {
    KINDS.into_iter().map(definition).collect()
}

/// The definition of a kind.
fn definition(kind: Kind) -> Value {
    let plural = kind.plural();
    let singular = kind.as_str().to_lowercase();
    let has_target = !matches!(kind, Kind::ExternalService | Kind::MeshConfig | Kind::Workload);
    let mut columns = Vec::new();
    if has_target {
        columns.push(json!({"name": "Target kind", "type": "string", "jsonPath": ".spec.targetRef.kind"}));
        columns.push(json!({"name": "Target", "type": "string", "jsonPath": ".spec.targetRef.name"}));
    }
    let accepted = ".status.conditions[?(@.type==\"Accepted\")].status";
    columns.push(json!({"name": "Accepted", "type": "string", "jsonPath": accepted}));
    columns.push(json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}));
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.{}", kind.group()),
            "labels": {"app.kubernetes.io/part-of": "weft"},
        },
        "spec": {
            "group": kind.group(),
            "names": {
                "kind": kind.as_str(),
                "listKind": format!("{}List", kind.as_str()),
                "plural": plural,
                "singular": singular,
                "categories": ["weft"],
            },
            "scope": if kind.is_namespaced() { "Namespaced" } else { "Cluster" },
            "versions": kind.versions().iter().enumerate().map(|(index, version)| json!({
                "name": version,
                "served": true,
                "storage": index == 0,
                "schema": {"openAPIV3Schema": whole(kind)},
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns,
            })).collect::<Vec<_>>(),
        },
    })
}

/// The whole object.
fn whole(kind: Kind) -> Value {
    let of = |kind: &str| json!({"type": kind});
    let whole = object(
        &["spec"],
        [
            ("apiVersion", of("string")),
            ("kind", of("string")),
            ("metadata", of("object")),
            ("spec", spec(kind)),
            ("status", status()),
        ],
    );
    let mut whole = match kind {
        Kind::MeshConfig => {
            with_rules(whole, &[("self.metadata.name == 'default'", "a MeshConfig must be named default")])
        }
        _ => whole,
    };
    if let Some(whole) = whole.as_object_mut() {
        whole.insert("description".into(), about(kind).into());
    }
    whole
}

fn about(kind: Kind) -> &'static str {
    match kind {
        Kind::AuthorizationPolicy => "Who may call whom, and how.",
        Kind::ExternalService => "A service outside the mesh, by its host names.",
        Kind::FaultInjection => "What callers are to be tried with.",
        Kind::JwtAuthentication => "Whose tokens requests carry.",
        Kind::MeshConfig => "Settings of the whole mesh.",
        Kind::RateLimit => "How often who may call.",
        Kind::TrafficPolicy => "How services are to be called.",
        Kind::Workload => "An endpoint that does not register itself.",
        _ => "",
    }
}

/// What a kind's spec may hold; of a kind that is not ours nothing is known.
pub fn spec(kind: Kind) -> Value {
    match kind {
        Kind::AuthorizationPolicy => policies::authorization(),
        Kind::ExternalService => resources::external_service(),
        Kind::FaultInjection => policies::fault_injection(),
        Kind::JwtAuthentication => policies::jwt_authentication(),
        Kind::MeshConfig => resources::mesh_config(),
        Kind::RateLimit => policies::rate_limit(),
        Kind::TrafficPolicy => traffic::policy(),
        Kind::Workload => resources::workload(),
        _ => anything(),
    }
}

/// What became of it.
fn status() -> Value {
    let condition = object(
        &["type", "status", "lastTransitionTime", "reason"],
        [
            ("type", text()),
            ("status", words(&["True", "False", "Unknown"])),
            ("observedGeneration", json!({"type": "integer", "format": "int64"})),
            ("lastTransitionTime", json!({"type": "string", "format": "date-time"})),
            ("reason", text()),
            ("message", text()),
        ],
    );
    let mut conditions = list(condition, 0, 8);
    if let Some(conditions) = conditions.as_object_mut() {
        conditions.insert("x-kubernetes-list-type".into(), "map".into());
        conditions.insert("x-kubernetes-list-map-keys".into(), json!(["type"]));
    }
    object(&[], [("conditions", conditions)])
}

/// What a policy is about.
fn target(kinds: &[&str]) -> Value {
    let target = object(&["kind"], [("kind", words(kinds)), ("name", name())]);
    let rule = "self.kind in ['Mesh', 'Namespace'] || has(self.name)";
    with_rules(target, &[(rule, "a name is expected: whose policy this is")])
}

fn object<const N: usize>(required: &[&str], properties: [(&str, Value); N]) -> Value {
    let properties: Map<String, Value> =
        properties.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let mut object = json!({"type": "object", "properties": properties});
    if let (Some(object), false) = (object.as_object_mut(), required.is_empty()) {
        object.insert("required".into(), json!(required));
    }
    object
}

fn with_rules(mut schema: Value, rules: &[(&str, &str)]) -> Value {
    let rules: Vec<_> =
        rules.iter().map(|(rule, message)| json!({"rule": rule, "message": message})).collect();
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("x-kubernetes-validations".into(), rules.into());
    }
    schema
}

fn list(items: Value, least: usize, most: usize) -> Value {
    let mut list = json!({"type": "array", "items": items, "maxItems": most});
    if let (Some(list), true) = (list.as_object_mut(), least > 0) {
        list.insert("minItems".into(), least.into());
    }
    list
}

fn text() -> Value {
    json!({"type": "string"})
}

fn name() -> Value {
    json!({"type": "string", "pattern": NAME, "maxLength": 253})
}

fn words(words: &[&str]) -> Value {
    json!({"type": "string", "enum": words})
}

fn flag() -> Value {
    json!({"type": "boolean"})
}

fn integer(least: u32, most: u32) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": most})
}

fn port() -> Value {
    integer(1, 65_535)
}

fn duration() -> Value {
    json!({"type": "string", "pattern": DURATION})
}

/// `0.2` or `20%`: a number or a text, of which OpenAPI's structural schemas have no word.
fn ratio() -> Value {
    json!({"x-kubernetes-preserve-unknown-fields": true, "description": "A ratio: 0.2 or 20%."})
}

fn number_or_text() -> Value {
    json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]})
}

fn anything() -> Value {
    json!({"x-kubernetes-preserve-unknown-fields": true})
}
