//! Admission reviews: what is answered for pods of every kind of workload, and to what is none.

use serde_json::{Value, json};
use weft_core::inject::{BadReview, Decision, NotInjected, Settings, Verdict, review};

pub(crate) fn asked(pod: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": "shop", "operation": "CREATE", "object": pod, "dryRun": false,
        },
    })
}

fn decided(pod: &Value) -> Decision {
    review(&asked(pod), &Settings::default()).unwrap().what
}

/// RFC 6902's `add`, which is all that is used.
pub(crate) fn patched(pod: &Value, patch: &[Value]) -> Value {
    let mut pod = pod.clone();
    for operation in patch {
        assert_eq!(operation["op"], "add");
        let (parent, key) = operation["path"].as_str().unwrap().rsplit_once('/').unwrap();
        let key = key.replace("~1", "/").replace("~0", "~");
        let value = operation["value"].clone();
        match pod.pointer_mut(parent).unwrap_or_else(|| panic!("{parent} is there")) {
            Value::Array(items) => items.insert(key.parse().unwrap(), value),
            Value::Object(map) => drop(map.insert(key, value)),
            other => panic!("{parent} is {other}"),
        }
    }
    pod
}

/// A pod as the controller of a workload makes it.
fn made_by(kind: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "generateName": format!("{}-", kind.to_lowercase()), "labels": {"app": "web"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": kind, "name": "web", "uid": "u", "controller": true}],
        },
        "spec": spec,
    })
}

#[test]
fn pods_of_every_workload_get_a_sidecar_once() {
    let app = json!({"name": "app", "image": "app:1"});
    let volume = json!({"name": "kube-api-access", "projected": {"sources": []}});
    for kind in ["ReplicaSet", "StatefulSet", "DaemonSet", "Job", "ReplicationController"] {
        for spec in [
            json!({"containers": [app]}),
            json!({"containers": [app], "initContainers": [{"name": "first", "image": "i"}], "volumes": [volume]}),
        ] {
            let pod = made_by(kind, spec);
            let Decision::Patch(patch) = decided(&pod) else { panic!("{kind}") };
            let with = patched(&pod, &patch);
            let names = |list: &str| -> Vec<String> {
                let items = with["spec"][list].as_array().cloned().unwrap_or_default();
                items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
            };
            assert_eq!(names("initContainers")[..2], ["weft-init", "weft-proxy"], "{kind}");
            assert_eq!(with["spec"]["containers"], pod["spec"]["containers"]);
            assert_eq!(names("volumes")[..2], ["weft-identity", "weft-cache"]);
            assert!(with["metadata"]["annotations"]["weft.mesh/injected"].is_string());
            assert_eq!(with["metadata"]["ownerReferences"], pod["metadata"]["ownerReferences"]);
            assert_eq!(decided(&with), Decision::Leave(None), "twice is once");
        }
    }
    let mut bare = made_by("Pod", json!({"containers": [app]}));
    bare["metadata"] = json!({"name": "shell", "annotations": {"a/b~c": "d"}});
    let Decision::Patch(patch) = decided(&bare) else { panic!("a bare pod") };
    assert_eq!(patched(&bare, &patch)["metadata"]["annotations"]["a/b~c"], "d");
}

#[test]
fn what_gets_no_sidecar_is_let_through_and_says_why_where_that_may_surprise() {
    let spec = |more: Value| {
        let mut spec = json!({"containers": [{"name": "app", "image": "app:1"}]});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        made_by("ReplicaSet", spec)
    };
    let check = |pod: &Value, reason: NotInjected| assert_eq!(decided(pod), Decision::Leave(Some(reason)));
    check(&spec(json!({"hostNetwork": true})), NotInjected::HostNetwork);
    check(&spec(json!({"os": {"name": "windows"}})), NotInjected::Windows);
    check(&made_by("Job", json!({})), NotInjected::NoContainers);
    let clash = spec(json!({"securityContext": {"runAsUser": 2102}}));
    assert!(matches!(decided(&clash), Decision::Leave(Some(NotInjected::Uid(_)))));
    let mut disabled = spec(json!({}));
    disabled["metadata"]["annotations"] = json!({"weft.mesh/inject": "disabled"});
    assert_eq!(decided(&disabled), Decision::Leave(None));
    let verdict = review(&asked(&clash), &Settings::default()).unwrap().to_json();
    assert_eq!(verdict["response"]["allowed"], true);
    assert!(verdict["response"]["warnings"][0].as_str().unwrap().contains("runs as user 2102"), "{verdict}");
}

#[test]
fn a_wrong_annotation_refuses_the_pod_with_what_to_write() {
    for (annotation, value, hint) in [
        ("weft.mesh/skip-outbound-ports", "smtp", "write ports and ranges of them"),
        ("weft.mesh/inject", "yes", "write enabled or disabled"),
        ("weft.mesh/proxy-cpu-request", "lots", "write a quantity"),
        ("weft.mesh/opaque-port", "25", "did you mean \"weft.mesh/opaque-ports\"?"),
    ] {
        let mut pod = made_by("ReplicaSet", json!({"containers": [{"name": "app"}]}));
        pod["metadata"]["annotations"] = json!({annotation: value});
        let Verdict { what, .. } = review(&asked(&pod), &Settings::default()).unwrap();
        let Decision::Refuse(_) = &what else { panic!("{annotation}: {what:?}") };
        let said = Verdict { uid: "u".into(), what }.to_json();
        assert_eq!(said["response"]["allowed"], false);
        let message = said["response"]["status"]["message"].as_str().unwrap();
        assert!(message.contains(hint), "{message}");
    }
}

#[test]
fn what_is_no_review_of_a_pod_is_refused_and_other_deeds_are_let_through() {
    let pod = made_by("ReplicaSet", json!({"containers": [{"name": "app"}]}));
    let good = asked(&pod);
    let with = |pointer: &str, value: Value| {
        let mut review = good.clone();
        *review.pointer_mut(pointer).unwrap() = value;
        review
    };
    let check = |asked: &Value, expected: BadReview| {
        assert_eq!(review(asked, &Settings::default()).unwrap_err(), expected, "{asked}");
    };
    check(&json!({}), BadReview::NotOne);
    check(&json!([]), BadReview::NotOne);
    check(&with("/apiVersion", json!("admission.k8s.io/v1beta1")), BadReview::NotOne);
    check(&with("/request", json!({})), BadReview::NoUid);
    check(&with("/request/uid", json!("")), BadReview::NoUid);
    check(&with("/request/kind", json!({"group": "apps", "kind": "Deployment"})), BadReview::NoPod);
    check(&with("/request/object", json!(null)), BadReview::NoPod);
    check(&with("/request/object", json!("pod")), BadReview::NoPod);
    for operation in ["UPDATE", "DELETE", "CONNECT"] {
        let verdict = review(&with("/request/operation", json!(operation)), &Settings::default()).unwrap();
        assert_eq!(verdict.what, Decision::Leave(None));
    }
    for odd in [json!({"containers": "none"}), json!({"containers": [7]}), json!([]), json!(null)] {
        // Whatever it is, it is answered.
        let _ = decided(&with("/request/object/spec", odd)["request"]["object"]);
    }
}

#[test]
fn a_pod_of_a_mebibyte_is_no_harder() {
    let env: Vec<_> =
        (0..10_000).map(|n| json!({"name": format!("N{n}"), "value": "v".repeat(80)})).collect();
    let pod = made_by("ReplicaSet", json!({"containers": [{"name": "app", "env": env}]}));
    assert!(pod.to_string().len() > 1 << 20);
    let Decision::Patch(patch) = decided(&pod) else { panic!("it is a pod") };
    assert!(json!(patch).to_string().len() < 8 << 10, "a patch says only what is new");
}
