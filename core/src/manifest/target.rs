//! `targetRef: {kind: Service, name: orders}`, as every policy has it.

use super::decode::Object;
use super::document::{Places, field_name};
use crate::model::{Name, PolicyTarget, QualifiedName};

/// The kinds of what a policy may be for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TargetKind {
    Mesh,
    Namespace,
    Service,
    Workload,
    HttpRoute,
    GrpcRoute,
}

const KINDS: [(&str, TargetKind); 6] = [
    ("Service", TargetKind::Service),
    ("Namespace", TargetKind::Namespace),
    ("Mesh", TargetKind::Mesh),
    ("Workload", TargetKind::Workload),
    ("HTTPRoute", TargetKind::HttpRoute),
    ("GRPCRoute", TargetKind::GrpcRoute),
];

/// Reads `spec.targetRef` of a policy in `namespace`, of which those in `enforced` are enforced.
pub(super) fn read(
    spec: &Object<'_>,
    namespace: Option<&Name>,
    enforced: &[TargetKind],
    places: &mut Places,
) -> Option<PolicyTarget> {
    let hint = "write what the policy is for, such as targetRef: {kind: Service, name: orders}";
    let field = spec.required("targetRef", hint)?;
    places.insert("spec.targetRef".to_owned(), field.place());
    let target = field.object(&["kind", "name"])?;
    let enforced = KINDS.iter().filter(|(_, kind)| enforced.contains(kind));
    let words = enforced.clone().map(|(word, _)| *word).collect::<Vec<_>>().join(", ");
    let kind_field = target.required("kind", &format!("write one of {words}"))?;
    let kind = kind_field.choice(&KINDS)?;
    if !enforced.clone().any(|(_, enforced)| *enforced == kind) {
        let word = kind_field.text().unwrap_or_default();
        let message = format!("a policy for a {word} is not enforced by this version yet");
        kind_field.mistake(message, format!("write one of {words}"));
        return None;
    }
    let namespace = namespace?.clone();
    let name = || target.required("name", "write the target's name").and_then(|field| field_name(&field));
    let qualified = |name| QualifiedName::new(namespace.clone(), name);
    Some(match kind {
        TargetKind::Mesh => {
            if let Some(name) = target.field("name") {
                name.choice(&[("default", ())])?;
            }
            PolicyTarget::Mesh
        }
        TargetKind::Namespace => {
            if let Some(field) = target.field("name")
                && field_name(&field)? != namespace
            {
                let message =
                    format!("{} is not the policy's own namespace", field.text().unwrap_or_default());
                field.mistake(message, "write the policy into the namespace that it is for");
                return None;
            }
            PolicyTarget::Namespace(namespace)
        }
        TargetKind::Service => PolicyTarget::Service(qualified(name()?)),
        TargetKind::Workload => PolicyTarget::Workload(qualified(name()?)),
        TargetKind::HttpRoute => PolicyTarget::HttpRoute(qualified(name()?)),
        TargetKind::GrpcRoute => PolicyTarget::GrpcRoute(qualified(name()?)),
    })
}
