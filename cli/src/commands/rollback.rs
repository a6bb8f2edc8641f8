//! `weft rollback`: makes the mesh's configuration what it was.

use std::process::ExitCode;

use weft_proto::v1;

use super::apply::{self, Applied, Mode};
use super::live::Live;
use crate::args::Common;
use crate::client::{self, answer};
use crate::output;
use crate::target::Target;

/// Make the mesh's configuration what it was at a revision; that is a new revision
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  weft history
  weft rollback 12
  weft rollback 12 --print | kubectl apply -f -    where the configuration is in Kubernetes")]
pub(crate) struct Arguments {
    /// The revision to go back to, as weft history shows it
    revision: u64,
    /// Refuse it where this is not the newest revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    /// Change nothing: print what is another document now as it was then, for kubectl or weft apply -f -
    #[arg(long, conflicts_with_all = ["if_revision", "wait"])]
    print: bool,
    #[command(flatten)]
    live: Live,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let target = Target::find(&common.target)?;
    let mut admin = client::connect(&target).await?;
    let Arguments { revision, if_revision, print, live } = arguments;
    if print {
        let newest = answer(admin.history(v1::HistoryRequest::default()).await)?.revisions;
        let from = newest.first().map_or(0, |newest| newest.revision);
        let changes = answer(admin.changes(v1::ChangesRequest { from, to: revision }).await)?.changes;
        output::print(&changes.iter().map(|change| printed(change, revision)).collect::<String>())?;
        return Ok(ExitCode::SUCCESS);
    }
    let request = v1::RollbackRequest { revision, author: apply::author(), if_revision };
    let applied = Applied::from(answer(admin.rollback(request).await)?);
    live.after(&target, &applied, apply::report(common.output, &applied, Mode::Apply { if_revision })?).await
}

/// A document of YAML; what was not there yet is left alone, and it is said how it goes.
fn printed(change: &v1::Change, revision: u64) -> String {
    let v1::Change { kind, namespace, name, document, .. } = change;
    if !document.is_empty() {
        return format!("---\n{document}");
    }
    let namespace = if namespace.is_empty() { String::new() } else { format!(" -n {namespace}") };
    let kind = kind.to_ascii_lowercase();
    format!("# new since revision {revision}, and left as it is: kubectl delete {kind} {name}{namespace}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_is_printed_and_what_is_new_is_a_comment() {
        let change = |document: &str| v1::Change {
            kind: "HTTPRoute".into(),
            namespace: "shop".into(),
            name: "orders".into(),
            document: document.into(),
            ..v1::Change::default()
        };
        assert_eq!(printed(&change("kind: HTTPRoute\n"), 7), "---\nkind: HTTPRoute\n");
        assert_eq!(
            printed(&change(""), 7),
            "# new since revision 7, and left as it is: kubectl delete httproute orders -n shop\n"
        );
    }
}
