//! The containers and volumes that a pod is given.

use serde_json::{Value, json};

use super::annotations::{Annotation, Wishes};
use super::{Form, SIDECAR_UID, Settings, probes};

/// The container that sets up interception and ends.
pub(super) const INIT: &str = "weft-init";
/// The sidecar.
pub(super) const SIDECAR: &str = "weft-proxy";
/// Its certificate authority and token.
pub(super) const IDENTITY: &str = "weft-identity";
/// Where it keeps its last good configuration.
pub(super) const CACHE: &str = "weft-cache";

/// Where the sidecar finds [`IDENTITY`].
const IDENTITY_PATH: &str = "/var/run/secrets/weft";
const CACHE_PATH: &str = "/run/weft";
/// How long a sidecar waits for what is under way, and for the app, where it is told nothing; so does the kubelet.
const DRAIN_SECONDS: u64 = 30;

/// Programs the pod's packet filter, and needs the one right to do so.
pub(super) fn init(settings: &Settings, wishes: &Wishes<'_>) -> Value {
    let mut args = vec!["intercept".to_owned(), "up".to_owned()];
    let flags = [
        ("--skip-inbound-ports", Annotation::SkipInboundPorts),
        ("--skip-outbound-ports", Annotation::SkipOutboundPorts),
        ("--skip-outbound-cidrs", Annotation::SkipOutboundCidrs),
    ];
    for (flag, annotation) in flags {
        if let Some(value) = wishes.get(annotation) {
            args.push(format!("{flag}={}", value.replace(' ', "")));
        }
    }
    json!({
        "name": INIT,
        "image": image(settings, wishes),
        "imagePullPolicy": "IfNotPresent",
        "args": args,
        "resources": resources(wishes),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "runAsGroup": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}

/// The sidecar itself, for a pod of this spec.
pub(super) fn sidecar(settings: &Settings, wishes: &Wishes<'_>, spec: &Value) -> Value {
    let mut container = json!({
        "name": SIDECAR,
        "image": image(settings, wishes),
        "imagePullPolicy": "IfNotPresent",
        "args": ["run"],
        "env": environment(settings, wishes, spec),
        "ports": [{"name": "weft-inbound", "containerPort": 4143}, {"name": "weft-admin", "containerPort": 4191}],
        "startupProbe": probe("/ready", 1, 120),
        "readinessProbe": probe("/ready", 5, 3),
        "livenessProbe": probe("/live", 10, 3),
        "resources": resources(wishes),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsNonRoot": true,
            "runAsUser": SIDECAR_UID,
            "runAsGroup": SIDECAR_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": IDENTITY, "mountPath": IDENTITY_PATH, "readOnly": true},
            {"name": CACHE, "mountPath": CACHE_PATH},
        ],
    });
    let (key, value) = match settings.sidecar {
        Form::Native => ("restartPolicy", json!("Always")),
        // The kubelet starts the containers behind this one when its hook has ended.
        Form::Container => {
            let wait = json!(["/weft-proxy", "await", "--timeout=2m"]);
            ("lifecycle", json!({"postStart": {"exec": {"command": wait}}}))
        }
    };
    if let Some(fields) = container.as_object_mut() {
        fields.insert(key.to_owned(), value);
    }
    container
}

/// What the sidecar's containers mount.
pub(super) fn volumes() -> Vec<Value> {
    let token =
        json!({"serviceAccountToken": {"path": "token", "audience": "weft", "expirationSeconds": 3600}});
    let anchors = json!({"configMap": {"name": "weft-ca", "items": [{"key": "ca.pem", "path": "ca.pem"}]}});
    vec![
        json!({"name": IDENTITY, "projected": {"defaultMode": 0o444, "sources": [token, anchors]}}),
        json!({"name": CACHE, "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}}),
    ]
}

fn environment(settings: &Settings, wishes: &Wishes<'_>, spec: &Value) -> Vec<Value> {
    let plain = |name: &str, value: &str| json!({"name": name, "value": value});
    let of_pod =
        |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let mut environment = vec![
        plain("WEFT_CONTROL_PLANE", &settings.control_plane),
        plain("WEFT_CA", &format!("{IDENTITY_PATH}/ca.pem")),
        plain("WEFT_TOKEN_FILE", &format!("{IDENTITY_PATH}/token")),
        plain("WEFT_CACHE_DIR", CACHE_PATH),
        of_pod("WEFT_WORKLOAD", "metadata.name"),
        of_pod("WEFT_POD_IP", "status.podIPs"),
        // Since Kubernetes 1.35 pods have their nodes' zones as a label; before that nothing is there, and no zone is preferred.
        of_pod("WEFT_ZONE", "metadata.labels['topology.kubernetes.io/zone']"),
        of_pod("WEFT_NODE", "spec.nodeName"),
    ];
    let probes = probes::of(spec);
    if !probes.is_empty() {
        environment.push(plain("WEFT_PROBES", &probes));
    }
    // An app that may take longer to end than a sidecar does by itself is served as long as that.
    let grace = spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64);
    if let Some(seconds) = grace.filter(|seconds| *seconds > DRAIN_SECONDS) {
        environment.push(plain("WEFT_DRAIN_TIMEOUT", &format!("{seconds}s")));
    }
    environment.extend(wishes.variables().into_iter().map(|(name, value)| plain(name, value)));
    environment
}

fn image(settings: &Settings, wishes: &Wishes<'_>) -> String {
    wishes.get(Annotation::Image).map_or_else(|| settings.image(), str::to_owned)
}

fn probe(path: &str, period: u32, failures: u32) -> Value {
    json!({
        "httpGet": {"path": path, "port": 4191},
        "periodSeconds": period,
        "failureThreshold": failures,
    })
}

/// Little is set aside, for little is needed; a limit is only where the pod asks for one.
fn resources(wishes: &Wishes<'_>) -> Value {
    let cpu = wishes.get(Annotation::CpuRequest).unwrap_or("10m");
    let memory = wishes.get(Annotation::MemoryRequest).unwrap_or("32Mi");
    let mut resources = json!({"requests": {"cpu": cpu, "memory": memory}});
    let limits = [("cpu", Annotation::CpuLimit), ("memory", Annotation::MemoryLimit)];
    let limits = limits.into_iter().filter_map(|(key, annotation)| Some((key, wishes.get(annotation)?)));
    let limits: serde_json::Map<String, Value> =
        limits.map(|(key, value)| (key.to_owned(), json!(value))).collect();
    if let (Some(resources), false) = (resources.as_object_mut(), limits.is_empty()) {
        resources.insert("limits".to_owned(), limits.into());
    }
    resources
}
