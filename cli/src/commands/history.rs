//! `weft history`: the revisions of the mesh's configuration.

use std::process::ExitCode;

use serde::Serialize;
use weft_proto::v1;

use crate::args::Common;
use crate::client::{self, answer};
use crate::output::{self, Row};
use crate::target::Target;

/// Show the revisions of the mesh's configuration, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft history
  weft history httproute orders")]
pub(crate) struct Arguments {
    /// Only revisions that touched this kind of resource ..
    #[arg(requires = "name")]
    kind: Option<String>,
    /// .. of this name
    name: Option<String>,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let request = v1::HistoryRequest {
        kind: arguments.kind.unwrap_or_default(),
        namespace: common.namespace.to_string(),
        name: arguments.name.unwrap_or_default(),
    };
    let revisions = answer(admin.history(request).await)?.revisions;
    output::list(common.output, &revisions.into_iter().map(Revision::from).collect::<Vec<_>>())?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Serialize)]
struct Revision {
    revision: u64,
    time: String,
    author: String,
    source: String,
    summary: String,
}

impl From<v1::Revision> for Revision {
    fn from(revision: v1::Revision) -> Self {
        let v1::Revision { revision, time, author, source, summary } = revision;
        Self { revision, time, author, source, summary }
    }
}

impl Row for Revision {
    const COLUMNS: &'static [&'static str] = &["REVISION", "TIME", "AUTHOR", "SOURCE", "SUMMARY"];
    const PLURAL: &'static str = "revisions";

    fn cells(&self) -> Vec<String> {
        vec![
            self.revision.to_string(),
            self.time.clone(),
            self.author.clone(),
            self.source.clone(),
            self.summary.clone(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_as_scripts_rely_on() {
        let revision = Revision::from(v1::Revision {
            revision: 3,
            time: "2026-01-02T03:04:05Z".into(),
            author: "ada".into(),
            source: "apply".into(),
            summary: "Service/web created".into(),
        });
        assert_eq!(
            serde_json::to_string(&revision).unwrap(),
            r#"{"revision":3,"time":"2026-01-02T03:04:05Z","author":"ada","source":"apply","summary":"Service/web created"}"#
        );
        assert_eq!(revision.cells().len(), Revision::COLUMNS.len());
    }
}
