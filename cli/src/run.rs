//! `weft run`: any program with a sidecar beside it, in a pod of its own.

mod holder;
mod host;
mod many;
mod room;
mod signals;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use weft_core::model::Name;
use weft_pods::{Hub, userns};
use weft_runtime::logs::{self, LogFormat};

pub(crate) use holder::{HolderArguments, hold};

use crate::args::{Common, key_value};
use crate::mesh::rendezvous::{Call, hung_up};
use crate::mesh::{Access, Folder, Member, Membership, Role, sidecar_owner, signal};
use crate::target::{Target, parse_urls};
use crate::{output, tether};
use signals::Signals;

/// Run a program with a sidecar beside it, or many: a network of its own, discovery, identity, mTLS
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft run --service hello --port 8000 -- python3 -m http.server 8000
  weft run --service me -- curl -s http://hello:8000/
  weft run --service db --port 5432:tcp -- postgres -D data
  weft run --host --service db --port 5432:tcp -- postgres -D data     as root: in the machine's own network, of
  the mesh that --control-plane, --ca and --token-file name
  weft run -f weft.yaml                                        many programs, in their order; Ctrl-C ends all
  weft run -f weft.yaml --until tests                          .. until one of them has ended, with its exit code

The first run of a user starts a control plane on this machine and the others join it; it ends with the last.
The program's exit code is weft's, and signals are passed on to it; of many programs it is that of the first that fails.")]
pub(crate) struct Arguments {
    /// The service that the program belongs to
    #[arg(long, value_name = "NAME[.NAMESPACE]", required_unless_present = "file")]
    service: Option<ServiceName>,
    /// Run the programs that this file names, in Compose's words
    #[arg(short, long, value_name = "FILE|-", conflicts_with_all = ["service", "port", "service_account", "label", "host", "command"])]
    file: Option<PathBuf>,
    /// With --file: end all when this service has ended, with its exit code
    #[arg(long, value_name = "NAME", requires = "file", conflicts_with = "service")]
    until: Option<Name>,
    /// A port that the program serves; repeatable [default: whichever it serves]
    #[arg(long, value_name = "P[->APP-PORT][:PROTOCOL]")]
    port: Vec<Port>,
    /// The service account that it runs as [default: the one named like the service]
    #[arg(long, value_name = "SA")]
    service_account: Option<Name>,
    /// A label that it has; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    label: Vec<(String, String)>,
    /// Keep the host's network and intercept only the program's traffic; for root, with a control plane that is named
    #[arg(long)]
    host: bool,
    /// The program and its arguments
    #[arg(last = true, required_unless_present = "file", value_name = "CMD")]
    command: Vec<OsString>,
}

/// `NAME[.NAMESPACE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServiceName {
    pub(crate) name: Name,
    namespace: Option<Name>,
}

/// `P[->APP-PORT][:PROTOCOL]`, checked, as the sidecar reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port(pub(crate) String);

/// What is run.
enum Job {
    One(Membership),
    Many(Box<many::Wanted>),
}

pub(crate) fn execute(common: &Common, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.host {
        return host::execute(common, arguments);
    }
    logs::init(LogFormat::Text, std::env::var("RUST_LOG").as_deref().unwrap_or("error"))?;
    // Mistakes first: nothing has been started yet.
    let job = match (&arguments.file, &arguments.service) {
        (Some(file), _) => match many::Wanted::read(file, &common.namespace, arguments.until.as_ref())? {
            Some(wanted) => Job::Many(Box::new(wanted)),
            None => return Ok(ExitCode::FAILURE),
        },
        (None, Some(service)) => Job::One(arguments.membership(service, &common.namespace)),
        (None, None) => bail!("name the program's service with --service, or a file with --file"),
    };
    let urls = common.target.control_plane.as_deref().map(parse_urls).transpose()?;
    let call = holder::call(urls.as_deref())?;
    let target = match &call.access().own {
        Some(own) => own.target(),
        None => Target::of_options(&common.target)?,
    };
    // Only a process with a single thread may do this, so it comes before anything that starts one.
    if userns::needed() {
        userns::join(call.access().pid)?;
    }
    room::check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ran = match &job {
        Job::One(membership) => runtime.block_on(run(&call, &target, membership, &arguments.command)),
        Job::Many(wanted) => runtime.block_on(many::run(&call, &target, wanted)),
    };
    drop(runtime);
    call.hang_up().context("the mesh of this machine did not end in good order")?;
    ran
}

async fn run(
    call: &Call,
    target: &Target,
    membership: &Membership,
    command: &[OsString],
) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::listen()?;
    let files = Folder::create("run")?;
    let joined = tokio::select! {
        joined = join(call.access(), target, membership, files.path()) => joined,
        signal = signals.ending() => return Ok(exit_code(ExitStatus::from_raw(signal))),
    };
    let mut member = match joined {
        Ok(member) => member,
        Err(error) => {
            let kept = files.keep();
            return Err(
                error.context(format!("cannot join the mesh (see {})", kept.join("sidecar.log").display()))
            );
        }
    };
    let (program, arguments) = command.split_first().context("no program is named")?;
    let mut start = tether::command(program);
    start.args(arguments).kill_on_drop(true);
    let ended = supervise(&mut member, &mut signals, Some(call.line()?), start).await;
    member.leave().await;
    Ok(exit_code(ended?))
}

async fn join(
    access: &Access,
    target: &Target,
    membership: &Membership,
    folder: &Path,
) -> anyhow::Result<Member> {
    let hub = Hub::join(&access.hub)?;
    let mut member = Member::join(target, &access.from_pods, &hub, membership, folder).await?;
    member.ready().await?;
    Ok(member)
}

/// Runs the program to its end, and keeps its sidecar running meanwhile. The line is to who holds the mesh of this machine.
async fn supervise(
    member: &mut Member,
    signals: &mut Signals,
    mut line: Option<UnixStream>,
    program: Command,
) -> anyhow::Result<ExitStatus> {
    let mut child = member.resident().spawn(program, Role::Application).await?;
    loop {
        tokio::select! {
            ended = child.wait() => return ended.context("cannot wait for the program"),
            received = signals.next() => {
                if received == Signal::TERM {
                    withdraw(member, &mut child, signals).await;
                }
                signal(&child, received);
            }
            trouble = member.until_trouble() => restart(member, &trouble, &mut child, signals).await?,
            () = gone(line.as_mut()), if line.is_some() => {
                line = None;
                output::note("weft: the control plane of this machine is gone; the program goes on with what its sidecar knows")?;
            }
        }
    }
}

async fn gone(holder: Option<&mut UnixStream>) {
    if let Some(line) = holder {
        hung_up(line).await;
    }
}

/// Others are to call elsewhere before the program is told to end. Whoever has no patience for that signals again.
async fn withdraw(member: &Member, child: &mut Child, signals: &mut Signals) {
    tokio::select! {
        () = member.withdraw() => {}
        _ = child.wait() => {}
        again = signals.next() => signal(child, again),
    }
}

/// Starts a sidecar that ended by itself once more. Signals to the program do not wait for that.
async fn restart(
    member: &mut Member,
    trouble: &str,
    child: &mut Child,
    signals: &mut Signals,
) -> anyhow::Result<()> {
    output::note(&format!("weft: {trouble}; it is started once more"))?;
    member.restart().await?;
    tokio::select! {
        ready = member.ready() => ready,
        received = signals.next() => {
            signal(child, received);
            Ok(())
        }
    }
}

/// The program's exit code; as shells have it, 128 and the signal's number for one that was killed.
fn exit_code(status: ExitStatus) -> ExitCode {
    ExitCode::from(code_of(status))
}

fn code_of(status: ExitStatus) -> u8 {
    let killed = || status.signal().map(|signal| 128 + signal);
    status.code().or_else(killed).and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Lets a sidecar that runs as another user find its files in a folder; each file says for itself who may read it.
fn let_sidecar_enter(folder: &Path) -> anyhow::Result<()> {
    let mode = if sidecar_owner().is_some() { 0o711 } else { 0o700 };
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))
        .with_context(|| format!("cannot open {} to the sidecar", folder.display()))
}

impl Arguments {
    fn membership(&self, service: &ServiceName, namespace: &Name) -> Membership {
        let ServiceName { name: service, namespace: own } = service;
        Membership {
            workload: format!("{service}-{}", std::process::id()),
            namespace: own.clone().unwrap_or_else(|| namespace.clone()),
            service_account: self.service_account.clone().unwrap_or_else(|| service.clone()),
            services: vec![service.clone()],
            offers: offers(service, self.port.iter().map(|Port(port)| port.as_str())),
            labels: self.label.clone(),
            workers: None,
        }
    }
}

/// What is offered of a service, as `WEFT_SERVICES` says it: its ports, or whichever there are.
pub(crate) fn offers<'p>(service: &Name, ports: impl Iterator<Item = &'p str>) -> String {
    let offers: Vec<String> = ports.map(|port| format!("{service}:{port}")).collect();
    if offers.is_empty() { service.to_string() } else { offers.join(",") }
}

impl FromStr for ServiceName {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (name, namespace) = match text.split_once('.') {
            Some((name, namespace)) => (name, Some(namespace.parse()?)),
            None => (text, None),
        };
        Ok(Self { name: name.parse()?, namespace })
    }
}

impl Port {
    /// Where the program listens.
    fn app(&self) -> Option<u16> {
        let ports = self.0.split(':').next()?;
        ports.rsplit("->").next()?.parse().ok()
    }
}

impl FromStr for Port {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let (ports, protocol) = text.split_once(':').unwrap_or((text, "http"));
        let (outer, inner) = ports.split_once("->").unwrap_or((ports, ports));
        for port in [outer, inner] {
            if !port.parse::<u16>().is_ok_and(|port| port > 0) {
                bail!("{port:?} is no port");
            }
        }
        if !["http", "http2", "grpc", "tcp", "tls"].contains(&protocol) {
            bail!("{protocol:?} is no protocol; there are http, http2, grpc, tcp and tls");
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Line::try_parse_from(line.split(' ')).map(|line| line.arguments)
    }

    fn check(line: &str, namespace: &str, account: &str, offers: &str) {
        let arguments = parse(line).unwrap();
        let service = arguments.service.as_ref().unwrap();
        let membership = arguments.membership(service, &"default".parse().unwrap());
        assert_eq!(membership.namespace.as_str(), namespace, "{line}");
        assert_eq!(membership.service_account.as_str(), account, "{line}");
        assert_eq!(membership.offers, offers, "{line}");
    }

    #[test]
    fn a_member_is_what_the_options_say() {
        check("run --service me -- curl", "default", "me", "me");
        check("run --service hello --port 8000 -- x", "default", "hello", "hello:8000");
        check(
            "run --service a.shop --port 80->8080:http --port 9090:grpc --service-account b -- x",
            "shop",
            "b",
            "a:80->8080:http,a:9090:grpc",
        );
    }

    #[test]
    fn the_program_listens_where_its_port_says() {
        let app = |port: &str| port.parse::<Port>().unwrap().app();
        assert_eq!([app("80"), app("80->8080:http"), app("9000:grpc")], [Some(80), Some(8080), Some(9000)]);
    }

    #[test]
    fn what_follows_the_dashes_is_the_programs() {
        let arguments = parse("run --service me -- curl -s --port 1 http://hello:8000/").unwrap();
        assert_eq!(arguments.command.len(), 5);
        assert!(arguments.port.is_empty());
    }

    #[test]
    fn mistakes_are_refused() {
        for bad in [
            "run -- x",
            "run --service me",
            "run --service Me -- x",
            "run --service me.a.b_c -- x",
            "run --service me --port 0 -- x",
            "run --service me --port 80:ftp -- x",
            "run --service me --port 80->x -- x",
            "run --service me --label x -- x",
            "run -f weft.yaml -- x",
            "run -f weft.yaml --service me",
            "run --service me --until x -- x",
        ] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
    }

    #[test]
    fn the_exit_code_is_the_programs() {
        let code = |raw| format!("{:?}", exit_code(ExitStatus::from_raw(raw)));
        assert_eq!(code(0), format!("{:?}", ExitCode::SUCCESS));
        assert_eq!(code(42 << 8), format!("{:?}", ExitCode::from(42)));
        assert_eq!(code(15), format!("{:?}", ExitCode::from(143)));
    }
}
