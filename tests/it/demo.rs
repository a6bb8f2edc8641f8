//! `weft demo`: a whole mesh in one command, that leaves nothing behind, for root and for an ordinary user.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::{Signal, geteuid};
use serde_json::Value;
use weft_tests::{Process, eventually};

use crate::weft_for_everyone;

/// One demo at a time: each compares the machine before and after.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn demo(uid: Option<u32>, arguments: &[&str]) -> Command {
    let mut command = Command::new(weft_for_everyone());
    command.arg("demo").args(arguments).args(["--dashboard", "127.0.0.1:0"]).current_dir("/");
    if let Some(uid) = uid {
        command.uid(uid).gid(uid).env("HOME", "/");
    }
    command
}

fn last_line(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{error}");
    let line = text.trim_end().lines().next_back().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|parse| panic!("{parse}: {text}{error}"))
}

fn check_demo(uid: Option<u32>) {
    let report =
        last_line(&demo(uid, &["--for", "10s", "--rps", "20", "--json"]).output().expect("weft starts"));
    assert_eq!(report["success_rate"], 1.0, "{report}");
    assert_eq!(report["mtls_rate"], 1.0, "{report}");
    assert_eq!(report["clean"], true, "{report}");
    assert!(report["requests"].as_u64() > Some(100), "{report}");
    assert!(report["traces"].as_u64() > Some(10), "{report}");
    assert!(
        report["p50_ms"].as_f64() > Some(0.0) && report["p99_ms"].as_f64() >= report["p50_ms"].as_f64(),
        "{report}"
    );
    let mut services: Vec<_> =
        report["services"].as_array().expect("services").iter().map(Value::as_str).collect();
    services.sort_unstable();
    assert_eq!(services, ["inventory", "orders", "payments", "web"].map(Some));
}

#[test]
fn the_demo_runs_for_whoever_starts_it() {
    let (_alone, _beside) = (ALONE.lock(), weft_tests::beside_others());
    check_demo(None);
}

#[test]
fn the_demo_runs_for_an_ordinary_user() {
    let (_alone, _beside) = (ALONE.lock(), weft_tests::beside_others());
    if geteuid().is_root() {
        check_demo(Some(1000));
    }
}

#[test]
fn a_killed_demo_leaves_nothing_behind() {
    let (_alone, _beside) = (ALONE.lock(), weft_tests::beside_others());
    for signal in [Signal::INT, Signal::KILL] {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let mut running = Process::start(demo(None, &["--json"]), log.path(), Command::spawn);
        let (ours, mut started, mut namespaces) = (namespace("self"), BTreeSet::new(), BTreeSet::new());
        eventually("its pods are up", Duration::from_secs(30), || {
            started.extend(descendants(running.id()));
            namespaces.extend(started.iter().filter_map(|pid| namespace(&pid.to_string())));
            started.len() >= 8 && namespaces.len() >= 4
        });
        namespaces.retain(|namespace| Some(namespace) != ours.as_ref());
        running.signal(signal);
        running.wait(Duration::from_secs(20));
        eventually("all of it is gone", Duration::from_secs(20), || {
            let alive = started.iter().any(|pid| Path::new(&format!("/proc/{pid}/exe")).exists());
            !alive
                && processes()
                    .filter_map(|pid| namespace(&pid.to_string()))
                    .all(|left| !namespaces.contains(&left))
        });
    }
}

/// A process's network namespace.
fn namespace(pid: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

fn processes() -> impl Iterator<Item = u32> {
    std::fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The processes that this one has started, and those that they have.
fn descendants(id: u32) -> BTreeSet<u32> {
    let parents: Vec<(u32, u32)> = processes()
        .filter_map(|pid| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name in parentheses may hold anything; the parent is the second field behind it.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut found = BTreeSet::from([id]);
    loop {
        let more: Vec<u32> = parents
            .iter()
            .filter(|(pid, parent)| found.contains(parent) && !found.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            found.remove(&id);
            return found;
        }
        found.extend(more);
    }
}
