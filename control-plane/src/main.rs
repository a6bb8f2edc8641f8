//! The control plane as a program.

use std::process::ExitCode;

use clap::Parser;
use weft_control_plane::{App, Config, Listeners};
use weft_runtime::{logs, signal};

fn main() -> ExitCode {
    let config = Config::parse();
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "the one line that says why it failed")]
            {
                eprintln!("weft-control-plane: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> anyhow::Result<()> {
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
