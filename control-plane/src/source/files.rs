//! The watched folder: every change to it becomes one revision, or a report of what is wrong and nothing else.
//!
//! What is in it its files' metadata say, when the kernel tells of a change and from time to time anyway: so folders below,
//! what symbolic links point to (Kubernetes swaps a whole folder by one) and network mounts are seen as well.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use weft_core::manifest::SourceFile;
use weft_core::model::Name;

use crate::configuration::{Configuration, Outcome};
use crate::metrics::Metrics;
use crate::report::chain;
use crate::source::folder_events::FolderEvents;

/// How often it is read again because it has changed meanwhile.
const READINGS: usize = 5;
/// Folders within folders.
const DEEPEST: usize = 8;
/// Files that are read.
const MOST_FILES: usize = 2000;
/// Bytes of all files.
const MOST_BYTES: u64 = 32 << 20;

/// The folder cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// It, or something in it.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// More than a configuration has.
    #[error("{0} holds more than {MOST_FILES} files, or more than {MOST_BYTES} bytes")]
    TooMuch(PathBuf),
}

/// A file as its metadata tell it from what it was and will be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    path: PathBuf,
    inode: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

struct Text {
    name: String,
    text: String,
}

/// The watched folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    configuration: Arc<Configuration>,
    metrics: Arc<Metrics>,
    namespace: Name,
}

impl Folder {
    /// Watches `path`; documents without a namespace go to this one.
    pub(crate) fn new(
        path: PathBuf,
        configuration: Arc<Configuration>,
        metrics: Arc<Metrics>,
        namespace: Name,
    ) -> Self {
        Self { path, configuration, metrics, namespace }
    }

    /// Follows the folder, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let (mut seen, mut events) = (None, FolderEvents::default());
        loop {
            let folders = self.look(&mut seen).await;
            if !events.follow(folders) {
                let cause = events.next().await;
                tracing::trace!(?cause, "the configuration directory is looked at");
            }
        }
    }

    /// Reads the folder if it is not as it was. In which folders a change of it would be.
    async fn look(&self, seen: &mut Option<Result<Vec<Stamp>, String>>) -> BTreeSet<PathBuf> {
        let path = self.path.clone();
        let before = seen.as_ref().and_then(|seen| seen.as_ref().ok()).cloned();
        let looked = tokio::task::spawn_blocking(move || read_whole(&path, before.as_deref()));
        let Ok(looked) = looked.await else { return BTreeSet::new() };
        match looked {
            Ok((found, None)) => found.folders,
            Ok((found, Some(texts))) => {
                if self.take(&texts).await {
                    *seen = Some(Ok(found.stamps));
                }
                found.folders
            }
            Err(error) => {
                let reason = chain(&error);
                if seen.as_ref().and_then(|seen| seen.as_ref().err()) != Some(&reason) {
                    tracing::error!(
                        reason,
                        "cannot read the configuration directory; what was last good stays"
                    );
                    *seen = Some(Err(reason));
                }
                BTreeSet::new()
            }
        }
    }

    /// Puts the files into force; false where that is to be tried again.
    async fn take(&self, texts: &[Text]) -> bool {
        let files: Vec<_> =
            texts.iter().map(|file| SourceFile { name: &file.name, text: &file.text }).collect();
        match self.configuration.replace_config_dir(&files, &self.namespace).await {
            Ok(outcome) => {
                self.report(&outcome);
                true
            }
            Err(error) => {
                tracing::error!(reason = chain(&error), "cannot take the configuration directory over");
                false
            }
        }
    }

    fn report(&self, outcome: &Outcome) {
        self.metrics.config_problems.set(i64::try_from(outcome.problems.len()).unwrap_or(i64::MAX));
        for note in &outcome.notes {
            tracing::info!("{note}");
        }
        for problem in &outcome.problems {
            tracing::error!("{problem}");
        }
        if !outcome.problems.is_empty() {
            tracing::error!(
                problems = outcome.problems.len(),
                "the configuration directory is not taken over; what was last good stays"
            );
        }
    }
}

/// What is below a folder.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    /// Its YAML files, in the order of their paths.
    stamps: Vec<Stamp>,
    /// Itself and those below, and those to which links lead.
    folders: BTreeSet<PathBuf>,
}

/// Reads a folder if it is not as it was `before`: as it was at one moment, where it does not change all the time.
fn read_whole(folder: &Path, before: Option<&[Stamp]>) -> Result<(Found, Option<Vec<Text>>), FolderError> {
    let mut found = scan(folder)?;
    if before == Some(found.stamps.as_slice()) {
        return Ok((found, None));
    }
    let mut texts = read(&found.stamps);
    for _ in 1..READINGS {
        let after = scan(folder)?;
        if after == found {
            break;
        }
        found = after;
        texts = read(&found.stamps);
    }
    Ok((found, Some(texts?)))
}

/// Every YAML file below a folder.
fn scan(folder: &Path) -> Result<Found, FolderError> {
    let mut found = Found::default();
    let mut folders = vec![(folder.to_owned(), 0)];
    let mut bytes = 0_u64;
    while let Some((folder, depth)) = folders.pop() {
        let failed = |error| FolderError::Read(folder.clone(), error);
        found.folders.insert(folder.clone());
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (path, name) = (entry.path(), entry.file_name());
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
            // Followed, where it is a link. What is gone again says nothing.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                let target = fs::canonicalize(&path).ok();
                found.folders.extend(target.and_then(|target| Some(target.parent()?.to_owned())));
            }
            if metadata.is_dir() && depth < DEEPEST {
                folders.push((path, depth + 1));
            } else if metadata.is_file() && yaml {
                bytes = bytes.saturating_add(metadata.len());
                found.stamps.push(Stamp {
                    path,
                    inode: (metadata.dev(), metadata.ino()),
                    size: metadata.len(),
                    modified: (metadata.mtime(), metadata.mtime_nsec()),
                    changed: (metadata.ctime(), metadata.ctime_nsec()),
                });
            }
            if found.stamps.len() > MOST_FILES || folders.len() > MOST_FILES || bytes > MOST_BYTES {
                return Err(FolderError::TooMuch(folder));
            }
        }
    }
    found.stamps.sort();
    Ok(found)
}

fn read(stamps: &[Stamp]) -> Result<Vec<Text>, FolderError> {
    let text = |stamp: &Stamp| {
        let text = fs::read_to_string(&stamp.path);
        let text = text.map_err(|error| FolderError::Read(stamp.path.clone(), error))?;
        Ok(Text { name: stamp.path.display().to_string(), text })
    };
    stamps.iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn yaml_files_are_found_below_and_behind_links_but_not_hidden_ones() {
        let dir = tempfile::tempdir_in(std::env::temp_dir().canonicalize().unwrap()).unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("below")).unwrap();
        fs::create_dir_all(at("..data")).unwrap();
        for name in ["b.yaml", "a.yml", "note.txt", "below/c.yaml", "..data/d.yaml", ".hidden.yaml"] {
            fs::write(at(name), "x").unwrap();
        }
        std::os::unix::fs::symlink("..data/d.yaml", at("d.yaml")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("e.yaml")).unwrap();
        let found = scan(dir.path()).unwrap();
        let names: Vec<_> =
            found.stamps.iter().map(|s| s.path.strip_prefix(dir.path()).unwrap().to_owned()).collect();
        assert_eq!(names, ["a.yml", "b.yaml", "below/c.yaml", "d.yaml"].map(PathBuf::from));
        // A change in any of these would be one of it.
        assert_eq!(found.folders, [dir.path().to_owned(), at("below"), at("..data")].into());
        fs::write(at("other"), "yy").unwrap();
        fs::remove_file(at("d.yaml")).unwrap();
        std::os::unix::fs::symlink("other", at("d.yaml")).unwrap();
        assert_ne!(scan(dir.path()).unwrap(), found);
    }
}
