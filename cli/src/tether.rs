//! Programs that end with us, however we end.
//!
//! The kernel can kill a child when its parent dies (prctl(2), PR_SET_PDEATHSIG), but only the child can ask for it. So
//! we start ourselves once more, ask, and become the program. What counts as the parent is the thread that started the
//! child: it must live as long as the child may.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

use crate::output;

/// This program. Unlike its path, this works also under a user who may not look into the folder that it lies in.
pub(crate) const OURSELVES: &str = "/proc/self/exe";

/// Exit codes as env(1) and shells have them.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Run a program that is killed when its parent dies
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The parent's process id
    parent: i32,
    /// The folder of the control group that it is to run in
    #[arg(long)]
    group: Option<PathBuf>,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// A command that becomes `program` once it is tethered to this process.
pub(crate) fn command(program: impl AsRef<OsStr>) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(OURSELVES);
    let parent = getpid().as_raw_nonzero().to_string();
    command.arg0("weft").args(["tethered", &parent, "--"]).arg(program);
    command
}

/// The same in a control group, by its folder, with all that it starts.
pub(crate) fn command_in(group: &Path, program: impl AsRef<OsStr>) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(OURSELVES);
    let parent = getpid().as_raw_nonzero().to_string();
    command.arg0("weft").args(["tethered", &parent, "--group"]).arg(group).arg("--").arg(program);
    command
}

pub(crate) fn execute(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // One that died before we asked is not noticed by the kernel, but it is no longer our parent.
    if getppid().map(Pid::as_raw_nonzero).map(i32::from) != Some(arguments.parent) {
        anyhow::bail!("the process that wanted this program is gone");
    }
    if let Some(group) = &arguments.group {
        // 0 is whoever writes it.
        fs::write(group.join("cgroup.procs"), "0")
            .with_context(|| format!("cannot enter the control group {}", group.display()))?;
    }
    let Some((program, rest)) = arguments.command.split_first() else {
        anyhow::bail!("no program is named");
    };
    let mut command = Command::new(program);
    if program == OURSELVES {
        command.arg0("weft");
    }
    let error = command.args(rest).exec();
    output::error(&format!("cannot start {}: {error}", program.display()));
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    Ok(ExitCode::from(if missing { NOT_FOUND } else { NOT_EXECUTABLE }))
}
