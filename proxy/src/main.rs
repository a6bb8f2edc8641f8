//! `weft-proxy`, the sidecar's program.

use std::process::ExitCode;

/// Smaller and faster than the system's allocator where many threads allocate small things.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    weft_proxy::run(std::env::args_os())
}
