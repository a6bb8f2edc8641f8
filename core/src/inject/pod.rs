//! Whether a pod gets a sidecar, and what it is given.

use serde_json::{Value, json};

use super::annotations::{Annotation, BadAnnotation, Wishes};
use super::changes::Change;
use super::{Form, INJECTED, SIDECAR_UID, Settings, container, text};

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Injection {
    /// It is changed so.
    Changes(Vec<Change>),
    /// It stays as it is.
    Not(NotInjected),
}

/// Why a pod gets no sidecar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotInjected {
    /// It has one.
    #[error("it has a sidecar already")]
    Already,
    /// It does not want one.
    #[error("weft.mesh/inject is disabled")]
    Disabled,
    /// Its network is the node's.
    #[error("hostNetwork: its network is the node's, and interception would reach all that runs there")]
    HostNetwork,
    /// It runs on Windows.
    #[error("it runs on Windows, where there is no sidecar")]
    Windows,
    /// It has no app.
    #[error("it has no containers")]
    NoContainers,
    /// Its network is somebody else's.
    #[error("network_mode: {0}: its network is not its own")]
    Network(String),
    /// There are several of it.
    #[error("it has copies, and each would need a sidecar of its own; write them as services")]
    Copies,
    /// Its app runs as the sidecar's user.
    #[error(
        "{0} runs as user 2102, the sidecar's own, whose connections are not intercepted; choose another user"
    )]
    Uid(String),
    /// Another container has the sidecar's name.
    #[error("it has a container named {0:?} that is not ours; rename it")]
    NameTaken(String),
}

/// Decides about a pod by its metadata and spec.
pub fn into_pod(metadata: &Value, spec: &Value, settings: &Settings) -> Result<Injection, BadAnnotation> {
    let wishes = Wishes::read(metadata)?;
    if let Some(reason) = not_injected(metadata, spec, &wishes) {
        return Ok(Injection::Not(reason));
    }
    let init = container::init(settings, &wishes);
    let sidecar = container::sidecar(settings, &wishes, spec);
    let mut changes = match settings.sidecar {
        Form::Native => vec![Change::Prepend { key: "initContainers", items: vec![init, sidecar] }],
        Form::Container => vec![
            Change::Prepend { key: "initContainers", items: vec![init] },
            Change::Prepend { key: "containers", items: vec![sidecar] },
        ],
    };
    changes.push(Change::Prepend { key: "volumes", items: container::volumes() });
    let added = |change: &Change| match change {
        Change::Prepend { key, .. } if spec.get(key).is_none() => Some(*key),
        Change::Prepend { .. } | Change::Annotate { .. } => None,
    };
    let mut added: Vec<&str> = changes.iter().filter_map(added).collect();
    if metadata.get("annotations").is_none() {
        added.push("annotations");
    }
    // A pod always has metadata; a template may have none.
    if metadata.is_null() {
        added.push("metadata");
    }
    let record = json!({"version": env!("CARGO_PKG_VERSION"), "added": added}).to_string();
    changes.push(Change::Annotate { key: INJECTED, value: record });
    Ok(Injection::Changes(changes))
}

fn not_injected(metadata: &Value, spec: &Value, wishes: &Wishes<'_>) -> Option<NotInjected> {
    let named = |name: &str| containers(spec).any(|container| text(container, "name") == Some(name));
    let taken = [container::INIT, container::SIDECAR].into_iter().find(|name| named(name));
    if taken.is_some() && is_injected(metadata) {
        return Some(NotInjected::Already);
    }
    if wishes.get(Annotation::Inject) == Some("disabled") {
        return Some(NotInjected::Disabled);
    }
    if let Some(name) = taken {
        return Some(NotInjected::NameTaken(name.to_owned()));
    }
    if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
        return Some(NotInjected::HostNetwork);
    }
    if is_windows(spec) {
        return Some(NotInjected::Windows);
    }
    if spec.get("containers").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        return Some(NotInjected::NoContainers);
    }
    runs_as_sidecar(spec).map(NotInjected::Uid)
}

/// Whether a pod says that we gave it a sidecar.
pub(super) fn is_injected(metadata: &Value) -> bool {
    metadata.get("annotations").is_some_and(|annotations| annotations.get(INJECTED).is_some())
}

/// Whether a pod has a sidecar of ours beside its app.
pub fn has_sidecar(metadata: &Value, spec: &Value) -> bool {
    let is_ours = |container: &Value| text(container, "name") == Some(container::SIDECAR);
    is_injected(metadata) && containers(spec).any(is_ours)
}

pub(super) fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    let list = |key: &str| spec.get(key).and_then(Value::as_array).into_iter().flatten();
    list("initContainers").chain(list("containers"))
}

fn is_windows(spec: &Value) -> bool {
    let os = spec.get("os").and_then(|os| text(os, "name"));
    let selected = spec.get("nodeSelector").and_then(|selector| text(selector, "kubernetes.io/os"));
    [os, selected].into_iter().flatten().any(|name| name.eq_ignore_ascii_case("windows"))
}

/// What of the pod runs as the sidecar's user: a container's own user goes before the pod's.
fn runs_as_sidecar(spec: &Value) -> Option<String> {
    let user = |of: &Value| of.get("securityContext")?.get("runAsUser")?.as_u64();
    let pods = user(spec);
    let clash = containers(spec).find(|container| user(container).or(pods) == Some(SIDECAR_UID))?;
    Some(format!("the container {:?}", text(clash, "name").unwrap_or_default()))
}
