//! What every store has room for: a document that etcd and a cluster's Secrets would refuse is refused at once, wherever it is to be kept.

use weft_core::manifest::{self, Problem, Reading, Resource, SourceFile};
use weft_core::model::Name;

/// Bytes of a document, as JSON: etcd takes 1.5 MiB in a request, and a Secret of a cluster holds 1 MiB of several.
const LONGEST: usize = 512 << 10;

/// Reads files, and refuses what no store would take.
pub(super) fn read(files: &[SourceFile<'_>], namespace: &Name) -> Reading {
    let mut reading = manifest::read(files, namespace);
    let too_long: Vec<_> = reading.resources.iter().filter_map(too_long).collect();
    reading.problems.extend(too_long);
    reading
}

/// Whether there is room for it.
pub(super) fn fits(resource: &Resource) -> bool {
    length(resource) <= LONGEST
}

fn length(resource: &Resource) -> usize {
    resource.document.to_string().len()
}

fn too_long(resource: &Resource) -> Option<Problem> {
    let length = Some(length(resource)).filter(|length| *length > LONGEST)?;
    Some(Problem {
        file: resource.file.clone(),
        line: resource.line,
        column: 1,
        message: format!(
            "{} is {} KiB long, and {} may be kept",
            resource.key(),
            length >> 10,
            LONGEST >> 10
        ),
        hint: "split it, or take out annotations that are not for the mesh".to_owned(),
    })
}
