//! The configuration: documents that people apply or put into the watched folder, in revisions.
//!
//! Every change is checked as a whole, written down as a revision, and only then put into force.

mod differences;
mod error;
mod kept;
mod observed;
mod room;
mod versions;

use std::collections::BTreeMap;
use std::slice;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Mutex, MutexGuard, watch};
use weft_core::manifest::{Problem, Resource, ResourceKey, SourceFile};
use weft_core::model::{Name, ResourceName};
use weft_core::world::{Change, World as Known};

use crate::store::{Document, DocumentKey, Origin, Revision, RevisionSource, Store};
use crate::world::World;
use differences::{compare, differences, same, summary};
use kept::{Kept, again, last_read, restore};
use observed::{as_there, deletion, replacing};

pub(crate) use error::ConfigurationError;
pub(crate) use observed::{Author, Authors, Home, KUBERNETES, is_observed};

/// Who owns documents, as the world knows them.
const APPLIED: &str = "apply";
const CONFIG_DIR: &str = "config-dir";
/// Documents that may be in force at once.
const MOST: usize = 20_000;

/// What became of one document.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Changed {
    /// Which.
    pub key: ResourceKey,
    /// What.
    pub action: Action,
    /// Unified, of the YAML; empty where nothing changed.
    pub diff: String,
    /// What it became, as YAML; empty where it is gone.
    pub document: String,
}

/// What became of a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// It is new.
    Created,
    /// It is another now.
    Configured,
    /// It is as it was.
    Unchanged,
    /// It is gone.
    Deleted,
}

/// Either problems, and nothing was changed, or what was done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// The revision in force after it.
    pub revision: u64,
    /// What became of each document concerned.
    pub changes: Vec<Changed>,
    /// Why nothing was done.
    pub problems: Vec<Problem>,
    /// What may surprise.
    pub notes: Vec<String>,
    /// Of what is only tried: what would be told otherwise.
    pub told_otherwise: Vec<ResourceName>,
}

/// What a change would bring.
#[derive(Debug)]
pub(crate) struct Rehearsal {
    /// Problems, where it would be refused.
    pub outcome: Outcome,
    /// The mesh before and after it; none where it would be refused.
    pub worlds: Option<(Known, Known)>,
}

/// Whether a change is made or only tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Made.
    Commit,
    /// Only tried.
    DryRun,
}

type Documents = BTreeMap<ResourceKey, Resource>;

/// The configuration.
#[derive(Debug)]
pub(crate) struct Configuration {
    world: Arc<World>,
    store: Store,
    state: Mutex<State>,
    home: watch::Receiver<Home>,
}

#[derive(Debug, Default, Clone)]
struct State {
    revision: u64,
    applied: Documents,
    config_dir: Documents,
    /// What was last seen in the cluster. What is in force of it, the world knows from there.
    observed: Documents,
    /// What the folder last said, even if it was rolled back since.
    last_read: Documents,
}

/// How a revision comes about.
struct By<'a> {
    source: RevisionSource,
    author: &'a str,
    time: SystemTime,
}

impl<'a> By<'a> {
    fn now(source: RevisionSource, author: &'a str) -> Self {
        Self { source, author, time: SystemTime::now() }
    }
}

impl Configuration {
    /// The newest revision in the store, put into force.
    pub(crate) async fn open(world: Arc<World>, store: Store) -> Result<Self, ConfigurationError> {
        let revisions = store.revisions().await?;
        let mut state = State { last_read: last_read(&store, &revisions).await?, ..State::default() };
        if let Some(newest) = revisions.first() {
            state = State {
                last_read: state.last_read,
                ..State::of(newest.number, restore(&store, newest.number).await?)
            };
        }
        world.load(state.revision, state.in_force());
        let home = watch::channel(Home::Here).1;
        Ok(Self { world, store, state: Mutex::new(state), home })
    }

    /// Puts into force what others have made of the configuration, where they have.
    pub(crate) async fn follow(&self) -> Result<(), ConfigurationError> {
        self.caught_up().await.map(drop)
    }

    /// Applies the documents in these files to what there is.
    pub(crate) async fn apply(
        &self,
        files: &[SourceFile<'_>],
        namespace: &Name,
        author: &str,
        (mode, expected): (Mode, Option<u64>),
    ) -> Result<Outcome, ConfigurationError> {
        again(|| self.apply_once(files, namespace, author, (mode, expected))).await
    }

    async fn apply_once(
        &self,
        files: &[SourceFile<'_>],
        namespace: &Name,
        author: &str,
        (mode, expected): (Mode, Option<u64>),
    ) -> Result<Outcome, ConfigurationError> {
        if mode == Mode::Commit {
            self.expect_at_home(|| {
                "kubectl apply -f FILE; weft diff -f FILE shows what that would change".into()
            })?;
        }
        let reading = room::read(files, namespace);
        let notes = reading.notes.iter().map(ToString::to_string).collect();
        let mut state = self.caught_up().await?;
        let mut outcome =
            Outcome { revision: state.revision, problems: reading.problems, notes, ..Outcome::default() };
        if !outcome.problems.is_empty() {
            return Ok(outcome);
        }
        let keys: Vec<_> = reading.resources.iter().map(Resource::key).collect();
        self.expect_unchanged(expected, &state, Some(&keys)).await?;
        // What is only tried is tried where it would be applied.
        let (source, before) = match self.home() {
            Home::Kubernetes => (KUBERNETES, self.of_cluster()),
            Home::Here | Home::NotReadYet => (APPLIED, state.applied.clone()),
        };
        let mut after = before.clone();
        let read = reading.resources.into_iter().map(|resource| as_there(resource, &before));
        after.extend(read.map(|resource| (resource.key(), resource)));
        outcome.problems = self.check(source, &after);
        if !outcome.problems.is_empty() {
            return Ok(outcome);
        }
        let resources: Vec<_> = after.values().cloned().collect();
        let ties = self.world.read(|known| known.ties(source, &resources, &keys));
        let unproved = self.world.read(|known| known.unproved(source, &resources, &keys));
        outcome.notes.extend(ties.iter().chain(&unproved).map(ToString::to_string));
        outcome.changes = keys.iter().map(|key| compare(key, &before, &after)).collect();
        match mode {
            Mode::Commit => {
                let next = State { applied: after, ..state.clone() };
                self.commit(&mut state, next, &mut outcome, By::now(RevisionSource::Apply, author)).await?;
            }
            Mode::DryRun => outcome.told_otherwise = self.told_otherwise(replacing(source, &after)),
        }
        Ok(outcome)
    }

    /// What the mesh is, and what it would be with the documents in these files; nothing is changed. Those that stand in the
    /// watched folder are tried in their place there.
    pub(crate) async fn rehearse(&self, files: &[SourceFile<'_>], namespace: &Name) -> Rehearsal {
        let reading = room::read(files, namespace);
        let notes = reading.notes.iter().map(ToString::to_string).collect();
        let state = self.state.lock().await;
        let mut outcome =
            Outcome { revision: state.revision, problems: reading.problems, notes, ..Outcome::default() };
        let (mut next, mut of_cluster) = (state.clone(), self.of_cluster());
        for resource in reading.resources {
            let (key, of_folder) = (resource.key(), next.config_dir.contains_key(&resource.key()));
            let in_cluster = self.home() == Home::Kubernetes || of_cluster.contains_key(&key);
            let documents = match (of_folder, in_cluster) {
                (true, _) => &mut next.config_dir,
                (false, true) => &mut of_cluster,
                (false, false) => &mut next.applied,
            };
            let resource = as_there(resource, documents);
            documents.insert(key, resource);
        }
        let sides = [(APPLIED, &next.applied), (CONFIG_DIR, &next.config_dir), (KUBERNETES, &of_cluster)];
        for (source, documents) in sides {
            if outcome.problems.is_empty() {
                outcome.problems = self.check(source, documents);
            }
        }
        if !outcome.problems.is_empty() {
            return Rehearsal { outcome, worlds: None };
        }
        let before = self.world.read(Clone::clone);
        let mut after = before.clone();
        for (source, documents) in sides {
            after.apply(replacing(source, documents));
        }
        Rehearsal { outcome, worlds: Some((before, after)) }
    }

    /// Deletes a document that was applied.
    pub(crate) async fn delete(
        &self,
        key: &ResourceKey,
        author: &str,
        expected: Option<u64>,
    ) -> Result<Outcome, ConfigurationError> {
        again(|| self.delete_once(key, author, expected)).await
    }

    async fn delete_once(
        &self,
        key: &ResourceKey,
        author: &str,
        expected: Option<u64>,
    ) -> Result<Outcome, ConfigurationError> {
        let mut state = self.caught_up().await?;
        self.expect_unchanged(expected, &state, Some(slice::from_ref(key))).await?;
        let mut next = state.clone();
        if next.applied.remove(key).is_none() {
            return Err(match state.config_dir.get(key) {
                Some(there) => ConfigurationError::InConfigDir { key: key.clone(), file: there.file.clone() },
                None if self.of_cluster().contains_key(key) => {
                    ConfigurationError::InKubernetes(deletion(key))
                }
                None => ConfigurationError::Absent(key.clone()),
            });
        }
        let changes = vec![compare(key, &state.applied, &next.applied)];
        let mut outcome = Outcome { revision: state.revision, changes, ..Outcome::default() };
        self.commit(&mut state, next, &mut outcome, By::now(RevisionSource::Delete, author)).await?;
        Ok(outcome)
    }

    /// Makes a new revision of what an old one said.
    pub(crate) async fn rollback(
        &self,
        revision: u64,
        author: &str,
        expected: Option<u64>,
    ) -> Result<Outcome, ConfigurationError> {
        again(|| self.rollback_once(revision, author, expected)).await
    }

    async fn rollback_once(
        &self,
        revision: u64,
        author: &str,
        expected: Option<u64>,
    ) -> Result<Outcome, ConfigurationError> {
        self.expect_at_home(|| {
            format!("weft rollback {revision} --print | kubectl apply -f - makes it what it was, but for what is new since")
        })?;
        let mut state = self.caught_up().await?;
        self.expect_unchanged(expected, &state, None).await?;
        let Kept { applied, config_dir, .. } = restore(&self.store, revision).await?;
        let next = State { applied, config_dir, ..state.clone() };
        let changes = differences(&state, &next);
        let mut outcome = Outcome { revision: state.revision, changes, ..Outcome::default() };
        self.commit(&mut state, next, &mut outcome, By::now(RevisionSource::Rollback, author)).await?;
        Ok(outcome)
    }

    /// Takes what the watched folder says now, all of it or nothing.
    pub(crate) async fn replace_config_dir(
        &self,
        files: &[SourceFile<'_>],
        namespace: &Name,
    ) -> Result<Outcome, ConfigurationError> {
        again(|| self.replace_config_dir_once(files, namespace)).await
    }

    async fn replace_config_dir_once(
        &self,
        files: &[SourceFile<'_>],
        namespace: &Name,
    ) -> Result<Outcome, ConfigurationError> {
        let reading = room::read(files, namespace);
        let notes = reading.notes.iter().map(ToString::to_string).collect();
        let mut state = self.caught_up().await?;
        let mut outcome =
            Outcome { revision: state.revision, problems: reading.problems, notes, ..Outcome::default() };
        if !outcome.problems.is_empty() {
            return Ok(outcome);
        }
        let read: Documents = reading.resources.into_iter().map(|r| (r.key(), r)).collect();
        // What was rolled back stays so until the folder says something new.
        if same(&read, &state.last_read) {
            return Ok(outcome);
        }
        outcome.problems = self.check(CONFIG_DIR, &read);
        if !outcome.problems.is_empty() {
            return Ok(outcome);
        }
        let next = State { config_dir: read.clone(), last_read: read, ..state.clone() };
        outcome.changes = differences(&state, &next);
        self.commit(&mut state, next, &mut outcome, By::now(RevisionSource::ConfigDir, CONFIG_DIR)).await?;
        Ok(outcome)
    }

    /// What is in force, after what others have made of it meanwhile was put into force.
    async fn caught_up(&self) -> Result<MutexGuard<'_, State>, ConfigurationError> {
        let mut state = self.state.lock().await;
        if !self.store.is_shared() {
            return Ok(state);
        }
        let mut newest = state.revision;
        if newest > 0 && !self.store.has_revision(newest).await? {
            // We were away for so long that even what we have was forgotten.
            newest = self.store.revisions().await?.first().map_or(newest, |revision| revision.number);
        }
        while self.store.has_revision(newest + 1).await? {
            newest += 1;
        }
        if newest == state.revision {
            return Ok(state);
        }
        let kept = restore(&self.store, newest).await?;
        let last_read = last_read(&self.store, &self.store.revisions().await?).await?;
        *state = State { last_read, ..State::of(newest, kept) };
        self.world.load(state.revision, state.in_force());
        tracing::info!(revision = newest, "configured by another control plane");
        Ok(state)
    }

    /// The revisions, newest first; with a document, only those that touched it.
    pub(crate) async fn history(
        &self,
        touching: Option<&ResourceKey>,
    ) -> Result<Vec<Revision>, ConfigurationError> {
        let touching = touching.map(document_key);
        let mut revisions = self.store.revisions().await?;
        revisions.retain(|revision| touching.as_ref().is_none_or(|key| revision.touched.contains(key)));
        Ok(revisions)
    }

    fn check(&self, source: &'static str, documents: &Documents) -> Vec<Problem> {
        let resources: Vec<_> = documents.values().cloned().collect();
        let mut problems = self.world.read(|known| known.check(source, &resources));
        if let Some(over) = resources.get(MOST) {
            let message = format!("more than {MOST} documents");
            let hint = "split the mesh".to_owned();
            problems.push(Problem { file: over.file.clone(), line: over.line, column: 1, message, hint });
        }
        problems
    }

    /// Writes a revision down and puts it into force, unless nothing changed.
    async fn commit(
        &self,
        state: &mut State,
        mut next: State,
        outcome: &mut Outcome,
        By { source, author, time }: By<'_>,
    ) -> Result<(), ConfigurationError> {
        let changed = outcome.changes.iter().filter(|change| change.action != Action::Unchanged);
        let touched: Vec<_> = changed.clone().map(|change| document_key(&change.key)).collect();
        if touched.is_empty() {
            *state = next;
            return Ok(());
        }
        next.revision = state.revision + 1;
        let revision = Revision {
            number: next.revision,
            time,
            author: if author.is_empty() { "unknown".into() } else { author.chars().take(253).collect() },
            source,
            summary: summary(changed),
            touched,
        };
        tracing::info!(
            revision = next.revision,
            source = source.as_str(),
            summary = revision.summary,
            "configured"
        );
        self.store.append_revision(revision, &next.documents()).await?;
        self.world.configure(next.revision, next.in_force()).await;
        outcome.revision = next.revision;
        *state = next;
        Ok(())
    }
}

impl State {
    fn of(revision: u64, Kept { applied, config_dir, observed }: Kept) -> Self {
        Self { revision, applied, config_dir, observed, last_read: Documents::new() }
    }

    fn in_force(&self) -> Vec<Change> {
        vec![replacing(APPLIED, &self.applied), replacing(CONFIG_DIR, &self.config_dir)]
    }

    fn documents(&self) -> Vec<Document> {
        let applied = self.applied.values().map(|resource| (resource, Origin::Applied));
        let in_folder = self.config_dir.values().map(|r| (r, Origin::ConfigDir(r.file.clone())));
        let observed = self.observed.values().map(|resource| (resource, Origin::Kubernetes));
        let document = |(resource, origin): (&Resource, Origin)| Document {
            key: document_key(&resource.key()),
            origin,
            json: resource.document.to_string(),
        };
        applied.chain(in_folder).chain(observed).map(document).collect()
    }
}

fn document_key(key: &ResourceKey) -> DocumentKey {
    DocumentKey {
        kind: key.kind.as_str().into(),
        namespace: key.namespace.as_ref().map(ToString::to_string).unwrap_or_default(),
        name: key.name.to_string(),
    }
}

impl Action {
    /// As it is shown.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
        }
    }
}
