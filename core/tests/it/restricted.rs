//! Pod Security Standards, level "restricted" (kubernetes.io/docs/concepts/security/pod-security-standards): what each pod that we
//! write asks for beyond it.

use serde_json::{Value, json};
use weft_core::inject::{self, Decision, review};
use weft_core::install;

use crate::admission::{asked, patched};

/// The kinds of volume that are allowed.
const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

fn list<'a>(of: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    of.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// What of a pod is not restricted.
fn beyond(spec: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for key in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[key] == true {
            found.push(format!("pod: {key}"));
        }
    }
    for volume in list(spec, "/volumes") {
        let kinds = volume.as_object().unwrap().keys().filter(|key| *key != "name");
        found.extend(
            kinds.filter(|kind| !VOLUMES.contains(&kind.as_str())).map(|kind| format!("pod: {kind}")),
        );
    }
    let of_pod = &spec["securityContext"];
    for key in ["sysctls", "seLinuxOptions", "windowsOptions", "appArmorProfile"] {
        found.extend(of_pod.get(key).map(|_| format!("pod: {key}")));
    }
    let kinds = ["/initContainers", "/containers", "/ephemeralContainers"];
    for container in kinds.into_iter().flat_map(|kind| list(spec, kind)) {
        let name = container["name"].as_str().unwrap();
        found.extend(beyond_in(container, of_pod).into_iter().map(|what| format!("{name}: {what}")));
    }
    found
}

/// What of a container is not; what it does not say itself, its pod says.
fn beyond_in(container: &Value, of_pod: &Value) -> Vec<String> {
    let own = &container["securityContext"];
    let said = |key: &str| own.get(key).or_else(|| of_pod.get(key)).cloned().unwrap_or_default();
    let mut found = Vec::new();
    let mut must = |holds: bool, what: &str| found.extend((!holds).then(|| what.to_owned()));
    must(own["allowPrivilegeEscalation"] == false, "allowPrivilegeEscalation");
    must(own.get("privileged").is_none_or(|it| *it == false), "privileged");
    must(said("runAsNonRoot") == true, "runAsNonRoot");
    must(said("runAsUser") != 0, "runAsUser");
    let seccomp = &said("seccompProfile")["type"];
    must(seccomp == "RuntimeDefault" || seccomp == "Localhost", "seccompProfile");
    must(list(own, "/capabilities/drop").any(|it| it == "ALL"), "capabilities dropped");
    must(own.get("procMount").is_none_or(|it| it == "Default"), "procMount");
    for key in ["seLinuxOptions", "windowsOptions", "appArmorProfile"] {
        must(own.get(key).is_none(), key);
    }
    must(list(container, "/ports").all(|port| port.get("hostPort").is_none_or(|it| *it == 0)), "hostPort");
    // Since 1.34: the kubelet is not to be sent elsewhere.
    for at in ["livenessProbe", "readinessProbe", "startupProbe", "lifecycle"] {
        must(!container[at].to_string().contains("\"host\":"), "host of a probe");
    }
    let added = list(own, "/capabilities/add").filter(|it| *it != "NET_BIND_SERVICE");
    found.extend(added.map(|it| format!("capability {}", it.as_str().unwrap())));
    found
}

#[test]
fn the_control_plane_asks_for_nothing() {
    let settings = [vec![], vec![("ca.secret", "issuer")], vec![("sidecar", "container")]];
    for replicas in [install::Replicas::One, install::Replicas::Three] {
        for more in &settings {
            let mut settings = install::Settings::default();
            settings.replicate(replicas);
            more.iter().for_each(|(key, value)| settings.set(key, value).unwrap());
            let objects = install::objects(&settings);
            let pods: Vec<_> =
                objects.iter().filter_map(|object| object.pointer("/spec/template/spec")).collect();
            assert_eq!(pods.len(), 1, "{more:?}");
            assert_eq!(beyond(pods[0]), Vec::<String>::new(), "{more:?}");
            // All of it is written down, not only where it must be.
            assert_eq!(pods[0]["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
        }
    }
}

#[test]
fn of_what_pods_are_given_the_interception_alone_asks_for_more_and_for_no_more_than_it_needs() {
    let restricted = json!({
        "allowPrivilegeEscalation": false, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
        "spec": {"containers": [{"name": "web", "image": "web:1", "securityContext": restricted}]},
    });
    assert_eq!(beyond(&pod["spec"]), Vec::<String>::new());
    for sidecar in ["native", "container"] {
        let mut settings = inject::Settings::default();
        settings.set("sidecar", sidecar).unwrap();
        let Decision::Patch(patch) = review(&asked(&pod), &settings).unwrap().what else { panic!() };
        let given = patched(&pod, &patch);
        assert_eq!(
            beyond(&given["spec"]),
            ["weft-init: runAsNonRoot", "weft-init: runAsUser", "weft-init: capability NET_ADMIN"],
            "{sidecar}"
        );
    }
}

#[test]
fn what_is_not_restricted_is_found() {
    let spec = json!({
        "hostNetwork": true, "volumes": [{"name": "etc", "hostPath": {"path": "/etc"}}],
        "containers": [{
            "name": "a", "ports": [{"hostPort": 80}], "livenessProbe": {"httpGet": {"host": "elsewhere"}},
            "securityContext": {"privileged": true, "capabilities": {"add": ["SYS_ADMIN"]}},
        }],
    });
    assert_eq!(
        beyond(&spec),
        [
            "pod: hostNetwork",
            "pod: hostPath",
            "a: allowPrivilegeEscalation",
            "a: privileged",
            "a: runAsNonRoot",
            "a: seccompProfile",
            "a: capabilities dropped",
            "a: hostPort",
            "a: host of a probe",
            "a: capability SYS_ADMIN",
        ]
    );
}
