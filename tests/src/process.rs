//! A program under test, whose output is kept and which ends with the test.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A running program. Killed when dropped; its output is in a file.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` through `start` (say, inside a pod), its output into `log`.
    pub fn start(
        mut command: Command,
        log: &Path,
        start: impl FnOnce(&mut Command) -> io::Result<Child>,
    ) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log file");
        command.stdin(Stdio::null()).stdout(file.try_clone().expect("a second handle")).stderr(file);
        let child = start(&mut command).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log: log.to_owned() }
    }

    /// What it has printed so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The process's number.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, and waits.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(Duration::from_secs(40))
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Stops it where it stands, as a machine that hangs. It has, when this returns: the signal alone lets what runs run on for a while.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let tasks = format!("/proc/{}/task", self.child.id());
        eventually("every thread stands still", Duration::from_secs(10), || {
            let mut tasks = fs::read_dir(&tasks).expect("a program that runs").flatten();
            tasks.all(|task| {
                fs::read_to_string(task.path().join("stat")).is_ok_and(|stat| stat.contains(") T "))
            })
        });
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process number");
        let _ = kill_process(pid, signal);
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self, at_most: Duration) -> ExitStatus {
        let mut ended = None;
        let done = wait_until(at_most, || {
            ended = self.child.try_wait().expect("a child of ours");
            ended.is_some()
        });
        assert!(done, "still running after {at_most:?}:\n{}", self.output());
        ended.expect("its status")
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child of ours").is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), tail(&self.output(), 60));
        }
    }
}

/// Waits on a condition, and fails with its name when it does not come true.
pub fn eventually(what: &str, at_most: Duration, mut true_now: impl FnMut() -> bool) {
    assert!(wait_until(at_most, &mut true_now), "not within {at_most:?}: {what}");
}

fn wait_until(at_most: Duration, mut true_now: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + at_most;
    loop {
        if true_now() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        // Polling a program of another process is all there is; the deadline above bounds it.
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}
