//! `retries` and `hedging`: how they are read, and what cannot be meant.

use std::time::Duration;

use weft_core::model::{HedgeAfter, Hedging, Ratio, Retries, RetryBudget, RetryMethods, RetryOn, StatusCode};

use super::{policy, refused, traffic, with_services};

#[test]
fn retries_are_read_as_the_contract_spells_them() {
    let text = policy(
        "orders",
        "{kind: Service, name: orders}",
        "retries:
    attempts: 2
    on: [5xx, connect-failure, reset, refused-stream, 429, grpc:unavailable, gateway-error, grpc:4, grpc:DATA_LOSS]
    perTryTimeout: 1s
    backoff: {base: 25ms, max: 250ms}
    budget: {ratio: 20%, minPerSecond: 10, window: 10s}
    maxBodyBytes: 65536
    methods: idempotent",
    );
    let said = traffic(&with_services(&text), "default/orders").retries.unwrap();
    let on = vec![
        RetryOn::ServerErrors,
        RetryOn::ConnectFailure,
        RetryOn::Reset,
        RetryOn::RefusedStream,
        RetryOn::Status(StatusCode::try_from(429).unwrap()),
        RetryOn::Grpc(14),
        RetryOn::GatewayErrors,
        RetryOn::Grpc(4),
        RetryOn::Grpc(15),
    ];
    let expected = Retries { on, per_try: Some(Duration::from_secs(1)), ..Retries::default() };
    assert_eq!(*said, expected, "the rest are the defaults as well");
    let methods = |spelt: &str| {
        let text = policy("a", "{kind: Mesh}", &format!("retries: {{methods: {spelt}}}"));
        traffic(&with_services(&text), "default/orders").retries.unwrap().methods
    };
    assert_eq!(methods("any"), RetryMethods::Any);
    assert_eq!(methods("[GET, POST]"), RetryMethods::These(vec!["GET".into(), "POST".into()]));
    let layers = [
        policy("a", "{kind: Mesh}", "retries: {attempts: 7, budget: {ratio: 5%}}"),
        policy("b", "{kind: Service, name: orders}", "retries: {budget: {window: 1m}}"),
    ];
    let said = traffic(&with_services(&layers.concat()), "default/orders").retries.unwrap();
    let RetryBudget { ratio, window, .. } = said.budget;
    assert_eq!((said.attempts, ratio, window), (7, Ratio::percent(5), Duration::from_secs(60)));
}

#[test]
fn retries_that_cannot_be_meant_are_refused() {
    let field = |field: &str, expected: &str| refused(&format!("retries: {{{field}}}"), &[expected]);
    field("attempts: 11", "6:23: spec.retries.attempts: 11 is not a whole number from 0 to 10");
    field("on: [200]", "6:18: spec.retries.on[0]: \"200\" is no reason to try again");
    field("on: [\"grpc:ok\"]", "6:18: spec.retries.on[0]: \"grpc:ok\" is no reason");
    field("on: [5xx, 5xx]", "6:23: spec.retries.on[1]: 5xx is there twice");
    field("on: []", "6:17: spec.retries.on: names nothing");
    field("backoff: {base: 1s, max: 1ms}", "6:38: spec.retries.backoff.max: is less than base");
    field("budget: {window: 1h}", "6:30: spec.retries.budget.window: is not from 1s to 1m");
    field("maxBodyBytes: 2000000", "6:27: spec.retries.maxBodyBytes: 2000000 is not a whole number");
    field("methods: [get]", "6:23: spec.retries.methods[0]: \"get\" is no method");
    field("methods: some", "6:22: spec.retries.methods: \"some\" is not one of idempotent, any");
    refused(
        "retries: {perTryTimeout: 2s}\n  timeouts: {request: 1s}",
        &["6:28: spec.retries.perTryTimeout: one try may not take longer than the whole request"],
    );
}

#[test]
fn hedging_is_after_a_time_or_a_share_of_the_answers() {
    let said = |spelt: &str| {
        let text = policy("a", "{kind: Mesh}", &format!("hedging: {spelt}"));
        traffic(&with_services(&text), "default/orders").hedging.unwrap()
    };
    let quantile = |percent| HedgeAfter::Quantile(Ratio::percent(percent));
    assert_eq!(said("{after: p95, max: 1}"), Hedging { after: quantile(95), max: 1 });
    assert_eq!(said("{}"), Hedging { after: quantile(95), max: 1 });
    assert_eq!(said("{after: p50}").after, quantile(50));
    assert_eq!(said("{after: 50ms}").after, HedgeAfter::Time(Duration::from_millis(50)));
    for bad in ["p49", "p100", "p", "95", "0s", "soon"] {
        refused(&format!("hedging: {{after: \"{bad}\"}}"), &["6:20: spec.hedging.after: "]);
    }
    assert_eq!(said("{max: 3}").max, 3);
    refused("hedging: {max: 4}", &["6:18: spec.hedging.max: 4 is not a whole number from 1 to 3"]);
}
