//! The limits of a workload, and what they make of a call. Their buckets outlive changes of the policies.

use std::fmt::Write as _;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::buckets::{Buckets, FullAt};
use super::{Level, Rate, nanoseconds};
use crate::authorize::{Call, Peer, may_be_about};
use crate::model::{AccessRule, KeyPart, Limit, QualifiedName, RateLimit};

/// The rate limits of a workload.
#[derive(Debug)]
pub struct Limits {
    /// What keys are hashed with, so that nobody can choose two that are taken for one.
    seed: RandomState,
    policies: Vec<Policy>,
}

#[derive(Debug)]
struct Policy {
    name: QualifiedName,
    ports: Vec<u16>,
    rules: Vec<AccessRule>,
    limits: Vec<Bound>,
}

/// A limit with its buckets.
#[derive(Debug)]
struct Bound {
    key: Vec<KeyPart>,
    rate: Rate,
    /// As the header fields name it and describe it.
    name: String,
    described: String,
    buckets: Arc<Buckets>,
}

/// How much of its limits a call has left: the values of `RateLimit-Policy` and `RateLimit`
/// (draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Usage {
    /// The limits.
    pub policy: String,
    /// What is left of them.
    pub left: String,
}

/// A call for which there is no room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limited {
    /// By which policy.
    pub policy: QualifiedName,
    /// When there will be room again.
    pub retry_after: Duration,
    /// What to say of it.
    pub usage: Usage,
}

impl Limits {
    /// The limits that policies say, with the buckets of those that there were `before`: of the same policy and the same
    /// key, in their order. `seed` is only used where there were none.
    pub fn renew(policies: &[RateLimit], before: Option<&Self>, seed: RandomState) -> Self {
        let policies = policies.iter().map(|policy| {
            let same = |before: &&Policy| before.name == policy.name;
            let before = before.and_then(|before| before.policies.iter().find(same));
            Policy::renew(policy, before.map_or(&[], |before| &before.limits))
        });
        Self { policies: policies.collect(), seed: before.map_or(seed, |before| before.seed.clone()) }
    }

    /// Counts a call, at a time since whatever moment it is always the same. None of the limits counts it where one has no
    /// room. Nothing is said where no limit is about it.
    pub fn admit(&self, call: &Call<'_>, now: Duration) -> Result<Option<Usage>, Limited> {
        // At 0 a bucket would be full whatever was taken out of it.
        let now = nanoseconds(now).saturating_add(1);
        let mut taken: Vec<(&Bound, &FullAt)> = Vec::new();
        let mut usage = Usage::default();
        for policy in self.policies.iter().filter(|policy| policy.is_about(call)) {
            for bound in &policy.limits {
                let full_at = bound.buckets.of(self.hash(&bound.key, call), now);
                match bound.take(full_at, now) {
                    Ok(level) => {
                        usage.add(bound, level);
                        taken.push((bound, full_at));
                    }
                    Err(retry_after) => {
                        // What is not let in uses up nothing.
                        taken.into_iter().for_each(|(bound, full_at)| bound.put_back(full_at));
                        let mut usage = Usage::default();
                        usage.add(bound, Level { remaining: 0, full_in: retry_after });
                        return Err(Limited { policy: policy.name.clone(), retry_after, usage });
                    }
                }
            }
        }
        Ok((!taken.is_empty()).then_some(usage))
    }

    /// A call's key. What it does not have is a value of its own; a connection of bytes has who calls, and no more.
    fn hash(&self, key: &[KeyPart], call: &Call<'_>) -> u64 {
        let mut hasher = self.seed.build_hasher();
        for part in key {
            match part {
                KeyPart::Caller => match call.peer {
                    Peer::Known(id) => (true, id.as_str()).hash(&mut hasher),
                    Peer::Anonymous => (false, call.address).hash(&mut hasher),
                },
                KeyPart::Path => call
                    .request
                    .and_then(|request| request.path())
                    .map(|path| path.matched())
                    .hash(&mut hasher),
                KeyPart::Header(name) => {
                    let mut values = 0_u32;
                    if let Some(request) = call.request {
                        request.each_value(name, &mut |value| {
                            value.hash(&mut hasher);
                            values += 1;
                        });
                    }
                    values.hash(&mut hasher);
                }
                KeyPart::Claim(name) => {
                    let mut values = 0_u32;
                    if let Some(claims) = call.request.and_then(|request| request.claims()) {
                        claims.each_value(name, &mut |value| {
                            value.hash(&mut hasher);
                            values += 1;
                        });
                    }
                    values.hash(&mut hasher);
                }
            }
        }
        hasher.finish()
    }
}

impl Policy {
    fn renew(policy: &RateLimit, before: &[Bound]) -> Self {
        let mut limits: Vec<Bound> = Vec::new();
        for (index, limit) in policy.limits.iter().enumerate() {
            let nth = limits.iter().filter(|other| other.key == limit.key).count();
            let kept = before.iter().filter(|other| other.key == limit.key).nth(nth);
            let buckets = match kept {
                Some(bound) => Arc::clone(&bound.buckets),
                None if limit.key.is_empty() => Arc::new(Buckets::one()),
                None => Arc::new(Buckets::many()),
            };
            let name = match index {
                0 => policy.name.to_string(),
                index => format!("{}/{}", policy.name, index + 1),
            };
            limits.push(Bound {
                key: limit.key.clone(),
                rate: Rate::of(limit),
                described: described(&name, limit),
                name,
                buckets,
            });
        }
        let (name, ports, rules) = (policy.name.clone(), policy.ports.clone(), policy.rules.clone());
        Self { name, ports, rules, limits }
    }

    fn is_about(&self, call: &Call<'_>) -> bool {
        is_about(&self.ports, &self.rules, call)
    }
}

impl RateLimit {
    /// Whether it counts a call, or may.
    pub fn is_about(&self, call: &Call<'_>) -> bool {
        is_about(&self.ports, &self.rules, call)
    }
}

fn is_about(ports: &[u16], rules: &[AccessRule], call: &Call<'_>) -> bool {
    (ports.is_empty() || ports.contains(&call.port)) && (rules.is_empty() || may_be_about(rules, call))
}

impl Bound {
    /// Takes a call out of a bucket: what is left, or how long to wait.
    fn take(&self, full_at: &FullAt, now: u64) -> Result<Level, Duration> {
        let mut waits = Duration::ZERO;
        let taken = full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
            self.rate.take(before, now).map_err(|wait| waits = wait).ok()
        });
        let before = taken.map_err(|_| waits)?;
        let after = self.rate.take(before, now)?;
        Ok(self.rate.level(after, now))
    }

    fn put_back(&self, full_at: &FullAt) {
        // Always there, for the bucket then is as if nothing had been taken.
        let _ = full_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |before| {
            Some(before.saturating_sub(self.rate.cost))
        });
    }
}

/// A limit in words of the draft, which knows whole seconds only: what is allowed in parts of one, it is said of a whole one.
fn described(name: &str, limit: &Limit) -> String {
    let seconds = limit.per.as_secs_f64().max(f64::MIN_POSITIVE);
    let (quota, window) = match limit.per.subsec_nanos() {
        0 => (u64::from(limit.requests), limit.per.as_secs()),
        _ => (per_second(f64::from(limit.requests) / seconds), 1),
    };
    format!("\"{name}\";q={quota};w={window}")
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few at least, and saturating")]
fn per_second(rate: f64) -> u64 {
    rate.round().max(1.0) as u64
}

impl Usage {
    fn add(&mut self, bound: &Bound, level: Level) {
        if !self.policy.is_empty() {
            self.policy.push_str(", ");
            self.left.push_str(", ");
        }
        self.policy.push_str(&bound.described);
        // Writing into memory does not fail.
        let _ =
            write!(self.left, "\"{}\";r={};t={}", bound.name, level.remaining, whole_seconds(level.full_in));
    }
}

impl Limited {
    /// The value of `retry-after` (RFC 9110 section 10.2.3): at least a second, for it knows no less.
    pub fn retry_after_seconds(&self) -> u64 {
        whole_seconds(self.retry_after).max(1)
    }
}

/// Seconds, any part of one counted as a whole one.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}
