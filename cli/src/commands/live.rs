//! `--wait`: until every sidecar has what was changed.

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{Instant, interval, timeout_at};
use weft_core::manifest::parse_duration;
use weft_proto::v1;

use super::apply::Applied;
use crate::client::{self, answer};
use crate::output;
use crate::target::Target;

/// How often the control plane is asked how far everybody has come.
const ASK: Duration = Duration::from_millis(200);
/// Sidecars that are named one by one.
const NAMED: usize = 8;

/// Whether a change is waited for, and for how long.
#[derive(Debug, clap::Args)]
pub(super) struct Live {
    /// Wait until every connected sidecar that it concerns has put it into force; exits with 1 where one refuses it
    #[arg(long)]
    wait: bool,
    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    timeout: Duration,
}

impl Live {
    /// Waits, where it was asked for and something was changed; `told` is how the change itself went.
    pub(super) async fn after(
        &self,
        target: &Target,
        applied: &Applied,
        told: ExitCode,
    ) -> anyhow::Result<ExitCode> {
        if !self.wait || !applied.is_change() {
            return Ok(told);
        }
        let begun = Instant::now();
        let mut admin = client::connect(target).await?;
        let mut state = Rollout::default();
        let asking = async {
            let mut due = interval(ASK);
            loop {
                due.tick().await;
                let request = v1::StatusRequest { namespace: String::new(), all_namespaces: true };
                state = Rollout::of(answer(admin.status(request).await)?.sidecars);
                if state.waiting.is_empty() {
                    return Ok::<_, anyhow::Error>(());
                }
            }
        };
        let in_time = timeout_at(begun + self.timeout, asking).await;
        if let Ok(asked) = in_time {
            asked?;
        }
        let (lines, code) = state.say(begun.elapsed());
        lines.iter().try_for_each(|line| output::note(line))?;
        Ok(code)
    }
}

/// How far the connected sidecars have come.
#[derive(Debug, Default)]
struct Rollout {
    connected: usize,
    waiting: Vec<String>,
    refused: Vec<String>,
}

impl Rollout {
    fn of(sidecars: Vec<v1::SidecarStatus>) -> Self {
        let mut rollout = Self::default();
        for sidecar in sidecars.into_iter().filter(|sidecar| sidecar.connected) {
            rollout.connected += 1;
            let name = format!("{}/{}", sidecar.namespace, sidecar.workload);
            match sidecar.rejected.first() {
                Some(rejected) => rollout.refused.push(format!("{name} refuses it: {}", rejected.reason)),
                None if !sidecar.in_sync => rollout.waiting.push(name),
                None => {}
            }
        }
        rollout
    }

    fn say(&self, took: Duration) -> (Vec<String>, ExitCode) {
        let mut lines = self.refused.clone();
        if !self.waiting.is_empty() {
            let named = self.waiting.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
            lines.push(format!("not live yet at {} of {}: {named}", self.waiting.len(), self.connected));
        }
        if !lines.is_empty() {
            return (lines, ExitCode::FAILURE);
        }
        let number = match self.connected {
            1 => "1 sidecar".to_owned(),
            connected => format!("{connected} sidecars"),
        };
        (vec![format!("live everywhere: {number}, after {:.1} s", took.as_secs_f64())], ExitCode::SUCCESS)
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sidecar(workload: &str, connected: bool, in_sync: bool, reason: Option<&str>) -> v1::SidecarStatus {
        let rejection = |reason: &str| v1::Rejection { name: None, reason: reason.into() };
        v1::SidecarStatus {
            namespace: "default".into(),
            workload: workload.into(),
            connected,
            in_sync,
            rejected: reason.map(rejection).into_iter().collect(),
            ..Default::default()
        }
    }

    #[test]
    fn only_who_is_connected_and_not_in_sync_is_waited_for() {
        let rollout = Rollout::of(vec![
            sidecar("a", true, true, None),
            sidecar("b", true, false, None),
            sidecar("c", false, false, None),
        ]);
        assert_eq!((rollout.connected, rollout.waiting.as_slice()), (2, &["default/b".to_owned()][..]));
        let (lines, code) = rollout.say(Duration::from_secs(30));
        assert_eq!((lines, code), (vec!["not live yet at 1 of 2: default/b".into()], ExitCode::FAILURE));
        let (lines, code) = Rollout::of(vec![sidecar("a", true, true, None)]).say(Duration::from_millis(260));
        assert_eq!(
            (lines, code),
            (vec!["live everywhere: 1 sidecar, after 0.3 s".into()], ExitCode::SUCCESS)
        );
    }

    #[test]
    fn a_refusal_is_not_waited_for_and_is_a_failure() {
        let rollout = Rollout::of(vec![sidecar("a", true, false, Some("no such filter"))]);
        assert!(rollout.waiting.is_empty());
        let (lines, code) = rollout.say(Duration::ZERO);
        assert_eq!((lines, code), (vec!["default/a refuses it: no such filter".into()], ExitCode::FAILURE));
    }
}
