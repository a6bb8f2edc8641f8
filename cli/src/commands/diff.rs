//! `weft diff`: what `weft apply` would change.

use std::path::PathBuf;
use std::process::ExitCode;

use super::apply;
use crate::args::Common;
use crate::output::{self, Format};

/// Show what apply would change; as with kubectl, exits with 1 where that is something
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft diff -f orders.yaml
  weft diff -f mesh/ && echo nothing to do")]
pub(crate) struct Arguments {
    /// A YAML file, a folder of them, or - for standard input
    #[arg(short, long = "file", required = true, value_name = "FILE|DIR|-")]
    file: Vec<PathBuf>,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let applied = apply::send(common, &arguments.file, true).await?;
    if !applied.problems.is_empty() || matches!(common.output, Format::Json | Format::Yaml) {
        return apply::report(common.output, &applied, true);
    }
    let diff: String = applied.changes.iter().map(apply::Change::diff).collect();
    output::print(&diff)?;
    Ok(if diff.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
