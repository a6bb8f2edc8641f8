//! What the store holds of the configuration, as documents; and changes that somebody else may be quicker with.

use weft_core::manifest;
use weft_core::model::Name;

use super::{ConfigurationError, Documents, KUBERNETES};
use crate::report::chain;
use crate::store::{Origin, Revision, RevisionSource, Store, StoreError};

/// How often a change is made anew because somebody else changes the configuration meanwhile.
const TRIES: usize = 10;

/// Makes a change, anew where somebody else has changed the configuration meanwhile.
pub(super) async fn again<T, F>(change: impl Fn() -> F) -> Result<T, ConfigurationError>
where
    F: Future<Output = Result<T, ConfigurationError>>,
{
    for _ in 1..TRIES {
        match change().await {
            Err(ConfigurationError::Store(StoreError::Changed(_))) => {}
            done => return done,
        }
    }
    change().await
}

/// The documents of a revision, by who owns them.
pub(super) struct Kept {
    pub(super) applied: Documents,
    pub(super) config_dir: Documents,
    pub(super) observed: Documents,
}

/// What the folder last said.
pub(super) async fn last_read(
    store: &Store,
    revisions: &[Revision],
) -> Result<Documents, ConfigurationError> {
    match revisions.iter().find(|revision| revision.source == RevisionSource::ConfigDir) {
        Some(read) => Ok(restore(store, read.number).await?.config_dir),
        None => Ok(Documents::new()),
    }
}

/// The documents of a revision.
pub(super) async fn restore(store: &Store, revision: u64) -> Result<Kept, ConfigurationError> {
    let documents = store.documents(revision).await?.ok_or(ConfigurationError::NoRevision(revision))?;
    let unreadable = |problem: String| ConfigurationError::Unreadable { revision, problem };
    let (mut applied, mut config_dir, mut observed) = (Documents::new(), Documents::new(), Documents::new());
    for document in documents {
        let json = serde_json::from_str(&document.json).map_err(|error| unreadable(chain(&error)))?;
        // Documents that were written down name their namespace, so that any will do here.
        let namespace = document.key.namespace.parse().or_else(|_| "default".parse::<Name>());
        let namespace = namespace.map_err(|error| unreadable(chain(&error)))?;
        let (file, to) = match &document.origin {
            Origin::Applied => ("apply", &mut applied),
            Origin::ConfigDir(file) => (file.as_str(), &mut config_dir),
            Origin::Kubernetes => (KUBERNETES, &mut observed),
        };
        let resource = manifest::restore(&json, &namespace, file).map_err(|problems| {
            unreadable(problems.first().map(ToString::to_string).unwrap_or_else(|| document.key.to_string()))
        })?;
        to.insert(resource.key(), resource);
    }
    Ok(Kept { applied, config_dir, observed })
}
