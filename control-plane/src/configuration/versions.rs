//! Revisions beside each other: what lies between two, who was faster, and what a change would have told.

use std::collections::BTreeSet;

use weft_core::compile::compile_one;
use weft_core::manifest::ResourceKey;
use weft_core::model::ResourceName;
use weft_core::world::Change;

use super::{Changed, Configuration, ConfigurationError, State, differences, document_key, restore};
use crate::store::Revision;

impl Configuration {
    /// What differs between two revisions; 0 is the mesh before its first.
    pub(crate) async fn changes(&self, from: u64, to: u64) -> Result<Vec<Changed>, ConfigurationError> {
        let (before, after) = (self.documents_of(from).await?, self.documents_of(to).await?);
        Ok(differences(&before, &after))
    }

    async fn documents_of(&self, revision: u64) -> Result<State, ConfigurationError> {
        if revision == 0 {
            return Ok(State::default());
        }
        Ok(State::of(revision, restore(&self.store, revision).await?))
    }

    /// Refuses what was made without a look at what others did to the same documents, or, with none given, to any.
    pub(super) async fn expect_unchanged(
        &self,
        expected: Option<u64>,
        state: &State,
        documents: Option<&[ResourceKey]>,
    ) -> Result<(), ConfigurationError> {
        let Some(expected) = expected.filter(|expected| *expected != state.revision) else { return Ok(()) };
        if expected > state.revision {
            return Err(ConfigurationError::NoRevision(expected));
        }
        let revisions = self.store.revisions().await?;
        if revisions.last().is_some_and(|oldest| oldest.number > expected + 1) {
            return Err(ConfigurationError::Forgotten(expected));
        }
        let keys = documents.map(|keys| keys.iter().map(document_key).collect::<Vec<_>>());
        let concerns = |revision: &&Revision| match &keys {
            Some(keys) => keys.iter().any(|key| revision.touched.contains(key)),
            None => true,
        };
        let later = revisions.iter().take_while(|revision| revision.number > expected);
        match later.into_iter().find(concerns) {
            None => Ok(()),
            Some(Revision { number, author, summary, .. }) => Err(ConfigurationError::Outdated {
                what: summary.clone(),
                revision: *number,
                author: author.clone(),
            }),
        }
    }

    /// What would be told otherwise if this were in force.
    pub(super) fn told_otherwise(&self, change: Change) -> Vec<ResourceName> {
        let before = self.world.read(Clone::clone);
        let mut after = before.clone();
        let affected: BTreeSet<_> = after.apply(change).affected;
        let differs = |name: &ResourceName| compile_one(&before, name) != compile_one(&after, name);
        affected.into_iter().filter(differs).collect()
    }
}
