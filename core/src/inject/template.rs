//! Where the pods stand in the kinds of Kubernetes.

use serde_json::Value;

use super::changes::Step;
use super::text;

/// A pod, or what pods are made after, in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The object that holds it, for messages: `deployment/web`.
    pub(super) owner: String,
    /// The way to what has its `metadata` and `spec`.
    pub(super) path: Vec<Step>,
}

/// Every pod and template of a document, or of the documents of a list.
pub(super) fn find(document: &Value) -> Vec<Found> {
    let kind = text(document, "kind").unwrap_or_default();
    let Some(of) = kind.strip_suffix("List") else {
        return found(document, kind, Vec::new()).into_iter().collect();
    };
    let items = document.get("items").and_then(Value::as_array).into_iter().flatten();
    let items = items.enumerate().filter_map(|(index, item)| {
        // The items of a `DeploymentList` need not repeat what they are.
        let kind = text(item, "kind").unwrap_or(of);
        found(item, kind, vec![Step::Key("items"), Step::Index(index)])
    });
    items.collect()
}

fn found(object: &Value, kind: &str, before: Vec<Step>) -> Option<Found> {
    let way: &[&'static str] = match kind {
        "Pod" => &[],
        "PodTemplate" => &["template"],
        "Deployment" | "ReplicaSet" | "StatefulSet" | "DaemonSet" | "Job" | "ReplicationController" => {
            &["spec", "template"]
        }
        "CronJob" => &["spec", "jobTemplate", "spec", "template"],
        _ => return None,
    };
    let pod = way.iter().try_fold(object, |at, key| at.get(key))?;
    // A kind of this name that is not Kubernetes' own has no pod there.
    pod.get("spec").filter(|spec| spec.is_object())?;
    let metadata = object.get("metadata");
    let name =
        metadata.and_then(|metadata| text(metadata, "name").or_else(|| text(metadata, "generateName")));
    let owner = format!("{}/{}", kind.to_ascii_lowercase(), name.unwrap_or("?"));
    let path = before.into_iter().chain(way.iter().map(|key| Step::Key(key))).collect();
    Some(Found { owner, path })
}
