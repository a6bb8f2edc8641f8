//! `weft explain`: what the mesh would do with a call, and why.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use serde::Serialize;
use weft_proto::v1;

use crate::args::Common;
use crate::client::{self, answer};
use crate::output;
use crate::target::Target;

/// Say what the mesh would do with a call, and why
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Ends with 0 where the call would be answered, by an app or as the mesh was told to, and with 1 where not.

Examples:
  weft explain --from web --to orders
  weft explain --from web --to orders:8080 POST /orders -H x-user:7
  weft explain --from web --to orders --jwt user.token
  weft explain --from web.shop --to orders.default -o json"
)]
pub(crate) struct Arguments {
    /// Who calls: a service account, of another namespace as ACCOUNT.NAMESPACE
    #[arg(long, value_name = "SA[.NS]")]
    from: String,
    /// Who is called, in the caller's namespace where none is written
    #[arg(long, value_name = "SERVICE[:PORT]")]
    to: String,
    /// The method [default: GET, where HTTP may be spoken]
    #[arg(value_name = "METHOD")]
    method: Option<String>,
    /// The path, with its query [default: /]
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// A header field, NAME:VALUE
    #[arg(short = 'H', long = "header", value_name = "NAME:VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// A file with the user's token (- is the standard input), sent as Authorization: Bearer
    #[arg(long, value_name = "FILE")]
    jwt: Option<PathBuf>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or_else(|| "write NAME:VALUE".to_owned())?;
    if name.trim().is_empty() {
        return Err("the name is empty; write NAME:VALUE".to_owned());
    }
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    // One that stands alone and begins with a slash is the path.
    let (method, path) = match (arguments.method, arguments.path) {
        (Some(path), None) if path.starts_with('/') => (None, Some(path)),
        both => both,
    };
    let field = |(name, value)| v1::Field { name, value };
    let token = arguments.jwt.as_deref().map(read_token).transpose()?;
    let bearer = token.map(|token| ("authorization".to_owned(), format!("Bearer {token}")));
    let request = v1::ExplainRequest {
        namespace: common.namespace.to_string(),
        from: arguments.from,
        to: arguments.to,
        method: method.unwrap_or_default(),
        path: path.unwrap_or_default(),
        headers: arguments.headers.into_iter().chain(bearer).map(field).collect(),
    };
    let told = Told::from(answer(admin.explain(request).await)?);
    output::object(common.output, &told, &told.in_words(output::room()))?;
    let is_answered = matches!(told.decision.as_str(), "forward" | "answer");
    Ok(if is_answered { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn read_token(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin()
            .read_to_string(&mut text)
            .context("cannot read the token from the standard input")?;
    } else {
        text =
            fs::read_to_string(file).with_context(|| format!("cannot read the token {}", file.display()))?;
    }
    Ok(text.trim().to_owned())
}

#[derive(Debug, Serialize)]
struct Told {
    decision: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u32>,
    error: String,
    route: String,
    rule: String,
    backend: String,
    backends: Vec<Share>,
    mirrors: Vec<String>,
    policy: Vec<Applied>,
    timeouts: BTreeMap<String, String>,
    retries: BTreeMap<String, String>,
    endpoints: Vec<Endpoint>,
    steps: Vec<Step>,
    revision: u64,
}

#[derive(Debug, Serialize)]
struct Share {
    backend: String,
    share: f64,
}

#[derive(Debug, Serialize)]
struct Applied {
    policy: String,
    does: String,
    place: String,
}

#[derive(Debug, Serialize)]
struct Endpoint {
    workload: String,
    address: String,
    identity: String,
    zone: String,
    /// From 1 on, where the service has priorities.
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u32>,
    denied: String,
}

#[derive(Debug, Serialize)]
struct Step {
    stage: String,
    text: String,
    source: String,
}

impl From<v1::ExplainResponse> for Told {
    fn from(response: v1::ExplainResponse) -> Self {
        let share = |share: v1::BackendShare| Share { backend: share.backend, share: share.share };
        let applied =
            |told: v1::AppliedPolicy| Applied { policy: told.policy, does: told.does, place: told.place };
        let endpoint = |told: v1::Candidate| Endpoint {
            workload: told.workload,
            address: told.address,
            identity: told.identity,
            zone: told.zone,
            priority: Some(told.priority).filter(|priority| *priority > 0),
            denied: told.denied,
        };
        let step = |step: v1::Step| Step { stage: step.stage, text: step.text, source: step.source };
        Self {
            decision: response.decision,
            status: Some(response.status).filter(|status| *status != 0),
            error: response.error,
            route: response.route,
            rule: response.rule,
            backend: response.backend,
            backends: response.backends.into_iter().map(share).collect(),
            mirrors: response.mirrors,
            policy: response.policy.into_iter().map(applied).collect(),
            timeouts: response.timeouts.into_iter().collect(),
            retries: response.retries.into_iter().collect(),
            endpoints: response.endpoints.into_iter().map(endpoint).collect(),
            steps: response.steps.into_iter().map(step).collect(),
            revision: response.revision,
        }
    }
}

impl Told {
    fn in_words(&self, room: Option<usize>) -> String {
        let row = |stage: &str, text: &str, source: &str| {
            vec![stage.to_owned(), text.to_owned(), source.to_owned()]
        };
        let mut rows: Vec<Vec<String>> =
            self.steps.iter().map(|step| row(&step.stage, &step.text, &step.source)).collect();
        for endpoint in &self.endpoints {
            let zone =
                if endpoint.zone.is_empty() { String::new() } else { format!(", zone {}", endpoint.zone) };
            let denied = if endpoint.denied.is_empty() { "" } else { ", denies it" };
            let priority =
                endpoint.priority.map(|priority| format!(", priority {priority}")).unwrap_or_default();
            let text = format!("{} at {}{zone}{priority}{denied}", endpoint.workload, endpoint.address);
            rows.push(row("", &text, &endpoint.identity));
        }
        let named = |all: &BTreeMap<String, String>| {
            all.iter().map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
        };
        for (stage, all) in [("timeouts", &self.timeouts), ("retries", &self.retries)] {
            if !all.is_empty() {
                rows.push(row(stage, &named(all), ""));
            }
        }
        let answer = match (self.status, self.error.as_str()) {
            (None, _) => String::new(),
            (Some(status), "") => format!(" with {status}"),
            (Some(status), error) => format!(" with {status} {error}"),
        };
        let verdict = match self.decision.as_str() {
            "forward" => format!("it is sent to {}", self.backend),
            "answer" => format!("the mesh answers it{answer}"),
            "deny" => format!("it is denied{answer}"),
            _ => format!("it is refused{answer}"),
        };
        let verdict = output::paragraph(room, &format!("{verdict}, as of revision {}", self.revision));
        output::align_or_fold(room, 1, rows) + &verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_and_the_json_say_the_same() {
        let told = Told::from(v1::ExplainResponse {
            decision: "deny".into(),
            status: 403,
            error: "denied".into(),
            backend: "default/orders:8080".into(),
            steps: vec![v1::Step {
                stage: "access".into(),
                text: "denied".into(),
                source: "AuthorizationPolicy default/no (p.yaml:3)".into(),
            }],
            revision: 7,
            ..v1::ExplainResponse::default()
        });
        assert_eq!(
            told.in_words(None),
            "access  denied  AuthorizationPolicy default/no (p.yaml:3)\nit is denied with 403 denied, as of revision 7\n"
        );
        let json = serde_json::to_value(&told).unwrap();
        for key in
            ["decision", "route", "rule", "backend", "policy", "timeouts", "retries", "endpoints", "steps"]
        {
            assert!(!json[key].is_null(), "{key}");
        }
    }

    #[test]
    fn headers_have_a_name() {
        assert_eq!(header("x-user: 7").unwrap(), ("x-user".to_owned(), "7".to_owned()));
        assert!(header("x-user").is_err() && header(": 7").is_err());
    }
}
