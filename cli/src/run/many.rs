//! `weft run -f`: many programs, each with a sidecar beside it, started in their order and ended in the opposite one.

mod board;
mod copy;
mod plan;
mod printer;
mod probe;

use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use futures_util::future::{FutureExt as _, LocalBoxFuture};
use futures_util::stream::{self, FuturesUnordered, StreamExt as _, TryStreamExt as _};
use rustix::process::Signal;
use weft_core::model::Name;
use weft_pods::Hub;

use crate::commands::apply;
use crate::mesh::rendezvous::{Call, hung_up};
use crate::mesh::{Folder, Member};
use crate::output;
use crate::target::Target;
use board::{Board, Stop};
use copy::Copy;
use printer::Printer;

use super::code_of;
use super::signals::Signals;

pub(super) use plan::Plan;

/// Sidecars that are started at once.
const JOIN_AT_ONCE: usize = 8;

/// What of a plan is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    plan: Plan,
    /// All end when this one has.
    until: Option<usize>,
}

impl Wanted {
    /// Reads a plan; none where it has mistakes, which were told.
    pub(super) fn read(file: &Path, namespace: &Name, until: Option<&Name>) -> anyhow::Result<Option<Self>> {
        let plan = match Plan::read(file, namespace)? {
            Ok(plan) => plan,
            Err(problems) => {
                for problem in problems {
                    output::note(&problem.to_string())?;
                }
                return Ok(None);
            }
        };
        let index = until.map(|name| plan.apps.iter().position(|app| app.name == *name));
        if let Some(None) = index {
            bail!("--until: {} names no such service", file.display());
        }
        Ok(Some(Self { plan, until: index.flatten() }))
    }
}

/// Runs all of it to its end.
pub(super) async fn run(call: &Call, target: &Target, wanted: &Wanted) -> anyhow::Result<ExitCode> {
    let plan = &wanted.plan;
    let mut signals = Signals::listen()?;
    let files = Folder::create("run")?;
    let started = tokio::select! {
        started = start(call, target, plan, files.path()) => started?,
        signal = signals.ending() => return Ok(super::exit_code(signal_status(signal))),
    };
    let Some(members) = started else { return Ok(ExitCode::FAILURE) };
    let board = Board::new(&plan.apps, wanted.until);
    let printer = Printer::start()?;
    let copies = plan.programs.iter().zip(members);
    let copies =
        copies.map(|(program, member)| Copy::new(program, member, &board, &printer).live().boxed_local());
    let ended = watch_over(copies.collect(), &board, &mut signals, call).await;
    printer.end();
    ended?;
    Ok(board.code().map_or(ExitCode::SUCCESS, ExitCode::from))
}

/// Tells the mesh what it is to do, and starts all sidecars; none where the mesh refuses.
async fn start(
    call: &Call,
    target: &Target,
    plan: &Plan,
    folder: &Path,
) -> anyhow::Result<Option<Vec<Member>>> {
    if !plan.mesh.is_empty() {
        let applied = apply::send_files(
            target,
            &plan.namespace,
            plan.mesh.clone(),
            apply::Mode::Apply { if_revision: None },
        )
        .await?;
        if !applied.told()? {
            return Ok(None);
        }
    }
    let hub = Arc::new(Hub::join(&call.access().hub)?);
    let join = |program: &plan::Program| {
        let membership = program.membership(&plan.namespace);
        let folder = folder.join(&membership.workload);
        let (hub, title) = (hub.clone(), program.title.clone());
        async move {
            std::fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
            super::let_sidecar_enter(&folder)?;
            let member = Member::join(target, &call.access().from_pods, &hub, &membership, &folder).await;
            let mut member = member.with_context(|| format!("{title} cannot join the mesh"))?;
            member.ready().await.with_context(|| format!("{title} cannot join the mesh"))?;
            anyhow::Ok(member)
        }
    };
    let joins: Vec<_> = plan.programs.iter().map(join).collect();
    stream::iter(joins).buffered(JOIN_AT_ONCE).try_collect().await.map(Some)
}

/// Lets the programs live, and ends them when we are told to: in order at first, at once when told again.
async fn watch_over(
    mut living: FuturesUnordered<LocalBoxFuture<'_, anyhow::Result<()>>>,
    board: &Board,
    signals: &mut Signals,
    call: &Call,
) -> anyhow::Result<()> {
    let mut line = call.line()?;
    let mut held = true;
    let mut result = Ok(());
    loop {
        tokio::select! {
            ended = living.next() => match ended {
                None => return result,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    board.stop(Stop::InOrder);
                    result = result.and(Err(error));
                }
            },
            signal = signals.ending() => {
                if [Signal::USR1.as_raw(), Signal::USR2.as_raw()].contains(&signal) {
                    continue;
                }
                let again = board.is_stopping();
                board.note_code(code_of(signal_status(signal)));
                board.stop(if again { Stop::AtOnce } else { Stop::InOrder });
                let what = if again { "all are killed" } else { "all end in order; once more kills them" };
                output::note(&format!("weft: {what}"))?;
            }
            () = hung_up(&mut line), if held => {
                held = false;
                output::note("weft: the control plane of this machine is gone; the programs go on with what their sidecars know")?;
            }
        }
    }
}

/// How a process ends that this signal ends.
fn signal_status(signal: i32) -> ExitStatus {
    use std::os::unix::process::ExitStatusExt as _;
    ExitStatus::from_raw(signal)
}
