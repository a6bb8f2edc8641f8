//! Whether who asks may install: what `weft install` prints, kind by kind.

use anyhow::anyhow;
use serde_json::{Value, json};
use weft_core::install::{self, NAMESPACE};

use super::super::Check;
use super::ask::{self, Answer};
use super::text;

const CHECK: &str = "rights";
const PATH: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// A deed, with the words of a `SelfSubjectAccessReview`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Deed {
    verb: &'static str,
    group: String,
    resource: String,
    namespace: &'static str,
}

/// The first question, whether all is allowed: to most who install it is, and then it is the only one.
#[derive(Debug)]
pub(super) struct Asked(ask::Asked);

impl Asked {
    pub(super) fn all() -> Self {
        let all = Deed { verb: "*", group: "*".to_owned(), resource: "*".to_owned(), namespace: "" };
        Self(all.ask())
    }

    pub(super) fn judge(self) -> Check {
        match allows(&self.0.answer()) {
            Ok(true) => Check::ok(CHECK, "you may do everything"),
            Ok(false) => {
                let deeds = deeds();
                let asked: Vec<_> = deeds.iter().map(Deed::ask).collect();
                let answers: Vec<_> = asked.into_iter().map(|asked| allows(&asked.answer())).collect();
                judge(&deeds, &answers)
            }
            Err(said) => unseen(&said),
        }
    }
}

/// What it takes to install: to make each kind of object, and to give roles rights that one may not have oneself.
fn deeds() -> Vec<Deed> {
    let mut deeds: Vec<Deed> = install::objects(&install::Settings::default()).iter().map(made).collect();
    deeds.extend(
        deeds
            .iter()
            .filter(|deed| deed.resource.ends_with("roles"))
            .cloned()
            .collect::<Vec<_>>()
            .into_iter()
            .map(|deed| Deed { verb: "escalate", ..deed }),
    );
    deeds.sort();
    deeds.dedup();
    deeds
}

fn made(object: &Value) -> Deed {
    let (group, _) = text(object, "/apiVersion").rsplit_once('/').unwrap_or_default();
    Deed {
        verb: "create",
        group: group.to_owned(),
        // None of their plurals is irregular.
        resource: text(object, "/kind").to_lowercase() + "s",
        namespace: if object.pointer("/metadata/namespace").is_some() { NAMESPACE } else { "" },
    }
}

fn allows(answer: &Answer) -> Result<bool, String> {
    match answer {
        Ok(review) => Ok(review.pointer("/status/allowed").and_then(Value::as_bool).unwrap_or_default()),
        Err(refusal) => Err(refusal.said().to_owned()),
    }
}

fn unseen(said: &str) -> Check {
    Check::warning(CHECK, format!("were not seen: {said}"), "kubectl auth can-i --list says why")
}

fn judge(deeds: &[Deed], answers: &[Result<bool, String>]) -> Check {
    if let Some(said) = answers.iter().find_map(|answer| answer.as_ref().err()) {
        return unseen(said);
    }
    let refused = |verb: &str| -> Vec<&str> {
        let refused =
            deeds.iter().zip(answers).filter(|(deed, answer)| deed.verb == verb && **answer == Ok(false));
        refused.map(|(deed, _)| deed.resource.as_str()).collect()
    };
    let (make, escalate) = (refused("create"), refused("escalate"));
    if !make.is_empty() {
        let error = anyhow!("you may not create {}", make.join(", "));
        return Check::failed(CHECK, &error, "whoever administers the cluster may install it");
    }
    if !escalate.is_empty() {
        let detail =
            format!("you may create all, but {} only with rights that you have", escalate.join(", "));
        return Check::warning(CHECK, detail, "the API server says which are missing when you install");
    }
    Check::ok(CHECK, "you may create all that is installed")
}

impl Deed {
    fn ask(&self) -> ask::Asked {
        let Self { verb, group, resource, namespace } = self;
        let attributes = json!({"verb": verb, "group": group, "resource": resource, "namespace": namespace});
        ask::Asked::post(
            PATH,
            &json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": attributes},
            }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::table;
    use super::*;

    #[test]
    fn what_is_installed_is_what_is_asked_for() {
        let deeds = deeds();
        let asked = |verb: &'static str, group: &str, resource: &str, namespace: &'static str| {
            deeds.contains(&Deed { verb, group: group.to_owned(), resource: resource.to_owned(), namespace })
        };
        assert!(asked("create", "", "namespaces", ""));
        assert!(asked("create", "apps", "deployments", NAMESPACE));
        assert!(asked("create", "apiextensions.k8s.io", "customresourcedefinitions", ""));
        assert!(asked("create", "admissionregistration.k8s.io", "mutatingwebhookconfigurations", ""));
        assert!(asked("escalate", "rbac.authorization.k8s.io", "clusterroles", ""));
        assert!(asked("escalate", "rbac.authorization.k8s.io", "roles", NAMESPACE));
    }

    #[test]
    fn what_may_not_be_made_is_named() {
        let deeds = deeds();
        let said = |may: fn(&Deed) -> Result<bool, String>| {
            let answers: Vec<_> = deeds.iter().map(may).collect();
            table(&[judge(&deeds, &answers)], false, None)
        };
        assert_eq!(said(|_| Ok(true)), "ok  rights  you may create all that is installed\n");
        let no_roles = said(|deed| Ok(!(deed.verb == "create" && deed.resource == "clusterroles")));
        assert!(no_roles.starts_with("FAILED  rights  you may not create clusterroles  ("), "{no_roles}");
        let own = said(|deed| Ok(deed.verb == "create"));
        assert!(own.starts_with("warn  rights  you may create all, but "), "{own}");
        assert!(said(|_| Err("no".to_owned())).starts_with("warn  rights  were not seen: no"));
    }
}
