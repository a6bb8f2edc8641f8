//! What the W3C's harness asks of several requests that follow from one.

use std::collections::HashSet;
use std::hash::Hash;

use super::*;

/// What an app sends on of one request, to several others.
fn several(fields: &[(&str, &str)]) -> Vec<TraceContext> {
    let mut rng = fastrand::Rng::with_seed(7);
    let each = (0..3).map(|_| {
        let mut headers = map(fields);
        trace(&mut headers, &mut rng, None, &OwnTracing::default());
        w3c::parse(headers[&TRACEPARENT].as_bytes()).expect("a traceparent")
    });
    each.collect()
}

fn distinct<T: Hash + Eq>(all: &[TraceContext], of: impl Fn(&TraceContext) -> T) -> usize {
    all.iter().map(of).collect::<HashSet<_>>().len()
}

#[test]
fn multiple_requests_with_valid_traceparent() {
    let all = several(&[("traceparent", PARENT)]);
    assert_eq!((distinct(&all, |it| it.trace), distinct(&all, |it| it.span)), (1, 3));
    assert_eq!(all[0].trace.to_string(), TRACE);
}

#[test]
fn multiple_requests_without_traceparent() {
    let all = several(&[]);
    assert_eq!((distinct(&all, |it| it.trace), distinct(&all, |it| it.span)), (3, 3));
}

#[test]
fn multiple_requests_with_illegal_traceparent() {
    let all = several(&[("traceparent", "00-00000000000000000000000000000000-1234567890123456-01")]);
    assert_eq!((distinct(&all, |it| it.trace), distinct(&all, |it| it.span)), (3, 3));
}
