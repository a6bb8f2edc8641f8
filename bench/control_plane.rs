//! A control plane under test, as a process of its own: what the programs of this folder start and look at.

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use weft_runtime::task;

/// For a program to start, or to end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// The kernel's unit of CPU time in `/proc`, by its ABI.
const TICK: Duration = Duration::from_millis(10);

/// Starts one that logs as JSON; where its listeners of these names are, as its log says.
pub(crate) async fn start(
    mut command: Command,
    names: [&str; 2],
) -> anyhow::Result<(Child, [SocketAddr; 2])> {
    command.args(["--log-format", "json"]).stderr(Stdio::piped()).kill_on_drop(true);
    let program = command.as_std().get_program().to_owned();
    let mut child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
    let mut lines = BufReader::new(child.stderr.take().context("no stderr")?).lines();
    let started = async {
        while let Some(line) = lines.next_line().await? {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let address = |field: &str| line.get(field)?.as_str()?.parse::<SocketAddr>().ok();
            if let [Some(first), Some(second)] = names.map(address) {
                return Ok([first, second]);
            }
        }
        anyhow::bail!("{} ended at once", program.display())
    };
    let found = timeout(PATIENCE, started).await.context("no start in time")??;
    // What it has to say besides is said to nobody, but must be read.
    task::spawn("log", async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok((child, found))
}

/// The CPU time that a process has used.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("not a stat")?;
    // Of all fields the 14th and 15th, in the user's time and the kernel's.
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u32>);
    Ok(TICK * ticks.sum::<Result<u32, _>>()?)
}
