//! When the watched folder is to be looked at: as soon as the kernel says that something in it has changed (inotify), and from
//! time to time in any case. Network mounts are changed by others, of which the kernel here knows nothing.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, sleep, timeout_at};

/// Between two looks where the kernel tells of changes.
const SELDOM: Duration = Duration::from_secs(1);
/// Between two looks where it does not.
const OFTEN: Duration = Duration::from_millis(250);
/// After a change more of it is waited for, as long as it goes on: files are written piece by piece.
const QUIET: Duration = Duration::from_millis(10);
/// But never for longer than this.
const AT_MOST: Duration = Duration::from_millis(100);

/// What of a folder is heard: each change of its files and links, and that they are being written.
const CHANGES: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);

/// Why it is time for a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The kernel has told of a change.
    Change,
    /// None was told of for some time.
    Clock,
}

/// Hears of changes in some folders.
#[derive(Debug, Default)]
pub(super) struct FolderEvents {
    folders: BTreeSet<PathBuf>,
    /// None: the kernel does not tell of them.
    told: Option<Receiver>,
    /// Whether it has been said that it does not.
    is_reported: bool,
}

impl FolderEvents {
    /// Listens to these folders from now on. Whether that is new: what has changed in them before was not heard.
    pub(super) fn follow(&mut self, folders: BTreeSet<PathBuf>) -> bool {
        if self.folders == folders && self.told.is_some() != folders.is_empty() {
            return false;
        }
        self.told = None;
        match watch(&folders) {
            Ok(told) => self.told = told,
            Err(error) if !self.is_reported => {
                self.is_reported = true;
                tracing::info!(%error, "the kernel does not tell of changes in the configuration directory; it is looked at four times a second");
            }
            Err(_) => {}
        }
        self.folders = folders;
        self.told.is_some()
    }

    /// Waits until it is time for a look, and says why it is.
    pub(super) async fn next(&mut self) -> Cause {
        let Some(told) = &self.told else {
            sleep(OFTEN).await;
            return Cause::Clock;
        };
        if timeout_at(Instant::now() + SELDOM, heard(told)).await.is_err() {
            return Cause::Clock;
        }
        let latest = Instant::now() + AT_MOST;
        while timeout_at(latest.min(Instant::now() + QUIET), heard(told)).await.is_ok() {
            if Instant::now() >= latest {
                break;
            }
        }
        Cause::Change
    }
}

fn watch(folders: &BTreeSet<PathBuf>) -> io::Result<Option<Receiver>> {
    if folders.is_empty() {
        return Ok(None);
    }
    let told = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    for folder in folders {
        inotify::add_watch(&told, folder, CHANGES)?;
    }
    // It is read as a pipe is, which is all that this asks of it.
    Receiver::from_owned_fd_unchecked(told).map(Some)
}

/// Waits for word of the kernel's. What it says does not matter: the folder is read anew.
async fn heard(told: &Receiver) {
    let mut words = [0; 4096];
    while told.readable().await.is_ok() {
        match told.try_read(&mut words) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(1..) => return,
            Ok(0) | Err(_) => break,
        }
    }
    // It will not speak any more: what is left is to look.
    sleep(OFTEN).await;
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    async fn is_told_of(events: &mut FolderEvents, what: &str, change: impl FnOnce()) {
        change();
        assert_eq!(events.next().await, Cause::Change, "{what}");
    }

    #[tokio::test]
    async fn every_kind_of_change_is_told_of_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let mut events = FolderEvents::default();
        assert!(events.follow([dir.path().to_owned()].into()), "what was before was not heard");
        assert!(!events.follow([dir.path().to_owned()].into()));
        is_told_of(&mut events, "a file", || fs::write(at("a.yaml"), "x").unwrap()).await;
        is_told_of(&mut events, "another text", || fs::write(at("a.yaml"), "y").unwrap()).await;
        is_told_of(&mut events, "another name", || fs::rename(at("a.yaml"), at("b.yaml")).unwrap()).await;
        is_told_of(&mut events, "a folder", || fs::create_dir(at("below")).unwrap()).await;
        is_told_of(&mut events, "a link", || symlink("below", at("..new")).unwrap()).await;
        is_told_of(&mut events, "a swap", || fs::rename(at("..new"), at("..data")).unwrap()).await;
        is_told_of(&mut events, "no file", || fs::remove_file(at("b.yaml")).unwrap()).await;
    }

    #[tokio::test]
    async fn what_cannot_be_watched_is_looked_at_often() {
        let mut events = FolderEvents::default();
        assert!(!events.follow([PathBuf::from("/nowhere/at/all")].into()));
        let begun = Instant::now();
        assert_eq!(events.next().await, Cause::Clock);
        assert!(begun.elapsed() >= OFTEN, "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_change_that_goes_on_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut events = FolderEvents::default();
        events.follow([dir.path().to_owned()].into());
        for name in 0..100 {
            fs::write(dir.path().join(name.to_string()), "x").unwrap();
        }
        assert_eq!(events.next().await, Cause::Change);
        assert_eq!(events.next().await, Cause::Clock, "a hundred files are one change");
    }
}
