//! The process that holds the mesh of a user's runs: started by the first, it ends with the last.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, setsid};
use rustix::stdio::dup2_stderr;
use tokio::net::UnixStream;
use weft_pods::userns;
use weft_runtime::logs::{self, LogFormat};
use weft_runtime::signal;

use super::room;
use crate::mesh::rendezvous::{self, Call, Name};
use crate::mesh::{Access, Folder, LocalControlPlane, Outpost, WayOut, listen_for_dashboard};
use crate::output;
use crate::target::parse_urls;
use crate::tether::OURSELVES;

/// How long one mesh may take to end and another to begin.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long threads may take to end.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Hold the mesh of this user's runs until the last of them has ended
#[derive(Debug, clap::Args)]
pub(crate) struct HolderArguments {
    /// Join these control planes rather than start one
    #[arg(long)]
    join: Option<String>,
}

/// Calls the holder; starts it where there is none.
pub(super) fn call(urls: Option<&[String]>) -> anyhow::Result<Call> {
    let name = name(urls);
    let deadline = Instant::now() + PATIENCE;
    let mut is_first = false;
    loop {
        if let Some(call) = Call::dial(&name)? {
            if is_first {
                output::progress(&way_out_of(call.access()));
            }
            return Ok(call);
        }
        if Instant::now() > deadline {
            bail!("the mesh of this machine does not start within {PATIENCE:?}");
        }
        output::progress("starting a control plane for this machine");
        start(urls)?;
        is_first = true;
    }
}

/// What is said of how programs reach the network outside.
fn way_out_of(access: &Access) -> String {
    let by = "weft itself lets programs out to the network";
    match &access.no_datagrams {
        None => format!("{by}: TCP, UDP and DNS"),
        Some(reason) => format!("{by}: TCP and DNS, no other UDP ({reason})"),
    }
}

/// Starts a holder and waits until it answers, or has seen that there is one.
fn start(urls: Option<&[String]>) -> anyhow::Result<()> {
    let mut command = Command::new(OURSELVES);
    command.arg0("weft").arg("hold");
    if let Some(urls) = urls {
        command.args(["--join", &urls.join(",")]);
    }
    let mut holder = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("cannot start a control plane")?;
    // It closes its end when it runs; what it says before is why it does not.
    let mut said = String::new();
    if let Some(mut stderr) = holder.stderr.take() {
        stderr.read_to_string(&mut said)?;
    }
    let said = said.trim();
    if said.is_empty() { Ok(()) } else { bail!("{}", said.strip_prefix("weft: ").unwrap_or(said)) }
}

fn name(urls: Option<&[String]>) -> Name {
    urls.map_or_else(Name::of_runs, Name::of_outpost)
}

/// What is held.
#[derive(Debug)]
enum Held {
    ControlPlane(Box<LocalControlPlane>),
    Outpost(Outpost),
}

/// Holds the mesh.
pub(crate) fn hold(arguments: &HolderArguments) -> anyhow::Result<ExitCode> {
    // Away from the terminal of the run that happened to be the first.
    let _ = setsid();
    let urls = arguments.join.as_deref().map(parse_urls).transpose()?;
    let Some(listener) = rendezvous::listen(&name(urls.as_deref()))? else { return Ok(ExitCode::SUCCESS) };
    if userns::needed() {
        userns::enter()?;
    }
    room::check()?;
    // What is carried out takes two files each; who may open more than is usual asks for it.
    let files = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, ..files });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let held = runtime.block_on(serve(listener, urls));
    runtime.shutdown_timeout(LAST_WORDS);
    // Who hung up last waits for this line to close.
    held.map(drop)?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(listener: UnixListener, urls: Option<Vec<String>>) -> anyhow::Result<Option<UnixStream>> {
    let mut shutdown = signal::shutdown()?;
    let files = Folder::create("mesh")?;
    let held = match urls {
        Some(urls) => Held::Outpost(Outpost::start(urls)?),
        None => {
            let data_dir = files.path().join("control-plane");
            let started = LocalControlPlane::start(&data_dir, listen_for_dashboard(None)?).await?;
            Held::ControlPlane(Box::new(started))
        }
    };
    let (mut access, hub) = match &held {
        Held::ControlPlane(control_plane) => (control_plane.access(), control_plane.hub()),
        Held::Outpost(outpost) => (outpost.access(), outpost.hub()),
    };
    let way_out = WayOut::open(hub).context("programs cannot be let out to the host's network")?;
    access.no_datagrams = way_out.no_datagrams();
    // From here on what we say goes into a file, and who started us hears that we run.
    dup2_stderr(File::create(files.path().join("control-plane.log"))?)?;
    logs::init(LogFormat::Text, std::env::var("RUST_LOG").as_deref().unwrap_or("info"))?;
    let last = tokio::select! {
        last = rendezvous::serve(listener, &access) => last?,
        _ = shutdown.received() => None,
    };
    drop(way_out);
    if let Held::ControlPlane(control_plane) = held {
        control_plane.end().await;
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_how_programs_get_out() {
        let access = |no_datagrams| Access {
            pid: 7,
            hub: "/proc/7/fd/3".into(),
            from_pods: "https://10.238.0.1:7443".into(),
            own: None,
            no_datagrams,
        };
        let all = "weft itself lets programs out to the network: TCP, UDP and DNS";
        assert_eq!(way_out_of(&access(None)), all);
        let part = "weft itself lets programs out to the network: TCP and DNS, no other UDP (no nft_tproxy)";
        assert_eq!(way_out_of(&access(Some("no nft_tproxy".to_owned()))), part);
    }
}
