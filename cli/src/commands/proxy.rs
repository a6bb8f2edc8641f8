//! `weft proxy config|metrics|drain|log-level`: what a sidecar knows and does, asked by way of the control plane.

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::bail;
use weft_core::model::Name;
use weft_proto::v1::{self, ask::What};

use crate::args::Common;
use crate::client::{self, answer};
use crate::output;
use crate::target::Target;

/// Ask a sidecar, by way of the control plane; with any other word, be one
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    question: Question,
}

/// The words that are questions to a sidecar elsewhere; with others `weft proxy` is a sidecar itself.
pub(crate) const QUESTIONS: [&str; 4] = ["config", "metrics", "drain", "log-level"];

#[derive(Debug, clap::Subcommand)]
enum Question {
    /// Show what a sidecar knows of the mesh, as JSON
    #[command(after_help = "Examples:
  weft proxy config orders-1
  weft proxy config orders-1 -n shop | jq .services")]
    Config {
        /// The workload, as weft status names it
        workload: Name,
    },
    /// Show a sidecar's metrics
    #[command(after_help = "Example:
  weft proxy metrics orders-1 | grep weft_requests_total")]
    Metrics {
        /// The workload, as weft status names it
        workload: Name,
    },
    /// Have a sidecar take no new work, but finish what it has and stay
    #[command(after_help = "Example:
  weft proxy drain orders-1")]
    Drain {
        /// The workload, as weft status names it
        workload: Name,
    },
    /// Show what a sidecar logs, or change it until it ends
    #[command(after_help = "Examples:
  weft proxy log-level orders-1
  weft proxy log-level orders-1 debug
  weft proxy log-level orders-1 info,weft_proxy::upstream=trace")]
    LogLevel {
        /// The workload, as weft status names it
        workload: Name,
        /// What is to be logged, as RUST_LOG says it
        level: Option<String>,
    },
    #[command(external_subcommand)]
    Sidecar(Vec<OsString>),
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let (workload, what) = match arguments.question {
        Question::Config { workload } => (workload, What::Config(true)),
        Question::Metrics { workload } => (workload, What::Metrics(true)),
        Question::Drain { workload } => (workload, What::Drain(true)),
        Question::LogLevel { workload, level } => (workload, What::LogLevel(level.unwrap_or_default())),
        // Options of ours before the name: `weft -n shop proxy run`.
        Question::Sidecar(words) => {
            let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
            bail!("a sidecar's own options stand behind its name: weft proxy {}", words.join(" "))
        }
    };
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let ask = Some(v1::Ask { id: 0, what: Some(what) });
    let request = v1::AskSidecarRequest {
        namespace: common.namespace.to_string(),
        workload: workload.to_string(),
        ask,
    };
    output::print(&answer(admin.ask_sidecar(request).await)?.text)?;
    Ok(ExitCode::SUCCESS)
}
