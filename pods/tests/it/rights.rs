//! Runs a test with the rights it needs, whoever runs the suite.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread;

use weft_pods::{Error, userns};

/// Whoever is nobody in particular.
pub(crate) const SOMEBODY: u32 = 1000;

/// Runs a test where pods can be made: here, in a user namespace, or in another process in a user namespace.
pub(crate) fn with_rights(test: fn()) {
    if !userns::needed() {
        return test();
    }
    match userns::enter() {
        Ok(()) => test(),
        // The harness has threads. With one test and one test thread it has none.
        Err(Error::Threads { .. }) => {
            let name = thread::current().name().unwrap_or_default().to_owned();
            let status = this_program().args(["--exact", &name, "--nocapture"]).status().unwrap();
            assert!(status.success(), "{name} in a user namespace: {status}");
        }
        Err(error) => skip(&error.to_string()),
    }
}

/// This program, with all its tests on the main thread.
pub(crate) fn this_program() -> Command {
    // By its link in /proc it can be started by users who may not see the folder it is in.
    let mut command = Command::new("/proc/self/exe");
    command.arg("--test-threads=1");
    command
}

pub(crate) fn skip(reason: &str) {
    assert!(env::var("WEFT_REFUSE_SKIPS").is_err(), "skipping is refused: {reason}");
    eprintln!("SKIPPED: {reason}");
}

/// Whether this process runs as root outside any user namespace, and so can become other users.
pub(crate) fn is_root() -> bool {
    weft_pods::Exemption::here() == weft_pods::Exemption::User(weft_pods::SIDECAR_UID)
}

#[test]
fn an_ordinary_user_can_do_all_of_this() {
    if !is_root() {
        return eprintln!("run as an ordinary user, all the other tests show this");
    }
    let output = this_program()
        .args(["--skip", "an_ordinary_user", "--nocapture"])
        .uid(SOMEBODY)
        .gid(SOMEBODY)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains("SKIPPED"), "{text}");
}
