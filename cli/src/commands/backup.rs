//! `weft backup` and `weft restore`: all that a control plane keeps, in a file.

use std::fs;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use weft_control_plane::StoreOptions;
use weft_proto::v1;

use crate::args::Common;
use crate::client::{self, answer};
use crate::target::{DEFAULT_DATA_DIR, Target};

/// Write all that the control plane keeps to standard output
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Write all that the control plane keeps to standard output: configuration with its history, tokens, the authority with its keys (sealed where they are sealed), revocations, addresses. Wants the admin token itself; keep the file as you keep keys",
    after_help = "Examples:
  (umask 077; weft backup > mesh.backup)"
)]
pub(crate) struct BackupArguments {}

/// Put a backup in the place of a control plane's store that is not there
#[derive(Debug, clap::Args)]
#[command(
    long_about = "Put a backup in the place of a control plane's store that is not there: into --data-dir, or into the etcd that --store names. The control plane is not running meanwhile. A backup of one kind of store may be restored into the other",
    after_help = "Examples:
  weft restore mesh.backup --data-dir /var/lib/weft
  weft restore mesh.backup --store etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379"
)]
pub(crate) struct RestoreArguments {
    /// What weft backup wrote
    file: PathBuf,
    #[command(flatten)]
    store: StoreOptions,
}

pub(crate) async fn backup(common: &Common, _: BackupArguments) -> anyhow::Result<ExitCode> {
    if io::stdout().is_terminal() {
        bail!("a backup holds keys, and does not belong on a terminal: weft backup > FILE");
    }
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let mut chunks = answer(admin.backup(v1::BackupRequest {}).await)?;
    let mut output = io::stdout().lock();
    while let Some(chunk) = chunks.message().await.context("the backup broke off")? {
        output.write_all(&chunk.data).context("the backup cannot be written")?;
    }
    output.flush().context("the backup cannot be written")?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn restore(common: &Common, arguments: RestoreArguments) -> anyhow::Result<ExitCode> {
    let text = fs::read(&arguments.file).with_context(|| arguments.file.display().to_string())?;
    let data_dir = common.target.data_dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR));
    let restored = weft_control_plane::restore(&text, &arguments.store, &data_dir).await?;
    let weft_control_plane::Restored { records, taken } = restored;
    writeln!(
        io::stdout(),
        "{records} records are restored, as they were at {taken}; start the control plane"
    )?;
    Ok(ExitCode::SUCCESS)
}
