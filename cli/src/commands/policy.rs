//! `weft policy test`: changed documents against what the mesh really carried.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use weft_proto::v1;

use super::apply::{Problem, read_all};
use crate::args::{Common, duration};
use crate::client::{self, answer};
use crate::output::{self, harmless};
use crate::target::Target;

/// Try policies before they are in force
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say what changed documents would do to the requests that were carried: deny, allow, reroute, limit
    #[command(
        after_help = "Ends with 0 where nothing would become another, and with 1 where something would.

Examples:
  weft policy test -f orders-callers.yaml
  weft policy test -f mesh/ --since 1h -o json

The requests are those that the traces tell of: of what is not sampled nothing is known. Header fields
and tokens are not kept, so that rules about them are tried without any. Nothing is changed."
    )]
    Test(TestArguments),
}

#[derive(Debug, clap::Args)]
struct TestArguments {
    /// A YAML file, a folder of them, or - for standard input
    #[arg(short, long = "file", required = true, value_name = "FILE|DIR|-")]
    file: Vec<PathBuf>,
    /// How far back
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10m")]
    since: Duration,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let Command::Test(arguments) = arguments.command;
    let files = read_all(&arguments.file)?;
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let request = v1::TestPolicyRequest {
        files,
        namespace: common.namespace.to_string(),
        since_ms: u64::try_from(arguments.since.as_millis()).unwrap_or(u64::MAX).max(1),
    };
    let response = answer(admin.test_policy(request).await)?;
    output::missing(&response.missing)?;
    let tested = Tested::from(response);
    output::object(common.output, &tested, &tested.in_words())?;
    for note in &tested.notes {
        output::note(note)?;
    }
    for problem in &tested.problems {
        output::note(&problem.to_string())?;
    }
    let same = tested.problems.is_empty() && tested.effects.is_empty();
    Ok(if same { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Debug, Serialize)]
struct Tested {
    requests: u64,
    kinds: u64,
    unknown: u64,
    effects: Vec<Effect>,
    problems: Vec<Problem>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Effect {
    effect: String,
    caller: String,
    service: String,
    method: String,
    path: String,
    requests: u64,
    was: String,
    becomes: String,
    rule: String,
}

impl From<v1::TestPolicyResponse> for Tested {
    fn from(tested: v1::TestPolicyResponse) -> Self {
        let effect = |effect: v1::PolicyEffect| {
            let v1::PolicyEffect { caller, service, method, path, requests, was, becomes, effect, rule } =
                effect;
            Effect { effect, caller, service, method, path, requests, was, becomes, rule }
        };
        Self {
            requests: tested.requests,
            kinds: tested.kinds,
            unknown: tested.unknown,
            effects: tested.effects.into_iter().map(effect).collect(),
            problems: tested.problems.into_iter().map(Problem::from).collect(),
            notes: tested.notes,
        }
    }
}

impl Tested {
    fn in_words(&self) -> String {
        if !self.problems.is_empty() {
            return String::new();
        }
        let mut text = String::new();
        for effect in &self.effects {
            let Effect { effect, caller, service, method, path, requests, was, becomes, rule } = effect;
            text += &format!(
                "{effect}: {requests} x {method} {} from {caller} to {service}\n  was      {}\n  becomes  {}\n  by       {}\n",
                harmless(path),
                harmless(was),
                harmless(becomes),
                harmless(rule)
            );
        }
        let changed: u64 = self.effects.iter().map(|effect| effect.requests).sum();
        text += &format!(
            "{} requests of {} kinds were tried: {changed} would become another\n",
            self.requests, self.kinds
        );
        if self.unknown > 0 {
            text += &format!("of {} nothing can be said: who called, or whom, is not known\n", self.unknown);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_another_is_told_with_its_rule() {
        let effect = v1::PolicyEffect {
            caller: "default/web".into(),
            service: "default/orders".into(),
            method: "POST".into(),
            path: "/orders".into(),
            requests: 7,
            was: "goes to default/orders:8080".into(),
            becomes: "403 denied".into(),
            effect: "denied".into(),
            rule: "AuthorizationPolicy default/readers (x.yaml:1)".into(),
        };
        let tested = Tested::from(v1::TestPolicyResponse {
            requests: 20,
            kinds: 3,
            effects: vec![effect],
            ..Default::default()
        });
        let expected = "denied: 7 x POST /orders from default/web to default/orders
  was      goes to default/orders:8080
  becomes  403 denied
  by       AuthorizationPolicy default/readers (x.yaml:1)
20 requests of 3 kinds were tried: 7 would become another
";
        assert_eq!(tested.in_words(), expected);
    }
}
