//! `weft rollback`: makes the mesh's configuration what it was.

use std::process::ExitCode;

use weft_proto::v1;

use super::apply::{self, Applied, Mode};
use super::live::Live;
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
    /// Refuse it where this is not the newest revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    #[command(flatten)]
    live: Live,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let target = Target::find(&common.target)?;
    let mut admin = client::connect(&target).await?;
    let Arguments { revision, if_revision, live } = arguments;
    let request = v1::RollbackRequest { revision, author: apply::author(), if_revision };
    let applied = Applied::from(answer(admin.rollback(request).await)?);
    live.after(&target, &applied, apply::report(common.output, &applied, Mode::Apply { if_revision })?).await
}
