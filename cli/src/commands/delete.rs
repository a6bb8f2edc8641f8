//! `weft delete`: removes a resource.

use std::process::ExitCode;

use weft_proto::v1;

use super::apply;
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
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let request = v1::DeleteRequest {
        kind: arguments.kind,
        namespace: common.namespace.to_string(),
        name: arguments.name,
        author: apply::author(),
    };
    let applied = answer(admin.delete(request).await)?.into();
    apply::report(common.output, &applied, false)
}
