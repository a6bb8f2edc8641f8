//! Rights for an ordinary user: a user namespace in which this process may make network namespaces.
//!
//! The user stays who they are (their id is mapped to itself, not to root), so programs that refuse to run as root do run,
//! and files keep their owner. The process stays in the host's network namespace, where it still has no rights at all: it
//! can listen for the user's browser there, and cannot leave anything behind.

use std::fs;
use std::fs::File;

use nix::sched::{CloneFlags, setns, unshare};
use rustix::process::{getegid, geteuid};
use rustix::thread::{CapabilitySet, capabilities};

use crate::error::{Attempt as _, Error, Result};

/// The kernel's settings that forbid user namespaces: the file, the value that forbids, and what to do.
const KNOBS: [(&str, &str, &str); 3] = [
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "run it as root, or: sysctl -w user.max_user_namespaces=10000",
    ),
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "run it as root, or: sysctl -w kernel.unprivileged_userns_clone=1",
    ),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "run it as root, or: sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
    ),
];

/// Whether this process lacks the rights to make pods, and so should [`enter`] a user namespace first.
#[must_use]
pub fn needed() -> bool {
    !holds(CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN)
}

/// Moves this process into a new user namespace, where it has every right over the network namespaces it makes.
///
/// Call it first thing: the kernel allows it only while the process has one thread.
///
/// # Errors
/// When there are other threads, or the kernel's settings forbid it: the error names the setting and what to do.
pub fn enter() -> Result<()> {
    single_thread()?;
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|error| forbidden(error.into()))?;
    // Without this the kernel lets nobody but root map groups (user_namespaces(7)).
    fs::write("/proc/self/setgroups", "deny").map_err(forbidden)?;
    fs::write("/proc/self/uid_map", format!("{user} {user} 1")).map_err(forbidden)?;
    fs::write("/proc/self/gid_map", format!("{group} {group} 1")).map_err(forbidden)
}

/// Moves this process into the user namespace of another one of the same user, to share its pods and hub.
///
/// Call it first thing: the kernel allows it only while the process has one thread.
///
/// # Errors
/// When there are other threads, or that process is gone or another user's.
pub fn join(pid: u32) -> Result<()> {
    single_thread()?;
    let path = format!("/proc/{pid}/ns/user");
    let namespace = File::open(&path).attempt(format!("open the user namespace {path}"))?;
    setns(namespace, CloneFlags::CLONE_NEWUSER).attempt(format!("enter the user namespace {path}"))
}

/// Whether this process may start programs under that user and group id.
pub(crate) fn may_become(id: u32) -> bool {
    let mapped = |file| fs::read_to_string(file).is_ok_and(|map| covers(&map, id));
    holds(CapabilitySet::SETUID | CapabilitySet::SETGID)
        && mapped("/proc/self/uid_map")
        && mapped("/proc/self/gid_map")
}

fn holds(wanted: CapabilitySet) -> bool {
    capabilities(None).is_ok_and(|sets| sets.effective.contains(wanted))
}

/// Whether an id map (lines of first id inside, first id outside, length) has an id.
fn covers(map: &str, id: u32) -> bool {
    map.lines().any(|line| {
        let mut numbers = line.split_whitespace().map(str::parse::<u32>);
        let (Some(Ok(first)), Some(Ok(_)), Some(Ok(length))) =
            (numbers.next(), numbers.next(), numbers.next())
        else {
            return false;
        };
        id.checked_sub(first).is_some_and(|offset| offset < length)
    })
}

fn single_thread() -> Result<()> {
    let threads = fs::read_dir("/proc/self/task").attempt("count the threads")?.count();
    if threads == 1 { Ok(()) } else { Err(Error::Threads { threads }) }
}

fn forbidden(error: std::io::Error) -> Error {
    let value = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let knob = KNOBS.into_iter().find(|(file, forbids, _)| value(file).trim() == *forbids);
    match knob {
        Some((file, forbids, remedy)) => Error::Forbidden { reason: format!("{file} is {forbids}"), remedy },
        None => Error::Forbidden {
            reason: format!("{error}, perhaps by a container's seccomp profile"),
            remedy: "run it as root, or with --security-opt seccomp=unconfined",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(map: &str, id: u32, expected: bool) {
        assert_eq!(covers(map, id), expected, "{id} in {map:?}");
    }

    #[test]
    fn an_id_map_covers_the_ids_of_its_lines() {
        check("         0          0 4294967295\n", 2102, true);
        check("      1000       1000          1\n", 2102, false);
        check("      1000       1000          1\n", 1000, true);
        check("0 1000 1\n1 100000 65536\n", 2102, true);
        check("", 0, false);
        check("nonsense\n", 0, false);
    }

    #[test]
    fn a_process_with_threads_is_refused() {
        // The test harness has a thread for each test.
        assert!(matches!(enter(), Err(Error::Threads { threads: 2.. })));
    }
}
