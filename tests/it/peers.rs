//! The pods of a test with real programs: a server, a client with a sidecar, and a client without one.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use weft_tests::{Mesh, Options, Process, SidecarPod, eventually, program, python};

use crate::weft;

/// How long one run of a program may take on a busy machine.
pub const RUN: Duration = Duration::from_secs(100);

/// A mesh that takes plaintext too, so that the same work can be done through both sidecars with mutual TLS, and through
/// the server's alone.
pub struct Peers {
    pub mesh: Mesh,
    pub server: SidecarPod,
    pub client: SidecarPod,
    pub stranger: SidecarPod,
}

/// Someone who calls the server.
pub struct Caller<'a> {
    pub pod: &'a SidecarPod,
    /// What the caller knows the server by.
    pub host: String,
}

impl Peers {
    /// The server's workload offers `services`.
    pub fn start(services: &str) -> Self {
        let config = vec![("mesh.yaml", PERMISSIVE.to_owned())];
        let mesh = Mesh::start(weft(), Options { config, ..Options::default() });
        let (server, client) = (mesh.pod("server", services), mesh.pod("client", ""));
        let stranger = mesh.pod_without_sidecar("stranger");
        Self { mesh, server, client, stranger }
    }

    /// The server is Hypercorn with what is in `origin.py`, on port 8080; `None` where that, or curl, is not installed.
    pub fn with_hypercorn(more: &[&str]) -> Option<(Self, Process)> {
        let (_, mut origin) = (program(&["curl"])?, python("origin.py")?);
        let peers = Self::start("server:8080");
        origin.arg("8080").args(more);
        let app = peers.serve(origin, 8080);
        Some((peers, app))
    }

    /// Through both sidecars, by the service's name.
    pub fn meshed(&self) -> Caller<'_> {
        Caller { pod: &self.client, host: "server".to_owned() }
    }

    /// In plaintext, by the pod's address.
    pub fn plain(&self) -> Caller<'_> {
        Caller { pod: &self.stranger, host: self.server.address().to_string() }
    }

    /// Both.
    pub fn callers(&self) -> [Caller<'_>; 2] {
        [self.meshed(), self.plain()]
    }

    /// How many requests the client's sidecar has sent over mutual TLS.
    pub fn mutual_requests(&self) -> f64 {
        let mutual = ["direction=\"outbound\"", "tls=\"mutual\""];
        self.client.metric("weft_requests_total", &mutual)
    }

    /// Starts the server's app and waits until it listens.
    pub fn serve(&self, command: Command, port: u16) -> Process {
        let name = format!("{}-{port}", command.get_program().display());
        let name = name.rsplit('/').next().expect("a name");
        let mut app = self.server.app_called(name, command);
        eventually("the app listens", Duration::from_secs(30), || {
            assert!(app.is_running(), "{}", app.output());
            self.server.run(|| TcpStream::connect(("127.0.0.1", port)).is_ok())
        });
        app
    }
}

impl Caller<'_> {
    /// curl with these arguments, in which `HOST` is the server; it must succeed. What it printed, on either output.
    pub fn curl(&self, arguments: &[&str]) -> String {
        self.pod.succeed(self.curl_command(arguments), RUN)
    }

    /// The same, not yet run.
    pub fn curl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program(&["curl"]).expect("the test asked for it"));
        command.args(["-sS", "--max-time", "60"]);
        command.args(arguments.iter().map(|argument| argument.replace("HOST", &self.host)));
        command
    }
}

/// Reads a request's head; what follows it is in the reader.
pub fn read_head(stream: &TcpStream) -> (String, BufReader<&TcpStream>) {
    let mut reader = BufReader::new(stream);
    let head = read_head_from(&mut reader);
    (head, reader)
}

/// Reads a request's head, or nothing where the connection has ended.
pub fn read_head_from(reader: &mut BufReader<&TcpStream>) -> String {
    let mut head = String::new();
    while reader.read_line(&mut head).is_ok_and(|length| length > 2) {}
    head
}

/// Plaintext is taken too.
pub const PERMISSIVE: &str = "
apiVersion: weft.mesh/v1alpha1
kind: MeshConfig
metadata: {name: default}
spec:
  mtls: {mode: Permissive}
  authorization: {default: Any}
";
