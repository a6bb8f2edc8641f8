//! One copy of a program, from the wait for others to its end.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use weft_core::manifest::apps::{self, StopSignal};

use super::board::{Board, Phase, Stop};
use super::plan::Program;
use super::printer::{Prefix, Printer};
use super::{code_of, probe};
use crate::mesh::{Member, Role};
use crate::output::{self, Stream};
use crate::tether;

/// How long the rest of what an ended program printed is waited for: somebody else may hold its output open.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A copy of a program with its sidecar.
pub(super) struct Copy<'p> {
    program: &'p Program,
    member: Member,
    board: &'p Board,
    printer: &'p Printer,
}

/// How one run of a program ended.
enum End {
    /// By itself.
    Itself(ExitStatus),
    /// By us.
    Us,
}

impl<'p> Copy<'p> {
    pub(super) fn new(program: &'p Program, member: Member, board: &'p Board, printer: &'p Printer) -> Self {
        Self { program, member, board, printer }
    }

    /// Lives: waits, runs, is started again, ends; its sidecar ends after it.
    pub(super) async fn live(mut self) -> anyhow::Result<()> {
        let lived = self.run().await.with_context(|| self.program.title.clone());
        self.member.leave().await;
        self.board.set(self.program.seat, *lived.as_ref().unwrap_or(&Phase::Failed));
        lived.map(drop)
    }

    async fn run(&mut self) -> anyhow::Result<Phase> {
        let (app, board) = (&self.program.app, self.board);
        tokio::select! {
            biased;
            () = board.stopping(Stop::InOrder) => return Ok(Phase::Gone),
            met = board.until_met(&app.depends_on) => if met.is_err() {
                // Whom it waited for has said why.
                self.say("is not started: what it waits for does not come")?;
                board.note_code(1);
                board.stop(Stop::InOrder);
                return Ok(Phase::Failed);
            },
        }
        let (mut restarts, mut in_vain) = (0_u32, 0_u32);
        loop {
            let began = Instant::now();
            let End::Itself(status) = self.once().await? else { return Ok(Phase::Gone) };
            if board.is_stopping() {
                return Ok(Phase::Gone);
            }
            if !app.restart.again(status.success(), restarts) {
                self.say(&format!("ended with {status}"))?;
                board.ended(self.program.seat.app, code_of(status));
                return Ok(if status.success() { Phase::Completed } else { Phase::Failed });
            }
            if began.elapsed() >= apps::RAN_WELL {
                in_vain = 0;
            }
            let pause = apps::pause(in_vain);
            self.say(&format!("ended with {status}; it is started again in {pause:?}"))?;
            tokio::select! {
                () = board.stopping(Stop::InOrder) => return Ok(Phase::Gone),
                () = sleep(pause) => {}
            }
            (restarts, in_vain) = (restarts.saturating_add(1), in_vain.saturating_add(1));
        }
    }

    /// Runs the program once, and keeps its sidecar running meanwhile.
    async fn once(&mut self) -> anyhow::Result<End> {
        let (program, board) = (self.program, self.board);
        let resident = self.member.resident();
        let mut command = program.command(&program.app.command)?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = resident.spawn(command, Role::Application).await?;
        let output = self.follow(&mut child);
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        board.set(program.seat, Phase::Started);
        let probing = async {
            let Some(check) = &program.app.health_check else { return std::future::pending().await };
            probe::watch(check, program, &resident, |news| heard(program, board, news)).await;
        };
        tokio::pin!(probing);
        let end = loop {
            tokio::select! {
                ended = child.wait() => break End::Itself(ended.context("cannot wait for the program")?),
                () = board.stopping(Stop::InOrder) => {
                    self.stop(&mut child, group).await?;
                    break End::Us;
                }
                trouble = self.member.until_trouble() => self.restart_sidecar(&trouble).await?,
                () = &mut probing => {}
            }
        };
        // What it started and left behind has no sidecar any more soon.
        signal_group(group, Signal::KILL);
        for mut output in output {
            if timeout(LAST_LINES, &mut output).await.is_err() {
                output.abort();
            }
        }
        Ok(end)
    }

    fn follow(&self, child: &mut Child) -> Vec<JoinHandle<()>> {
        let Program { title, seat, .. } = self.program;
        let prefix = Prefix::new(title, self.board.widest_title(), seat.app);
        let out = child.stdout.take().map(|out| self.printer.follow(out, Stream::Out, &prefix));
        let err = child.stderr.take().map(|err| self.printer.follow(err, Stream::Err, &prefix));
        out.into_iter().chain(err).collect()
    }

    /// Ends the program when nobody needs it any more.
    async fn stop(&self, child: &mut Child, group: Option<Pid>) -> anyhow::Result<()> {
        let (app, board) = (&self.program.app, self.board);
        let ended = tokio::select! {
            () = board.until_unneeded(self.program.seat.app) => None,
            () = board.stopping(Stop::AtOnce) => None,
            ended = child.wait() => Some(ended),
        };
        if ended.is_none() {
            // Others are to call elsewhere first.
            tokio::select! {
                () = self.member.withdraw() => {}
                () = board.stopping(Stop::AtOnce) => {}
                _ = child.wait() => {}
            }
            signal_group(group, signal_of(app.stop_signal));
            tokio::select! {
                _ = child.wait() => {}
                () = board.stopping(Stop::AtOnce) => {}
                () = sleep(app.stop_grace_period) => {
                    self.say(&format!("does not end within {:?} and is killed", app.stop_grace_period))?;
                }
            }
            signal_group(group, Signal::KILL);
        }
        child.wait().await.context("cannot wait for the program")?;
        Ok(())
    }

    async fn restart_sidecar(&mut self, trouble: &str) -> anyhow::Result<()> {
        self.say(&format!("{trouble}; it is started once more"))?;
        self.member.restart().await?;
        tokio::select! {
            ready = self.member.ready() => ready,
            () = self.board.stopping(Stop::InOrder) => Ok(()),
        }
    }

    fn say(&self, what: &str) -> anyhow::Result<()> {
        output::note(&format!("weft: {}: {what}", self.program.title))
    }
}

impl Program {
    /// A command in the program's folder, with its environment. It is in a process group of its own: a terminal's
    /// Ctrl-C is for us, who end all in order.
    pub(super) fn command(&self, words: &[String]) -> anyhow::Result<Command> {
        let (program, arguments) = words.split_first().context("no program is named")?;
        let mut command = tether::command(program);
        command.args(arguments).envs(&self.environment).current_dir(&self.folder);
        command.stdin(Stdio::null()).process_group(0).kill_on_drop(true);
        Ok(command)
    }
}

fn heard(program: &Program, board: &Board, news: anyhow::Result<Duration>) {
    let (phase, told) = match news {
        Ok(after) => (Phase::Healthy, format!("works, {:.1}s after its start", after.as_secs_f64())),
        Err(why) => (Phase::Unhealthy, format!("does not work: {why:#}")),
    };
    board.set(program.seat, phase);
    // Where even standard error is gone nobody wants to know.
    let _ = output::note(&format!("weft: {}: {told}", program.title));
}

fn signal_of(signal: StopSignal) -> Signal {
    match signal {
        StopSignal::Terminate => Signal::TERM,
        StopSignal::Interrupt => Signal::INT,
        StopSignal::Quit => Signal::QUIT,
        StopSignal::HangUp => Signal::HUP,
        StopSignal::User1 => Signal::USR1,
        StopSignal::User2 => Signal::USR2,
        StopSignal::Kill => Signal::KILL,
    }
}

/// Sends a signal to a program and what it started, where anything of it is left.
fn signal_group(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        let _ = kill_process_group(group, signal);
    }
}
