//! What a request's record will say of it, and of the try that is under way: each of the app's is a span of its own.

use std::cell::Cell;
use std::time::{Instant, SystemTime};

use http::Method;
use http::header::USER_AGENT;
use weft_core::trace::SpanId;

use super::head::{Fields, Head};
use crate::observe::{Note, Requested};

/// So many of a query's parameters are told of.
const PARAMETERS: usize = 64;

/// What was asked of whom, and when.
#[derive(Debug)]
pub(super) struct Target {
    started: SystemTime,
    method: Method,
    authority: Box<str>,
    path: Box<str>,
    query: Option<Box<str>>,
    agent: Option<Box<str>>,
    /// What else its span says.
    pub(super) notes: Vec<Note>,
    /// The try that is under way.
    pub(super) current: Cell<Try>,
}

/// One of a request's tries.
#[derive(Debug, Clone, Copy)]
pub(super) struct Try {
    pub(super) span: SpanId,
    /// The span of the one before, which the head may still name.
    pub(super) before: SpanId,
    pub(super) started: SystemTime,
    pub(super) begun: Instant,
    /// What it was answered, where that was in vain.
    pub(super) answer: Option<(u16, Option<u8>)>,
}

impl Target {
    /// Of a request whose head was just read, and whose first try is under `span`.
    pub(super) fn of(head: &impl Head, span: SpanId) -> Self {
        let current = Try::first(span);
        Self {
            started: current.started,
            method: head.method().clone(),
            authority: head.authority().into(),
            path: head.path().into(),
            query: head.query().map(|query| without_values(query).into()),
            agent: head.fields().first(&USER_AGENT).and_then(|it| str::from_utf8(it).ok()).map(Box::from),
            notes: Vec::new(),
            current: Cell::new(current),
        }
    }

    /// The same as it is told.
    pub(super) fn requested(&self) -> Requested<'_> {
        let Self { started, method, authority, path, query, agent, notes, .. } = self;
        let (query, agent) = (query.as_deref(), agent.as_deref());
        Requested { started: *started, method, authority, path, query, agent, notes }
    }
}

impl Try {
    /// The first one, which begins now.
    pub(super) fn first(span: SpanId) -> Self {
        Self { span, before: span, started: SystemTime::now(), begun: Instant::now(), answer: None }
    }

    /// The one after it, which begins now.
    pub(super) fn next(&self) -> Self {
        Self { before: self.span, ..Self::first(self.span.next()) }
    }
}

/// A query's keys: any value may be a secret (a token of RFC 6750 section 2.3, a signature), and a mesh cannot know which is. What
/// has no key is withheld whole.
fn without_values(query: &str) -> String {
    let told = query.split('&').take(PARAMETERS).map(|parameter| match parameter.split_once('=') {
        Some((key, value)) => (key, "=", value),
        None => ("", "", parameter),
    });
    let mut all = String::new();
    for (index, (key, equals, value)) in told.enumerate() {
        let withheld = if value.is_empty() { "" } else { "REDACTED" };
        let separator = if index > 0 { "&" } else { "" };
        all.extend([separator, key, equals, withheld]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_query_the_keys_are_told_and_no_value() {
        for (query, told) in [
            ("page=2&access_token=eyJh.bGc", "page=REDACTED&access_token=REDACTED"),
            ("sig=a=b&empty=", "sig=REDACTED&empty="),
            ("secret", "REDACTED"),
            ("a=1&&secret", "a=REDACTED&&REDACTED"),
            ("", ""),
        ] {
            assert_eq!(without_values(query), told, "{query}");
        }
        assert_eq!(without_values(&"a=1&".repeat(1000)).matches("REDACTED").count(), PARAMETERS);
    }

    #[test]
    fn a_requests_query_and_agent_are_told() {
        let request = http::Request::get("http://orders/7?token=secret").header(USER_AGENT, "curl/8");
        let (head, ()) = request.body(()).unwrap().into_parts();
        let target = Target::of(&head, SpanId::random(&mut fastrand::Rng::with_seed(1)));
        let told = target.requested();
        assert_eq!((told.path, told.query, told.agent), ("/7", Some("token=REDACTED"), Some("curl/8")));
    }
}
