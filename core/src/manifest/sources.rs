//! `weft.mesh/sources` on a Service: what becomes of a service that several sources know.

use std::fmt;

use super::decode::{Field, Object};

/// The annotation.
const ANNOTATION: &str = "weft.mesh/sources";
/// What is written for the default.
const MERGE: &str = "merge";

/// Where somebody behind a service is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SourceKind {
    /// The cluster that the control plane runs in.
    Kubernetes,
    /// Sidecars that tell of themselves.
    Registry,
    /// `Workload`s that people wrote.
    Documents,
    /// `Workload`s that DNS knows where they are.
    Dns,
}

/// What becomes of those that several sources know behind one service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Sources {
    /// All of them are called.
    #[default]
    Merged,
    /// Those of the first source that has somebody who works; of sources that are not named nobody is called.
    InOrder(Vec<SourceKind>),
}

impl SourceKind {
    /// All of them, in the order in which one goes before another where both know a workload by the same name.
    pub const ALL: [Self; 4] = [Self::Kubernetes, Self::Registry, Self::Documents, Self::Dns];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kubernetes => "kubernetes",
            Self::Registry => "registry",
            Self::Documents => "documents",
            Self::Dns => "dns",
        }
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a Service's metadata says.
pub(super) fn read(metadata: Option<&Object<'_>>) -> Sources {
    let annotations = metadata.and_then(|metadata| metadata.field("annotations"));
    let Some(field) = annotations.and_then(|annotations| annotations.at(ANNOTATION)) else {
        return Sources::Merged;
    };
    match field.text() {
        None | Some(MERGE) => Sources::Merged,
        Some(text) => Sources::InOrder(in_order(&field, text)),
    }
}

fn in_order(field: &Field<'_>, text: &str) -> Vec<SourceKind> {
    let mut order = Vec::new();
    for word in text.split(',').map(str::trim) {
        match SourceKind::ALL.into_iter().find(|kind| kind.as_str() == word) {
            Some(kind) if order.contains(&kind) => {
                field.mistake(format!("{word} is there twice"), "name each source once");
            }
            Some(kind) => order.push(kind),
            None => field.mistake(
                format!("{word:?} is no source"),
                "write merge, or in their order some of kubernetes, registry, documents and dns",
            ),
        }
    }
    order
}
