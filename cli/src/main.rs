//! The `weft` program.

use std::process::ExitCode;

/// Sidecars and the control plane run in this program too: smaller and faster than the system's allocator where many
/// threads allocate small things.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    weft::main()
}
