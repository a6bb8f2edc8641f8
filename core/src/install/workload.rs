//! The control plane's deployment, its volume and its services.

use serde_json::{Value, json};

use super::{CONTROL_PLANE, INJECTOR, Replicas, Settings, labels, within};
use crate::inject::SIDECAR_UID;

const DATA: &str = "weft-data";
const DATA_PATH: &str = "/data";
const CA: &str = "ca";
const CA_PATH: &str = "/ca";

pub(super) fn objects(settings: &Settings) -> Vec<Value> {
    let mut objects = Vec::new();
    match settings.replicas {
        Replicas::One => objects.push(volume_claim(settings)),
        Replicas::Three => objects.push(disruption_budget()),
    }
    objects.push(deployment(settings));
    objects.extend(services());
    objects
}

fn volume_claim(settings: &Settings) -> Value {
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": settings.storage_size}},
    });
    if let (Some(spec), Some(class)) = (spec.as_object_mut(), &settings.storage_class) {
        spec.insert("storageClassName".into(), class.clone().into());
    }
    json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": within(DATA), "spec": spec})
}

fn disruption_budget() -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": within(CONTROL_PLANE),
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": selector()}},
    })
}

fn deployment(settings: &Settings) -> Value {
    let (replicas, strategy) = match settings.replicas {
        // A volume is one pod's: the old one must let go of it first.
        Replicas::One => (1, json!({"type": "Recreate"})),
        Replicas::Three => {
            (3, json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}))
        }
    };
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": within(CONTROL_PLANE),
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": selector()},
            "strategy": strategy,
            "template": {"metadata": {"labels": labels()}, "spec": pod(settings)},
        },
    })
}

fn pod(settings: &Settings) -> Value {
    let mut pod = json!({
        "serviceAccountName": CONTROL_PLANE,
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "securityContext": {
            "runAsNonRoot": true,
            "runAsUser": SIDECAR_UID,
            "runAsGroup": SIDECAR_UID,
            "fsGroup": SIDECAR_UID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(settings)],
        "volumes": volumes(settings),
    });
    if let (Some(pod), Replicas::Three) = (pod.as_object_mut(), settings.replicas) {
        let apart = |topology: &str| {
            let term = json!({"labelSelector": {"matchLabels": selector()}, "topologyKey": topology});
            json!({"weight": 100, "podAffinityTerm": term})
        };
        let spread = [apart("kubernetes.io/hostname"), apart("topology.kubernetes.io/zone")];
        let affinity =
            json!({"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": spread}});
        pod.insert("affinity".into(), affinity);
    }
    pod
}

fn container(settings: &Settings) -> Value {
    let port = |name: &str, number: u16| json!({"name": name, "containerPort": number});
    let probe = |path: &str, period: u32, failures: u32| json!({"httpGet": {"path": path, "port": "http"}, "periodSeconds": period, "failureThreshold": failures});
    let mut mounts = vec![json!({"name": DATA, "mountPath": DATA_PATH})];
    if settings.ca_secret.is_some() {
        mounts.push(json!({"name": CA, "mountPath": CA_PATH, "readOnly": true}));
    }
    json!({
        "name": "control-plane",
        "image": format!("{}/weft-control-plane:{}", settings.registry, settings.tag),
        "imagePullPolicy": "IfNotPresent",
        "args": arguments(settings),
        "ports": [port("grpc", 7443), port("webhook", 7444), port("http", 7080), port("otlp", 4317)],
        "startupProbe": probe("/live", 1, 120),
        "livenessProbe": probe("/live", 10, 3),
        "readinessProbe": probe("/ready", 5, 3),
        "resources": {"requests": {"cpu": "50m", "memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": true,
        },
        "volumeMounts": mounts,
    })
}

/// How the control plane is started.
fn arguments(settings: &Settings) -> Vec<String> {
    let mut arguments = vec![
        format!("--data-dir={DATA_PATH}"),
        "--discovery=kubernetes".to_owned(),
        "--kubernetes-tokens=review".to_owned(),
        "--webhook-addr=[::]:7444".to_owned(),
        "--log-format=json".to_owned(),
    ];
    if settings.shares_store() {
        arguments.push("--store=kubernetes".to_owned());
    }
    arguments.push(format!("--trust-domain={}", settings.trust_domain));
    arguments.push(format!("--inject=image.registry={}", settings.registry));
    arguments.push(format!("--inject=image.tag={}", settings.tag));
    arguments.extend(settings.sidecar.iter().map(|form| format!("--inject=sidecar={form}")));
    if settings.ca_secret.is_some() {
        let file = |flag: &str, key: &str| format!("--{flag}={CA_PATH}/{key}");
        arguments.extend([file("ca-cert", "tls.crt"), file("ca-key", "tls.key"), file("ca-roots", "ca.crt")]);
    }
    arguments
}

fn volumes(settings: &Settings) -> Vec<Value> {
    let data = match settings.replicas {
        Replicas::One => json!({"name": DATA, "persistentVolumeClaim": {"claimName": DATA}}),
        Replicas::Three => json!({"name": DATA, "emptyDir": {"sizeLimit": settings.storage_size}}),
    };
    let secret = |name: &String| json!({"name": CA, "secret": {"secretName": name, "defaultMode": 0o440}});
    std::iter::once(data).chain(settings.ca_secret.iter().map(secret)).collect()
}

fn services() -> [Value; 2] {
    let port = |name: &str, number: u16, protocol: &str| json!({"name": name, "port": number, "targetPort": name, "appProtocol": protocol});
    let service = |name: &str, ports: Value| {
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": within(name),
            "spec": {"selector": selector(), "ports": ports},
        })
    };
    let ports = json!([port("grpc", 7443, "https"), port("http", 7080, "http"), port("otlp", 4317, "grpc")]);
    let injector = json!([{"name": "webhook", "port": 443, "targetPort": "webhook", "appProtocol": "https"}]);
    [service(CONTROL_PLANE, ports), service(INJECTOR, injector)]
}

fn selector() -> Value {
    json!({"app.kubernetes.io/name": CONTROL_PLANE, "app.kubernetes.io/part-of": "weft"})
}
