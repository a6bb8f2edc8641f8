//! A folder for the files of sidecars, gone when we are; where we were killed, the next one sweeps it away.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;
use tempfile::TempDir;

use super::resident::sidecar_owner;

/// Locked while the folder is in use; the kernel unlocks it however we end.
const LOCK: &str = "in-use";
/// What is younger may be about to be locked.
const SETTLED: Duration = Duration::from_mins(1);

/// A folder in the system's folder for temporary files.
#[derive(Debug)]
pub(crate) struct Folder {
    folder: TempDir,
    _lock: File,
}

impl Folder {
    /// Makes one. Its name says whose it is: `weft-demo-PID-..`.
    pub(crate) fn create(owner: &str) -> anyhow::Result<Self> {
        let parent = std::env::temp_dir();
        sweep(&parent, SETTLED);
        create(&parent, owner).with_context(|| format!("cannot make a folder in {}", parent.display()))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves it there for somebody to look into.
    pub(crate) fn keep(self) -> PathBuf {
        // Without its lock it would be swept away one day, which is as it should be.
        self.folder.keep()
    }
}

fn create(parent: &Path, owner: &str) -> io::Result<Folder> {
    let prefix = format!("weft-{owner}-{}-", std::process::id());
    let folder = tempfile::Builder::new().prefix(&prefix).tempdir_in(parent)?;
    let lock = File::create(folder.path().join(LOCK))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    // Sidecars that run as another user may enter it; each file in it says for itself who may read it.
    let mode = if sidecar_owner().is_some() { 0o711 } else { 0o700 };
    fs::set_permissions(folder.path(), Permissions::from_mode(mode))?;
    Ok(Folder { folder, _lock: lock })
}

/// Removes our user's folders that nobody uses any more. What cannot be looked at or removed stays.
fn sweep(parent: &Path, settled: Duration) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let abandoned = entries.map(|entry| entry.path()).filter(|path| is_abandoned(path, settled));
    for folder in abandoned {
        let _ = fs::remove_dir_all(folder);
    }
}

fn is_abandoned(path: &Path, settled: Duration) -> bool {
    let named = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| {
        ["weft-demo-", "weft-run-", "weft-mesh-"].iter().any(|prefix| name.starts_with(prefix))
    });
    let ours = |file: &fs::Metadata| file.is_dir() && file.uid() == geteuid().as_raw();
    let old =
        |file: &fs::Metadata| file.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age >= settled));
    let free = || {
        let lock = File::open(path.join(LOCK))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(io::Error::from)
    };
    named && fs::symlink_metadata(path).is_ok_and(|file| ours(&file) && old(&file)) && free().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_of_the_dead_are_swept_away() {
        let parent = tempfile::tempdir().unwrap();
        let used = create(parent.path(), "run").unwrap();
        let abandoned = create(parent.path(), "demo").unwrap().keep();
        let unlocked = parent.path().join("weft-run-1-abc");
        let foreign = parent.path().join("other");
        fs::create_dir(&unlocked).unwrap();
        fs::create_dir(&foreign).unwrap();
        File::create(foreign.join(LOCK)).unwrap();

        sweep(parent.path(), SETTLED);
        assert!(abandoned.exists(), "it is too young");
        sweep(parent.path(), Duration::ZERO);
        assert!(!abandoned.exists());
        assert!(used.path().exists() && unlocked.exists() && foreign.exists());
    }
}
