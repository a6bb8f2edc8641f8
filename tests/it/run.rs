//! `weft run`: any program with a sidecar beside it, and nothing else to start.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};
use weft_tests::{eventually, program};

use crate::weft_for_everyone;

/// A user's `weft run`s: with a runtime folder, and so a local control plane, of their own.
struct User {
    folder: tempfile::TempDir,
    uid: Option<u32>,
}

impl User {
    fn new(uid: Option<u32>) -> Self {
        let folder = tempfile::Builder::new().prefix("weft-user-").tempdir().expect("a folder");
        if let Some(uid) = uid {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(uid)).expect("the user's own folder");
        }
        Self { folder, uid }
    }

    fn run(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(weft_for_everyone());
        command.arg("run").args(arguments).stdin(Stdio::null());
        command.env("XDG_RUNTIME_DIR", self.folder.path()).env("HOME", self.folder.path());
        command.env_remove("WEFT_CONTROL_PLANE").current_dir(self.folder.path());
        if let Some(uid) = self.uid {
            command.uid(uid).gid(uid);
        }
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
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

/// The processes that name this folder on their command line or in their environment.
fn processes_of(folder: &std::path::Path) -> Vec<String> {
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
