//! A store behind a sidecar, its client's program in another pod: timed, and put to work as applications do.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use weft_tests::{Process, SidecarPod, python};

use crate::peers::{Peers, RUN};

/// How much longer a first answer may take through two sidecars than directly.
const AT_MOST_ADDED: Duration = Duration::from_millis(20);

/// The same of the very first, for which names are looked up, keys are exchanged and code is read from disk: seconds are
/// what it must not be.
const AT_MOST_ADDED_ONCE: Duration = Duration::from_millis(250);

/// A store and its clients.
pub struct Store {
    pub peers: Peers,
}

impl Store {
    /// The store's workload offers a name and not one port: none is configured anywhere.
    pub fn new() -> Self {
        Self { peers: Peers::start("server") }
    }

    /// A folder for the store's data.
    pub fn data(&self) -> PathBuf {
        let data = self.peers.mesh.scratch().join("store");
        fs::create_dir(&data).expect("a folder");
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700)).expect("the store's own folder");
        if is_root() {
            chown(&data, Some(NOBODY), Some(NOBODY)).expect("the store's own folder");
        }
        data
    }

    /// Starts the store's program, as a user without rights.
    pub fn start(&self, command: Command) -> Process {
        self.peers.server.app(without_rights(command))
    }

    /// Times a first answer directly and through two sidecars, then lets the client's program do its work from beside a
    /// sidecar and from a pod that has none.
    pub fn prove(&self, script: &str) {
        let Some(client) = python(script) else { return };
        let run = |pod: &SidecarPod, what: &str, host: &str| {
            let mut command = Command::new(client.get_program());
            command.args(client.get_args()).args([what, host]);
            pod.succeed(command, RUN)
        };
        run(&self.peers.server, "wait", "127.0.0.1");
        let direct = times(&run(&self.peers.server, "first", "127.0.0.1"));
        let meshed = times(&run(&self.peers.client, "first", "server"));
        let both = format!("direct {direct:?}, through two sidecars {meshed:?}");
        assert!(best(&meshed) < best(&direct) + AT_MOST_ADDED, "{both}");
        assert!(meshed[0] < direct[0] + AT_MOST_ADDED_ONCE, "{both}");
        run(&self.peers.client, "work", "server");
        let mutual = ["direction=\"outbound\"", "protocol=\"tcp\"", "tls=\"mutual\""];
        let carried = self.peers.client.metric("weft_connections_total", &mutual);
        assert!(carried >= 9.0, "they went through both sidecars: {carried}");
        run(&self.peers.stranger, "work", &self.peers.server.address().to_string());
        let plain = ["direction=\"inbound\"", "protocol=\"tcp\"", "tls=\"none\""];
        assert!(
            self.peers.server.metric("weft_connections_total", &plain) >= 1.0,
            "the stranger came in plaintext"
        );
    }
}

fn times(printed: &str) -> Vec<Duration> {
    let lines = printed.lines().filter_map(|line| line.parse().ok());
    lines.map(|milliseconds: f64| Duration::from_secs_f64(milliseconds / 1000.0)).collect()
}

fn best(times: &[Duration]) -> Duration {
    *times.iter().min().expect("several tries")
}

/// Databases refuse to run as root, and nothing else needs to.
pub fn without_rights(mut command: Command) -> Command {
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.current_dir(Path::new("/"));
    command
}

const NOBODY: u32 = 65534;

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
