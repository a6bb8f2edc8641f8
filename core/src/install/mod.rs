//! The control plane in a cluster, as objects: what `weft install` prints. Built, never pasted together as text.

mod access;
mod workload;

use serde_json::{Map, Value, json};

use crate::inject;
use crate::manifest::schema;

/// Where it all is.
pub const NAMESPACE: &str = "weft";
/// The control plane: its deployment, services and account.
pub const CONTROL_PLANE: &str = "weft-control-plane";
/// The webhook's configuration and service.
pub const INJECTOR: &str = "weft-injector";

/// How the control plane is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How pods are equipped.
    inject: inject::Settings,
    /// What kind of container sidecars are, where it was set.
    sidecar: Option<String>,
    replicas: Replicas,
    registry: String,
    tag: String,
    trust_domain: String,
    storage_size: String,
    storage_class: Option<String>,
    ca_secret: Option<String>,
    failure_policy: &'static str,
}

/// How many control planes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Replicas {
    /// One, with its store on a volume.
    #[default]
    One,
    /// Three, which share a store in the cluster, or an authority that somebody else keeps.
    Three,
}

/// Why it cannot be installed so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSetting {
    /// There is no such setting.
    #[error(
        "there is no setting {0:?}; there are image.registry, image.tag, sidecar, trustDomain, storage.size, storage.class, ca.secret and webhook.failurePolicy"
    )]
    Unknown(String),
    /// It cannot be that.
    #[error("{key} cannot be {value:?}; write {expected}")]
    Value {
        /// Which.
        key: String,
        /// What it was to be.
        value: String,
        /// What it may be.
        expected: String,
    },
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            inject: inject::Settings::default(),
            sidecar: None,
            replicas: Replicas::One,
            registry: inject::REGISTRY.into(),
            tag: env!("CARGO_PKG_VERSION").into(),
            trust_domain: "mesh.local".into(),
            storage_size: "1Gi".into(),
            storage_class: None,
            ca_secret: None,
            failure_policy: "Ignore",
        }
    }
}

impl Settings {
    /// How many control planes there are to be.
    pub fn replicate(&mut self, replicas: Replicas) {
        self.replicas = replicas;
    }

    /// Whether the control planes' store is in the cluster. With an authority that somebody else keeps each has its own.
    const fn shares_store(&self) -> bool {
        matches!(self.replicas, Replicas::Three) && self.ca_secret.is_none()
    }

    /// Changes one, as `--set KEY=VALUE` says it.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), BadSetting> {
        let bad = |expected: &str| {
            let (key, value, expected) = (key.to_owned(), value.to_owned(), expected.to_owned());
            Err(BadSetting::Value { key, value, expected })
        };
        let is_name = |text: &str| text.parse::<crate::model::Name>().is_ok();
        match key {
            "image.registry" | "image.tag" | "sidecar" => {
                if let Err(inject::BadSetting::Value { expected, .. }) = self.inject.set(key, value) {
                    return bad(expected);
                }
                match key {
                    "image.registry" => value.trim_end_matches('/').clone_into(&mut self.registry),
                    "image.tag" => value.clone_into(&mut self.tag),
                    _ => self.sidecar = Some(value.to_owned()),
                }
            }
            "trustDomain" if value.parse::<crate::model::TrustDomain>().is_ok() => {
                value.clone_into(&mut self.trust_domain);
            }
            "trustDomain" => return bad("a name such as mesh.local"),
            "storage.size" if inject::is_quantity(value) => value.clone_into(&mut self.storage_size),
            "storage.size" => return bad("a quantity such as 1Gi"),
            "storage.class" if is_name(value) => self.storage_class = Some(value.to_owned()),
            "storage.class" => return bad("the name of a StorageClass"),
            "ca.secret" if is_name(value) => self.ca_secret = Some(value.to_owned()),
            "ca.secret" => return bad("the name of a Secret in the namespace weft"),
            "webhook.failurePolicy" => match value {
                "Ignore" => self.failure_policy = "Ignore",
                "Fail" => self.failure_policy = "Fail",
                _ => return bad("Ignore or Fail"),
            },
            _ => return Err(BadSetting::Unknown(key.to_owned())),
        }
        Ok(())
    }
}

/// Everything, in the order in which it must be made.
pub fn objects(settings: &Settings) -> Vec<Value> {
    let mut objects = vec![namespace()];
    objects.extend(schema::definitions());
    objects.extend(access::objects(settings));
    objects.extend(workload::objects(settings));
    objects.push(webhook(settings));
    objects
}

/// Everything but the kinds, whose deletion would delete all configuration, in the order in which it is to go: the
/// webhook first, lest the API server ask for what is gone.
pub fn removal() -> Vec<Value> {
    let all = Settings::default();
    let mut objects = vec![namespace()];
    objects.extend(access::objects(&all));
    objects.extend(workload::objects(&all));
    objects.push(webhook(&all));
    objects.reverse();
    objects
}

/// Restricted is what its own pods are held to.
fn namespace() -> Value {
    let mut metadata = metadata(NAMESPACE);
    if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
        labels.insert("pod-security.kubernetes.io/enforce".into(), "restricted".into());
        labels.insert("weft.mesh/inject".into(), "disabled".into());
    }
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
}

/// Two, for a pod is chosen by its namespace's label or by its own.
fn webhook(settings: &Settings) -> Value {
    const LABEL: &str = "weft.mesh/inject";
    let expression =
        |operator: &str, values: &[&str]| json!({"key": LABEL, "operator": operator, "values": values});
    let own = json!({"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": [NAMESPACE, "kube-system"]});
    let by_namespace = (
        "namespaces.injector.weft.mesh",
        json!([expression("In", &["enabled"]), own]),
        json!([expression("NotIn", &["disabled"])]),
    );
    let by_pod = (
        "pods.injector.weft.mesh",
        json!([expression("NotIn", &["enabled"]), own]),
        json!([expression("In", &["enabled"])]),
    );
    let webhook = |(name, namespaces, pods): (&str, Value, Value)| {
        json!({
            "name": name,
            "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": INJECTOR, "namespace": NAMESPACE, "path": "/inject", "port": 443}},
            "failurePolicy": settings.failure_policy,
            "matchPolicy": "Equivalent",
            "namespaceSelector": {"matchExpressions": namespaces},
            "objectSelector": {"matchExpressions": pods},
            // What others add to a pod after us may need our look again.
            "reinvocationPolicy": "IfNeeded",
            "rules": [{
                "apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"], "scope": "Namespaced",
            }],
            "sideEffects": "None",
            "timeoutSeconds": 5,
        })
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": metadata(INJECTOR),
        "webhooks": [webhook(by_namespace), webhook(by_pod)],
    })
}

fn labels() -> Map<String, Value> {
    let labels = [
        ("app.kubernetes.io/name", CONTROL_PLANE),
        ("app.kubernetes.io/part-of", "weft"),
        ("app.kubernetes.io/version", env!("CARGO_PKG_VERSION")),
    ];
    labels.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect()
}

/// Of what belongs to no namespace.
fn metadata(name: &str) -> Value {
    json!({"name": name, "labels": labels()})
}

/// Of what is in ours.
fn within(name: &str) -> Value {
    json!({"name": name, "namespace": NAMESPACE, "labels": labels()})
}
