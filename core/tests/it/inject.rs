//! Sidecars into manifests and out of them again: what is added, what stays as it is, and what is refused.

use serde_json::Value;
use weft_core::inject::{self, Change, Injection, NotInjected, Settings, What};
use weft_core::manifest::{self, SourceFile};

const DEPLOYMENT: &str = "\
# The shop's front.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web   # as in DNS
spec:
  replicas: 2
  template:
    metadata:
      labels: {app: web}
    spec:
      # One container.
      containers:
        # The app.
        - name: web
          image: web:1
          ports:
          - containerPort: 8080
";

fn file(text: &str) -> SourceFile<'_> {
    SourceFile { name: "in.yaml", text }
}

fn injected(text: &str) -> inject::Rewritten {
    inject::inject(file(text), &Settings::default()).unwrap_or_else(|problems| panic!("{text}\n{problems:?}"))
}

fn documents(text: &str) -> Vec<Value> {
    manifest::objects(file(text)).expect("it can be read")
}

/// Injects, checks what a reader of the result sees, and takes it out again: every byte is as it was.
#[track_caller]
fn check_way_back(text: &str, workloads: usize) -> String {
    let there = injected(text);
    let given = there.outcomes.iter().filter(|outcome| outcome.what == What::Injected).count();
    assert_eq!(given, workloads, "{:?}", there.outcomes);
    assert_eq!(there.notes, [], "{}", there.text);
    assert_eq!(
        there.text.matches("restartPolicy").count() - text.matches("restartPolicy").count(),
        workloads
    );
    assert_eq!(injected(&there.text).text, there.text, "twice is once");
    let back = inject::uninject(file(&there.text)).expect("it can be read");
    assert_eq!(back.text, text);
    assert_eq!(back.outcomes.iter().filter(|outcome| outcome.what == What::Removed).count(), workloads);
    // Every line that was there is there still, in its order.
    let mut lines = there.text.lines();
    let flow = text.contains(['{', '[']);
    assert!(flow || text.lines().all(|line| lines.any(|other| other == line)), "{}", there.text);
    there.text
}

#[test]
fn a_deployment_is_given_a_native_sidecar_and_keeps_its_comments() {
    let text = check_way_back(DEPLOYMENT, 1);
    let document = documents(&text).remove(0);
    let spec = &document["spec"]["template"]["spec"];
    let names = |key: &str| {
        spec[key].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(names("initContainers"), ["weft-init", "weft-proxy"]);
    assert_eq!(names("containers"), ["web"]);
    assert_eq!(names("volumes"), ["weft-identity", "weft-cache"]);
    let [init, sidecar] = [0, 1].map(|index| &spec["initContainers"][index]);
    assert_eq!(init["args"], serde_json::json!(["intercept", "up"]));
    assert_eq!(
        init["securityContext"]["capabilities"],
        serde_json::json!({"drop": ["ALL"], "add": ["NET_ADMIN"]})
    );
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert_eq!(sidecar["securityContext"]["runAsUser"], 2102);
    assert_eq!(sidecar["securityContext"]["runAsNonRoot"], true);
    assert_eq!(sidecar["startupProbe"]["httpGet"]["path"], "/ready");
    let node = sidecar["env"].as_array().unwrap().iter().find(|variable| variable["name"] == "WEFT_NODE");
    assert_eq!(node.unwrap()["valueFrom"]["fieldRef"]["fieldPath"], "spec.nodeName");
    assert!(
        text.contains("      # One container.\n      containers:\n        # The app.\n        - name: web\n"),
        "{text}"
    );
}

#[test]
fn every_kind_of_workload_is_given_one() {
    for kind in ["Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "Job", "ReplicationController"] {
        check_way_back(&DEPLOYMENT.replace("Deployment", kind), 1);
    }
    check_way_back("kind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - name: app\n", 1);
    check_way_back(
        "kind: PodTemplate\nmetadata:\n  name: p\ntemplate:\n  spec:\n    containers:\n    - name: app\n",
        1,
    );
    check_way_back(
        "kind: CronJob\nmetadata:\n  name: p\nspec:\n  schedule: '* * * * *'\n  jobTemplate:\n    spec:\n      template:\n        \
         spec:\n          restartPolicy: OnFailure\n          containers:\n          - name: app\n",
        1,
    );
}

#[test]
fn lists_several_documents_and_strangers_pass() {
    let list = "\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Service
  metadata: {name: web}
- apiVersion: v1
  kind: Pod
  metadata:
    name: a
    annotations:
      owner: me
  spec:
    volumes:
    - name: data
      emptyDir: {}
    containers:
    - {name: app}
-   kind: Pod
    metadata: {name: b, annotations: {}}
    spec: {containers: [{name: app}]}
";
    let crd = "apiVersion: example.com/v1\nkind:   Deployment  # of theirs\nspec: &a\n    <<: {x: !odd 1}\n";
    let text = format!("# first\n---\n{crd}---\n{list}---\n\n# nothing\n---\n{DEPLOYMENT}...\n");
    let there = check_way_back(&text, 3);
    assert!(there.starts_with(&format!("# first\n---\n{crd}---\n")), "{there}");
}

#[test]
fn json_stays_json() {
    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"app","args":["]","\"}"]}]}}"#;
    let text = check_way_back(pod, 1);
    serde_json::from_str::<Value>(&text).expect("JSON");
    let pretty = format!("{:#}\n", serde_json::from_str::<Value>(pod).unwrap());
    let text = check_way_back(&pretty, 1);
    serde_json::from_str::<Value>(&text).expect("JSON");
}

#[test]
fn lists_that_are_empty_null_or_there_are_added_to() {
    for (before, containers) in [
        ("  initContainers: []\n  volumes: []\n", "- name: app\n"),
        ("  initContainers:\n  volumes:\n", "- name: app\n"),
        ("  initContainers:\n  # first\n  - name: migrate\n  volumes:\n    - name: data\n", "- name: app\n"),
        ("", "-\n    name: app\n"),
        ("", "-   name: app\n"),
    ] {
        check_way_back(
            &format!("kind: Pod\nmetadata:\n  name: p\nspec:\n{before}  containers:\n  {containers}"),
            1,
        );
    }
}

#[test]
fn line_ends_of_windows_and_a_missing_last_one_stay() {
    check_way_back(&DEPLOYMENT.replace('\n', "\r\n"), 1);
    check_way_back(DEPLOYMENT.trim_end(), 1);
    check_way_back("kind: Pod\nspec:\n  containers:\n  - name: app\nmetadata:\n  name: p\n  annotations:", 1);
}

#[test]
fn what_cannot_be_placed_is_written_anew_and_said() {
    let text = "kind: Pod\nmetadata: {name: p}\nx: &spec\n  containers:\n  - name: app\nspec: *spec\n";
    let there = injected(text);
    assert_eq!(there.notes.len(), 1, "{}", there.text);
    assert_eq!(there.notes[0].line, 1);
    let document = documents(&there.text).remove(0);
    assert_eq!(document["spec"]["initContainers"][1]["name"], "weft-proxy");
    assert_eq!(document["x"]["containers"][0]["name"], "app");
    assert!(document["x"].get("initContainers").is_none());
}

#[test]
fn an_older_cluster_gets_a_container_that_the_app_waits_for() {
    let mut settings = Settings::default();
    settings.set("sidecar", "container").unwrap();
    settings.set("image.registry", "registry.example.com/mesh/").unwrap();
    settings.set("image.tag", "7").unwrap();
    let there = inject::inject(file(DEPLOYMENT), &settings).unwrap();
    let document = documents(&there.text).remove(0);
    let spec = &document["spec"]["template"]["spec"];
    assert_eq!(spec["initContainers"].as_array().unwrap().len(), 1);
    let sidecar = &spec["containers"][0];
    assert_eq!(sidecar["name"], "weft-proxy");
    assert_eq!(sidecar["image"], "registry.example.com/mesh/weft-proxy:7");
    assert_eq!(sidecar["lifecycle"]["postStart"]["exec"]["command"][1], "await");
    assert_eq!(inject::uninject(file(&there.text)).unwrap().text, DEPLOYMENT);
}

#[test]
fn annotations_say_what_is_skipped_and_set_aside() {
    let annotations = "metadata:\n      annotations:\n        weft.mesh/skip-inbound-ports: 22,9100-9110\n        \
                       weft.mesh/skip-outbound-cidrs: \"10.0.0.0/8, fd00::/8\"\n        weft.mesh/proxy-cpu-request: 250m\n        \
                       weft.mesh/proxy-memory-limit: 1Gi\n        weft.mesh/proxy-log-level: debug\n        weft.mesh/trace-sampling: 1%";
    let text = check_way_back(&DEPLOYMENT.replace("metadata:\n      labels: {app: web}", annotations), 1);
    let document = documents(&text).remove(0);
    let containers = &document["spec"]["template"]["spec"]["initContainers"];
    assert_eq!(
        containers[0]["args"],
        serde_json::json!([
            "intercept",
            "up",
            "--skip-inbound-ports=22,9100-9110",
            "--skip-outbound-cidrs=10.0.0.0/8,fd00::/8"
        ])
    );
    assert_eq!(
        containers[1]["resources"],
        serde_json::json!({"requests": {"cpu": "250m", "memory": "32Mi"}, "limits": {"memory": "1Gi"}})
    );
    let environment = containers[1]["env"].as_array().unwrap();
    for (name, value) in [
        ("WEFT_LOG_LEVEL", "debug"),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "1%"),
    ] {
        assert!(environment.contains(&serde_json::json!({"name": name, "value": value})), "{name}");
    }
}

#[test]
fn a_sidecar_may_take_as_long_to_end_as_its_pod() {
    for (seconds, expected) in [("300", Some("300s")), ("30", None), ("5", None), ("soon", None)] {
        let text = DEPLOYMENT
            .replace("    spec:\n", &format!("    spec:\n      terminationGracePeriodSeconds: {seconds}\n"));
        let document = documents(&check_way_back(&text, 1)).remove(0);
        let environment = &document["spec"]["template"]["spec"]["initContainers"][1]["env"];
        let mut settings = environment.as_array().unwrap().iter();
        let drain = settings.find(|setting| setting["name"] == "WEFT_DRAIN_TIMEOUT");
        assert_eq!(drain.map(|setting| setting["value"].as_str().unwrap()), expected, "{seconds}");
    }
}

#[test]
fn what_is_wrong_with_annotations_is_refused_with_its_reason() {
    for (annotation, reason) in [
        ("weft.mesh/inject: maybe", "weft.mesh/inject cannot be \"maybe\"; write enabled or disabled"),
        ("weft.mesh/skip-inbound-ports: '0'", "write ports and ranges of them"),
        ("weft.mesh/skip-inbound-ports: 9-1", "write ports and ranges of them"),
        ("weft.mesh/skip-outbound-cidrs: 10.0.0.0/40", "write networks"),
        ("weft.mesh/proxy-cpu-request: lots", "write a quantity: 100m"),
        ("weft.mesh/proxy-memory-limit: 1KB", "write a quantity: 64Mi"),
        ("weft.mesh/trace-sampling: '2'", "write a ratio"),
        ("weft.mesh/opaque-ports: mysql", "write ports and ranges of them"),
        ("weft.mesh/skip-outbound-ports: ''", "write ports and ranges of them"),
        ("weft.mesh/proxy-log-level: very loud", "write a level"),
        ("weft.mesh/proxy-image: ''", "write an image"),
        ("weft.mesh/proxy-cpu-limit: '-1'", "write a quantity: 100m"),
        ("weft.mesh/proxy-memory-request: 64 Mi", "write a quantity: 64Mi"),
        ("weft.mesh/skip-inbound-port: '1'", "did you mean \"weft.mesh/skip-inbound-ports\"?"),
    ] {
        let text = DEPLOYMENT.replace("labels: {app: web}", &format!("annotations:\n        {annotation}"));
        let problems = inject::inject(file(&format!("---\n{text}")), &Settings::default()).unwrap_err();
        assert_eq!((problems.len(), problems[0].line), (1, 3), "{problems:?}");
        let message = problems[0].to_string();
        assert!(message.contains("deployment/web") && message.contains(reason), "{message}");
    }
}

#[test]
fn pods_that_get_none_are_left_as_they_are_with_the_reason() {
    let spec = |spec: &str| DEPLOYMENT.replace("    spec:\n", &format!("    spec:\n      {spec}\n"));
    for (text, reason) in [
        (DEPLOYMENT.replace("app: web}", "app: web, weft.mesh/inject: disabled}"), NotInjected::Disabled),
        (spec("hostNetwork: true"), NotInjected::HostNetwork),
        (spec("os: {name: windows}"), NotInjected::Windows),
        (spec("nodeSelector: {kubernetes.io/os: windows}"), NotInjected::Windows),
        (spec("securityContext: {runAsUser: 2102}"), NotInjected::Uid("the container \"web\"".into())),
        (
            DEPLOYMENT.replace("name: web\n          image", "name: weft-proxy\n          image"),
            NotInjected::NameTaken("weft-proxy".into()),
        ),
        ("kind: Pod\nmetadata: {name: p}\nspec: {containers: []}\n".into(), NotInjected::NoContainers),
    ] {
        let there = injected(&text);
        assert_eq!(there.text, text);
        assert_eq!(there.outcomes.len(), 1);
        assert_eq!(there.outcomes[0].what, What::Not(reason));
    }
}

#[test]
fn text_that_is_no_yaml_is_refused_with_its_line() {
    for (text, line) in
        [("a:\n\tc: d\n", 2), ("a: [\n", 2), ("kind: Pod\nkind: Pod\n", 2), ("ok: 1\n---\na: *b\n", 3)]
    {
        let problems = inject::inject(file(text), &Settings::default()).unwrap_err();
        assert_eq!(problems[0].line, line, "{text:?} {problems:?}");
    }
}

#[test]
fn settings_that_there_are_not_are_refused() {
    let mut settings = Settings::default();
    for (key, value) in
        [("image", "x"), ("sidecar", "maybe"), ("controlPlane", "http://x"), ("image.tag", "")]
    {
        assert!(settings.set(key, value).is_err(), "{key}={value}");
    }
    assert_eq!(settings, Settings::default());
}

#[test]
fn a_webhooks_patch_does_the_same_as_the_text() {
    for pod in [
        serde_json::json!({"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [{"name": "app"}]}}),
        serde_json::json!({"kind": "Pod", "metadata": {"annotations": {"a/b": "c"}}, "spec": {
            "containers": [{"name": "app"}], "initContainers": [{"name": "first"}], "volumes": [{"name": "data"}]}}),
    ] {
        let decided = inject::into_pod(&pod["metadata"], &pod["spec"], &Settings::default()).unwrap();
        let Injection::Changes(changes) = decided else { panic!("{decided:?}") };
        let patch: Vec<Value> = changes.iter().flat_map(|change: &Change| change.to_patch(&pod)).collect();
        let mut patched = pod.clone();
        for operation in &patch {
            apply(&mut patched, operation);
        }
        let text = injected(&pod.to_string()).text;
        assert_eq!(patched, serde_json::from_str::<Value>(&text).unwrap());
    }
}

/// An `add` of a JSON patch (RFC 6902, 4.1).
fn apply(document: &mut Value, operation: &Value) {
    assert_eq!(operation["op"], "add");
    let path = operation["path"].as_str().unwrap();
    let (parent, last) = path.rsplit_once('/').unwrap();
    let parent = document.pointer_mut(parent).expect("the place is there");
    match parent {
        Value::Array(items) => items.insert(last.parse().unwrap(), operation["value"].clone()),
        Value::Object(map) => {
            map.insert(last.replace("~1", "/").replace("~0", "~"), operation["value"].clone());
        }
        other => panic!("{other}"),
    }
}
