//! The one command of the mesh: reads the command line, does one thing, ends with its exit code.

mod args;
mod client;
mod commands;
mod demo;
mod http;
mod mesh;
mod output;
mod run;
mod target;
mod tether;
mod time;

use std::process::ExitCode;

use anyhow::bail;
use clap::Parser;
use clap::error::ErrorKind;

use weft_runtime::logs::{self, LogFormat};

use args::{Arguments, Command, Example, Program};

/// Reads the command line of this process, does what it says, and tells how it went.
pub fn main() -> ExitCode {
    // Started by way of /proc/self/exe we would be listed as "exe".
    let _ = rustix::thread::set_name(c"weft");
    match args::other_program(std::env::args_os()) {
        Some((Program::Proxy, arguments)) => return weft_proxy::run(arguments),
        Some((Program::ControlPlane, arguments)) => return weft_control_plane::run(arguments),
        None => {}
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    match run(arguments) {
        Ok(code) => code,
        Err(error) => {
            output::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { common, command } = arguments;
    match command {
        Command::Demo(arguments) => demo::execute(&arguments),
        Command::Run(arguments) => run::execute(&common, &arguments),
        Command::Hold(arguments) => run::hold(&arguments),
        Command::Tethered(arguments) => tether::execute(&arguments),
        Command::Apply(arguments) => asking(commands::apply::execute(&common, arguments)),
        Command::Get(arguments) => asking(commands::get::execute(&common, arguments)),
        Command::Delete(arguments) => asking(commands::delete::execute(&common, arguments)),
        Command::Diff(arguments) => asking(commands::diff::execute(&common, arguments)),
        Command::History(arguments) => asking(commands::history::execute(&common, arguments)),
        Command::Backup(arguments) => asking(commands::backup::backup(&common, arguments)),
        Command::Restore(arguments) => asking(commands::backup::restore(&common, arguments)),
        Command::Rollback(arguments) => asking(commands::rollback::execute(&common, arguments)),
        Command::Status(arguments) => asking(commands::status::execute(&common, arguments)),
        Command::Endpoints(arguments) => asking(commands::endpoints::execute(&common, arguments)),
        Command::Explain(arguments) => asking(commands::explain::execute(&common, arguments)),
        Command::Traces(arguments) => asking(commands::traces::execute(&common, arguments)),
        Command::Trace(arguments) => asking(commands::trace::execute(&common, arguments)),
        Command::Why(arguments) => asking(commands::why::execute(&common, arguments)),
        Command::Policy(arguments) => asking(commands::policy::execute(&common, arguments)),
        Command::Identity(arguments) => asking(commands::identity::execute(&common, arguments)),
        Command::Ca(arguments) => asking(commands::ca::execute(&common, arguments)),
        Command::Token(arguments) => asking(commands::token::execute(&common, arguments)),
        Command::Stat(arguments) => asking(commands::stat::execute(&common, arguments)),
        Command::Top(arguments) => asking(commands::top::execute(&common, arguments)),
        Command::Tap(arguments) => asking(commands::tap::execute(&common, arguments)),
        Command::Proxy(arguments) => asking(commands::proxy::execute(&common, arguments)),
        // Options of ours before the name: `weft -n shop control-plane`.
        Command::ControlPlane(_) => bail!("control-plane comes before any option"),
        Command::Systemd(arguments) => commands::systemd::execute(&common, &arguments),
        Command::Inject(arguments) => commands::inject::inject(&arguments),
        Command::Uninject(arguments) => commands::inject::uninject(&arguments),
        Command::Install(arguments) => commands::install::install(&arguments),
        Command::Upgrade(arguments) => commands::install::upgrade(&arguments),
        Command::Uninstall(arguments) => commands::install::uninstall(&arguments),
        Command::Crds(arguments) => commands::install::crds(&arguments),
        Command::Check(arguments) => commands::check::execute(&common, &arguments),
        Command::Dashboard(_) => commands::dashboard::execute(&common),
        Command::Completions(arguments) => commands::completions::execute(&arguments),
        Command::Example { example: Example::Shop { service } } => {
            logs::init(LogFormat::Text, "info")?;
            weft_shop::run(service).map(|()| ExitCode::SUCCESS)
        }
    }
}

/// Runs a command that asks the control plane.
fn asking(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// Answers `--help` and `--version`, and tells mistakes.
fn refuse(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    let (told, code) = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => (output::print(&text), ExitCode::SUCCESS),
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            (output::note(text.trim_end()), ExitCode::from(2))
        }
        _ => (output::note(&format!("weft: {}", args::usage_error(error))), ExitCode::from(2)),
    };
    if told.is_ok() { code } else { ExitCode::FAILURE }
}
