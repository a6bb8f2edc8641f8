//! Whether the webhook gives pods sidecars: the API server is asked what would become of one. It makes none (`dryRun`).

use anyhow::anyhow;
use serde_json::{Value, json};

use super::super::Check;
use super::ask::{Answer, Asked};
use super::sidecar;

const CHECK: &str = "injection";
/// Where it is tried: a namespace that every cluster has.
const PATH: &str = "/api/v1/namespaces/default/pods?dryRun=All";

pub(super) fn ask() -> Asked {
    Asked::post(PATH, &pod())
}

/// A pod that asks for a sidecar, and that no policy has anything against.
fn pod() -> Value {
    let restricted = json!({
        "allowPrivilegeEscalation": false, "runAsNonRoot": true, "runAsUser": 65_534,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "weft-check", "labels": {"weft.mesh/inject": "enabled"}},
        "spec": {"containers": [{"name": "app", "image": "weft-check", "securityContext": restricted}]},
    })
}

pub(super) fn judge(answer: &Answer) -> Check {
    const LOG: &str =
        "kubectl -n weft logs deployment/weft-control-plane; can the API server reach port 7444?";
    let none = "a pod of the namespace default would get no sidecar: the webhook does not answer, or is not believed";
    match answer {
        Ok(pod) if sidecar(pod).is_some() => {
            Check::ok(CHECK, "the webhook answers: a pod of the namespace default would get a sidecar")
        }
        Ok(_) => Check::failed(CHECK, &anyhow!("{none}"), LOG),
        Err(refusal) if refusal.said().contains("failed calling webhook") => {
            Check::failed(CHECK, &anyhow!("{}", refusal.said()), LOG)
        }
        Err(refusal) => {
            let hint = "who may make pods in the namespace default can see it";
            Check::warning(CHECK, format!("was not tried: {}", refusal.said()), hint)
        }
    }
}

#[cfg(test)]
mod tests {
    use weft_core::inject::{Settings, has_sidecar, into_pod};

    use super::super::ask::Refusal;
    use super::*;

    #[test]
    fn a_pod_that_is_given_none_is_told_of() {
        let verdict = |answer: &Answer| format!("{:?}", judge(answer).verdict);
        assert_eq!(verdict(&Ok(pod())), "Failed");
        let with = json!({"spec": {"initContainers": [{"name": "weft-proxy", "image": "i"}]}});
        assert_eq!(verdict(&Ok(with)), "Ok");
        let said = |said: &str| Err(Refusal::Other(said.to_owned()));
        assert_eq!(verdict(&said("failed calling webhook \"x\": timeout")), "Failed");
        assert_eq!(verdict(&said("pods is forbidden")), "Warning");
    }

    #[test]
    fn the_pod_that_is_tried_is_one_that_gets_a_sidecar() {
        let pod = pod();
        assert!(!has_sidecar(&pod["metadata"], &pod["spec"]));
        let given = into_pod(&pod["metadata"], &pod["spec"], &Settings::default());
        assert!(matches!(given, Ok(weft_core::inject::Injection::Changes(_))), "{given:?}");
    }
}
