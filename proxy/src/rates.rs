//! Stage 5, limit: whether there is room for a call, and what is said of it. What is decided, [`weft_core::rate`] decides.

use std::hash::RandomState;
use std::sync::Arc;
use std::time::Instant;

use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use weft_core::authorize::{Call, Decision};
use weft_core::model::{RateLimit, Workload};
use weft_core::rate::{self, Limited, Usage};

use crate::failure::ErrorCode;
use crate::http::Exchange;
use crate::http::head::{Fields, Value};
use crate::session::{Answer, Explained};
use crate::state::Snapshot;
use crate::worker::Worker;

/// draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4.
static POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
static LEFT: HeaderName = HeaderName::from_static("ratelimit");

/// When a gRPC client may send the call again, in milliseconds (gRFC A6, "Pushback").
static PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// How often others may call the app. All workers count on the same buckets.
#[derive(Debug)]
pub struct Rates {
    decided: rate::Limits,
    /// What its times are since.
    begun: Instant,
}

impl Rates {
    /// What policies say, with what has been counted before.
    pub fn renew(policies: &[RateLimit], before: &Snapshot) -> Option<Arc<Self>> {
        let same = |workload: &Arc<Workload>| workload.limits == policies;
        let known = before.rates.as_ref();
        if known.is_some() && before.workload.as_ref().is_some_and(same) {
            return known.cloned();
        }
        if policies.is_empty() {
            return None;
        }
        let earlier = known.map(|rates| &rates.decided);
        let decided = rate::Limits::renew(policies, earlier, RandomState::new());
        Some(Arc::new(Self { decided, begun: known.map_or_else(Instant::now, |rates| rates.begun) }))
    }
}

/// Whether there are limits at all.
pub fn are_limited(worker: &Worker) -> bool {
    worker.discovery.peek().rates.is_some()
}

/// Counts a call where a limit is about it: what its caller has left.
pub fn admit(worker: &Worker, call: &Call<'_>) -> Result<Option<Usage>, Limited> {
    let snapshot = worker.discovery.peek();
    let Some(rates) = &snapshot.rates else { return Ok(None) };
    rates.decided.admit(call, rates.begun.elapsed()).inspect_err(|limited| {
        worker.observer.policy_decided(&limited.policy, Decision::Limited);
        tracing::debug!(?call, policy = %limited.policy, "a rate limit is used up");
    })
}

/// What a request is answered for which there is no room.
pub fn answer(limited: &Limited, exchange: &mut Exchange) -> Answer {
    exchange.note("weft.rate_limit.policy", &limited.policy);
    let mut fields = HeaderMap::new();
    fields.insert(&RETRY_AFTER, HeaderValue::from(limited.retry_after_seconds()));
    if exchange.is_grpc() {
        let pushback = u64::try_from(limited.retry_after.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        fields.insert(&PUSHBACK, HeaderValue::from(pushback));
    }
    tell(&mut fields, &limited.usage);
    Answer::Explained(Box::new(Explained { code: ErrorCode::RateLimited, fields }))
}

/// Says how much is left. The app's own limits, if it speaks of any, stand beside ours: both fields are lists.
pub fn tell(fields: &mut impl Fields, usage: &Usage) {
    fields.append(&POLICY, Value::Once(usage.policy.as_bytes()));
    fields.append(&LEFT, Value::Once(usage.left.as_bytes()));
}
