//! `weft apply`: makes resources what the files say.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde::Serialize;
use weft_core::model::Name;
use weft_proto::v1;

use super::live::Live;
use crate::args::Common;
use crate::client::{self, answer};
use crate::output::{self, Format};
use crate::target::Target;

/// Sidecars that are named one by one.
const NAMED: usize = 8;

/// Make resources what the files say; all of them or, where one is wrong, none
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft apply -f orders.yaml
  weft apply -f mesh/ --dry-run
  weft apply -f mesh/ --wait && ./smoke-tests
  weft apply -f orders.yaml --if-revision 12
  cat orders.yaml | weft apply -f -")]
pub(crate) struct Arguments {
    /// A YAML file, a folder of them, or - for standard input
    #[arg(short, long = "file", required = true, value_name = "FILE|DIR|-")]
    pub(super) file: Vec<PathBuf>,
    /// Check everything and say what would happen, but change nothing
    #[arg(long, conflicts_with = "wait")]
    dry_run: bool,
    /// Refuse it where one of these resources was changed after this revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    #[command(flatten)]
    live: Live,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Arguments { file, dry_run, if_revision, live } = arguments;
    let mode = if dry_run { Mode::DryRun } else { Mode::Apply { if_revision } };
    let target = Target::find(&common.target)?;
    let applied = send_files(&target, &common.namespace, read_all(&file)?, mode).await?;
    live.after(&target, &applied, report(common.output, &applied, mode)?).await
}

/// Asks the control plane what files would change.
pub(super) async fn try_out(common: &Common, files: &[PathBuf]) -> anyhow::Result<Applied> {
    let target = Target::find(&common.target)?;
    send_files(&target, &common.namespace, read_all(files)?, Mode::DryRun).await
}

/// Whether files are put into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// They are, unless one of their resources was changed after this revision.
    Apply {
        if_revision: Option<u64>,
    },
    DryRun,
}

/// Sends files that have been read.
pub(crate) async fn send_files(
    target: &Target,
    namespace: &Name,
    files: Vec<v1::SourceFile>,
    mode: Mode,
) -> anyhow::Result<Applied> {
    let mut admin = client::connect(target).await?;
    let (dry_run, if_revision) = match mode {
        Mode::Apply { if_revision } => (false, if_revision),
        Mode::DryRun => (true, None),
    };
    let namespace = namespace.to_string();
    let request = v1::ApplyRequest { files, dry_run, author: author(), namespace, if_revision };
    answer(admin.apply(request).await).map(Applied::from)
}

/// Tells what was done, or the problems for which nothing was.
pub(super) fn report(format: Format, applied: &Applied, mode: Mode) -> anyhow::Result<ExitCode> {
    output::object(format, applied, &summary(applied, mode))?;
    for note in &applied.notes {
        output::note(note)?;
    }
    for problem in &applied.problems {
        output::note(&problem.to_string())?;
    }
    Ok(if applied.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summary(applied: &Applied, mode: Mode) -> String {
    let dry_run = mode == Mode::DryRun;
    let suffix = if dry_run { " (dry run)" } else { "" };
    let mut text = String::new();
    for change in &applied.changes {
        text.push_str(&format!("{} {}{suffix}\n", change.title(), change.action));
    }
    let changed = applied.changes.iter().any(|change| change.action != "unchanged");
    if changed && !dry_run {
        text.push_str(&format!("revision {}\n", applied.revision));
    }
    if changed && dry_run {
        text.push_str(&format!("{}\n", concerned(&applied.sidecars)));
    }
    text
}

/// Which sidecars would be told something else.
fn concerned(sidecars: &[String]) -> String {
    let named = sidecars.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match sidecars.len() {
        0 => "no connected sidecar would be told anything else (dry run)".to_owned(),
        1 => format!("1 sidecar would be told of it: {named} (dry run)"),
        number @ ..=NAMED => format!("{number} sidecars would be told of it: {named} (dry run)"),
        number => {
            format!("{number} sidecars would be told of it: {named} and {} more (dry run)", number - NAMED)
        }
    }
}

/// Who changes the mesh, for its history.
pub(super) fn author() -> String {
    let named = ["WEFT_AUTHOR", "USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    named.unwrap_or_else(|| format!("uid {}", rustix::process::getuid()))
}

/// What became of a request to change resources.
#[derive(Debug, Serialize)]
pub(crate) struct Applied {
    revision: u64,
    pub(super) changes: Vec<Change>,
    pub(super) problems: Vec<Problem>,
    notes: Vec<String>,
    /// Of a dry run: who would be told something else.
    sidecars: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Change {
    kind: String,
    namespace: String,
    name: String,
    action: String,
    diff: String,
}

#[derive(Debug, Serialize)]
pub(super) struct Problem {
    file: String,
    line: u32,
    message: String,
    hint: String,
}

impl Change {
    /// Its difference with a heading, as patch(1) likes it; empty where there is none.
    pub(super) fn diff(&self, before: &str, after: &str) -> String {
        if self.diff.is_empty() {
            return String::new();
        }
        let name = format!("{}/{}/{}", self.namespace, self.kind.to_ascii_lowercase(), self.name);
        format!("--- {before}: {name}\n+++ {after}: {name}\n{}", self.diff)
    }

    /// As kubectl names a resource.
    fn title(&self) -> String {
        format!("{}/{}", self.kind.to_ascii_lowercase(), self.name)
    }
}

impl Applied {
    /// Whether something was changed.
    pub(super) fn is_change(&self) -> bool {
        self.problems.is_empty() && self.changes.iter().any(|change| change.action != "unchanged")
    }

    /// Tells what was changed and what is wrong, on standard error; whether all is well.
    pub(crate) fn told(&self) -> anyhow::Result<bool> {
        let changed = self.changes.iter().filter(|change| change.action != "unchanged");
        for change in changed {
            output::note(&format!("weft: {} {}", change.title(), change.action))?;
        }
        for line in self.notes.iter().cloned().chain(self.problems.iter().map(ToString::to_string)) {
            output::note(&line)?;
        }
        Ok(self.problems.is_empty())
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}", self.file, self.line, self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, " ({})", self.hint) }
    }
}

impl From<v1::Problem> for Problem {
    fn from(problem: v1::Problem) -> Self {
        let v1::Problem { file, line, message, hint } = problem;
        Self { file, line, message, hint }
    }
}

impl From<v1::ApplyResponse> for Applied {
    fn from(response: v1::ApplyResponse) -> Self {
        let change = |change: v1::Change| Change {
            kind: change.kind,
            namespace: change.namespace,
            name: change.name,
            action: change.action,
            diff: change.diff,
        };
        Self {
            revision: response.revision,
            changes: response.changes.into_iter().map(change).collect(),
            problems: response.problems.into_iter().map(Problem::from).collect(),
            notes: response.notes,
            sidecars: response.sidecars,
        }
    }
}

/// The files' texts.
pub(crate) fn read_all(files: &[PathBuf]) -> anyhow::Result<Vec<v1::SourceFile>> {
    let mut read = Vec::new();
    for file in files {
        if file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("reading standard input")?;
            read.push(v1::SourceFile { name: "-".into(), text });
        } else if file.is_dir() {
            for file in folder(file)? {
                read.push(read_file(&file)?);
            }
        } else {
            read.push(read_file(file)?);
        }
    }
    Ok(read)
}

fn read_file(path: &Path) -> anyhow::Result<v1::SourceFile> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(v1::SourceFile { name: path.display().to_string(), text })
}

/// A folder's YAML and JSON files, in the order of their names.
fn folder(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))? {
        let file = entry?.path();
        let extension = file.extension().and_then(OsStr::to_str).unwrap_or_default();
        if file.is_file() && matches!(extension, "yaml" | "yml" | "json") {
            files.push(file);
        }
    }
    if files.is_empty() {
        bail!("{}: no .yaml, .yml or .json file", path.display());
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied() -> Applied {
        let change = |name: &str, action: &str| v1::Change {
            kind: "HTTPRoute".into(),
            namespace: "default".into(),
            name: name.into(),
            action: action.into(),
            ..v1::Change::default()
        };
        let problem = v1::Problem {
            file: "a.yaml".into(),
            line: 7,
            message: "unknown field \"prot\"".into(),
            hint: "did you mean port?".into(),
        };
        Applied::from(v1::ApplyResponse {
            revision: 5,
            changes: vec![change("a", "created"), change("b", "unchanged")],
            problems: vec![problem],
            notes: vec!["1 Deployment was skipped".into()],
            sidecars: vec!["default/web-1".into()],
        })
    }

    #[test]
    fn changes_are_told_as_kubectl_tells_them() {
        assert_eq!(
            summary(&applied(), Mode::Apply { if_revision: None }),
            "httproute/a created\nhttproute/b unchanged\nrevision 5\n"
        );
        assert_eq!(
            summary(&applied(), Mode::DryRun),
            "httproute/a created (dry run)\nhttproute/b unchanged (dry run)\n1 sidecar would be told of it: default/web-1 (dry run)\n"
        );
    }

    #[test]
    fn of_many_sidecars_some_are_named() {
        let many: Vec<_> = (1..=10).map(|number| format!("a/{number}")).collect();
        let said =
            "10 sidecars would be told of it: a/1, a/2, a/3, a/4, a/5, a/6, a/7, a/8 and 2 more (dry run)";
        assert_eq!(concerned(&many), said);
        assert_eq!(concerned(&[]), "no connected sidecar would be told anything else (dry run)");
    }

    #[test]
    fn differences_name_the_resource() {
        let mut applied = applied();
        assert_eq!(applied.changes[0].diff("in force", "to apply"), "");
        applied.changes[0].diff = "@@ -1 +1 @@\n-a\n+b\n".into();
        assert_eq!(
            applied.changes[0].diff("in force", "to apply"),
            "--- in force: default/httproute/a\n+++ to apply: default/httproute/a\n@@ -1 +1 @@\n-a\n+b\n"
        );
    }

    #[test]
    fn problems_say_where_and_what_to_do() {
        let said = applied().problems.iter().map(ToString::to_string).collect::<String>();
        assert_eq!(said, "a.yaml:7: unknown field \"prot\" (did you mean port?)");
    }

    #[test]
    fn a_folder_gives_its_yaml_files_by_name() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.yaml", "a.yml", "c.json", "notes.txt"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let files = read_all(&[folder.path().to_owned()]).unwrap();
        let texts: Vec<&str> = files.iter().map(|file| file.text.as_str()).collect();
        assert_eq!(texts, ["a.yml", "b.yaml", "c.json"]);

        let empty = tempfile::tempdir().unwrap();
        assert!(read_all(&[empty.path().to_owned()]).is_err());
        assert!(read_all(&[folder.path().join("missing.yaml")]).is_err());
    }
}
