//! `weft diff`: what `weft apply` would change, or what revisions did.

use std::path::PathBuf;
use std::process::ExitCode;

use weft_proto::v1;

use super::apply::{self, Applied, Change, Mode};
use crate::args::Common;
use crate::client::{self, answer};
use crate::output::{self, Format};
use crate::target::Target;

/// Show what apply would change, or what a revision did; as with kubectl, exits with 1 where that is something
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft diff -f orders.yaml
  weft diff -f mesh/ && echo nothing to do
  weft diff 12            what revision 12 changed
  weft diff 9 12          what has changed from revision 9 to revision 12")]
pub(crate) struct Arguments {
    /// A YAML file, a folder of them, or - for standard input
    #[arg(short, long = "file", required_unless_present = "revision", value_name = "FILE|DIR|-")]
    file: Vec<PathBuf>,
    /// The revision in question, as weft history shows it; of two, what lies between them
    #[arg(conflicts_with = "file", value_name = "REVISION")]
    revision: Option<u64>,
    /// The later one
    #[arg(requires = "revision", value_name = "REVISION")]
    until: Option<u64>,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Some(revision) = arguments.revision else {
        let applied = apply::try_out(common, &arguments.file).await?;
        return show(common, &applied, ("in force", "to apply"));
    };
    let (from, to) = match arguments.until {
        Some(until) => (revision, until),
        None => (revision.saturating_sub(1), revision),
    };
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let changed = answer(admin.changes(v1::ChangesRequest { from, to }).await)?.into();
    show(common, &changed, (&format!("revision {from}"), &format!("revision {to}")))
}

fn show(common: &Common, changed: &Applied, (before, after): (&str, &str)) -> anyhow::Result<ExitCode> {
    if !changed.problems.is_empty() || matches!(common.output, Format::Json | Format::Yaml) {
        return apply::report(common.output, changed, Mode::DryRun);
    }
    let diff = |change: &Change| change.diff(before, after);
    let diff: String = changed.changes.iter().map(diff).collect();
    output::print(&diff)?;
    Ok(if diff.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
