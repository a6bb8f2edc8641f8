//! `weft systemd`: the units with which a machine joins the mesh.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use crate::args::Common;
use crate::output;
use crate::run::{Port, ServiceName, offers};
use crate::target::parse_urls;

const SIDECAR: &str = "etc/systemd/system/weft-sidecar.service";
const INTERCEPT: &str = "etc/systemd/system/weft-intercept.service";
const ENVIRONMENT: &str = "etc/weft/sidecar.env";

/// Print the systemd units with which this machine joins a mesh, and their settings
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft token create --service-account db --into db && scp -r db root@vm:/etc/weft        where the mesh is
  weft systemd --service db --port 5432:tcp --control-plane https://mesh:7443 --into /   on the machine, as root
  systemctl daemon-reload && systemctl enable --now weft-intercept                       on the machine, as root

Without --into everything is printed. Port 22 is left alone unless --skip-inbound-ports says otherwise.")]
pub(crate) struct Arguments {
    /// The service that the machine belongs to
    #[arg(long, value_name = "NAME[.NAMESPACE]")]
    service: ServiceName,
    /// A port that it serves; repeatable [default: whichever it serves]
    #[arg(long, value_name = "P[->APP-PORT][:PROTOCOL]")]
    port: Vec<Port>,
    /// Ports that are not intercepted when others call them
    #[arg(long, value_name = "PORTS", default_value = "22")]
    skip_inbound_ports: String,
    /// Destination ports that are not intercepted
    #[arg(long, value_name = "PORTS")]
    skip_outbound_ports: Option<String>,
    /// Where weft-proxy is
    #[arg(long, value_name = "FILE", default_value = "/usr/local/bin/weft-proxy")]
    program: PathBuf,
    /// Write the files below this folder, / for this machine, in place of printing them
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
}

pub(crate) fn execute(common: &Common, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let control_plane = common.target.control_plane.as_deref();
    let control_plane =
        control_plane.context("name the control plane with --control-plane https://HOST:7443")?;
    let control_plane = parse_urls(control_plane)?.join(",");
    let files = files(arguments, &control_plane);
    let Some(root) = &arguments.into else {
        let printed: Vec<String> = files.iter().map(|(path, text)| format!("# /{path}\n{text}")).collect();
        output::print(&printed.join("\n"))?;
        return Ok(ExitCode::SUCCESS);
    };
    for (path, text) in files {
        write(&root.join(path), &text)?;
        output::note(&format!("{} written", root.join(path).display()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let write = || {
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::write(path, text)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o644))
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn files(arguments: &Arguments, control_plane: &str) -> [(&'static str, String); 3] {
    [
        (ENVIRONMENT, environment(arguments, control_plane)),
        (SIDECAR, sidecar(arguments)),
        (INTERCEPT, intercept(arguments)),
    ]
}

fn environment(arguments: &Arguments, control_plane: &str) -> String {
    let service = &arguments.service.name;
    let offers = offers(service, arguments.port.iter().map(|Port(port)| port.as_str()));
    format!(
        "# What the sidecar is told; weft-proxy run --help has the rest.
WEFT_CONTROL_PLANE={control_plane}
WEFT_SERVICES={offers}
WEFT_CACHE_DIR=/var/lib/weft-sidecar
# The machine's programs outlive a sidecar that is started again.
WEFT_APP_GRACE=0s
"
    )
}

/// The sidecar is nobody in particular and may do nothing but speak: its token is handed to it by systemd.
fn sidecar(arguments: &Arguments) -> String {
    let program = arguments.program.display();
    format!(
        "[Unit]
Description=Weft sidecar of {service}
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
EnvironmentFile=/etc/weft/sidecar.env
LoadCredential=token:/etc/weft/token
LoadCredential=ca.pem:/etc/weft/ca.pem
Environment=WEFT_TOKEN_FILE=%d/token WEFT_CA=%d/ca.pem
ExecStart={program} run
ExecStartPost={program} await --timeout 60s
Restart=always
RestartSec=1
TimeoutStopSec=45
User=2102
Group=2102
StateDirectory=weft-sidecar
StateDirectoryMode=0700
LimitNOFILE=65536
CapabilityBoundingSet=
LockPersonality=yes
MemoryDenyWriteExecute=yes
NoNewPrivileges=yes
PrivateDevices=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
UMask=0077

[Install]
WantedBy=multi-user.target
",
        service = arguments.service.name
    )
}

/// Interception begins when the sidecar is ready. It stays while that is started again: what is not carried fails, rather
/// than go out in plaintext.
fn intercept(arguments: &Arguments) -> String {
    let program = arguments.program.display();
    let mut up = format!("{program} intercept up");
    if !arguments.skip_inbound_ports.is_empty() {
        up.push_str(&format!(" --skip-inbound-ports={}", arguments.skip_inbound_ports));
    }
    if let Some(ports) = &arguments.skip_outbound_ports {
        up.push_str(&format!(" --skip-outbound-ports={ports}"));
    }
    format!(
        "[Unit]
Description=Weft: this machine's connections pass through its sidecar
Requires=weft-sidecar.service
After=weft-sidecar.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={up}
ExecStop={program} intercept down
CapabilityBoundingSet=CAP_NET_ADMIN
NoNewPrivileges=yes
ProtectHome=yes
ProtectSystem=strict
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX

[Install]
WantedBy=multi-user.target
"
    )
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

    fn parse(line: &str) -> Arguments {
        Line::try_parse_from(line.split(' ')).unwrap().arguments
    }

    #[test]
    fn the_files_say_what_the_options_do() {
        let arguments = parse(
            "systemd --service db --port 5432:tcp --skip-outbound-ports 25,465 --program /opt/weft-proxy",
        );
        let [(_, environment), (_, sidecar), (_, intercept)] = files(&arguments, "https://mesh:7443");
        assert!(environment.contains("WEFT_CONTROL_PLANE=https://mesh:7443\nWEFT_SERVICES=db:5432:tcp\n"));
        assert!(sidecar.contains("ExecStart=/opt/weft-proxy run\n"));
        let up =
            "ExecStart=/opt/weft-proxy intercept up --skip-inbound-ports=22 --skip-outbound-ports=25,465\n";
        assert!(intercept.contains(up), "{intercept}");
        let [(_, environment), ..] = files(&parse("systemd --service db"), "https://mesh:7443");
        assert!(environment.contains("WEFT_SERVICES=db\n"));
    }
}
