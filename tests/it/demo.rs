//! `weft demo`: a whole mesh in one command, that leaves nothing behind, for root and for an ordinary user.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use serde_json::Value;
use weft_pods::Snapshot;

use crate::weft;

/// One demo at a time: each compares the machine before and after.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn demo(uid: Option<u32>, arguments: &[&str]) -> Command {
    let mut command = Command::new(weft());
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
    let _alone = ALONE.lock();
    check_demo(None);
}

#[test]
fn the_demo_runs_for_an_ordinary_user() {
    let _alone = ALONE.lock();
    if geteuid().is_root() {
        check_demo(Some(1000));
    }
}

#[test]
fn a_killed_demo_leaves_nothing_behind() {
    let _alone = ALONE.lock();
    for signal in [Signal::INT, Signal::KILL] {
        let before = Snapshot::take().expect("a look");
        let mut child =
            demo(None, &["--json"]).stdout(std::process::Stdio::null()).spawn().expect("weft starts");
        let id = child.id();
        weft_tests::eventually("its pods are up", Duration::from_secs(30), || children_of(id) >= 8);
        kill_process(Pid::from_raw(i32::try_from(id).expect("a number")).expect("a number"), signal)
            .expect("sent");
        child.wait().expect("its end");
        weft_tests::eventually("all of it is gone", Duration::from_secs(20), || {
            before.diff(&Snapshot::take().expect("a look")).is_empty() && children_of(id) == 0
        });
    }
}

/// How many processes were started for the demo of this process: its descendants run `weft` with its folder.
fn children_of(id: u32) -> usize {
    let group = format!("weft-demo-{id}");
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let named = |entry: &std::fs::DirEntry| {
        std::fs::read(entry.path().join("environ"))
            .is_ok_and(|text| text.windows(group.len()).any(|window| window == group.as_bytes()))
    };
    processes.filter(named).count()
}
