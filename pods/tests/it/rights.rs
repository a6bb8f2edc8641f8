//! The rights that the tests need, whoever runs them.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use weft_pods::{Exemption, Result, userns};

/// Whoever is nobody in particular.
pub(crate) const SOMEBODY: u32 = 1000;

/// Enters a user namespace where pods cannot be made without.
pub(crate) fn obtain() -> Result<()> {
    if userns::needed() { userns::enter() } else { Ok(()) }
}

/// The same for the tests: without the rights they are skipped loudly, or fail where skipping is refused.
pub(crate) fn obtained_or_skipped() -> bool {
    let obtained = obtain();
    if let Err(error) = &obtained {
        assert!(env::var("WEFT_REFUSE_SKIPS").is_err(), "skipping is refused: {error}");
        eprintln!("SKIPPED, all of it: {error}");
    }
    obtained.is_ok()
}

/// This program. By its link in `/proc` it can be started also by users who may not see the folder it is in.
pub(crate) fn this_program() -> Command {
    Command::new("/proc/self/exe")
}

/// Whether this process runs as root outside any user namespace, and so can become other users.
pub(crate) fn is_root() -> bool {
    matches!(Exemption::here(), Exemption::User(_))
}

pub(crate) fn an_ordinary_user_can_do_all_of_this() {
    if !is_root() {
        return eprintln!("this run is by an ordinary user: all the other tests show it");
    }
    let output = this_program()
        .args(["--skip", "an_ordinary_user"])
        .env("WEFT_REFUSE_SKIPS", "1")
        .uid(SOMEBODY)
        .gid(SOMEBODY)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}
