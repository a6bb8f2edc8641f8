//! `weft run`: any program with a sidecar beside it, and nothing else to start.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use weft_tests::{eventually, program};

use crate::weft_for_everyone;

/// A user's `weft run`s: with a runtime folder, and so a local control plane, of their own.
pub(crate) struct User {
    pub(crate) folder: tempfile::TempDir,
    uid: Option<u32>,
}

impl User {
    pub(crate) fn new(uid: Option<u32>) -> Self {
        let folder = tempfile::Builder::new().prefix("weft-user-").tempdir().expect("a folder");
        if let Some(uid) = uid {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(uid)).expect("the user's own folder");
        }
        Self { folder, uid }
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(weft_for_everyone());
        command.arg("run").args(arguments).stdin(Stdio::null());
        command.env("XDG_RUNTIME_DIR", self.folder.path()).env("HOME", self.folder.path());
        command
            .env("TMPDIR", self.folder.path())
            .env_remove("WEFT_CONTROL_PLANE")
            .current_dir(self.folder.path());
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        command
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        self.run(arguments).output().expect("weft starts")
    }
}

/// An ordinary user besides ourselves, where we are root.
fn users() -> Vec<Option<u32>> {
    if geteuid().is_root() { vec![None, Some(1000)] } else { vec![None] }
}

#[test]
fn two_programs_find_each_other_by_name_over_mutual_tls() {
    let _beside = weft_tests::beside_others();
    // The system's own first: another may lie where an ordinary user must not look.
    let python = program(&["/usr/bin/python3", "python3"]);
    let (Some(python), Some(curl)) = (python, program(&["/usr/bin/curl", "curl"])) else { return };
    let (python, curl) =
        (python.to_str().expect("a path").to_owned(), curl.to_str().expect("a path").to_owned());
    for uid in users() {
        let user = User::new(uid);
        std::fs::write(user.folder.path().join("page.txt"), "woven\n").expect("a page");
        let serve = ["--service", "hello", "--port", "8000", "--", &python, "-m", "http.server", "8000"];
        let mut server = user.run(&serve).stderr(Stdio::piped()).spawn().expect("weft starts");
        let mut answer = None;
        eventually("the page is served", Duration::from_secs(60), || {
            let ask = [
                "--service",
                "me",
                "--",
                &curl,
                "-sS",
                "--fail",
                "--max-time",
                "5",
                "http://hello:8000/page.txt",
            ];
            let output = user.output(&ask);
            let good = output.status.success();
            answer = Some(output);
            good
        });
        assert_eq!(String::from_utf8_lossy(&answer.expect("an answer").stdout), "woven\n");

        let missing =
            user.output(&["--service", "me", "--", &curl, "-sS", "--fail", "http://hello:8000/missing"]);
        assert_eq!(missing.status.code(), Some(22), "curl's exit code is weft's");

        let pid = Pid::from_raw(i32::try_from(server.id()).expect("a number")).expect("a number");
        kill_process(pid, Signal::TERM).expect("signalled");
        server.wait().expect("the server's end");
        eventually("nothing is left", Duration::from_secs(20), || {
            processes_of(user.folder.path()).is_empty()
        });
    }
}

#[test]
fn signals_and_exit_codes_are_passed_on() {
    let _beside = weft_tests::beside_others();
    let user = User::new(None);
    let output = user.output(&["--service", "seven", "--", "/bin/sh", "-c", "exit 7"]);
    assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));

    let script = "trap 'exit 42' TERM; echo started; while :; do sleep 0.1; done";
    let mut child = user
        .run(&["--service", "trap", "--", "/bin/sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .expect("weft starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    assert_eq!(line, "started\n");
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a number")).expect("a number");
    kill_process(pid, Signal::TERM).expect("signalled");
    assert_eq!(child.wait().expect("its end").code(), Some(42));

    let output = user.output(&["--service", "none", "--", "/does/not/exist"]);
    assert_eq!(output.status.code(), Some(127), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A program that writes down when it starts and when it is asked to end.
const DIARY: &str = r#"
mesh:
- apiVersion: weft.mesh/v1alpha1
  kind: MeshConfig
  metadata: {name: default}
  spec: {mtls: {mode: Strict}}
services:
  last:
    command: &diary [/bin/sh, -c, "trap 'echo $$NAME ends >> diary; exit 0' TERM; echo $$NAME starts >> diary; touch $$NAME; while :; do sleep 0.1; done"]
    environment: {NAME: last}
    depends_on: {middle: {condition: service_healthy}}
  middle:
    command: *diary
    environment: {NAME: middle}
    healthcheck: {test: test -e middle}
    depends_on: {first: {condition: service_healthy}, once: {condition: service_completed_successfully}}
  first:
    command: *diary
    environment: {NAME: first}
    healthcheck: {test: test -e first}
  once:
    command: /bin/sh -c 'echo tried >> tries; test $$(wc -l < tries) -ge 3'
    restart: on-failure
"#;

#[test]
fn many_programs_start_in_their_order_and_end_in_the_opposite_one() {
    let _beside = weft_tests::beside_others();
    let user = User::new(None);
    let file = |name: &str| user.folder.path().join(name);
    let read = |name: &str| std::fs::read_to_string(file(name)).unwrap_or_default();
    std::fs::write(file("weft.yaml"), DIARY).expect("a file");
    let mut all = weft_tests::Process::start(user.run(&["-f", "weft.yaml"]), &file("output"), Command::spawn);
    eventually("all have started", Duration::from_secs(90), || read("diary").contains("last starts\n"));
    assert_eq!(read("tries").lines().count(), 3, "{}", all.output());
    all.signal(Signal::INT);
    assert_eq!(all.wait(Duration::from_secs(60)).code(), Some(130), "{}", all.output());
    let diary = "first starts\nmiddle starts\nlast starts\nlast ends\nmiddle ends\nfirst ends\n";
    assert_eq!(read("diary"), diary, "{}", all.output());
    assert!(all.output().contains("weft: middle: works"), "{}", all.output());
    eventually("nothing is left", Duration::from_secs(20), || processes_of(user.folder.path()).is_empty());
}

#[test]
fn of_many_programs_the_first_that_fails_ends_all_with_its_code() {
    let _beside = weft_tests::beside_others();
    let user = User::new(None);
    let yaml = "services:\n  ever: {command: sleep 1000}\n  bad:\n    command: /bin/sh -c 'echo oh; echo no >&2; exit 7'\n    depends_on: [ever]\n";
    std::fs::write(user.folder.path().join("weft.yaml"), yaml).expect("a file");
    let output = user.output(&["-f", "weft.yaml"]);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(7), "{err}");
    assert_eq!(out, "bad  | oh\n");
    assert!(err.contains("bad  | no\n") && err.contains("weft: bad: ended with exit status: 7"), "{err}");

    std::fs::write(
        user.folder.path().join("weft.yaml"),
        yaml.replace("depends_on: [ever]", "depend_on: [ever]"),
    )
    .expect("a file");
    let output = user.output(&["-f", "weft.yaml"]);
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(
        err.starts_with("weft.yaml:5:5: unknown field") && err.contains("did you mean \"depends_on\"?"),
        "{err}"
    );
    assert!(output.stdout.is_empty());

    let output = user.output(&["-f", "nowhere.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("weft: cannot read nowhere.yaml"));
}

/// The processes that name this folder on their command line or in their environment.
pub(crate) fn processes_of(folder: &std::path::Path) -> Vec<String> {
    let folder = folder.to_str().expect("a path");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let own = std::process::id().to_string();
        let Some(pid) = entry.file_name().to_str().map(str::to_owned).filter(|pid| *pid != own) else {
            continue;
        };
        for part in ["cmdline", "environ"] {
            let text = std::fs::read(entry.path().join(part)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text).replace('\0', " ");
            if text.contains(folder) {
                found.push(format!("{pid}: {text}"));
                break;
            }
        }
    }
    found
}

/// Sends datagrams outside by IPv4 and IPv6, some long, then by more sockets than `weft` carries flows at once, and at last by the
/// first one again, which has lost its place. Each datagram comes back, or is sent again, for that is what UDP is.
const DATAGRAMS: &str = r"
import socket
def opened(family, port=0):
    it = socket.socket(family, socket.SOCK_DGRAM)
    it.settimeout(2)
    it.bind(('', port))
    return it
def comes_back(it, to, what):
    for _ in range(30):
        it.sendto(what, (to, 9999))
        try:
            answer, who = it.recvfrom(65535)
            while answer != what:
                answer, who = it.recvfrom(65535)
        except socket.timeout:
            continue
        assert who[:2] == (to, 9999), who
        return
    raise SystemExit('nothing comes back from ' + to)
first = opened(socket.AF_INET)
comes_back(first, '192.0.2.1', b'first')
comes_back(first, '192.0.2.1', b'x' * 20000)
comes_back(opened(socket.AF_INET6), '2001:db8::1', b'sixth')
for port in range(20000, 21100):
    with opened(socket.AF_INET, port) as one:
        comes_back(one, '192.0.2.1', b'one of many')
comes_back(first, '192.0.2.1', b'again')
print('all came back')
";

/// The network outside a machine: what is called there, by TCP, and a resolver, by UDP.
fn world(pod: &weft_tests::SidecarPod) {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, UdpSocket};
    let (tcp, udp) = pod.run(|| (TcpListener::bind("192.0.2.1:80"), UdpSocket::bind("192.0.2.1:53")));
    let (tcp, udp) = (tcp.expect("a listener"), udp.expect("a resolver"));
    std::thread::spawn(move || {
        for mut stream in tcp.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1024]);
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nworld\n");
        }
    });
    for address in ["192.0.2.1:9999", "[2001:db8::1]:9999"] {
        let echo = pod.run(|| UdpSocket::bind(address)).expect("a place for echoes");
        std::thread::spawn(move || {
            let mut datagram = vec![0; 65_535];
            while let Ok((length, from)) = echo.recv_from(&mut datagram) {
                let _ = echo.send_to(&datagram[..length], from);
            }
        });
    }
    std::thread::spawn(move || {
        let mut question = [0; 512];
        while let Ok((length, from)) = udp.recv_from(&mut question) {
            // RFC 1035, 4.1: an answer with one record, a pointer to the question's name, for questions of IPv4.
            let mut answer = question[..length].to_vec();
            let end = 12 + answer[12..].iter().position(|byte| *byte == 0).expect("a name") + 5;
            let is_v4 = answer[end - 4..end] == [0, 1, 0, 1];
            answer.truncate(end);
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_v4), 0, 0, 0, 0]);
            if is_v4 {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
            }
            let _ = udp.send_to(&answer, from);
        }
    });
}

#[test]
fn programs_reach_the_network_outside_by_tcp_udp_and_its_names() {
    crate::in_pods!(programs_reach_the_network_outside_by_tcp_udp_and_its_names, || {
        let (Some(curl), Some(ip)) = (program(&["/usr/bin/curl", "curl"]), program(&["ip", "/sbin/ip"]))
        else {
            return;
        };
        let (Some(unshare), Some(python)) =
            (program(&["unshare"]), program(&["/usr/bin/python3", "python3"]))
        else {
            return;
        };
        let mesh = weft_tests::Mesh::start(crate::weft(), weft_tests::Options::default());
        let (machine, outside) = (mesh.pod_without_sidecar("machine"), mesh.pod_without_sidecar("outside"));
        for (pod, number) in [(&machine, 2), (&outside, 1)] {
            for address in [format!("192.0.2.{number}/24"), format!("2001:db8::{number}/64")] {
                let mut add = Command::new(ip.clone());
                add.args(["address", "add", &address, "dev", "eth0"]);
                // No duplicate is looked for: the address is there at once.
                add.args(address.contains(':').then_some("nodad"));
                pod.succeed(add, Duration::from_secs(20));
            }
        }
        world(&outside);
        for uid in users() {
            let user = User::new(uid);
            std::fs::write(user.folder.path().join("resolv.conf"), "nameserver 192.0.2.1\n").expect("a file");
            // A machine whose resolver is the one outside.
            let script = "mount --bind \"$0/resolv.conf\" /etc/resolv.conf && exec \"$@\"";
            let as_user = |command: &Command| {
                let mut machines = Command::new(unshare.clone());
                machines.args(["--mount", "/bin/sh", "-c", script]).arg(user.folder.path());
                if let Some(uid) = uid {
                    machines.args([
                        "setpriv",
                        "--reuid",
                        &uid.to_string(),
                        "--regid",
                        &uid.to_string(),
                        "--clear-groups",
                    ]);
                }
                machines.arg(command.get_program()).args(command.get_args()).current_dir(user.folder.path());
                machines.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
                machines
            };
            for url in ["http://192.0.2.1/", "http://www.example.org/"] {
                let ask = [
                    "--service",
                    "me",
                    "--",
                    curl.to_str().expect("a path"),
                    "-sS",
                    "--fail",
                    "--max-time",
                    "20",
                    url,
                ];
                let said = machine.succeed(as_user(&user.run(&ask)), Duration::from_secs(90));
                assert!(said.contains("world\n"), "{uid:?} {url}: {said}");
            }
            let datagrams = ["--service", "me", "--", python.to_str().expect("a path"), "-c", DATAGRAMS];
            let said = machine.succeed(as_user(&user.run(&datagrams)), Duration::from_secs(240));
            assert!(said.contains("all came back\n"), "{uid:?}: {said}");
            let refused = [
                "--service",
                "me",
                "--",
                curl.to_str().expect("a path"),
                "-sS",
                "--max-time",
                "20",
                "http://192.0.2.1:81/",
            ];
            let output = machine.output(as_user(&user.run(&refused)));
            assert!(!output.status.success(), "nobody listens there");
        }
    });
}
