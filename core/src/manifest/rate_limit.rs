//! `weft.mesh/v1alpha1 RateLimit`.

use std::time::Duration;

use super::authorization_policy;
use super::decode::Field;
use super::document::Places;
use super::target::{self, TargetKind};
use crate::model::{AccessRule, KeyPart, Limit, Name, PolicyTarget};

const TARGETS: [TargetKind; 4] =
    [TargetKind::Service, TargetKind::Workload, TargetKind::Namespace, TargetKind::Mesh];

/// Limits of a policy, and parts of a key.
const MOST_LIMITS: usize = 16;
const MOST_PARTS: usize = 8;

/// The most calls of a limit.
const MOST_REQUESTS: u32 = 1_000_000_000;

/// The longest time that calls are counted over.
const LONGEST: Duration = Duration::from_hours(24);

const SCOPES: [(&str, LimitScope); 2] = [("Local", LimitScope::Local), ("Global", LimitScope::Global)];

/// What a `RateLimit` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitSpec {
    /// Whose calls it is about.
    pub target: PolicyTarget,
    /// Which of them; none: all.
    pub rules: Vec<AccessRule>,
    /// How many there may be, and who counts them.
    pub limits: Vec<(Limit, LimitScope)>,
}

/// Who counts the calls of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LimitScope {
    /// Each sidecar by itself.
    #[default]
    Local,
    /// All sidecars of the target together: each has an even share.
    Global,
}

impl RateLimitSpec {
    /// Whether what one sidecar is told depends on how many there are.
    pub fn is_shared(&self) -> bool {
        self.limits.iter().any(|(_, scope)| *scope == LimitScope::Global)
    }
}

pub(super) fn read(spec: &Field<'_>, namespace: Option<&Name>, places: &mut Places) -> Option<RateLimitSpec> {
    let object = spec.object(&["targetRef", "rules", "limits"])?;
    let target = target::read(&object, namespace, &TARGETS, places);
    let rules = object.field("rules");
    if let Some(field) = rules.as_ref().filter(|field| field.list().is_some_and(|rules| rules.is_empty())) {
        field.mistake("an empty list is about no call", "leave it out to limit every call");
    }
    let rules = rules.map(|field| authorization_policy::rules(&field, namespace)).unwrap_or_default();
    let field = object.required("limits", "write limits: [{requests: 100, per: 1s}]")?;
    let members = field.list()?;
    if members.is_empty() || members.len() > MOST_LIMITS {
        let message = format!("{} limits, where from 1 to {MOST_LIMITS} are expected", members.len());
        field.mistake(message, "write limits: [{requests: 100, per: 1s}]");
    }
    let limits = members.iter().take(MOST_LIMITS).filter_map(|field| limit(field, target.as_ref())).collect();
    Some(RateLimitSpec { target: target?, rules, limits })
}

fn limit(field: &Field<'_>, target: Option<&PolicyTarget>) -> Option<(Limit, LimitScope)> {
    let object = field.object(&["requests", "per", "burst", "key", "scope"])?;
    let scope = object.field("scope");
    let said = scope.as_ref().map(|scope| scope.choice(&SCOPES));
    if let (Some(scope), Some(Some(LimitScope::Global)), Some(PolicyTarget::Mesh)) = (&scope, said, target) {
        // Who comes or goes would have everyone told anew.
        scope.mistake(
            "Global is not for the whole mesh",
            "write it for a Service or a Namespace, or scope: Local",
        );
    }
    let requests = object.required("requests", "write how many, such as requests: 100");
    let requests = requests.and_then(|field| field.integer(1..=MOST_REQUESTS));
    let per = object.required("per", "write in which time, such as per: 1s").and_then(|field| {
        let per = field.duration()?;
        if per > LONGEST {
            field.mistake("is longer than a day", "write at most 24h");
        }
        (per <= LONGEST).then_some(per)
    });
    let burst = object.field("burst").map(|field| field.integer(1..=MOST_REQUESTS));
    let key = object.field("key").map(|field| read_key(&field));
    let requests = requests?;
    let burst = burst.unwrap_or(Some(requests))?;
    Some((
        Limit { requests, per: per?, burst, key: key.unwrap_or_default() },
        said.unwrap_or(Some(LimitScope::Local))?,
    ))
}

fn read_key(field: &Field<'_>) -> Vec<KeyPart> {
    let members = field.list().unwrap_or_default();
    if members.len() > MOST_PARTS {
        field.mistake(format!("{} parts are too many", members.len()), format!("write at most {MOST_PARTS}"));
    }
    let hint = "write caller, path, \"header:NAME\" or \"claim:NAME\"";
    let mut parts: Vec<KeyPart> = Vec::new();
    for member in members.iter().take(MOST_PARTS) {
        let Some(part) = member.parse::<KeyPart>(hint) else { continue };
        if parts.contains(&part) {
            member.mistake(format!("{part} is there twice"), "leave it out");
        } else {
            parts.push(part);
        }
    }
    parts
}
