//! What differs between two states of the configuration, document by document, and in words.

use std::collections::BTreeSet;

use weft_core::manifest::{self, ResourceKey, to_yaml};

use super::{Action, Changed, Documents, State};

/// Changes that a revision's summary names.
const NAMED: usize = 3;

pub(super) fn compare(key: &ResourceKey, before: &Documents, after: &Documents) -> Changed {
    let yaml = |documents: &Documents| documents.get(key).map(|resource| to_yaml(&resource.document));
    let (old, new) = (yaml(before), yaml(after));
    let action = match (&old, &new) {
        (None, Some(_)) => Action::Created,
        (Some(_), None) => Action::Deleted,
        (Some(old), Some(new)) if old != new => Action::Configured,
        (Some(_), Some(_)) | (None, None) => Action::Unchanged,
    };
    let (old, document) = (old.unwrap_or_default(), new.unwrap_or_default());
    Changed { key: key.clone(), action, diff: manifest::diff(&old, &document), document }
}

/// What differs between two states, document by document.
pub(super) fn differences(before: &State, after: &State) -> Vec<Changed> {
    let sides = [
        (&before.applied, &after.applied),
        (&before.config_dir, &after.config_dir),
        (&before.observed, &after.observed),
    ];
    let mut changes: Vec<Changed> = Vec::new();
    for (before, after) in sides {
        let keys: BTreeSet<_> = before.keys().chain(after.keys()).collect();
        changes.extend(keys.into_iter().map(|key| compare(key, before, after)));
    }
    changes.retain(|change| change.action != Action::Unchanged);
    changes
}

pub(super) fn same(left: &Documents, right: &Documents) -> bool {
    left.len() == right.len()
        && left.iter().zip(right).all(|((l, left), (r, right))| l == r && left.document == right.document)
}

pub(super) fn summary<'c>(changed: impl Iterator<Item = &'c Changed> + Clone) -> String {
    let named: Vec<_> = changed
        .clone()
        .take(NAMED)
        .map(|change| format!("{} {}", change.action.as_str(), change.key))
        .collect();
    match changed.count().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}
