//! `weft why`: why a request went as it did.

use std::process::ExitCode;

use serde::Serialize;
use weft_proto::v1;

use crate::args::Common;
use crate::client::{self, answer};
use crate::output::{self, harmless};
use crate::target::Target;
use crate::time::milliseconds;

/// Say which hop of a request failed or took the time, which rule decided, and what to do
#[derive(Debug, clap::Args)]
#[command(after_help = "Ends with 0 where the request went well in the end, and with 1 where not.

Examples:
  weft why 4bf92f3577b34da6a3ce929d0e0e4736
  weft why 4bf92f35 -o json                 the beginning of an id is enough

The id of a trace is in weft traces, in weft tap and in the header traceparent.")]
pub(crate) struct Arguments {
    /// The trace's id
    trace_id: String,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let why = answer(admin.why(v1::WhyRequest { trace_id: arguments.trace_id }).await)?;
    output::missing(&why.missing)?;
    let why = Why::from(why);
    output::object(common.output, &why, &why.in_words(output::room()))?;
    Ok(if why.verdict == "failed" { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

#[derive(Debug, Serialize)]
struct Why {
    trace_id: String,
    verdict: String,
    headline: String,
    code: String,
    rule: String,
    advice: Vec<String>,
    decisive_span: String,
    hops: Vec<Hop>,
}

#[derive(Debug, Serialize)]
struct Hop {
    span_id: String,
    caller: String,
    service: String,
    what: String,
    duration_ms: f64,
    own_ms: f64,
    outcome: String,
}

impl From<v1::WhyResponse> for Why {
    fn from(why: v1::WhyResponse) -> Self {
        let hop = |hop: v1::WhyHop| {
            let v1::WhyHop { span_id, caller, service, what, duration_ms, own_ms, outcome } = hop;
            Hop { span_id, caller, service, what, duration_ms, own_ms, outcome }
        };
        let v1::WhyResponse { trace_id, verdict, headline, hops, decisive_span, code, rule, advice, .. } =
            why;
        let hops = hops.into_iter().map(hop).collect();
        Self { trace_id, verdict, headline, code, rule, advice, decisive_span, hops }
    }
}

/// Hops that are shown in words; the decisive one always is.
const SHOWN: usize = 40;

impl Why {
    fn in_words(&self, room: Option<usize>) -> String {
        let say = |text: &str| output::paragraph(room, &harmless(text));
        let mut text = say(&format!("{}: {}", self.verdict, self.headline)) + "\n";
        let is_decisive = |hop: &&Hop| hop.span_id == self.decisive_span;
        let header =
            ["", "CALLER", "SERVICE", "REQUEST", "TOOK", "OWN", "OUTCOME"].map(str::to_owned).to_vec();
        let shown = self.hops.iter().enumerate().filter(|(place, hop)| *place < SHOWN || is_decisive(hop));
        let row = |(_, hop): (usize, &Hop)| {
            vec![
                if is_decisive(&hop) { ">" } else { "" }.to_owned(),
                harmless(&hop.caller),
                harmless(&hop.service),
                harmless(&hop.what).chars().take(40).collect(),
                milliseconds(hop.duration_ms),
                milliseconds(hop.own_ms),
                harmless(&hop.outcome),
            ]
        };
        text += &output::align_within(room, std::iter::once(header).chain(shown.map(row)));
        if self.hops.len() > SHOWN {
            text += &format!("(of {} hops the first {SHOWN}; -o json has all)\n", self.hops.len());
        }
        if !self.rule.is_empty() {
            text += &format!("\n{}", say(&format!("rule: {}", self.rule)));
        }
        text += "\nwhat to do:\n";
        for advice in &self.advice {
            text += &say(&format!("- {advice}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_decisive_hop_is_marked_and_the_rule_and_what_to_do_follow() {
        let hop = |id: &str, outcome: &str| v1::WhyHop {
            span_id: id.into(),
            caller: "default/web".into(),
            service: "default/orders".into(),
            what: "DELETE /orders/1".into(),
            duration_ms: 4.0,
            own_ms: 1.5,
            outcome: outcome.into(),
        };
        let why = Why::from(v1::WhyResponse {
            trace_id: "abc".into(),
            verdict: "failed".into(),
            headline: "denied".into(),
            hops: vec![hop("1", "403"), hop("2", "403 denied")],
            decisive_span: "2".into(),
            code: "denied".into(),
            rule: "AuthorizationPolicy default/no-deletes".into(),
            advice: vec!["see weft explain".into()],
            ..Default::default()
        });
        let expected = "failed: denied

   CALLER       SERVICE         REQUEST           TOOK   OWN    OUTCOME
   default/web  default/orders  DELETE /orders/1  4.0ms  1.5ms  403
>  default/web  default/orders  DELETE /orders/1  4.0ms  1.5ms  403 denied

rule: AuthorizationPolicy default/no-deletes

what to do:
- see weft explain
";
        assert_eq!(why.in_words(None), expected);
    }
}
