//! What a run could leave behind on the machine, to compare before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::process;

use rustix::process::{getpid, set_child_subreaper};

use crate::error::{Attempt as _, Result};
use crate::intercept;
use crate::link::Links;

/// Makes this process the parent of every descendant whose own parent dies, so that [`Snapshot::take`] finds them all.
///
/// # Errors
/// When the kernel refuses.
pub fn adopt_orphans() -> Result<()> {
    set_child_subreaper(Some(getpid())).attempt("adopt orphans")
}

/// This process's descendants and network namespaces, and the links and nftables tables of its network namespace.
///
/// Only what belongs to this process is seen, so that what others do on the machine meanwhile makes no difference.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Snapshot {
    /// `/proc/PID/stat` ids and names of the living descendants.
    processes: BTreeSet<String>,
    /// Network namespaces (`net:[inode]`) that this process or a descendant is in or holds open.
    namespaces: BTreeSet<String>,
    links: BTreeSet<String>,
    tables: BTreeSet<String>,
}

impl Snapshot {
    /// Looks.
    ///
    /// # Errors
    /// When `/proc` or the kernel's tables cannot be read.
    pub fn take() -> Result<Self> {
        let family = family()?;
        let mut namespaces = BTreeSet::new();
        for pid in family.keys().chain([&process::id()]) {
            namespaces.extend(namespaces_of(&Path::new("/proc").join(pid.to_string())));
        }
        Ok(Self {
            processes: family.into_iter().map(|(pid, name)| format!("{pid} ({name})")).collect(),
            namespaces,
            links: Links::open()?.names()?,
            tables: intercept::tables()?,
        })
    }

    /// What is different afterwards, one line each (`+ link eth7`); empty where nothing is.
    #[must_use]
    pub fn diff(&self, after: &Self) -> Diff {
        let parts = [
            ("process", &self.processes, &after.processes),
            ("namespace", &self.namespaces, &after.namespaces),
            ("link", &self.links, &after.links),
            ("table", &self.tables, &after.tables),
        ];
        let mut lines = Vec::new();
        for (kind, before, after) in parts {
            lines.extend(after.difference(before).map(|new| format!("+ {kind} {new}")));
            lines.extend(before.difference(after).map(|gone| format!("- {kind} {gone}")));
        }
        Diff { lines }
    }
}

/// What two snapshots differ in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diff {
    lines: Vec<String>,
}

impl Diff {
    /// Whether nothing is different.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// The living descendants of this process, by id, with their names.
fn family() -> Result<BTreeMap<u32, String>> {
    let mut parents = BTreeMap::new();
    for entry in fs::read_dir("/proc").attempt("list the processes")?.flatten() {
        // One that ended meanwhile is nobody's.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some((pid, name, parent)) = parse_stat(&stat) {
            parents.insert(pid, (name.to_owned(), parent));
        }
    }
    let mut family = BTreeMap::new();
    let mut generation = BTreeSet::from([process::id()]);
    while !generation.is_empty() {
        let children = parents.iter().filter(|(_, (_, parent))| generation.contains(parent));
        let children: BTreeMap<u32, String> = children.map(|(pid, (name, _))| (*pid, name.clone())).collect();
        generation = children.keys().copied().collect();
        family.extend(children);
    }
    Ok(family)
}

/// The id, name and parent of a process that is not dead (proc_pid_stat(5)). The name may hold anything, also `)`.
fn parse_stat(stat: &str) -> Option<(u32, &str, u32)> {
    let (pid, rest) = stat.split_once(" (")?;
    let (name, rest) = rest.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some((pid.parse().ok()?, name, parent))
}

/// The namespaces that a process is in (each of its threads) or holds open.
fn namespaces_of(process: &Path) -> BTreeSet<String> {
    let entries = |folder: &str| fs::read_dir(process.join(folder)).into_iter().flatten().flatten();
    let threads = entries("task").map(|thread| thread.path().join("ns/net"));
    let files = entries("fd").map(|file| file.path());
    threads
        .chain(files)
        .filter_map(|link| fs::read_link(link).ok()?.into_os_string().into_string().ok())
        .filter(|target| target.starts_with("net:["))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stat: &str, expected: Option<(u32, &str, u32)>) {
        assert_eq!(parse_stat(stat), expected, "{stat:?}");
    }

    #[test]
    fn a_stat_line_names_a_living_process_and_its_parent() {
        check("42 (weft) S 7 42 42 0", Some((42, "weft", 7)));
        check("42 (a) b) (c) R 1 42", Some((42, "a) b) (c", 1)));
        check("42 (dead) Z 7 42", None);
        check("", None);
        check("42 (cut", None);
    }

    #[test]
    fn a_difference_says_what_came_and_what_went() {
        let before =
            Snapshot { links: BTreeSet::from(["lo".to_owned(), "old".to_owned()]), ..Snapshot::default() };
        let after =
            Snapshot { links: BTreeSet::from(["lo".to_owned(), "new".to_owned()]), ..Snapshot::default() };
        assert_eq!(before.diff(&after).to_string(), "+ link new\n- link old\n");
        assert!(before.diff(&before).is_empty());
    }
}
