//! `weft rollback`: makes the mesh's configuration what it was.

use std::process::ExitCode;

use weft_proto::v1;

use super::apply;
use crate::args::Common;
use crate::client::{self, answer};
use crate::target::Target;

/// Make the mesh's configuration what it was at a revision; that is a new revision
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  weft history
  weft rollback 12")]
pub(crate) struct Arguments {
    /// The revision to go back to, as weft history shows it
    revision: u64,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let request = v1::RollbackRequest { revision: arguments.revision, author: apply::author() };
    let applied = answer(admin.rollback(request).await)?.into();
    apply::report(common.output, &applied, false)
}
