//! `weft-control-plane`, the control plane's program.

use std::process::ExitCode;

fn main() -> ExitCode {
    weft_control_plane::run(std::env::args_os())
}
