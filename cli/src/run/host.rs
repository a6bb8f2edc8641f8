//! `weft run --host`: a program that keeps the machine's network. What it sends, and what others send to its ports, passes its
//! sidecar; what other programs of the machine do stays as it is.

mod group;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::geteuid;
use weft_pods::Exemption;
use weft_pods::intercept::{self, Held, PortRange, Rules};
use weft_runtime::logs::{self, LogFormat};

use super::{Arguments, exit_code, supervise};
use crate::args::Common;
use crate::mesh::{Folder, Member, Membership};
use crate::run::signals::Signals;
use crate::target::{Target, parse_urls};
use crate::tether;
use group::Group;

/// Where a sidecar of this machine would answer.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 4191);
/// On its own machine whoever is there answers at once.
const ANSWER: Duration = Duration::from_secs(1);

/// What is run, and where it belongs.
struct Wanted<'a> {
    target: Target,
    /// The control planes, as the machine calls them.
    urls: String,
    membership: Membership,
    /// Where the program listens.
    ports: Vec<PortRange>,
    command: &'a [OsString],
}

pub(super) fn execute(common: &Common, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    logs::init(LogFormat::Text, std::env::var("RUST_LOG").as_deref().unwrap_or("error"))?;
    if !geteuid().is_root() {
        bail!("--host programs the packet filter of this machine: run it as root, or without --host");
    }
    let Some(urls) = &common.target.control_plane else {
        bail!(
            "--host joins a mesh that this machine reaches: name its control plane with --control-plane https://HOST:7443"
        );
    };
    let service = arguments.service.as_ref().context("name the program's service with --service")?;
    let wanted = Wanted {
        urls: parse_urls(urls)?.join(","),
        target: Target::of_options(&common.target)?,
        membership: arguments.membership(service, &common.namespace),
        ports: arguments.port.iter().filter_map(super::Port::app).map(PortRange::from).collect(),
        command: &arguments.command,
    };
    check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(run(&wanted))
}

/// One machine has one sidecar: its ports are its own.
fn check() -> anyhow::Result<()> {
    if intercept::show()?.is_some() {
        bail!("what this machine sends is intercepted already (weft-proxy intercept show): stop that first");
    }
    match TcpStream::connect_timeout(&ADMIN, ANSWER) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
        _ => bail!("{ADMIN} is taken: is there a sidecar on this machine already?"),
    }
}

async fn run(wanted: &Wanted<'_>) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let files = Folder::create("run")?;
    let group = Group::create()?;
    let joined = tokio::select! {
        joined = join(wanted, files.path(), &group) => joined,
        signal = signals.ending() => return Ok(exit_code(std::os::unix::process::ExitStatusExt::from_raw(signal))),
    };
    let (mut member, rules) = match joined {
        Ok(joined) => joined,
        Err(error) => {
            let log = files.keep().join("sidecar.log");
            return Err(error.context(format!("cannot join the mesh (see {})", log.display())));
        }
    };
    let (program, arguments) = wanted.command.split_first().context("no program is named")?;
    let mut start = tether::command_in(group.path(), program);
    start.args(arguments).kill_on_drop(true);
    let ended: anyhow::Result<ExitStatus> = supervise(&mut member, &mut signals, None, start).await;
    // What the program has left running ends with it, before the rules do.
    drop(group);
    drop(rules);
    member.leave().await;
    Ok(exit_code(ended?))
}

async fn join(wanted: &Wanted<'_>, folder: &Path, group: &Group) -> anyhow::Result<(Member, Held)> {
    let mut member = Member::join_machine(&wanted.target, &wanted.urls, &wanted.membership, folder).await?;
    member.ready().await?;
    let rules = Rules::default().letting_through(Exemption::here());
    let held = intercept::of_group(&rules, group.kernels(), &wanted.ports)
        .context("cannot intercept the program's traffic (the kernel must be 5.13 or newer)")?;
    Ok((member, held))
}
