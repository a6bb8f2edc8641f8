//! The programs that tests start in pods or beside them: this very program, told what to be by its environment.

use std::env;
use std::io::{BufRead as _, BufReader, Read as _, stdin};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::process::{Child, ChildStdout, Command, Stdio};

use weft_pods::{Hub, Snapshot, adopt_orphans, intercept, userns};

use crate::rights::{obtain, this_program};
use crate::wire::{call, dial, greet, listen};

const ROLE: &str = "WEFT_PODS_ROLE";
const ARGUMENTS: &str = "WEFT_PODS_ARGUMENTS";

/// This program in a role.
pub(crate) fn child(role: &str, arguments: &[&str]) -> Command {
    let mut command = this_program();
    command.env(ROLE, role).env(ARGUMENTS, arguments.join("\n"));
    command
}

/// A child that says something and then lives until it is killed, or its parent is gone.
pub(crate) struct Talking {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Talking {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        Self { process, output }
    }

    pub(crate) fn says(&mut self) -> String {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "the child is gone");
        line.trim_end().to_owned()
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn say(words: &str) {
    println!("{words}");
}

/// Plays the role that the environment says, if any.
pub(crate) fn plays_a_role() -> bool {
    let Ok(role) = env::var(ROLE) else { return false };
    let arguments = env::var(ARGUMENTS).unwrap_or_default();
    let arguments: Vec<&str> = arguments.lines().collect();
    match (role.as_str(), arguments.as_slice()) {
        ("dial", [to]) => {
            let mark = env::var("WEFT_MARK").ok();
            let mark = mark.map(|mark| u32::from_str_radix(mark.trim_start_matches("0x"), 16).unwrap());
            greet(&mut dial(to.parse().unwrap(), mark).unwrap());
        }
        ("listen", [port]) => drop(TcpListener::bind(("0.0.0.0", port.parse().unwrap())).unwrap()),
        ("own", []) => own(),
        ("join", [pid, path, called @ ..]) => join(pid.parse().unwrap(), path, called),
        ("leaks", []) => leaks(),
        other => panic!("{other:?} is no role"),
    }
    true
}

/// Owns a hub and a pod with a listener, as the first `weft run` of a user does.
fn own() {
    obtain().unwrap();
    let hub = Hub::create().unwrap();
    let pod = hub.pod("first").unwrap();
    let listener = listen(&pod, 8080);
    say(&format!("{} {} {}:8080", std::process::id(), hub.path().display(), pod.v4()));
    let (_, caller) = listener.accept().unwrap();
    let caller = match caller.ip() {
        IpAddr::V6(address) => address.to_ipv4_mapped().map_or(IpAddr::V6(address), IpAddr::V4),
        address @ IpAddr::V4(_) => address,
    };
    say(&caller.to_string());
    wait_for_the_end();
}

/// Adds a pod to another process's hub, as a second `weft run` does, and calls the first one's from there.
fn join(pid: u32, path: &str, called: &[&str]) {
    if userns::needed() {
        userns::join(pid).unwrap();
    }
    let hub = Hub::join(path.as_ref()).unwrap();
    let pod = hub.pod("second").unwrap();
    for to in called {
        call(&pod, to.parse::<SocketAddr>().unwrap(), None).unwrap();
    }
    say(&pod.v4().to_string());
    wait_for_the_end();
}

fn wait_for_the_end() {
    let _ = stdin().read(&mut [0]);
}

/// Makes everything that a run makes, and looks before, meanwhile and after.
fn leaks() {
    obtain().unwrap();
    adopt_orphans().unwrap();
    let before = Snapshot::take().unwrap();
    let hub = Hub::create().unwrap();
    let pod = hub.pod("a").unwrap();
    pod.run(|| intercept::up(&intercept::Rules::default())).unwrap().unwrap();
    // One that is not waited for by who started it: a grandchild, left alone by its parent.
    let mut shell = Command::new("/bin/sh");
    let mut parent =
        pod.spawn(shell.args(["-c", "sleep 1000 2>/dev/null >&2 & echo $!"]).stdout(Stdio::piped())).unwrap();
    let mut orphan = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut orphan).unwrap();
    assert!(parent.wait().unwrap().success());
    let meanwhile = before.diff(&Snapshot::take().unwrap()).to_string();
    assert!(meanwhile.contains(&format!("+ process {} (", orphan.trim())), "{meanwhile}");
    assert_eq!(meanwhile.matches("+ namespace").count(), 2, "{meanwhile}");

    drop((pod, hub));
    let held = before.diff(&Snapshot::take().unwrap()).to_string();
    assert_eq!(held.matches("+ namespace").count(), 1, "the orphan is still in its pod:\n{held}");

    assert!(Command::new("/bin/sh").args(["-c", &format!("kill {orphan}")]).status().unwrap().success());
    let asked = std::time::Instant::now();
    loop {
        let left = before.diff(&Snapshot::take().unwrap());
        if left.is_empty() {
            break;
        }
        assert!(asked.elapsed() < crate::wire::DEADLINE, "{left}");
        std::thread::yield_now();
    }
}
