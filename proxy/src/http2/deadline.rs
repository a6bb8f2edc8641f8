//! A gRPC call's deadline as this hop keeps it: what its caller allows, less what was spent here, is what the next hop
//! is told; when it has passed nobody waits any longer.

use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};
use tokio::time::{Instant, Sleep, sleep_until};
use weft_core::deadline;

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The deadline of a call; most have none.
#[derive(Debug, Default)]
pub(super) struct Deadline(Option<Allowed>);

#[derive(Debug)]
struct Allowed {
    time: Duration,
    since: Instant,
    passes: Pin<Box<Sleep>>,
}

impl Deadline {
    /// What a call's head says.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let allowed = headers.get(&GRPC_TIMEOUT).and_then(|value| deadline::parse(value.as_bytes()));
        Self(allowed.map(|time| {
            let since = Instant::now();
            // What is beyond the clock's end is never.
            let end = since.checked_add(time).unwrap_or_else(|| since + Duration::from_secs(u32::MAX.into()));
            Allowed { time, since, passes: Box::pin(sleep_until(end)) }
        }))
    }

    /// Tells the next hop what is left. False where nothing is.
    pub(super) fn tell(&self, headers: &mut HeaderMap) -> bool {
        let Some(allowed) = &self.0 else { return true };
        let Some(left) = deadline::left(allowed.time, allowed.since.elapsed()) else { return false };
        if let Ok(value) = HeaderValue::from_str(&deadline::write(left)) {
            headers.insert(&GRPC_TIMEOUT, value);
        }
        true
    }

    /// Ready when it has passed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Some(allowed) => allowed.passes.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}
