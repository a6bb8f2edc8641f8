//! What the control plane may do in the cluster, and nothing more.

use serde_json::{Value, json};

use super::{CONTROL_PLANE, INJECTOR, NAMESPACE, Settings, metadata, within};
use crate::manifest::Kind;
use crate::manifest::schema::KINDS;

const RBAC: &str = "rbac.authorization.k8s.io";

pub(super) fn objects(settings: &Settings) -> Vec<Value> {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": within(CONTROL_PLANE)});
    vec![account, cluster_role(), cluster_binding(), role(settings), binding()]
}

fn cluster_role() -> Value {
    let plurals = |kinds: &[Kind]| kinds.iter().map(|kind| kind.plural()).collect::<Vec<_>>();
    let statuses =
        |kinds: &[Kind]| kinds.iter().map(|kind| format!("{}/status", kind.plural())).collect::<Vec<_>>();
    let routes = Kind::ROUTES;
    let (follow, read) = (["list", "watch"], ["get", "list", "watch"]);
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "ClusterRole",
        "metadata": metadata(CONTROL_PLANE),
        "rules": [
            // Discovery.
            {"apiGroups": [""], "resources": ["namespaces", "pods", "services"], "verbs": follow},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": follow},
            // Configuration, and what became of it.
            {"apiGroups": ["weft.mesh"], "resources": plurals(&KINDS), "verbs": read},
            {"apiGroups": ["weft.mesh"], "resources": statuses(&KINDS), "verbs": ["patch"]},
            {"apiGroups": ["gateway.networking.k8s.io"], "resources": plurals(&routes), "verbs": read},
            {"apiGroups": ["gateway.networking.k8s.io"], "resources": ["referencegrants"], "verbs": follow},
            {"apiGroups": ["gateway.networking.k8s.io"], "resources": statuses(&routes), "verbs": ["patch"]},
            // Whose a pod's token is.
            {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
            // The trust anchors, where pods look for them. What is to be made cannot be named.
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["weft-ca"], "verbs": ["patch"]},
            // Whom the webhook is proved by.
            {
                "apiGroups": ["admissionregistration.k8s.io"],
                "resources": ["mutatingwebhookconfigurations"],
                "resourceNames": [INJECTOR],
                "verbs": ["get", "patch"],
            },
        ],
    })
}

/// Who leads, what administrators show, and what several share.
fn role(settings: &Settings) -> Value {
    let shared = ["create", "get", "list", "watch", "patch"];
    let rules = if settings.shares_store() {
        json!([
            // Who leads, and who is there: each has a lease of its own, whose name is not known before.
            {
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "verbs": ["create", "get", "list", "watch", "update", "patch", "delete"],
            },
            // The store. What is watched cannot be named one by one.
            {"apiGroups": [""], "resources": ["secrets"], "verbs": shared},
        ])
    } else {
        json!([
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["create"]},
            {
                "apiGroups": ["coordination.k8s.io"],
                "resources": ["leases"],
                "resourceNames": ["weft-leader"],
                "verbs": ["get", "update"],
            },
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["weft-admin"], "verbs": ["patch"]},
        ])
    };
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "Role",
        "metadata": within(CONTROL_PLANE),
        "rules": rules,
    })
}

fn cluster_binding() -> Value {
    bind("ClusterRoleBinding", "ClusterRole", &metadata(CONTROL_PLANE))
}

fn binding() -> Value {
    bind("RoleBinding", "Role", &within(CONTROL_PLANE))
}

fn bind(kind: &str, role: &str, metadata: &Value) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": kind,
        "metadata": metadata,
        "roleRef": {"apiGroup": RBAC, "kind": role, "name": CONTROL_PLANE},
        "subjects": [{"kind": "ServiceAccount", "name": CONTROL_PLANE, "namespace": NAMESPACE}],
    })
}
