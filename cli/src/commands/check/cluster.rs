//! `weft check --cluster`: whether a cluster can take a control plane, and whether the one that is there works. Asked by `kubectl`,
//! with the rights of whoever runs it; nothing is changed.

mod ask;
mod bundle;
mod rights;
mod trial;

use anyhow::anyhow;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use weft_core::inject::{self, Injection, into_pod};
use weft_core::install::{INJECTOR, NAMESPACE};
use weft_core::manifest::schema;

use super::Check;
use ask::{Answer, Asked, Refusal};

/// The oldest that has native sidecars.
const OLDEST_MINOR: u32 = 29;
/// A leader says at least this often that it is there, by its own clock.
const LEASE: SignedDuration = SignedDuration::from_secs(60);
/// Pods are named up to here, then counted.
const NAMED: usize = 5;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Before anything is installed.
    Before,
    /// What is installed.
    Installed,
}

type Decide = fn(&Answer, Timestamp) -> Vec<Check>;

const BEFORE: [(&str, Decide); 3] =
    [("/version", version), ("/apis/gateway.networking.k8s.io", gateway), ("/api/v1/nodes?limit=500", nodes)];
const INSTALLED: [(&str, Decide); 4] = [
    (
        "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?labelSelector=app.kubernetes.io%2Fpart-of%3Dweft",
        definitions,
    ),
    ("/apis/apps/v1/namespaces/weft/deployments/weft-control-plane", deployment),
    ("/apis/coordination.k8s.io/v1/namespaces/weft/leases/weft-leader", leader),
    ("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/weft-injector", webhook),
];
/// Those that ask for sidecars, and the pods that have or lack them.
const NAMESPACES: &str = "/api/v1/namespaces?labelSelector=weft.mesh%2Finject%3Denabled";
const PODS: &str = "/api/v1/pods?limit=5000";

/// What is told as it is known.
pub(super) type Tell<'t> = &'t mut dyn FnMut(Check) -> anyhow::Result<()>;

/// Asks everything at once, and judges it in its order. Where there is no cluster the rest is not waited for.
pub(super) fn look(stage: Stage, tell: Tell<'_>) -> anyhow::Result<()> {
    let installed: &[(&str, Decide)] = match stage {
        Stage::Before => &[],
        Stage::Installed => &INSTALLED,
    };
    let questions: Vec<_> = BEFORE.iter().chain(installed).collect();
    let asked: Vec<_> = questions.iter().map(|(path, _)| Asked::get(path)).collect();
    let of_rights = (stage == Stage::Before).then(rights::Asked::all);
    let of_pods =
        (stage == Stage::Installed).then(|| (Asked::get(NAMESPACES), Asked::get(PODS), trial::ask()));
    let now = Timestamp::now();
    for (number, ((_, decide), asked)) in questions.into_iter().zip(asked).enumerate() {
        let answer = asked.answer();
        for check in decide(&answer, now) {
            tell(check)?;
        }
        if number == 0 && answer.is_err() {
            return Ok(());
        }
    }
    if let Some(rights) = of_rights {
        tell(rights.judge())?;
    }
    if let Some((namespaces, pods, trial)) = of_pods {
        tell(trial::judge(&trial.answer()))?;
        for check in sidecars(&namespaces.answer(), &pods.answer()) {
            tell(check)?;
        }
    }
    Ok(())
}

fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn version(answer: &Answer, _: Timestamp) -> Vec<Check> {
    const CHECK: &str = "Kubernetes";
    let found = match answer {
        Ok(found) => found,
        Err(refusal) => return refusal.check(CHECK, "weft asks by kubectl: does kubectl version answer?"),
    };
    let minor = text(found, "/minor").trim_end_matches(|c: char| !c.is_ascii_digit());
    let detail = text(found, "/gitVersion");
    vec![match minor.parse::<u32>() {
        Ok(minor) if minor < OLDEST_MINOR => Check::warning(
            CHECK,
            format!("{detail} has no native sidecars"),
            "install with --set sidecar=container",
        ),
        _ => Check::ok(CHECK, detail),
    }]
}

fn gateway(answer: &Answer, _: Timestamp) -> Vec<Check> {
    const CHECK: &str = "Gateway API";
    match answer {
        Ok(found) => vec![Check::ok(CHECK, text(found, "/preferredVersion/groupVersion"))],
        Err(Refusal::Absent) => vec![Check::warning(
            CHECK,
            "is not there: no HTTPRoute and no GRPCRoute",
            "install its definitions if you want routes; all else works without",
        )],
        Err(refusal) => refusal.check(CHECK, ""),
    }
}

fn nodes(answer: &Answer, _: Timestamp) -> Vec<Check> {
    const CHECK: &str = "nodes";
    let found = match answer {
        Ok(found) => found,
        Err(Refusal::Absent) => return Refusal::Absent.check(CHECK, ""),
        Err(Refusal::Other(said)) => {
            return vec![Check::warning(CHECK, said.clone(), "kernels were not seen")];
        }
    };
    let all = items(found, "/items");
    let windows =
        all.iter().filter(|node| text(node, "/status/nodeInfo/operatingSystem") == "windows").count();
    let mut kernels: Vec<_> = all.iter().map(|node| text(node, "/status/nodeInfo/kernelVersion")).collect();
    kernels.sort_unstable();
    kernels.dedup();
    let detail = format!("{}, kernels {}", all.len(), kernels.join(", "));
    vec![match windows {
        0 => Check::ok(CHECK, detail),
        count => Check::warning(CHECK, format!("{detail}; {count} of Windows"), "their pods get no sidecars"),
    }]
}

fn definitions(answer: &Answer, _: Timestamp) -> Vec<Check> {
    const CHECK: &str = "definitions";
    const HINT: &str = "weft crds | kubectl apply -f -";
    let found = match answer {
        Ok(found) => items(found, "/items"),
        Err(refusal) => return refusal.check(CHECK, HINT),
    };
    let spec = |one: &'_ Value| one.get("spec").cloned().unwrap_or_default();
    let wanted = schema::definitions();
    let (mut absent, mut other) = (Vec::new(), Vec::new());
    for wanted in &wanted {
        let is_it = |one: &&Value| text(one, "/metadata/name") == text(wanted, "/metadata/name");
        match found.iter().find(is_it) {
            None => absent.push(text(wanted, "/spec/names/plural")),
            Some(there) if !says(&spec(there), &spec(wanted)) => {
                other.push(text(wanted, "/spec/names/plural"))
            }
            Some(_) => {}
        }
    }
    vec![match (absent.is_empty(), other.is_empty()) {
        (true, true) => Check::ok(CHECK, format!("{} of weft.mesh, of this version", wanted.len())),
        (true, false) => Check::warning(CHECK, format!("{} are of another version", other.join(", ")), HINT),
        (false, _) => Check::failed(CHECK, &anyhow!("{} are not there", absent.join(", ")), HINT),
    }]
}

/// Whether it says all that is wanted; the API server adds defaults of its own.
fn says(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| there.get(key).is_some_and(|there| says(there, value)))
        }
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len() && there.iter().zip(wanted).all(|(there, wanted)| says(there, wanted))
        }
        (there, wanted) => there == wanted,
    }
}

fn deployment(answer: &Answer, _: Timestamp) -> Vec<Check> {
    const CHECK: &str = "control plane";
    let found = match answer {
        Ok(found) => found,
        Err(refusal) => return refusal.check(CHECK, "weft install | kubectl apply -f -"),
    };
    let count = |pointer: &str| found.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let (ready, wanted) = (count("/status/readyReplicas"), count("/spec/replicas"));
    let image = text(found, "/spec/template/spec/containers/0/image");
    let detail = format!("{ready} of {wanted} ready, {image}");
    let tag = image.rsplit_once(':').map_or("", |(_, tag)| tag);
    vec![if ready == 0 {
        Check::failed(
            CHECK,
            &anyhow!("{detail}"),
            "kubectl -n weft describe pods; kubectl -n weft logs deployment/weft-control-plane",
        )
    } else if ready < wanted {
        Check::warning(CHECK, detail, "kubectl -n weft describe pods")
    } else if tag != env!("CARGO_PKG_VERSION") {
        let detail = format!("{detail}, and this weft is {}", env!("CARGO_PKG_VERSION"));
        Check::warning(CHECK, detail, "weft upgrade | kubectl apply -f -")
    } else {
        Check::ok(CHECK, detail)
    }]
}

fn leader(answer: &Answer, now: Timestamp) -> Vec<Check> {
    const CHECK: &str = "leader";
    let found = match answer {
        Ok(found) => found,
        Err(refusal) => return refusal.check(CHECK, "kubectl -n weft logs deployment/weft-control-plane"),
    };
    let (holder, renewed) = (text(found, "/spec/holderIdentity"), text(found, "/spec/renewTime"));
    let Ok(renewed) = renewed.parse::<Timestamp>() else {
        return Refusal::Other("nobody leads".to_owned())
            .check(CHECK, "kubectl -n weft logs deployment/weft-control-plane");
    };
    let ago = renewed.duration_until(now);
    vec![if ago.abs() > LEASE {
        let (seconds, way) = (ago.abs().as_secs(), if ago.is_negative() { "ahead" } else { "ago" });
        let hint = "it is gone, or clocks differ: certificates need them within minutes";
        Check::warning(CHECK, format!("{holder} said so {seconds} s {way}"), hint)
    } else {
        Check::ok(CHECK, holder)
    }]
}

fn webhook(answer: &Answer, now: Timestamp) -> Vec<Check> {
    const CHECK: &str = "webhook";
    let found = match answer {
        Ok(found) => items(found, "/webhooks"),
        Err(refusal) => return refusal.check(CHECK, "weft install | kubectl apply -f -"),
    };
    let is_proved = |one: &Value| !text(one, "/clientConfig/caBundle").is_empty();
    vec![match found.first() {
        Some(first) if found.iter().all(is_proved) => {
            let named = format!("{INJECTOR}, failurePolicy {}", text(first, "/failurePolicy"));
            let bundles: Vec<_> = found.iter().map(|one| text(one, "/clientConfig/caBundle")).collect();
            bundle::judge(&named, &bundles, now)
        }
        _ => {
            let hint = "the control plane that leads writes it: look into its log";
            Check::failed(
                CHECK,
                &anyhow!("{INJECTOR} has no anchors to be proved by: pods get no sidecars"),
                hint,
            )
        }
    }]
}

/// Pods that have one, those whose is of another version, and those that should have one.
fn sidecars(namespaces: &Answer, pods: &Answer) -> Vec<Check> {
    const CHECK: &str = "sidecars";
    const RESTART: &str = "restart their workloads";
    let pods = match pods {
        Ok(found) => found,
        Err(refusal) => return refusal.check(CHECK, ""),
    };
    let (with, without): (Vec<_>, Vec<_>) =
        items(pods, "/items").iter().map(|pod| (pod, sidecar(pod))).partition(|(_, image)| image.is_some());
    let is_old = |image: &str| image.rsplit_once(':').is_none_or(|(_, tag)| tag != env!("CARGO_PKG_VERSION"));
    let old = with.iter().filter(|(_, image)| image.is_some_and(is_old)).map(|(pod, _)| name(pod)).collect();
    let mut checks = Vec::new();
    let asking = match namespaces {
        Ok(found) => items(found, "/items"),
        Err(_) => {
            let said = "which ask for sidecars was not seen";
            checks.push(Check::warning("namespaces", said, "kubectl get namespaces says why"));
            &[]
        }
    };
    let asking: Vec<_> = asking.iter().map(|namespace| text(namespace, "/metadata/name")).collect();
    let lacking: Vec<_> =
        without.iter().filter(|(pod, _)| lacks(pod, &asking)).map(|(pod, _)| name(pod)).collect();
    if with.is_empty() && lacking.is_empty() {
        let hint = "kubectl label namespace NAME weft.mesh/inject=enabled, then restart its workloads";
        checks.push(Check::warning(CHECK, "no pod has one", hint));
    } else {
        let of = if text(pods, "/metadata/continue").is_empty() { "" } else { ", of the first 5000" };
        checks.push(Check::ok(CHECK, format!("{} pods have one{of}", with.len())));
    }
    for (what, pods) in [("of another version", old), ("asked for, and not there", lacking)] {
        if !pods.is_empty() {
            checks.push(Check::warning(CHECK, format!("{what}: {}", some(&pods)), RESTART));
        }
    }
    checks
}

/// The image of a pod's sidecar.
fn sidecar(pod: &Value) -> Option<&str> {
    let mut all = items(pod, "/spec/initContainers").iter().chain(items(pod, "/spec/containers"));
    all.find(|one| text(one, "/name") == "weft-proxy").map(|one| text(one, "/image"))
}

/// Whether the webhook would give this pod a sidecar, had it been asked; these namespaces are labelled.
fn lacks(pod: &Value, asking: &[&str]) -> bool {
    let namespace = text(pod, "/metadata/namespace");
    let is_over = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
        || pod.pointer("/metadata/deletionTimestamp").is_some();
    let is_wanted = match text(pod, "/metadata/labels/weft.mesh~1inject") {
        "enabled" => true,
        "disabled" => false,
        _ => asking.contains(&namespace),
    };
    if is_over || !is_wanted || [NAMESPACE, "kube-system"].contains(&namespace) {
        return false;
    }
    let part = |key: &str| pod.get(key).unwrap_or(&Value::Null);
    // One with a wrong annotation is refused when it is made again, and that says why.
    !matches!(into_pod(part("metadata"), part("spec"), &inject::Settings::default()), Ok(Injection::Not(_)))
}

fn name(pod: &Value) -> String {
    format!("{}/{}", text(pod, "/metadata/namespace"), text(pod, "/metadata/name"))
}

/// The first of them, and how many more there are.
fn some(names: &[String]) -> String {
    let more = if names.len() > NAMED { format!(" and {} more", names.len() - NAMED) } else { String::new() };
    let named = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    format!("{named}{more}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use weft_core::install::{Settings, objects};

    use super::super::table;
    use super::*;

    const VERSION: &str = env!("CARGO_PKG_VERSION");

    /// What is said of an answer, as the table has it.
    fn said(decide: Decide, answer: Value) -> String {
        table(&decide(&Ok(answer), "2026-01-01T00:00:00Z".parse().unwrap()), false, None)
    }

    /// What `weft install` prints of this kind.
    fn installed(kind: &str) -> Vec<Value> {
        let objects = objects(&Settings::default());
        objects.into_iter().filter(|object| object["kind"] == kind).collect()
    }

    #[test]
    fn versions_without_native_sidecars_are_told_what_to_set() {
        let of = |minor: &str| json!({"major": "1", "minor": minor, "gitVersion": format!("v1.{minor}.0")});
        assert_eq!(said(version, of("29")), "ok  Kubernetes  v1.29.0\n");
        assert_eq!(said(version, of("37+")), "ok  Kubernetes  v1.37+.0\n");
        let old =
            "warn  Kubernetes  v1.28.0 has no native sidecars  (install with --set sidecar=container)\n";
        assert_eq!(said(version, of("28")), old);
    }

    #[test]
    fn definitions_are_those_of_this_version_whatever_the_server_adds() {
        let mut all = installed("CustomResourceDefinition");
        all[0]["spec"]["conversion"] = json!({"strategy": "None"});
        assert_eq!(
            said(definitions, json!({"items": all})),
            "ok  definitions  8 of weft.mesh, of this version\n"
        );
        all[0]["spec"]["scope"] = "Cluster".into();
        let other = said(definitions, json!({"items": all}));
        assert!(
            other.starts_with("warn  definitions  authorizationpolicies are of another version"),
            "{other}"
        );
        let absent = said(definitions, json!({"items": &all[1..]}));
        assert!(absent.starts_with("FAILED  definitions  authorizationpolicies are not there"), "{absent}");
    }

    #[test]
    fn a_control_plane_is_ready_in_part_or_of_another_version() {
        let of = |ready: u64, wanted: u64, tag: &str| {
            let mut found = installed("Deployment").remove(0);
            found["spec"]["replicas"] = wanted.into();
            found["spec"]["template"]["spec"]["containers"][0]["image"] = format!("r:5000/m:{tag}").into();
            found["status"] = json!({"readyReplicas": ready});
            said(deployment, found)
        };
        assert_eq!(of(1, 1, VERSION), format!("ok  control plane  1 of 1 ready, r:5000/m:{VERSION}\n"));
        assert!(of(0, 1, VERSION).starts_with("FAILED  control plane  0 of 1 ready"));
        assert!(of(2, 3, VERSION).starts_with("warn  control plane  2 of 3 ready"));
        assert!(of(1, 1, "0.0.9").contains("weft upgrade | kubectl apply -f -"));
    }

    #[test]
    fn a_leader_that_is_silent_or_ahead_of_the_clock_is_told_of() {
        let of = |at: &str| said(leader, json!({"spec": {"holderIdentity": "a", "renewTime": at}}));
        assert_eq!(of("2025-12-31T23:59:50.000000Z"), "ok  leader  a\n");
        assert!(of("2025-12-31T23:50:00.000000Z").starts_with("warn  leader  a said so 600 s ago"));
        assert!(of("2026-01-01T00:10:00.000000Z").starts_with("warn  leader  a said so 600 s ahead"));
        assert!(said(leader, json!({"spec": {}})).starts_with("FAILED  leader  nobody leads"));
    }

    #[test]
    fn a_webhook_that_nobody_could_prove_is_told_of() {
        let mut found = installed("MutatingWebhookConfiguration").remove(0);
        assert!(said(webhook, found.clone()).starts_with("FAILED  webhook  weft-injector has no anchors"));
        for one in found["webhooks"].as_array_mut().unwrap() {
            one["clientConfig"]["caBundle"] = "UEVN".into();
        }
        assert!(said(webhook, found).starts_with("FAILED  webhook  weft-injector, failurePolicy Ignore, "));
        assert!(said(webhook, json!({})).starts_with("FAILED"));
    }

    /// What is said of these pods, where only the namespace shop is labelled.
    fn said_of_pods(pods: &Value) -> String {
        let namespaces = Ok(json!({"items": [{"metadata": {"name": "shop"}}]}));
        table(&sidecars(&namespaces, &Ok(pods.clone())), false, None)
    }

    #[test]
    fn sidecars_of_another_version_are_named_up_to_five() {
        let pod = |name: usize, container: &str, tag: &str| {
            json!({
                "metadata": {"namespace": "shop", "name": format!("p{name}")},
                "spec": {"initContainers": [{"name": container, "image": format!("r/weft-proxy:{tag}")}]},
            })
        };
        let none = said_of_pods(&json!({"items": [pod(0, "migrate", "1")]}));
        assert!(none.starts_with("warn  sidecars  no pod has one"), "{none}");
        let of = |old: usize| {
            let old = (0..old).map(|name| pod(name, "weft-proxy", "0.0.9"));
            let all: Vec<_> = old.chain([pod(9, "weft-proxy", VERSION)]).collect();
            said_of_pods(&json!({"items": all}))
        };
        assert_eq!(of(0), "ok  sidecars  1 pods have one\n");
        assert!(of(1).contains("of another version: shop/p0  (restart their workloads)"));
        assert!(of(7).contains("shop/p4 and 2 more"), "{}", of(7));
    }

    #[test]
    fn pods_that_lack_a_sidecar_are_those_that_the_webhook_would_have_given_one() {
        let pod = |namespace: &str, change: fn(&mut Value)| {
            let mut pod = json!({
                "metadata": {"namespace": namespace, "name": "web", "labels": {}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]},
                "status": {"phase": "Running"},
            });
            change(&mut pod);
            lacks(&pod, &["shop", "weft"])
        };
        assert!(pod("shop", |_| {}));
        assert!(!pod("other", |_| {}));
        assert!(!pod("weft", |_| {}));
        assert!(pod("other", |pod| pod["metadata"]["labels"]["weft.mesh/inject"] = "enabled".into()));
        assert!(!pod("shop", |pod| pod["metadata"]["labels"]["weft.mesh/inject"] = "disabled".into()));
        assert!(!pod("shop", |pod| pod["metadata"]["annotations"] = json!({"weft.mesh/inject": "disabled"})));
        assert!(!pod("shop", |pod| pod["spec"]["hostNetwork"] = true.into()));
        assert!(!pod("shop", |pod| pod["status"]["phase"] = "Succeeded".into()));
        assert!(!pod("shop", |pod| pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into()));
        let lacking = json!({
            "metadata": {"continue": "more"},
            "items": [{"metadata": {"namespace": "shop", "name": "web"}, "spec": {"containers": [{"name": "web"}]}}],
        });
        assert_eq!(
            said_of_pods(&lacking),
            "ok    sidecars  0 pods have one, of the first 5000\n\
             warn  sidecars  asked for, and not there: shop/web  (restart their workloads)\n"
        );
        let unseen = sidecars(&Err(Refusal::Absent), &Ok(lacking));
        assert!(table(&unseen, false, None).starts_with("warn  namespaces  which ask for"));
    }

    #[test]
    fn nodes_of_windows_and_a_cluster_without_routes_are_no_failure() {
        let node = |system: &str, kernel: &str| json!({"status": {"nodeInfo": {"operatingSystem": system, "kernelVersion": kernel}}});
        let both =
            json!({"items": [node("linux", "6.1.0"), node("linux", "6.1.0"), node("windows", "10.0")]});
        assert!(said(nodes, both).starts_with("warn  nodes  3, kernels 10.0, 6.1.0; 1 of Windows"));
        let at = Timestamp::now();
        assert!(
            table(&gateway(&Err(Refusal::Absent), at), false, None)
                .starts_with("warn  Gateway API  is not there")
        );
        let forbidden = Err(Refusal::Other("forbidden".into()));
        assert!(table(&nodes(&forbidden, at), false, None).starts_with("warn  nodes  forbidden"));
    }
}
