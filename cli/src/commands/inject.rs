//! `weft inject` and `weft uninject`: sidecars into manifests and out of them, without a cluster or a control plane.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use weft_core::inject::{self, Rewritten, Settings, What};
use weft_core::manifest::{Problem, SourceFile};

use super::apply;
use crate::output;

/// Give the workloads of Kubernetes manifests or of a Compose file their sidecars, and print it
///
/// Of Kubernetes every kind of workload, lists of them, several documents, YAML or JSON; all else stays as it is, byte for byte. A
/// workload with the label or annotation weft.mesh/inject: disabled stays as it is too. What became of each workload is
/// told on standard error.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft inject -f deployment.yaml | kubectl apply -f -
  kubectl get deploy web -o yaml | weft inject | kubectl apply -f -
  weft inject -f compose.yaml > compose.mesh.yaml && docker compose -f compose.mesh.yaml up
  weft inject -f app/ --set image.registry=registry.example.com/mesh --set sidecar=container")]
pub(crate) struct InjectArguments {
    #[command(flatten)]
    files: Files,
    /// A setting: image.registry, image.tag, controlPlane, or sidecar=native|container; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Take the sidecars out of Kubernetes manifests or a Compose file again, and print what was there before
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft inject -f web.yaml | weft uninject                          the same as cat web.yaml
  kubectl get deploy web -o yaml | weft uninject | kubectl apply -f -")]
pub(crate) struct UninjectArguments {
    #[command(flatten)]
    files: Files,
}

#[derive(Debug, clap::Args)]
struct Files {
    /// A YAML or JSON file, a folder of them, or - for standard input
    #[arg(short, long = "file", value_name = "FILE|DIR|-", default_value = "-")]
    file: Vec<PathBuf>,
}

pub(crate) fn inject(arguments: &InjectArguments) -> anyhow::Result<ExitCode> {
    let mut settings = Settings::default();
    for text in &arguments.set {
        let (key, value) = text.split_once('=').with_context(|| format!("--set {text}: write KEY=VALUE"))?;
        settings.set(key, value).context("--set")?;
    }
    rewrite(&arguments.files, |file| inject::inject(file, &settings))
}

pub(crate) fn uninject(arguments: &UninjectArguments) -> anyhow::Result<ExitCode> {
    rewrite(&arguments.files, inject::uninject)
}

/// Prints what becomes of the files; nothing where one of them cannot be read.
fn rewrite(
    files: &Files,
    deed: impl Fn(SourceFile<'_>) -> Result<Rewritten, Vec<Problem>>,
) -> anyhow::Result<ExitCode> {
    let (mut text, mut problems) = (String::new(), Vec::new());
    for file in apply::read_all(&files.file)? {
        match deed(SourceFile { name: &file.name, text: &file.text }) {
            Ok(rewritten) => {
                join(&mut text, &rewritten.text);
                told(&rewritten)?;
            }
            Err(found) => problems.extend(found),
        }
    }
    for problem in &problems {
        output::note(&problem.to_string())?;
    }
    if !problems.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Puts another file's documents behind those that there are.
fn join(text: &mut String, next: &str) {
    if !text.is_empty() {
        if !text.ends_with('\n') {
            text.push('\n');
        }
        if !next.starts_with("---") {
            text.push_str("---\n");
        }
    }
    text.push_str(next);
}

fn told(rewritten: &Rewritten) -> anyhow::Result<()> {
    for outcome in &rewritten.outcomes {
        let what = match &outcome.what {
            What::Injected => "injected".to_owned(),
            What::Not(reason) => format!("not injected: {reason}"),
            What::Removed => "uninjected".to_owned(),
            What::HadNone => "has no sidecar".to_owned(),
        };
        output::note(&format!("{} {what}", outcome.workload))?;
    }
    for note in &rewritten.notes {
        output::note(&format!("{}:{}: {}", note.file, note.line, note.message))?;
    }
    Ok(())
}
