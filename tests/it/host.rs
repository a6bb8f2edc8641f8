//! A machine in the mesh: one program of it by `weft run --host`, or all of it by the units of `weft systemd`.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use weft_pods::{Exemption, SIDECAR_UID, intercept};
use weft_tests::{App, HttpClient, Mesh, Options, Process, SidecarPod, eventually, program, skip};

use crate::run::processes_of;
use crate::{in_pods, weft};

const PATIENCE: Duration = Duration::from_secs(60);

/// What a call from a pod gets: the status, or why there is none.
fn status(from: &SidecarPod, to: &str) -> Result<u16, String> {
    let call = || HttpClient::connect(to).and_then(|mut client| client.get("host", "/", ""));
    from.run(call).map(|answer| answer.status).map_err(|error| error.to_string())
}

/// How often a server was called by this one over mutual TLS.
fn mutual(server: &SidecarPod, source: &str) -> f64 {
    let source = format!("source=\"default/{source}\"");
    server.metric("weft_requests_total", &["direction=\"inbound\"", &source, "tls=\"mutual\""])
}

/// What is intercepted on a machine.
fn rules(machine: &SidecarPod) -> String {
    machine.run(intercept::show).expect("the rules").map_or_else(String::new, |rules| rules.to_string())
}

/// Says what the mesh answers it, waits until it is told to go on, and serves.
const SCRIPT: &str = r#"
"$2" -sS -o /dev/null -w '%{http_code}' --max-time 20 --retry 20 --retry-all-errors http://store:8080/ > "$1/called"
exec "$3" -c '
import http.server
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
http.server.ThreadingHTTPServer(("", 9000), Page).serve_forever()'
"#;

#[test]
fn one_program_of_a_machine_is_of_the_mesh_and_the_others_are_not() {
    in_pods!(one_program_of_a_machine_is_of_the_mesh_and_the_others_are_not, || {
        let (Some(curl), Some(python)) = (program(&["curl"]), program(&["python3"])) else { return };
        let mesh = Mesh::start(weft(), Options::default());
        let (store, client) = (mesh.pod("store", "store:8080"), mesh.pod("client", ""));
        let (machine, legacy) = (mesh.pod_without_sidecar("machine"), mesh.pod_without_sidecar("legacy"));
        let (_store, _other) = (App::echo(&store, 8080), App::echo(&machine, 9100));
        let token = mesh.scratch().join("host.token");
        fs::write(&token, mesh.weft_ok(&["token", "create", "--service-account", "host"])).expect("a token");
        let folder = tempfile::Builder::new().prefix("weft-host-").tempdir().expect("a folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a readable folder");
        let anchors = mesh.scratch().join("anchors.pem");
        let start = |name: &str, command: &[&Path]| {
            let mut weft = Command::new(weft());
            weft.args(["run", "--host", "--service", "host", "--port", "9000", "--control-plane"]);
            weft.arg(format!("https://{}:7443", mesh.address())).arg("--ca").arg(&anchors);
            weft.arg("--token-file").arg(&token).arg("--").args(command).env("TMPDIR", folder.path());
            let log = folder.path().join(name);
            Process::start(weft, &log, |weft| machine.pod().spawn(weft).map_err(std::io::Error::other))
        };
        let script = ["/bin/sh", "-c", SCRIPT, "sh"].map(Path::new);
        let served = [&script[..], &[folder.path(), &curl, &python]].concat();
        let mut first = start("first.log", &served);
        let says = |what: &str| fs::read_to_string(folder.path().join(what)).unwrap_or_default();
        eventually("it has called, or is refused", PATIENCE, || {
            !first.is_running() || says("called").ends_with("200")
        });
        // Where this machine has no control groups to tell a program by, that is said and nothing is left.
        if !first.is_running() {
            let said = first.output();
            assert!(said.contains("control group") || said.contains("Linux 6.11"), "{said}");
            assert_eq!(rules(&machine), "");
            return skip(&said);
        }

        // Others call it as a member of the mesh, and it calls others as one.
        eventually("that is counted", PATIENCE, || mutual(&store, "host") >= 1.0);
        eventually("it is called", PATIENCE, || status(&client, "host:9000") == Ok(200));
        let ip = machine.address();
        assert_eq!(status(&legacy, &format!("{ip}:9000")), Ok(403), "in plaintext it is not");

        // The machine's other programs are what they were: nobody of the mesh, with the machine's own names, served to all.
        assert_eq!(status(&legacy, &format!("{ip}:9100")), Ok(200));
        assert_eq!(status(&machine, &format!("{}:8080", store.address())), Ok(403));
        assert!(status(&machine, "store:8080").is_err());

        // A second one is told why not.
        let mut second = start("second.log", &[Path::new("/bin/true")]);
        assert_eq!(second.wait(PATIENCE).code(), Some(1));
        assert!(second.output().contains("intercepted already"), "{}", second.output());

        // Told to end it ends, and with it all that there was of it.
        assert!(!rules(&machine).is_empty());
        first.signal(Signal::TERM);
        assert_eq!(first.wait(PATIENCE).code(), Some(143), "{}", first.output());
        assert_eq!(rules(&machine), "");
        assert_eq!(processes_of(folder.path()), Vec::<String>::new());

        // Killed, too; and the next one comes up, whose exit code is its program's.
        let mut third = start("third.log", &served);
        eventually("it is intercepted again", PATIENCE, || !rules(&machine).is_empty());
        third.kill();
        eventually("nothing is left", PATIENCE, || {
            rules(&machine).is_empty() && processes_of(folder.path()).is_empty()
        });
        let mut last = start("last.log", &["/bin/sh", "-c", "exit 7"].map(Path::new));
        assert_eq!(last.wait(PATIENCE).code(), Some(7), "{}", last.output());
    });
}

/// The lines of a unit, by their key.
fn unit(file: &Path) -> BTreeMap<String, Vec<String>> {
    let mut lines = BTreeMap::<String, Vec<String>>::new();
    for line in fs::read_to_string(file).expect("a unit").lines() {
        if let Some((key, value)) = line.split_once('=') {
            lines.entry(key.to_owned()).or_default().push(value.to_owned());
        }
    }
    lines
}

#[test]
fn a_machine_joins_by_the_lines_of_its_units() {
    in_pods!(a_machine_joins_by_the_lines_of_its_units, || {
        let Some(setpriv) = program(&["setpriv"]) else { return };
        let Exemption::User(_) = Exemption::here() else { return skip("no other user can be taken here") };
        let mesh = Mesh::start(weft(), Options::default());
        let (store, client) = (mesh.pod("store", "store:8080"), mesh.pod("client", ""));
        let (machine, legacy) = (mesh.pod_without_sidecar("machine"), mesh.pod_without_sidecar("legacy"));
        let _apps =
            [App::echo(&store, 8080), App::echo(&machine, 8080), App::greeter(&machine, 22, "SSH-2.0")];

        // The guide's first two commands, and a program at its place; the units' folders are what systemd would make of them.
        let root = mesh.scratch().join("machine");
        let at = |path: &str| root.join(path);
        fs::create_dir(&root).expect("a folder");
        let given = mesh.scratch().join("db");
        mesh.weft_ok(&[
            "token",
            "create",
            "--service-account",
            "db",
            "--service",
            "db",
            "--into",
            given.to_str().expect("a path"),
        ]);
        let proxy = at("weft-proxy");
        fs::write(&proxy, format!("#!/bin/sh\nexec {} proxy \"$@\"\n", weft().display())).expect("a program");
        fs::set_permissions(&proxy, fs::Permissions::from_mode(0o755)).expect("a program");
        let control_plane = format!("https://{}:7443", mesh.address());
        mesh.weft_ok(&[
            "systemd",
            "--service",
            "db",
            "--port",
            "8080",
            "--control-plane",
            &control_plane,
            "--program",
            proxy.to_str().expect("a path"),
            "--into",
            root.to_str().expect("a path"),
        ]);
        let state = at("state");
        fs::create_dir(&state).expect("its state");
        for path in [&state, &given, &given.join("token"), &given.join("ca.pem")] {
            std::os::unix::fs::chown(path, Some(SIDECAR_UID), Some(SIDECAR_UID)).expect("the sidecar's own");
        }
        let sidecar = unit(&at("etc/systemd/system/weft-sidecar.service"));
        let interception = unit(&at("etc/systemd/system/weft-intercept.service"));
        assert_eq!(sidecar["User"], [SIDECAR_UID.to_string()]);
        let written = fs::read_to_string(at("etc/weft/sidecar.env")).expect("settings");
        let own = sidecar["Environment"].join(" ").replace("%d", given.to_str().expect("a path"));
        let settings = written.replace("/var/lib/weft-sidecar", state.to_str().expect("a path"));
        let settings = settings.lines().filter(|line| !line.starts_with('#')).chain(own.split(' '));
        let settings: Vec<(String, String)> = settings
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();

        // The third, line by line, as each unit's user.
        let line = |line: &str, user: Option<&str>| {
            let mut command = Command::new(&setpriv);
            if let Some(user) = user {
                command.args(["--reuid", user, "--regid", user, "--clear-groups", "--bounding-set=-all"]);
            }
            command.args(["--no-new-privs", "--"]).args(line.split(' ')).env_clear();
            command.envs(settings.iter().map(|(key, value)| (key, value)));
            command
        };
        let user = sidecar["User"][0].as_str();
        let mut running = machine.app_called("sidecar", line(&sidecar["ExecStart"][0], Some(user)));
        machine.succeed(line(&sidecar["ExecStartPost"][0], Some(user)), PATIENCE);
        machine.succeed(line(&interception["ExecStart"][0], None), PATIENCE);

        eventually("it is called", PATIENCE, || status(&client, "db:8080") == Ok(200));
        eventually("it calls", PATIENCE, || status(&machine, "store:8080") == Ok(200));
        eventually("that is counted", PATIENCE, || mutual(&store, "db") == 1.0);
        assert_eq!(status(&legacy, &format!("{}:8080", machine.address())), Ok(403));
        let mut greeting = [0; 7];
        let ssh = (machine.address(), 22);
        legacy.run(|| TcpStream::connect(ssh).and_then(|mut to| to.read_exact(&mut greeting))).expect("SSH");
        assert_eq!(&greeting, b"SSH-2.0", "nobody locks themselves out");

        // And out of the mesh again.
        machine.succeed(line(&interception["ExecStop"][0], None), PATIENCE);
        assert_eq!(rules(&machine), "");
        assert_eq!(status(&legacy, &format!("{}:8080", machine.address())), Ok(200));
        // As jobs end their sidecar where nobody else does.
        machine.succeed(line(&format!("{} shutdown", proxy.display()), Some(user)), PATIENCE);
        assert!(running.wait(PATIENCE).success(), "{}", running.output());
    });
}
