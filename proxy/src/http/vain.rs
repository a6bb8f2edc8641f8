//! Answers that another one may be hoped for instead, and what an endpoint asks of whoever would try again.

use std::time::{SystemTime, UNIX_EPOCH};

use http::header::{HeaderName, RETRY_AFTER};
use weft_core::classify;
use weft_core::retry::{Failed, Pushback, pushback, retry_after};

use super::Exchange;
use super::head::Fields;
use super::headers;
use super::respond::WEFT_ERROR;
use crate::failure::ErrorCode;
use crate::observe::Security;

static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// What became of a try that was in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vain {
    /// It did not reach the app: the app's own sidecar says so.
    Unreached,
    /// It failed, and this is what the endpoint asks for.
    Failed(Failed, Pushback),
}

impl From<Failed> for Vain {
    fn from(failed: Failed) -> Self {
        Self::Failed(failed, Pushback::None)
    }
}

/// Whether an answer, of which these are the first fields or the last, is one that another may be hoped for instead.
pub fn answered_in_vain(
    exchange: &Exchange,
    status: u16,
    fields: &impl Fields,
    security: Option<Security>,
) -> Option<Vain> {
    let grpc_status = if exchange.is_grpc() { fields.first(&GRPC_STATUS) } else { None };
    let grpc_status = grpc_status.and_then(classify::grpc_status);
    if security == Some(Security::Mutual) && reached_nobody(status, grpc_status, fields) {
        return Some(Vain::Unreached);
    }
    let planned = exchange.plan()?;
    let retry = planned.plan.retry.as_ref()?;
    let failed = Failed::Answered { status, grpc_status };
    if !retry.wants(failed, planned.twice) {
        return None;
    }
    if security == Some(Security::Mutual) && headers::is_overloaded(fields) {
        exchange.was_shed();
    }
    Some(Vain::Failed(failed, asked(fields)))
}

/// Whether the app's sidecar says that its app has seen nothing of the request: to a call of gRPC it does so with a status of 200.
fn reached_nobody(status: u16, grpc_status: Option<u8>, fields: &impl Fields) -> bool {
    if status < 500 && grpc_status.is_none_or(|status| status == 0) {
        return false;
    }
    let codes = [ErrorCode::ConnectFailed, ErrorCode::ConnectTimeout];
    fields.first(&WEFT_ERROR).is_some_and(|said| codes.iter().any(|code| code.as_str().as_bytes() == said))
}

fn asked(fields: &impl Fields) -> Pushback {
    if let Some(said) = fields.first(&GRPC_PUSHBACK) {
        return pushback(said);
    }
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    fields.first(&RETRY_AFTER).map_or(Pushback::None, |said| retry_after(said, now()))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    #[test]
    fn an_app_that_was_not_reached_is_told_from_one_that_failed_in_the_words_of_http_and_of_grpc() {
        let check = |status, grpc_status, said: &'static str, expected| {
            let fields = HeaderMap::from_iter([(WEFT_ERROR.clone(), HeaderValue::from_static(said))]);
            assert_eq!(
                reached_nobody(status, grpc_status, &fields),
                expected,
                "{status} {grpc_status:?} {said}"
            );
        };
        check(502, None, "connect-failed", true);
        check(504, None, "connect-timeout", true);
        check(200, Some(14), "connect-failed", true);
        check(503, None, "upstream-reset", false);
        check(200, Some(14), "upstream-reset", false);
        check(200, Some(0), "connect-failed", false);
        check(200, None, "connect-failed", false);
    }
}
