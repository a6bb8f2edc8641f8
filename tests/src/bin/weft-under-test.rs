//! The `weft` command, built for the tests: what it does is `weft`'s, but for one word of the harness's own,
//! `inside-user-namespace PROGRAM ..`, which lets an ordinary user's tests make network namespaces.

use std::env;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::thread::{CapabilitySet, capabilities, configure_capability_in_ambient_set, set_capabilities};

fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().is_none_or(|first| first != "inside-user-namespace") {
        return weft::main();
    }
    // No thread exists yet: the kernel demands that of a process that enters a user namespace.
    if let Err(error) = weft_pods::userns::enter() {
        eprintln!("{error}");
        return ExitCode::FAILURE;
    }
    // The user stays who they are, so a program started by them has rights only where they are handed on.
    if let Err(error) = hand_on(CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW)
    {
        eprintln!("cannot hand on the rights in a user namespace: {error}");
        return ExitCode::FAILURE;
    }
    let Some(program) = arguments.next() else { return ExitCode::from(2) };
    eprintln!("{}", Command::new(program).args(arguments).exec());
    ExitCode::FAILURE
}

fn hand_on(rights: CapabilitySet) -> rustix::io::Result<()> {
    let mut sets = capabilities(None)?;
    sets.inheritable |= rights;
    set_capabilities(None, sets)?;
    rights.iter().try_for_each(|right| configure_capability_in_ambient_set(right, true))
}
