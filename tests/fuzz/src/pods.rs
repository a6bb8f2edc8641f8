//! What the API server and people show the injector: reviews of pods, and manifests.

use serde_json::Value;
use weft_core::inject::{self, Decision, Settings};
use weft_core::manifest::SourceFile;

use crate::texts;

/// Whatever is asked is answered; a patch fits the pod that it was made for, and makes it one that needs none.
pub fn review(bytes: &[u8]) {
    let Ok(mut asked) = serde_json::from_slice::<Value>(bytes) else { return };
    let settings = Settings::default();
    let Ok(verdict) = inject::review(&asked, &settings) else { return };
    let answer = verdict.to_json();
    assert_eq!(answer.pointer("/response/uid").and_then(Value::as_str), Some(verdict.uid.as_str()));
    let Decision::Patch(patch) = verdict.what else { return };
    let pod = asked.pointer_mut("/request/object").expect("it was decided about");
    patch.iter().for_each(|operation| add(pod, operation));
    let again = inject::review(&asked, &settings).expect("a review still");
    assert_eq!(again.what, Decision::Leave(None), "twice is once");
}

/// RFC 6902, 4.1: the place must be there.
fn add(pod: &mut Value, operation: &Value) {
    let path = operation.get("path").and_then(Value::as_str).expect("a path");
    let (parent, key) = path.rsplit_once('/').expect("below the root");
    let (key, value) = (key.replace("~1", "/").replace("~0", "~"), operation["value"].clone());
    match pod.pointer_mut(parent) {
        Some(Value::Object(map)) => drop(map.insert(key, value)),
        Some(Value::Array(items)) => {
            let index: usize = key.parse().expect("an index");
            assert!(index <= items.len(), "{path}");
            items.insert(index, value);
        }
        other => panic!("{path}: {other:?}"),
    }
}

pub fn reviews() -> Vec<Vec<u8>> {
    let of = |object: &str| {
        format!(
            r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"u","kind":{{"group":"","version":"v1","kind":"Pod"}},"operation":"CREATE","object":{object}}}}}"#
        )
    };
    let pods = [
        r#"{"metadata":{"generateName":"web-","annotations":{"weft.mesh/opaque-ports":"25"}},"spec":{"containers":[{"name":"app","ports":[{"name":"web","containerPort":80}],"livenessProbe":{"httpGet":{"port":"web"}}}]}}"#,
        r#"{"metadata":null,"spec":{"initContainers":[],"volumes":null,"containers":[{"name":"weft-proxy"}],"hostNetwork":true}}"#,
        r#"{"spec":{"securityContext":{"runAsUser":2102},"containers":[{}],"os":{"name":"windows"},"terminationGracePeriodSeconds":300}}"#,
        r#"{"metadata":{"labels":[]},"spec":{"containers":{},"initContainers":"x"}}"#,
    ];
    let reviews: Vec<String> = pods.iter().map(|pod| of(pod)).collect();
    texts(&reviews.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What is refused has a place in the text; what is injected is the same when it is injected once more, and leads back.
pub fn manifests_with_sidecars(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let file = |text| SourceFile { name: "a.yaml", text };
    let settings = Settings::default();
    let there = match inject::inject(file(text), &settings) {
        Ok(there) => there,
        Err(problems) => {
            let lines = u32::try_from(text.split(['\n', '\r']).count()).expect("a short text") + 1;
            assert!(problems.iter().all(|problem| (1..=lines).contains(&problem.line)), "{problems:?}");
            return;
        }
    };
    if !there.notes.is_empty() {
        return;
    }
    let again = inject::inject(file(&there.text), &settings).expect("what we wrote");
    assert_eq!(again.text, there.text, "twice is once");
    let bare = inject::uninject(file(text)).expect("it was read");
    let back = inject::uninject(file(&there.text)).expect("what we wrote");
    assert_eq!(back.text, bare.text, "{}", there.text);
}

pub fn workloads() -> Vec<Vec<u8>> {
    texts(&[
        "kind: Pod\nmetadata:\n  name: p\n  annotations: {weft.mesh/skip-inbound-ports: '22'}\nspec:\n  containers:\n  - name: app\n",
        "kind: Deployment\r\nmetadata: {name: d}\r\nspec:\r\n  template:\r\n    spec:\r\n      volumes:\r\n      containers: [{name: app}]\r\n",
        "---\nkind: List\nitems:\n- kind: Job\n  spec: {template: {metadata: {}, spec: &s {containers: [{name: a}]}}}\n-   kind: Pod\n    spec: *s\n...\n",
        "{\"kind\":\"Pod\",\"spec\":{\"containers\":[{\"name\":\"a\"}],\"initContainers\":[]}}",
        "# c\nservices:\n  web:\n    image: x # y\n    ports: [\"80:80\"]\n  db: &db {image: z}\nnetworks: {a: }\n",
    ])
}
