//! The control plane as a program: reads the command line, runs until it is told to end.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;
use weft_runtime::{logs, signal};

use crate::app::{App, Listeners};
use crate::config::Config;

/// The exit code for what was called wrongly.
const USAGE: u8 = 2;

/// Does what `weft-control-plane` was called for; the first argument is the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let config = match Config::try_parse_from(arguments) {
        Ok(config) => config,
        Err(error) => {
            // There is nowhere to say that printing failed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // There is nowhere to say that printing failed.
            let _ = writeln!(io::stderr(), "weft-control-plane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config) -> anyhow::Result<()> {
    logs::init(config.log_format, &config.log_level)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut shutdown = signal::shutdown()?;
        let handle = App::start(config, Listeners::default()).await?;
        let signal = shutdown.received().await;
        tracing::info!(signal, "shutting down");
        handle.shutdown().await;
        Ok(())
    })
}
