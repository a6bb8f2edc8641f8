//! `weft-control-plane`, the control plane's program.

use std::process::ExitCode;

/// As in `weft`, which is the control plane too: thousands of streams come and go, and leave little behind.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    weft_control_plane::run(std::env::args_os())
}
