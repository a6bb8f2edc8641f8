//! The watched folder: every change to it becomes one revision, or a report of what is wrong and nothing else.
//!
//! It is looked at four times a second, by its files' metadata. That costs less than it saves: unlike events, it
//! sees folders below, what symbolic links point to (Kubernetes swaps a whole folder by one) and network mounts.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use weft_core::manifest::SourceFile;
use weft_core::model::Name;

use crate::configuration::{Configuration, Outcome};
use crate::metrics::Metrics;
use crate::report::chain;

/// Between two looks at the folder.
const LOOK: Duration = Duration::from_millis(250);
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
        let mut seen = None;
        loop {
            self.look(&mut seen).await;
            sleep(LOOK).await;
        }
    }

    /// Reads the folder if it is not as it was.
    async fn look(&self, seen: &mut Option<Result<Vec<Stamp>, String>>) {
        let path = self.path.clone();
        let before = seen.as_ref().and_then(|seen| seen.as_ref().ok()).cloned();
        let looked = tokio::task::spawn_blocking(move || {
            let stamps = scan(&path)?;
            let texts = if before.as_ref() == Some(&stamps) { None } else { Some(read(&stamps)?) };
            Ok::<_, FolderError>((stamps, texts))
        });
        let Ok(looked) = looked.await else { return };
        match looked {
            Ok((_, None)) => {}
            Ok((stamps, Some(texts))) => {
                if self.take(&texts).await {
                    *seen = Some(Ok(stamps));
                }
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

/// Every YAML file below a folder, in the order of their paths.
fn scan(folder: &Path) -> Result<Vec<Stamp>, FolderError> {
    let mut found = Vec::new();
    let mut folders = vec![(folder.to_owned(), 0)];
    let mut bytes = 0_u64;
    while let Some((folder, depth)) = folders.pop() {
        let failed = |error| FolderError::Read(folder.clone(), error);
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (path, name) = (entry.path(), entry.file_name());
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let yaml = path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
            // Followed, where it is a link. What is gone again says nothing.
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.is_dir() && depth < DEEPEST {
                folders.push((path, depth + 1));
            } else if metadata.is_file() && yaml {
                bytes = bytes.saturating_add(metadata.len());
                found.push(Stamp {
                    path,
                    inode: (metadata.dev(), metadata.ino()),
                    size: metadata.len(),
                    modified: (metadata.mtime(), metadata.mtime_nsec()),
                    changed: (metadata.ctime(), metadata.ctime_nsec()),
                });
            }
            if found.len() > MOST_FILES || folders.len() > MOST_FILES || bytes > MOST_BYTES {
                return Err(FolderError::TooMuch(folder));
            }
        }
    }
    found.sort();
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
        let dir = tempfile::tempdir().unwrap();
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
            found.iter().map(|s| s.path.strip_prefix(dir.path()).unwrap().to_owned()).collect();
        assert_eq!(names, ["a.yml", "b.yaml", "below/c.yaml", "d.yaml"].map(PathBuf::from));
        fs::write(at("other"), "yy").unwrap();
        fs::remove_file(at("d.yaml")).unwrap();
        std::os::unix::fs::symlink("other", at("d.yaml")).unwrap();
        assert_ne!(scan(dir.path()).unwrap(), found);
    }
}
