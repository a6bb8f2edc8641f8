//! Keeps in the cluster what others rely on: the trust anchors in every namespace with sidecars, the webhook's
//! authority, and what became of each route and policy. One control plane of several does, the one that leads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use weft_core::manifest::{Kind, Resource, ResourceKey, Spec};

use super::{Cluster, Refusal, collection_of};
use crate::api::{CONTROLLER, route_status};
use crate::app::AdminToken;
use crate::ca::Ca;
use crate::kubernetes::{ApiError, Client, Lease};
use crate::report::{chain, rfc3339_seconds};
use crate::world::World;

/// Where sidecars find the trust anchors.
pub(crate) const ANCHORS: &str = "weft-ca";
/// Where administrators find the token that they show.
const ADMIN: &str = "weft-admin";
/// The configuration of our webhook.
pub(crate) const WEBHOOK: &str = "weft-injector";
/// How often everything is looked at, whatever happens.
const LOOK: Duration = Duration::from_secs(30);
/// How long changes gather.
const GATHER: Duration = Duration::from_millis(250);
/// How often what was written is written again, lest somebody changed it.
const AGAIN: Duration = Duration::from_mins(10);

/// The loop, and what it looks at.
pub(crate) struct Keep {
    pub(crate) client: Arc<Client>,
    pub(crate) world: Arc<World>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) ca: Arc<Ca>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) admin: AdminToken,
}

/// What was written, so that nothing is written twice.
#[derive(Default)]
struct Written {
    anchors: BTreeMap<String, String>,
    statuses: BTreeMap<ResourceKey, Value>,
    has_admin: bool,
    since: Option<Instant>,
}

impl fmt::Debug for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keep").finish_non_exhaustive()
    }
}

impl Keep {
    /// Keeps it in step, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let (mut leads, mut published) = (self.lease.leads(), self.world.published());
        let (mut changed, mut synced) = (self.ca.changes(), self.cluster.synced());
        let mut configured = self.cluster.configured.subscribe();
        let mut written = Written::default();
        loop {
            // Its senders live in what we hold.
            let _ = synced.wait_for(|synced| *synced).await;
            if !*leads.borrow_and_update() {
                // Who led last has written since.
                written = Written::default();
                let _ = leads.changed().await;
                continue;
            }
            published.mark_unchanged();
            configured.mark_unchanged();
            self.look(&mut written).await;
            tokio::select! {
                () = sleep(LOOK) => {}
                _ = published.changed() => {}
                _ = configured.changed() => {}
                _ = changed.changed() => {}
                _ = leads.changed() => {}
            }
            sleep(GATHER).await;
        }
    }

    async fn look(&self, written: &mut Written) {
        if written.since.is_none_or(|since| since.elapsed() > AGAIN) {
            *written = Written { since: Some(Instant::now()), ..Written::default() };
        }
        let anchors = self.ca.anchors_pem();
        if let Err(error) = self.trust_the_webhook(&anchors).await {
            tracing::warn!(
                reason = chain(&error),
                "cannot tell the API server whom its webhook is proved by"
            );
        }
        for namespace in self.namespaces() {
            if written.anchors.get(&namespace) == Some(&anchors) {
                continue;
            }
            match self.write_anchors(&namespace, &anchors).await {
                Ok(()) => drop(written.anchors.insert(namespace, anchors.clone())),
                // It is on its way out.
                Err(error)
                    if matches!(error.status(), Some(StatusCode::NOT_FOUND | StatusCode::FORBIDDEN)) =>
                {
                    tracing::debug!(namespace, reason = chain(&error), "no trust anchors written");
                }
                Err(error) => {
                    tracing::warn!(namespace, reason = chain(&error), "cannot write the trust anchors")
                }
            }
        }
        if !written.has_admin {
            match self.write_admin_token().await {
                Ok(()) => written.has_admin = true,
                Err(error) => {
                    tracing::warn!(reason = chain(&error), "cannot write the administrators' token")
                }
            }
        }
        for (key, status) in self.statuses() {
            if written.statuses.get(&key) == Some(&status) {
                continue;
            }
            match self.write_status(&key, &status).await {
                Ok(()) => drop(written.statuses.insert(key, status)),
                Err(error) => {
                    tracing::debug!(object = %key, reason = chain(&error), "cannot write its status")
                }
            }
        }
    }

    /// Those whose pods get sidecars, or have some.
    fn namespaces(&self) -> BTreeSet<String> {
        self.world.read(|known| {
            let wants = |resource: &&Resource| {
                resource.kind == Kind::Namespace
                    && resource.labels.get("weft.mesh/inject").map(String::as_str) == Some("enabled")
            };
            let wanting = known.resources().filter(wants).map(|resource| resource.name.to_string());
            let having = known.pods().filter(|pod| pod.has_sidecar).map(|pod| pod.name.namespace.to_string());
            // Ours is where administrators look for them.
            wanting.chain(having).chain([self.client.namespace().to_owned()]).collect()
        })
    }

    async fn write_anchors(&self, namespace: &str, anchors: &str) -> Result<(), ApiError> {
        let map = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": ANCHORS, "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": "weft"}},
            "data": {"ca.pem": anchors},
        });
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/{ANCHORS}");
        self.client.apply(&path, &map).await.map(drop)
    }

    async fn write_admin_token(&self) -> Result<(), ApiError> {
        let namespace = self.client.namespace();
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": ADMIN, "namespace": namespace, "labels": {"app.kubernetes.io/managed-by": "weft"}},
            "type": "Opaque",
            "data": {"token": STANDARD.encode(self.admin.reveal())},
        });
        let path = format!("/api/v1/namespaces/{namespace}/secrets/{ADMIN}");
        self.client.apply(&path, &secret).await.map(drop)
    }

    /// Our own authority proves the webhook; where there is no webhook there is nothing to do.
    async fn trust_the_webhook(&self, anchors: &str) -> Result<(), ApiError> {
        let path = format!("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{WEBHOOK}");
        let mut object = match self.client.get(&path).await {
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => return Ok(()),
            read => read?,
        };
        let bundle = STANDARD.encode(anchors);
        let mut is_other = false;
        for webhook in object.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
            let Some(config) = webhook.get_mut("clientConfig").and_then(Value::as_object_mut) else {
                continue;
            };
            is_other |= config.get("caBundle").and_then(Value::as_str) != Some(&bundle);
            config.insert("caBundle".into(), bundle.clone().into());
        }
        if !is_other {
            return Ok(());
        }
        let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
        let webhooks = object.get("webhooks").cloned().unwrap_or_default();
        let patch = json!({"metadata": {"resourceVersion": version}, "webhooks": webhooks});
        self.client.merge(&path, &patch).await?;
        tracing::info!("told the API server whom its webhook is proved by");
        Ok(())
    }

    /// What is to be said of each route and policy of the cluster.
    fn statuses(&self) -> Vec<(ResourceKey, Value)> {
        let mut statuses = self.world.read(|known| {
            let said = |resource: &Resource| {
                let key = resource.key();
                match &resource.spec {
                    Spec::Route(_) => Some((key, Value::Object(route_status(known, resource)))),
                    Spec::Service(_) | Spec::Namespace | Spec::ReferenceGrant(_) => None,
                    _ => Some((key, accepted(None))),
                }
            };
            known.source(super::SOURCE).filter_map(said).collect::<Vec<_>>()
        });
        for (key, problem) in self.cluster.wrong() {
            // Kubernetes' own kinds have no place for it.
            if key.kind.group().is_empty() || key.kind == Kind::ReferenceGrant {
                continue;
            }
            statuses.retain(|(other, _)| *other != key);
            let status = if Kind::ROUTES.contains(&key.kind) {
                refused(&problem)
            } else {
                accepted(Some(&problem.words))
            };
            statuses.push((key, status));
        }
        statuses
    }

    /// Writes what we say, and lets stand what other controllers say of the same object.
    async fn write_status(&self, key: &ResourceKey, status: &Value) -> Result<(), ApiError> {
        let path = self.path(key);
        let object = self.client.get(&path).await?;
        let before = object.get("status").cloned().unwrap_or_default();
        let generation = object.pointer("/metadata/generation").and_then(Value::as_u64).unwrap_or_default();
        let after = merged(&before, status, generation, &rfc3339_seconds(SystemTime::now()));
        if before == after {
            return Ok(());
        }
        let version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
        let patch = json!({"metadata": {"resourceVersion": version}, "status": after});
        self.client.merge(&format!("{path}/status"), &patch).await.map(drop)
    }

    /// By the first version of its API that the cluster has.
    fn path(&self, key: &ResourceKey) -> String {
        let collection = collection_of(key.kind);
        let within = match &key.namespace {
            Some(namespace) => format!("namespaces/{namespace}/{}/{}", collection.plural, key.name),
            None => format!("{}/{}", collection.plural, key.name),
        };
        let version = self.world.read(|known| {
            let version = known.resource(key)?.document.get("apiVersion")?.as_str()?;
            Some(version.rsplit_once('/')?.1.to_owned())
        });
        let version = version.or_else(|| collection.versions.first().map(|first| (*first).to_owned()));
        format!("/apis/{}/{}/{within}", collection.group, version.unwrap_or_default())
    }
}

/// The condition of a policy.
fn accepted(problem: Option<&str>) -> Value {
    json!({"conditions": [{
        "type": "Accepted",
        "status": if problem.is_none() { "True" } else { "False" },
        "reason": if problem.is_none() { "Accepted" } else { "Invalid" },
        "message": problem.unwrap_or_default(),
    }]})
}

/// What is said of a route that is not in force as it is, to each service that it says it is one of.
fn refused(problem: &Refusal) -> Value {
    let parent = |reference: &Value| {
        json!({"parentRef": reference, "controllerName": CONTROLLER, "conditions": [{
            "type": "Accepted", "status": "False", "reason": "UnsupportedValue", "message": problem.words,
        }]})
    };
    json!({"parents": problem.parents.iter().map(parent).collect::<Vec<_>>()})
}

/// What is to stand in a status: ours, with the times at which it changed, and what others say.
fn merged(before: &Value, said: &Value, generation: u64, now: &str) -> Value {
    let list = |of: &Value, key: &str| of.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    if said.get("conditions").is_some() {
        let conditions = dated(&list(before, "conditions"), list(said, "conditions"), generation, now);
        return json!({"conditions": conditions});
    }
    let is_ours = |parent: &Value| parent.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER);
    let parents = list(before, "parents");
    let (ours, mut after): (Vec<_>, Vec<_>) = parents.into_iter().partition(is_ours);
    for mut parent in list(said, "parents") {
        let same = ours.iter().find(|other| other.get("parentRef") == parent.get("parentRef"));
        let conditions = same.map(|same| list(same, "conditions")).unwrap_or_default();
        let dated = dated(&conditions, list(&parent, "conditions"), generation, now);
        if let Some(parent) = parent.as_object_mut() {
            parent.insert("conditions".into(), dated.into());
        }
        after.push(parent);
    }
    if after.is_empty() && before.get("parents").is_none() {
        // A route of gateways alone is not ours to speak of.
        return before.clone();
    }
    json!({"parents": after})
}

fn dated(before: &[Value], said: Vec<Value>, generation: u64, now: &str) -> Vec<Value> {
    let date = |mut condition: Value| {
        let is_same =
            |other: &&Value| ["type", "status"].iter().all(|key| other.get(key) == condition.get(key));
        let since = before.iter().find(is_same).and_then(|other| other.get("lastTransitionTime")).cloned();
        if let Some(condition) = condition.as_object_mut() {
            condition.insert("observedGeneration".into(), generation.into());
            condition.insert("lastTransitionTime".into(), since.unwrap_or_else(|| now.into()));
        }
        condition
    };
    said.into_iter().map(date).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_stands_and_times_change_with_what_is_said() {
        let theirs =
            json!({"controllerName": "example.com/gateway", "parentRef": {"name": "gw"}, "conditions": []});
        let ours = |status: &str| {
            json!({"controllerName": CONTROLLER, "parentRef": {"name": "orders"},
                "conditions": [{"type": "Accepted", "status": status, "reason": "x", "message": ""}]})
        };
        let first = merged(&json!({"parents": [theirs]}), &json!({"parents": [ours("True")]}), 3, "then");
        assert_eq!(first["parents"][0], theirs);
        assert_eq!(first["parents"][1]["conditions"][0]["lastTransitionTime"], "then");
        let second = merged(&first, &json!({"parents": [ours("True")]}), 3, "now");
        assert_eq!(second, first);
        let third = merged(&second, &json!({"parents": [ours("False")]}), 4, "now");
        let condition = &third["parents"][1]["conditions"][0];
        assert_eq!(
            (&condition["lastTransitionTime"], &condition["observedGeneration"]),
            (&json!("now"), &json!(4))
        );
        assert_eq!(merged(&json!({}), &json!({"parents": []}), 1, "now"), json!({}));
        let policy = merged(&json!(null), &accepted(Some("no")), 1, "now");
        assert_eq!(policy["conditions"][0]["reason"], "Invalid");
    }
}
