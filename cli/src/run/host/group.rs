//! A control group (cgroups(7), version 2) for a program and all that it starts.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use weft_pods::intercept::ControlGroup;

/// What our groups are called, before the number of the process that made them.
const NAME: &str = "weft-run-";
/// The namespace that everything is in which is in none of its own (`PROC_CGROUP_INIT_INO`).
const OUTERMOST: &str = "cgroup:[4026531835]";
/// Since then the kernel counts a packet's groups from the root of the namespace that a rule was made in.
const COUNTED_FROM_NAMESPACE: (u32, u32) = (6, 11);
/// How often it is tried to remove a group whose processes are being killed, and how long it rests in between.
const TRIES: u32 = 100;
const REST: Duration = Duration::from_millis(10);

/// A control group. Dropped, it ends, with all that runs in it.
#[derive(Debug)]
pub(super) struct Group {
    folder: PathBuf,
    kernels: ControlGroup,
}

impl Group {
    /// Makes one below our own.
    pub(super) fn create() -> anyhow::Result<Self> {
        let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
        let root = hierarchy(&read("/proc/self/mounts")?).context(
            "no control groups of version 2 are mounted, by which --host tells its program's traffic",
        )?;
        let own = own(&read("/proc/self/cgroup")?).context("we are in no control group of version 2")?;
        let is_outermost =
            fs::read_link("/proc/self/ns/cgroup").is_ok_and(|link| link == Path::new(OUTERMOST));
        if !is_outermost && release(&read("/proc/sys/kernel/osrelease")?) < COUNTED_FROM_NAMESPACE {
            bail!("--host in a container needs Linux 6.11: this kernel does not tell its control groups");
        }
        let parent = root.join(&own);
        remove_old(&parent);
        let folder = parent.join(format!("{NAME}{}", std::process::id()));
        fs::create_dir(&folder)
            .with_context(|| format!("cannot make the control group {}", folder.display()))?;
        let level = u32::try_from(own.components().count())? + 1;
        // The kernel's number of a group is its folder's inode.
        let id = fs::metadata(&folder)?.ino();
        Ok(Self { folder, kernels: ControlGroup { level, id } })
    }

    /// Its folder.
    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    /// As the packet filter knows it.
    pub(super) fn kernels(&self) -> ControlGroup {
        self.kernels
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Before Linux 5.14 there is no such file, and whoever runs on keeps the group.
        let _ = fs::write(self.folder.join("cgroup.kill"), "1");
        for _ in 0..TRIES {
            match fs::remove_dir(&self.folder) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => thread::park_timeout(REST),
                _ => return,
            }
        }
    }
}

/// Removes groups of those that were killed. One in which something runs stays.
fn remove_old(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let is_old = |name: &str| {
        let maker = name.strip_prefix(NAME).and_then(|maker| maker.parse::<u32>().ok());
        maker.is_some_and(|maker| !Path::new(&format!("/proc/{maker}")).exists())
    };
    for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(is_old)) {
        let _ = fs::remove_dir(entry.path());
    }
}

/// Where the groups are mounted, by the lines of `/proc/self/mounts`.
fn hierarchy(mounts: &str) -> Option<PathBuf> {
    let mut lines = mounts.lines().map(|line| line.split(' '));
    lines.find_map(|mut words| {
        let (_, at, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(at))
    })
}

/// Our own group below the root, by the lines of `/proc/self/cgroup`; none where it is outside of what we see.
fn own(groups: &str) -> Option<PathBuf> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    (!path.split('/').any(|part| part == "..")).then(|| PathBuf::from(path))
}

/// The first two numbers of a kernel's version.
fn release(text: &str) -> (u32, u32) {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hierarchy_is_found_beside_those_of_the_first_version() {
        let hybrid =
            "cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(hierarchy(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(hierarchy("tmpfs /tmp tmpfs rw 0 0\n"), None);
    }

    #[test]
    fn our_own_group_is_that_of_the_second_version() {
        let level = |text: &str| own(text).map(|own| own.components().count());
        assert_eq!(level("8:pids:/x\n0::/\n"), Some(0));
        assert_eq!(level("0::/user.slice/user-0.slice/session-1.scope\n"), Some(3));
        assert_eq!(level("0::/../outside\n"), None);
        assert_eq!(level("8:pids:/x\n"), None);
    }

    #[test]
    fn kernels_are_compared_by_their_numbers() {
        assert!(
            release("6.11.0-rc1\n") >= COUNTED_FROM_NAMESPACE && release("6.18.44-fc\n") > release("6.9.1")
        );
        assert!(release("5.10.0-38-amd64\n") < COUNTED_FROM_NAMESPACE && release("x") == (0, 0));
    }
}
