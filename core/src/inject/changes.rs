//! What is done to a pod, to its object or as a JSON patch (RFC 6902).

use serde_json::{Map, Value, json};

/// A change of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Items are put before the others of a list of its spec, which is made where there is none.
    Prepend {
        /// The list.
        key: &'static str,
        /// The items.
        items: Vec<Value>,
    },
    /// An annotation is put before its others.
    Annotate {
        /// Its key.
        key: &'static str,
        /// Its value.
        value: String,
    },
}

/// A step on the way to a value in a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The value of a key.
    Key(&'static str),
    /// An item of a list.
    Index(usize),
}

/// The value at the end of the way.
pub(super) fn at_mut<'v>(document: &'v mut Value, path: &[Step]) -> Option<&'v mut Value> {
    path.iter().try_fold(document, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Index(index) => value.get_mut(index),
    })
}

impl Change {
    /// Carries it out on a pod.
    pub(super) fn apply(&self, pod: &mut Value) {
        match self {
            Self::Prepend { key, items } => {
                let Some(spec) = child(pod, "spec") else { return };
                let list = spec.entry(*key).or_insert(Value::Null);
                let before = list.as_array_mut().map(std::mem::take).unwrap_or_default();
                *list = items.iter().cloned().chain(before).collect();
            }
            Self::Annotate { key, value } => {
                let annotations = child(pod, "metadata")
                    .map(|metadata| metadata.entry("annotations").or_insert_with(|| json!({})));
                let Some(annotations) = annotations else { return };
                let before = annotations.as_object_mut().map(std::mem::take).unwrap_or_default();
                let first = ((*key).to_owned(), Value::from(value.as_str()));
                *annotations = Value::Object(std::iter::once(first).chain(before).collect());
            }
        }
    }

    /// The same as operations of a JSON patch, for a pod that the patch's document is.
    pub fn to_patch(&self, pod: &Value) -> Vec<Value> {
        let mut patch = Vec::new();
        match self {
            Self::Prepend { key, items } => {
                let list = pod.get("spec").and_then(|spec| spec.get(key)).and_then(Value::as_array);
                if list.is_none() {
                    patch.push(json!({"op": "add", "path": format!("/spec/{key}"), "value": items}));
                    return patch;
                }
                for (index, item) in items.iter().enumerate() {
                    patch.push(json!({"op": "add", "path": format!("/spec/{key}/{index}"), "value": item}));
                }
            }
            Self::Annotate { key, value } => {
                let metadata = pod.get("metadata");
                if metadata.is_none_or(Value::is_null) {
                    patch.push(json!({"op": "add", "path": "/metadata", "value": {}}));
                }
                if metadata.and_then(|metadata| metadata.get("annotations")).is_none_or(Value::is_null) {
                    patch.push(json!({"op": "add", "path": "/metadata/annotations", "value": {}}));
                }
                // RFC 6901, 3: "/" in a key is "~1", "~" is "~0".
                let escaped = key.replace('~', "~0").replace('/', "~1");
                patch.push(
                    json!({"op": "add", "path": format!("/metadata/annotations/{escaped}"), "value": value}),
                );
            }
        }
        patch
    }
}

/// A mapping of a pod, made where there is none.
fn child<'v>(pod: &'v mut Value, key: &str) -> Option<&'v mut Map<String, Value>> {
    let child = pod.as_object_mut()?.entry(key).or_insert(Value::Null);
    if child.is_null() {
        *child = json!({});
    }
    child.as_object_mut()
}
