//! Changed configuration against calls that were really made: what would become another. Both sides are told by
//! [`explain`](crate::explain()), so by the code that sidecars decide with.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::compile;
use crate::explain::{Decision, Explanation, Question, RequestAsked, TokenAsked, explain};
use crate::model::{KeyPart, Limit, QualifiedName, RateLimit};
use crate::world::World;

/// Calls of one kind that were made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Carried {
    /// The service account of who called.
    pub caller: QualifiedName,
    /// The service that was called.
    pub service: QualifiedName,
    /// On which port, as the caller wrote it; one that the service has not, or none: its only one.
    pub port: Option<u16>,
    /// How.
    pub method: String,
    /// Without its query.
    pub path: String,
}

/// What a change does to calls of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// In one word.
    pub kind: EffectKind,
    /// What became of such a call.
    pub was: String,
    /// What would become of it.
    pub becomes: String,
    /// What would decide it.
    pub rule: String,
}

/// What a change does to a call, in one word; the gravest where there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EffectKind {
    /// It was let in and would be kept out.
    Denied,
    /// It was kept out and would be let in.
    Allowed,
    /// There would be nobody that it could go to.
    Refused,
    /// The mesh would answer it itself.
    Answered,
    /// It would go elsewhere.
    Rerouted,
    /// Other limits would hold for it.
    Limited,
}

impl EffectKind {
    /// As scripts read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::Answered => "answered",
            Self::Rerouted => "rerouted",
            Self::Limited => "limited",
        }
    }
}

/// What the step from one world to another does to such calls; none: nothing.
///
/// # Errors
/// Nothing can be said about it, and why.
pub fn rehearse(
    before: &World,
    after: &World,
    carried: &Carried,
    now: Duration,
) -> Result<Option<Effect>, String> {
    let (was, becomes) = (tell(before, carried, now)?, tell(after, carried, now)?);
    if let Some(kind) = kind(&was, &becomes) {
        let (was, rule, becomes) = (outcome(&was), rule(&becomes), outcome(&becomes));
        return Ok(Some(Effect { kind, was, becomes, rule }));
    }
    let (earlier, later) = (limits(before, carried), limits(after, carried));
    let Some(new) = later.difference(&earlier).next() else {
        return Ok(earlier.difference(&later).next().map(|gone| Effect {
            kind: EffectKind::Limited,
            was: gone.1.clone(),
            becomes: "without this limit".to_owned(),
            rule: gone.0.clone(),
        }));
    };
    let same = earlier.iter().find(|(name, _)| *name == new.0);
    let was = same.map_or_else(|| "without this limit".to_owned(), |(_, text)| text.clone());
    Ok(Some(Effect { kind: EffectKind::Limited, was, becomes: new.1.clone(), rule: new.0.clone() }))
}

fn tell(world: &World, carried: &Carried, now: Duration) -> Result<Explanation, String> {
    let QualifiedName { namespace, name } = &carried.service;
    // What callers write behind the name may be a port that is none of the service's.
    let takes =
        |port: &u16| compile::service(world, &carried.service).is_some_and(|known| known.takes(*port));
    let port = carried.port.filter(takes).map(|port| format!(":{port}")).unwrap_or_default();
    let asked =
        RequestAsked { method: carried.method.clone(), path: carried.path.clone(), headers: Vec::new() };
    let question = Question {
        namespace: &carried.caller.namespace,
        account: &carried.caller.name,
        to: &format!("{name}.{namespace}{port}"),
        request: Some(asked),
        now,
        token: TokenAsked::Unknown,
    };
    explain(world, &question).map_err(|error| error.to_string())
}

fn kind(was: &Explanation, becomes: &Explanation) -> Option<EffectKind> {
    let changed = |explanation: &Explanation| (explanation.decision, explanation.status);
    if changed(was) != changed(becomes) {
        return Some(match becomes.decision {
            Decision::Deny => EffectKind::Denied,
            Decision::Refuse => EffectKind::Refused,
            Decision::Answer => EffectKind::Answered,
            Decision::Forward => EffectKind::Allowed,
        });
    }
    (was.backends != becomes.backends || was.mirrors != becomes.mirrors).then_some(EffectKind::Rerouted)
}

fn outcome(told: &Explanation) -> String {
    let backends = || {
        let share = |(name, share): &(String, f64)| match told.backends.len() {
            1 => name.clone(),
            _ => format!("{name} {:.0}%", share * 100.0),
        };
        told.backends.iter().map(share).collect::<Vec<_>>().join(", ")
    };
    match (told.decision, told.status) {
        (Decision::Forward, _) => format!("goes to {}", backends()),
        (_, Some(status)) if told.error.is_empty() => format!("answered {status}"),
        (_, Some(status)) => format!("{status} {}", told.error),
        (decision, None) => decision.as_str().to_owned(),
    }
}

/// The last thing that decided: of what is kept out, what access says; else a policy or the route.
fn rule(told: &Explanation) -> String {
    let decides = |stage: &str| told.decision != Decision::Deny || stage == "access";
    let steps = || told.steps.iter().filter(|step| decides(step.stage));
    match steps().rfind(|step| !step.source.is_empty()) {
        Some(step) => step.source.clone(),
        None => steps().next_back().map(|step| step.text.clone()).unwrap_or_default(),
    }
}

/// The rate limits of those behind the service, by name, in words.
fn limits(world: &World, carried: &Carried) -> BTreeSet<(String, String)> {
    let endpoints = compile::endpoints(world, &carried.service).unwrap_or_default();
    let workloads = endpoints.iter().filter_map(|endpoint| compile::workload(world, &endpoint.workload));
    let named = |limit: RateLimit| {
        let words: Vec<String> = limit.limits.iter().map(in_words).collect();
        (format!("RateLimit {}", limit.name), words.join(" and "))
    };
    workloads.flat_map(|workload| workload.limits).map(named).collect()
}

fn in_words(limit: &Limit) -> String {
    let key = |part: &KeyPart| match part {
        KeyPart::Caller => "caller".to_owned(),
        KeyPart::Path => "path".to_owned(),
        KeyPart::Header(name) => format!("header {name}"),
        KeyPart::Claim(_) => "claim".to_owned(),
    };
    let keys: Vec<String> = limit.key.iter().map(key).collect();
    let of_each = if keys.is_empty() { String::new() } else { format!(" of each {}", keys.join(" and ")) };
    format!("{} requests per {:?}{of_each}", limit.requests, limit.per)
}
