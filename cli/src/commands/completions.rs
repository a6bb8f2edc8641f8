//! `weft completions`: what a shell needs to complete our command line.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::{args, output};

/// Print what a shell needs to complete weft's command line
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  weft completions bash > ~/.local/share/bash-completion/completions/weft")]
pub(crate) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn execute(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut args::Arguments::command(), "weft", &mut script);
    output::print(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_has_completions() {
        for shell in [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::PowerShell, Shell::Zsh] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut args::Arguments::command(), "weft", &mut script);
            assert!(String::from_utf8(script).unwrap().contains("rollback"), "{shell}");
        }
    }
}
