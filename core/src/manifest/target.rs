//! `targetRef`: what a policy is attached to.

use std::fmt;

use super::decode::Object;
use super::document::{Places, field_name};
use crate::model::Name;

/// What a policy is attached to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyTarget {
    /// Every service of the mesh.
    Mesh,
    /// Every service of the policy's namespace.
    Namespace,
    /// The service of this name in the policy's namespace.
    Service(Name),
}

#[derive(Clone, Copy)]
enum TargetKind {
    Mesh,
    Namespace,
    Service,
    NotYet(&'static str),
}

const KINDS: [(&str, TargetKind); 6] = [
    ("Service", TargetKind::Service),
    ("Namespace", TargetKind::Namespace),
    ("Mesh", TargetKind::Mesh),
    ("Workload", TargetKind::NotYet("Workload")),
    ("HTTPRoute", TargetKind::NotYet("HTTPRoute")),
    ("GRPCRoute", TargetKind::NotYet("GRPCRoute")),
];

/// Reads `spec.targetRef`.
pub(super) fn read(spec: &Object<'_>, namespace: Option<&Name>, places: &mut Places) -> Option<PolicyTarget> {
    let hint = "write what the policy is for, such as targetRef: {kind: Service, name: orders}";
    let field = spec.required("targetRef", hint)?;
    places.insert("spec.targetRef".to_owned(), field.place());
    let target = field.object(&["kind", "name"])?;
    let kind = target.required("kind", "write one of Service, Namespace, Mesh")?;
    match kind.choice(&KINDS)? {
        TargetKind::Mesh => {
            if let Some(name) = target.field("name") {
                name.choice(&[("default", ())])?;
            }
            Some(PolicyTarget::Mesh)
        }
        TargetKind::Namespace => {
            if let Some(field) = target.field("name") {
                let name = field_name(&field)?;
                if Some(&name) != namespace {
                    let message = format!("{name} is not the policy's own namespace");
                    field.mistake(message, "write the policy into the namespace that it is for");
                    return None;
                }
            }
            Some(PolicyTarget::Namespace)
        }
        TargetKind::Service => {
            field_name(&target.required("name", "write the service's name")?).map(PolicyTarget::Service)
        }
        TargetKind::NotYet(name) => {
            let hint = "attach the policy to a Service, a Namespace or the Mesh";
            kind.mistake(format!("a policy for a {name} is not enforced by this version yet"), hint);
            None
        }
    }
}

impl fmt::Display for PolicyTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("the mesh"),
            Self::Namespace => f.write_str("the namespace"),
            Self::Service(name) => write!(f, "Service {name}"),
        }
    }
}
