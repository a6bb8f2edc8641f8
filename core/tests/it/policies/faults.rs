//! `FaultInjection`: how it is read, and what cannot be meant.

use std::time::Duration;

use weft_core::model::{Abort, Fault, Ratio};

use super::{traffic, with_services};
use crate::documents::read_text;

fn faults(spec: &str) -> String {
    format!(
        "apiVersion: weft.mesh/v1alpha1\nkind: FaultInjection\nmetadata: {{name: a}}\nspec:\n  {spec}\n---\n"
    )
}

#[test]
fn a_fault_is_read_as_the_contract_spells_it() {
    let text = faults(
        "targetRef: {kind: Service, name: orders}
  match: {headers: [{name: X-Chaos, value: \"1\"}]}
  delay: {fixed: 2s, percent: 10}
  abort: {status: 503, percent: 5}
  expires: \"1970-01-02T00:00:00Z\"",
    );
    let world = with_services(&text);
    let expected = Fault {
        policy: "default/a".into(),
        from: Vec::new(),
        headers: vec![("x-chaos".into(), "1".into())],
        delay: Some((Duration::from_secs(2), Ratio::percent(10))),
        abort: Some((Abort { status: 503, grpc_status: 14 }, Ratio::percent(5))),
        expires: Some(Duration::from_secs(86_400)),
    };
    assert_eq!(traffic(&world, "default/orders").faults, [expected]);
    assert_eq!(traffic(&world, "default/web").faults, []);
}

#[test]
fn what_is_wrong_with_a_fault_is_refused_with_its_line() {
    let check = |spec: &str, expected: &str| {
        let text = faults(&format!("targetRef: {{kind: Mesh}}\n  {spec}"));
        let problems: Vec<_> = read_text(&text).problems.iter().map(ToString::to_string).collect();
        assert!(
            problems.len() == 1 && problems[0].starts_with(&format!("f.yaml:{expected}")),
            "{problems:?}"
        );
    };
    check("match: {}", "5:3: spec: does nothing; write delay");
    check("abort: {percent: 5}", "6:10: spec.abort: does not say with what; write status: 503");
    check("abort: {status: 100}", "6:19: spec.abort.status: 100 is not a whole number from 200 to 599");
    check("abort: {status: 500, percent: 101}", "6:33: spec.abort.percent: is no percentage");
    check("delay: {fixed: 6m}", "6:18: spec.delay.fixed: is longer than five minutes");
    check("delay: {percent: 6}", "6:10: \"spec.delay.fixed\" is missing");
    check("delay: {fixed: 1s}\n  expires: soon", "7:12: spec.expires: \"soon\" is no time");
}
