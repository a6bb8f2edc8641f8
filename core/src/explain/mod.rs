//! What the mesh would do with a call, and why: asked of what the control plane knows, answered by the code that sidecars
//! decide with ([`route`](crate::route), [`authorize`](crate::authorize()), [`compile`](crate::compile)), in the order in
//! which they do.

mod backend;
mod inbound;
mod outbound;
mod priorities;
mod question;
mod token;

use std::collections::BTreeMap;

use crate::manifest::Resource;
use crate::model::{Name, QualifiedName};
use crate::world::World;

pub use question::{ExplainError, Question, RequestAsked, TokenAsked};

const NO_BACKEND: (u16, &str) = (500, "no-backend");

/// What would become of a call.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Explanation {
    /// In one word.
    pub decision: Decision,
    /// The status that the mesh itself would answer with.
    pub status: Option<u16>,
    /// What `weft-error` would say; empty: nothing.
    pub error: &'static str,
    /// The route it falls under; empty: none.
    pub route: String,
    /// The rule of it, by name or number.
    pub rule: String,
    /// Where most such calls would go: `NAMESPACE/SERVICE:PORT`.
    pub backend: String,
    /// Everywhere they may go, with the share of each.
    pub backends: Vec<(String, f64)>,
    /// Who gets a copy.
    pub mirrors: Vec<String>,
    /// The policies that had to do with it.
    pub policy: Vec<Applied>,
    /// How long things may take, by name.
    pub timeouts: BTreeMap<&'static str, String>,
    /// What is tried again, by name.
    pub retries: BTreeMap<&'static str, String>,
    /// Who may answer, at the backend where most calls go.
    pub endpoints: Vec<Candidate>,
    /// What was decided, one after the other.
    pub steps: Vec<Step>,
}

/// What would become of a call, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decision {
    /// An app answers it.
    #[default]
    Forward,
    /// The mesh answers it as it was told to: a redirect, a preflight, an injected fault.
    Answer,
    /// The server's side keeps it out.
    Deny,
    /// There is nobody that it could go to.
    Refuse,
}

/// A policy that had to do with a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// `KIND NAMESPACE/NAME`.
    pub policy: String,
    /// What it did, or what it says.
    pub does: String,
    /// Where it stands: a file and a line.
    pub place: String,
}

/// An endpoint that may get a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The workload.
    pub workload: String,
    /// Where it is reached, with the app's port.
    pub address: String,
    /// The identity that it must prove; empty: it has no sidecar.
    pub identity: String,
    /// Its zone; empty: unknown.
    pub zone: String,
    /// Its priority for this caller, from 1 on; 0: its service has none.
    pub priority: usize,
    /// Why it would not let the call in; empty: it would.
    pub denied: String,
}

/// Something that was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// At which stage.
    pub stage: &'static str,
    /// What, and why.
    pub text: String,
    /// Which document says so, and where it stands; empty: none.
    pub source: String,
}

impl Decision {
    /// As scripts read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Answer => "answer",
            Self::Deny => "deny",
            Self::Refuse => "refuse",
        }
    }
}

/// Says what would become of a call.
///
/// # Errors
/// What was asked about does not exist, or is not one thing.
pub fn explain(world: &World, question: &Question<'_>) -> Result<Explanation, ExplainError> {
    let asked = question.settle(world)?;
    let mut told = Explanation::default();
    told.caller(world, question);
    let Some(led) = outbound::follow(world, question, asked, &mut told) else { return Ok(told) };
    if backend::struck(world, question, &led, &mut told) {
        return Ok(told);
    }
    for (index, (backend, share)) in led.backends.iter().enumerate() {
        let mut aside = Explanation::default();
        let here = if index == 0 { &mut told } else { &mut aside };
        if let Some(arrival) = backend::judge(world, question, &led, backend, here) {
            inbound::arrive(world, question, &arrival, here);
        }
        if index > 0 {
            told.aside(backend, *share, aside);
        }
    }
    Ok(told)
}

impl Explanation {
    fn caller(&mut self, world: &World, question: &Question<'_>) {
        let identity = question.identity(world);
        let running = world.registrations().filter(|workload| workload.identity == identity).count();
        let running = match running {
            0 => "no workload runs as it now".to_owned(),
            1 => "one workload runs as it".to_owned(),
            many => format!("{many} workloads run as it"),
        };
        self.step("caller", format!("{identity}; {running}"), None);
    }

    fn step(&mut self, stage: &'static str, text: String, source: Option<&Resource>) {
        let source =
            source.map(|resource| format!("{} ({})", resource.key(), resource.place(""))).unwrap_or_default();
        self.steps.push(Step { stage, text, source });
    }

    fn applied(&mut self, resource: &Resource, does: String) {
        let (policy, place) = (resource.key().to_string(), resource.place(""));
        self.policy.push(Applied { policy, does, place });
    }

    /// The mesh itself answers, with what its table of errors says.
    fn fails(&mut self, decision: Decision, (status, error): (u16, &'static str)) {
        (self.decision, self.status, self.error) = (decision, Some(status), error);
    }
}

/// The account of a caller as people write it: `web`, or `web.shop` for one of another namespace.
pub fn account(text: &str, default: &Name) -> Result<(Name, Name), ExplainError> {
    let named = dotted(text, default).map_err(|_| ExplainError::NoAccount(text.to_owned()))?;
    Ok((named.namespace, named.name))
}

/// `NAME` or `NAME.NAMESPACE`.
fn dotted(text: &str, default: &Name) -> Result<QualifiedName, <Name as std::str::FromStr>::Err> {
    match text.split_once('.') {
        Some((name, namespace)) => Ok(QualifiedName::new(namespace.parse()?, name.parse()?)),
        None => Ok(QualifiedName::new(default.clone(), text.parse()?)),
    }
}
