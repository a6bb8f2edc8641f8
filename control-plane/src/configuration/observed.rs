//! Configuration that lies in a cluster: it is changed there, and only observed here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde_json::Value;
use tokio::sync::watch;
use weft_core::manifest::{Kind, Resource, ResourceKey};
use weft_core::world::Change;

use super::kept::again;
use super::room;
use super::{By, Configuration, ConfigurationError, Documents, Outcome, State, differences, same};
use crate::store::RevisionSource;

/// Who owns documents of a cluster, as the world knows them.
pub(crate) const KUBERNETES: &str = "kubernetes";
/// Authors that a revision names.
const NAMED: usize = 3;

/// Where the mesh's configuration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    /// In our store, and the watched folder.
    Here,
    /// In a cluster, which was not read yet, or with us: that is not known.
    NotReadYet,
    /// In the cluster.
    Kubernetes,
}

/// Who has written something, and when; the later one is the greater.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Author {
    /// When, where that is known.
    pub(crate) time: Option<SystemTime>,
    /// What wrote it: `kubectl-client-side-apply`, `argocd-controller`.
    pub(crate) manager: String,
}

/// Who has written which document last.
pub(crate) type Authors = BTreeMap<ResourceKey, Author>;

/// Whether history tells of this kind. Services and namespaces come and go with what the cluster runs, and say little to the mesh.
pub(crate) fn is_observed(kind: Kind) -> bool {
    !matches!(kind, Kind::Service | Kind::Namespace)
}

impl Configuration {
    /// The same whose documents may lie in a cluster.
    pub(crate) fn at_home(self, home: watch::Receiver<Home>) -> Self {
        Self { home, ..self }
    }

    /// Where the mesh's configuration is.
    pub(crate) fn home(&self) -> Home {
        *self.home.borrow()
    }

    /// Refuses what is changed in the cluster, and says how it is done there.
    pub(super) fn expect_at_home(&self, how: impl FnOnce() -> String) -> Result<(), ConfigurationError> {
        match self.home() {
            Home::Here => Ok(()),
            Home::NotReadYet => Err(ConfigurationError::NotReadYet),
            Home::Kubernetes => Err(ConfigurationError::InKubernetes(how())),
        }
    }

    /// All documents of the cluster, as the world knows them.
    pub(super) fn of_cluster(&self) -> Documents {
        let known = |resource: &Resource| (resource.key(), resource.clone());
        self.world.read(|all| all.source(KUBERNETES).map(known).collect())
    }

    /// Writes a revision down of what the cluster's documents have become, where they are others than the last one says.
    pub(crate) async fn observe(&self, authors: &Authors) -> Result<(), ConfigurationError> {
        again(|| self.observe_once(authors)).await
    }

    async fn observe_once(&self, authors: &Authors) -> Result<(), ConfigurationError> {
        let mut state = self.caught_up().await?;
        let mut observed = self.of_cluster();
        observed.retain(|key, resource| is_observed(key.kind) && room::fits(resource));
        if same(&observed, &state.observed) {
            return Ok(());
        }
        let next = State { observed, ..state.clone() };
        let changes = differences(&state, &next);
        let written: Vec<_> = changes.iter().filter_map(|change| authors.get(&change.key)).collect();
        let author = names(&written);
        let latest = written.iter().filter_map(|author| author.time).max();
        let now = SystemTime::now();
        let by = By {
            source: RevisionSource::Kubernetes,
            author: &author,
            time: latest.map_or(now, |at| at.min(now)),
        };
        let mut outcome = Outcome { revision: state.revision, changes, ..Outcome::default() };
        self.commit(&mut state, next, &mut outcome, by).await
    }
}

/// What a document of the cluster would be if this were applied: what the API server has made of it stays, its age and its order.
pub(super) fn as_there(mut resource: Resource, before: &Documents) -> Resource {
    const CREATED: &str = "creationTimestamp";
    let Some(there) = before.get(&resource.key()).map(|resource| &resource.document) else { return resource };
    let created = there.get("metadata").and_then(|metadata| metadata.get(CREATED).cloned());
    let metadata = resource.document.get_mut("metadata").and_then(Value::as_object_mut);
    if let (Some(created), Some(metadata)) = (created, metadata) {
        metadata.insert(CREATED.into(), created);
    }
    order_as(&mut resource.document, there);
    resource
}

/// Puts keys into the order of another document, so that a difference is one of what is said.
fn order_as(value: &mut Value, other: &Value) {
    match (value, other) {
        (Value::Object(value), Value::Object(other)) => {
            let mut left = std::mem::take(value);
            for (key, there) in other {
                if let Some(mut said) = left.shift_remove(key) {
                    order_as(&mut said, there);
                    value.insert(key.clone(), said);
                }
            }
            value.extend(left);
        }
        (Value::Array(value), Value::Array(other)) => {
            value.iter_mut().zip(other).for_each(|(value, other)| order_as(value, other));
        }
        _ => {}
    }
}

/// How a document of the cluster is deleted.
pub(super) fn deletion(key: &ResourceKey) -> String {
    let kind = key.kind;
    let kind = if kind.group().is_empty() {
        kind.plural().into()
    } else {
        format!("{}.{}", kind.plural(), kind.group())
    };
    let namespace = key.namespace.as_ref().map(|namespace| format!(" -n {namespace}")).unwrap_or_default();
    format!("kubectl delete {kind} {}{namespace}", key.name)
}

/// Documents of a source, in place of those that it has.
pub(super) fn replacing(source: &str, documents: &Documents) -> Change {
    Change::Documents { source: source.into(), resources: documents.values().cloned().collect() }
}

fn names(authors: &[&Author]) -> String {
    let names: BTreeSet<_> = authors.iter().map(|author| author.manager.as_str()).collect();
    let named: Vec<_> = names.iter().take(NAMED).copied().collect();
    match names.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
