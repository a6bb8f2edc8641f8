//! The sidecar. Modules are the stages of a request, and what feeds them.

pub mod admin;
pub mod affinity;
mod app;
mod beside;
mod buffer;
mod client;
pub mod config;
pub mod control;
pub mod credentials;
pub mod dns;
pub mod failure;
pub mod forward;
pub mod health;
pub mod http;
pub mod http1;
pub mod http2;
#[cfg(test)]
#[path = "../tests/it/identity.rs"]
mod identity;
pub mod inbound;
mod intercept;
mod leaving;
pub mod listen;
pub mod mirror;
pub mod observe;
pub mod outbound;
pub mod outside;
mod presence;
pub mod rates;
pub mod routing;
pub mod screen;
pub mod session;
pub mod sniff;
pub mod state;
pub mod strangers;
pub mod stream;
pub mod tcp;
pub mod ties;
pub mod tls;
pub mod tokens;
pub mod upstream;
pub mod worker;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use weft_runtime::{logs, signal};

use config::{Cli, Command, Machine, RunArgs};

/// The exit code for what was called wrongly.
const USAGE: u8 = 2;

/// Does what `weft-proxy` was called for; the first argument is the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // There is nowhere to say that printing failed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    match cli.command {
        None => sidecar(cli.run),
        Some(Command::Run(args)) => sidecar(*args),
        Some(Command::Intercept { action }) => outcome(intercept::run(action)),
        Some(Command::Await { timeout, admin_addr }) => ask(client::wait_until_ready(&admin_addr, timeout)),
        Some(Command::Pause) => ask(pause()),
        Some(Command::Shutdown { admin_addr }) => ask(client::shut_down(&admin_addr)),
    }
}

fn sidecar(mut args: RunArgs) -> ExitCode {
    let format = std::mem::take(&mut args.log_format);
    let level = args.log_level.take().or_else(|| std::env::var("RUST_LOG").ok());
    let logs = format.parse().and_then(|format| logs::init(format, level.as_deref().unwrap_or("info")));
    let level = match logs {
        Ok(level) => Some(level),
        // Where we are part of another program, its logs are ours.
        Err(logs::LogError::Installed(_)) => None,
        Err(error) => {
            complain(&error);
            return ExitCode::from(USAGE);
        }
    };
    match args.settle(&Machine::here()) {
        Ok(settings) => outcome(app::run(settings, level)),
        Err(mistakes) => {
            mistakes.iter().for_each(|mistake| complain(mistake));
            ExitCode::from(USAGE)
        }
    }
}

fn ask(question: impl Future<Output = anyhow::Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let answer = runtime.map_err(anyhow::Error::from).and_then(|runtime| {
        let answer = runtime.block_on(question);
        runtime.shutdown_timeout(Duration::ZERO);
        answer
    });
    outcome(answer)
}

/// Waits for a signal that ends us.
async fn pause() -> anyhow::Result<()> {
    signal::shutdown()?.received().await;
    Ok(())
}

fn outcome(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn complain(what: &dyn std::fmt::Display) {
    // There is nowhere to say that printing failed.
    let _ = writeln!(io::stderr(), "weft-proxy: {what}");
}
