//! A network namespace that lives as long as somebody holds it, and work done inside it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::panic;
use std::path::{Path, PathBuf};
use std::process;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use crate::error::{Attempt as _, Result};

/// The calling thread's network namespace, as a file that keeps it alive.
const OWN: &str = "/proc/thread-self/ns/net";

/// An open network namespace. The kernel removes it, and every link in it, when the last file and process are gone.
#[derive(Debug)]
pub(crate) struct Namespace {
    file: OwnedFd,
}

impl Namespace {
    /// Makes a new one, on a thread of its own, so that the caller stays where it is.
    pub(crate) fn create() -> Result<Self> {
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).attempt("create a network namespace")?;
            Self::open(Path::new(OWN))
        })
        .attempt("start a thread")?
    }

    /// Opens one of another process, by its file below `/proc`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).attempt(format!("open the network namespace {}", path.display()))?;
        Ok(Self { file: file.into() })
    }

    /// Where other processes of the same user find it while this one lives.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/fd/{}", process::id(), self.file.as_raw_fd()))
    }

    /// Does something on a thread inside the namespace. What it opens (sockets, children) stays there.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        on_a_thread(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET).attempt("enter a network namespace")?;
            Ok(work())
        })
        .attempt("start a thread")?
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Runs on a fresh thread and waits; a panic goes on in the caller.
fn on_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("weft-netns".to_owned()).spawn_scoped(scope, work)?;
        worker.join().map_or_else(|panicked| panic::resume_unwind(panicked), Ok)
    })
}
