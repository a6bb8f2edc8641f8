//! Where each copy of each program stands, for those that wait for it: to start behind it, and to end before it.

use std::sync::OnceLock;

use tokio::sync::watch;
use weft_core::manifest::apps::{App, Condition, Dependency};

/// How far a copy of a program has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has not been started.
    Waiting,
    /// It runs.
    Started,
    /// It runs and works.
    Healthy,
    /// It runs and does not work.
    Unhealthy,
    /// It did what it was there for.
    Completed,
    /// It did not.
    Failed,
    /// It was ended by us.
    Gone,
}

/// How all of it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stop {
    /// Not yet.
    No,
    /// Each when those that depend on it have ended.
    InOrder,
    /// Killed.
    AtOnce,
}

/// One copy of one program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) app: usize,
    pub(super) copy: usize,
}

/// What all copies know of one another.
#[derive(Debug)]
pub(super) struct Board {
    phases: Vec<Vec<watch::Sender<Phase>>>,
    dependents: Vec<Vec<usize>>,
    stop: watch::Sender<Stop>,
    until: Option<usize>,
    code: OnceLock<u8>,
    widest_title: usize,
}

impl Board {
    pub(super) fn new(apps: &[App], until: Option<usize>) -> Self {
        let copies = |app: &App| (0..app.replicas).map(|_| watch::Sender::new(Phase::Waiting)).collect();
        let depend = |on: usize| {
            let all = apps.iter().enumerate();
            let all = all.filter(|(_, app)| app.depends_on.iter().any(|dependency| dependency.app == on));
            all.map(|(index, _)| index).collect()
        };
        Self {
            phases: apps.iter().map(copies).collect(),
            dependents: (0..apps.len()).map(depend).collect(),
            stop: watch::Sender::new(Stop::No),
            until,
            code: OnceLock::new(),
            widest_title: apps.iter().map(width).max().unwrap_or_default(),
        }
    }

    /// How many letters the longest title has.
    pub(super) fn widest_title(&self) -> usize {
        self.widest_title
    }

    /// Tells where a copy stands.
    pub(super) fn set(&self, seat: Seat, phase: Phase) {
        let sender = self.phases.get(seat.app).and_then(|copies| copies.get(seat.copy));
        if let Some(sender) = sender {
            sender.send_replace(phase);
        }
    }

    /// Waits until all dependencies are where they must be; which of them never will be.
    pub(super) async fn until_met(&self, dependencies: &[Dependency]) -> Result<(), usize> {
        for Dependency { app, condition } in dependencies {
            for copy in self.phases.get(*app).into_iter().flatten() {
                let mut phase = copy.subscribe();
                let met = phase.wait_for(|phase| is_met(*phase, *condition).is_some()).await;
                // Their senders live as long as we do.
                if met.ok().and_then(|phase| is_met(*phase, *condition)) != Some(true) {
                    return Err(*app);
                }
            }
        }
        Ok(())
    }

    /// Waits until all that depend on a program have ended.
    pub(super) async fn until_unneeded(&self, app: usize) {
        for dependent in self.dependents.get(app).into_iter().flatten() {
            for copy in self.phases.get(*dependent).into_iter().flatten() {
                let _ = copy.subscribe().wait_for(|phase| has_ended(*phase)).await;
            }
        }
    }

    /// Ends all of it, if not at once then in order.
    pub(super) fn stop(&self, how: Stop) {
        self.stop.send_if_modified(|now| {
            let more = how > *now;
            *now = how.max(*now);
            more
        });
    }

    /// Waits until all of it ends, at least so.
    pub(super) async fn stopping(&self, how: Stop) {
        let _ = self.stop.subscribe().wait_for(|now| *now >= how).await;
    }

    /// Whether all of it ends.
    pub(super) fn is_stopping(&self) -> bool {
        *self.stop.borrow() > Stop::No
    }

    /// A program ended by itself, for good: with a failure, or as the one that all are there for, it ends the others.
    pub(super) fn ended(&self, app: usize, code: u8) {
        if code != 0 || self.until == Some(app) {
            self.note_code(code);
            self.stop(Stop::InOrder);
        }
    }

    /// What we end with: the first that was noted.
    pub(super) fn note_code(&self, code: u8) {
        // Who comes later changes nothing.
        let _ = self.code.set(code);
    }

    /// What was noted.
    pub(super) fn code(&self) -> Option<u8> {
        self.code.get().copied()
    }
}

/// How many letters the titles of an app's copies have at most.
fn width(app: &App) -> usize {
    let number = if app.replicas == 1 { 0 } else { app.replicas.to_string().len().saturating_add(1) };
    app.name.as_str().len().saturating_add(number)
}

/// Whether one that stands there fulfils a condition; none: not yet.
fn is_met(phase: Phase, condition: Condition) -> Option<bool> {
    match (phase, condition) {
        (Phase::Waiting, _) | (Phase::Started, Condition::Healthy) => None,
        (Phase::Started | Phase::Healthy | Phase::Unhealthy, Condition::Completed) => None,
        (Phase::Started | Phase::Healthy | Phase::Unhealthy | Phase::Completed, Condition::Started)
        | (Phase::Healthy, Condition::Healthy)
        | (Phase::Completed, Condition::Completed) => Some(true),
        (Phase::Unhealthy | Phase::Completed, Condition::Healthy) | (Phase::Failed | Phase::Gone, _) => {
            Some(false)
        }
    }
}

fn has_ended(phase: Phase) -> bool {
    matches!(phase, Phase::Completed | Phase::Failed | Phase::Gone)
}

#[cfg(test)]
mod tests {
    use weft_core::manifest::SourceFile;
    use weft_core::manifest::apps;

    use super::*;

    fn apps() -> Vec<App> {
        let text = "services:\n  db: {command: x, ports: [1]}\n  web:\n    command: x\n    replicas: 2\n    depends_on: {db: {condition: service_healthy}}\n";
        let file = SourceFile { name: "weft.yaml", text };
        apps::read(file, &"default".parse().unwrap(), &|_| None).unwrap().apps
    }

    const DB: Seat = Seat { app: 0, copy: 0 };

    /// What a future is by now, as far as it gets without others.
    async fn by_now<T>(future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            done = future => Some(done),
            () = std::future::ready(()) => None,
        }
    }

    #[tokio::test]
    async fn who_waits_goes_on_when_the_other_is_there_or_never_will_be() {
        let apps = apps();
        let wait = &apps[1].depends_on;
        let board = Board::new(&apps, None);
        assert_eq!(by_now(board.until_met(wait)).await, None);
        board.set(DB, Phase::Started);
        assert_eq!(by_now(board.until_met(wait)).await, None);
        board.set(DB, Phase::Unhealthy);
        assert_eq!(by_now(board.until_met(wait)).await, Some(Err(0)));
        board.set(DB, Phase::Healthy);
        assert_eq!(by_now(board.until_met(wait)).await, Some(Ok(())));
    }

    #[tokio::test]
    async fn nobody_ends_before_all_copies_that_need_it() {
        let apps = apps();
        let board = Board::new(&apps, None);
        for (copy, phase) in [(0, Phase::Gone), (1, Phase::Failed)] {
            assert_eq!(by_now(board.until_unneeded(0)).await, None);
            board.set(Seat { app: 1, copy }, phase);
        }
        assert_eq!(by_now(board.until_unneeded(0)).await, Some(()));
        assert_eq!(by_now(board.until_unneeded(1)).await, Some(()));
    }

    #[tokio::test]
    async fn the_first_failure_ends_all_and_names_the_code() {
        let board = Board::new(&apps(), Some(1));
        board.ended(0, 0);
        assert!(!board.is_stopping());
        board.ended(0, 7);
        board.ended(1, 8);
        board.stop(Stop::No);
        assert_eq!((board.code(), by_now(board.stopping(Stop::InOrder)).await), (Some(7), Some(())));
        assert_eq!(by_now(board.stopping(Stop::AtOnce)).await, None);

        let board = Board::new(&apps(), Some(1));
        board.ended(1, 0);
        assert_eq!((board.code(), board.is_stopping()), (Some(0), true));
    }
}
