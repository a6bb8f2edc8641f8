//! `weft delete`: removes a resource.

use std::process::ExitCode;

use weft_proto::v1;

use super::apply::{self, Applied, Mode};
use super::live::Live;
use crate::args::Common;
use crate::client::{self, answer};
use crate::target::Target;

/// Remove a resource
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  weft delete httproute orders")]
pub(crate) struct Arguments {
    /// The kind, as kubectl spells it: any case, singular or plural
    kind: String,
    /// The name
    name: String,
    /// Refuse it where it was changed after this revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    #[command(flatten)]
    live: Live,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let target = Target::find(&common.target)?;
    let mut admin = client::connect(&target).await?;
    let Arguments { kind, name, if_revision, live } = arguments;
    let request = v1::DeleteRequest {
        kind,
        namespace: common.namespace.to_string(),
        name,
        author: apply::author(),
        if_revision,
    };
    let applied = Applied::from(answer(admin.delete(request).await)?);
    live.after(&target, &applied, apply::report(common.output, &applied, Mode::Apply { if_revision })?).await
}
