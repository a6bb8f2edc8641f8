//! `TrafficPolicy`.

use serde_json::{Value, json};

use super::{
    anything, duration, flag, integer, list, number_or_text, object, port, ratio, target, text, with_rules,
    words,
};
use crate::model::MAX_PRIORITIES;

/// The most that a number of requests may be.
const REQUESTS: u32 = 1_000_000;

pub(super) fn policy() -> Value {
    object(
        &["targetRef"],
        [
            ("targetRef", target(&["Service", "Workload", "Namespace", "Mesh", "HTTPRoute", "GRPCRoute"])),
            ("loadBalancing", balancing()),
            (
                "timeouts",
                object(&[], [("connect", duration()), ("request", duration()), ("idle", duration())]),
            ),
            ("retries", retries()),
            (
                "hedging",
                object(
                    &[],
                    [
                        (
                            "after",
                            json!({"type": "string", "description": "A time, or a percentile such as p95."}),
                        ),
                        ("max", integer(1, 3)),
                    ],
                ),
            ),
            ("circuitBreaker", breaker()),
            (
                "bulkhead",
                object(
                    &[],
                    [
                        ("maxConnections", integer(1, REQUESTS)),
                        ("maxConcurrentRequests", integer(1, REQUESTS)),
                        ("maxPendingRequests", integer(0, REQUESTS)),
                    ],
                ),
            ),
            ("concurrency", object(&["mode"], [("mode", words(&["Off", "Adaptive"]))])),
            ("healthCheck", health_check()),
            ("mtls", object(&["mode"], [("mode", words(&["Strict", "Permissive"]))])),
            ("tracing", object(&["sampling"], [("sampling", ratio())])),
        ],
    )
}

fn balancing() -> Value {
    // A cookie is a name, or an object with its path and time.
    let key = object(&[], [("header", text()), ("cookie", anything()), ("sourceIp", flag())]);
    // Of a field that may be of several types CEL knows nothing.
    let one = "!(has(self.header) && has(self.sourceIp))";
    let key = with_rules(key, &[(one, "exactly one of header, cookie and sourceIp is expected")]);
    let locality = object(&["prefer"], [("prefer", words(&["Zone"])), ("failoverBelow", ratio())]);
    let priority = object(
        &[],
        [
            ("labels", json!({"type": "object", "additionalProperties": {"type": "string"}})),
            ("zone", text()),
            ("zoneOf", words(&["Caller"])),
            ("failoverBelow", ratio()),
        ],
    );
    let about = "has(self.labels) || has(self.zone) || has(self.zoneOf)";
    let one_zone = "!has(self.zone) || !has(self.zoneOf)";
    let priority = with_rules(
        priority,
        &[
            (about, "say which endpoints it is about: labels, zone or zoneOf"),
            (one_zone, "zone is one zone, and zoneOf another: leave one of them out"),
        ],
    );
    let policies = ["PeakEwma", "LeastRequest", "RoundRobin", "Random", "ConsistentHash"];
    let balancing = object(
        &[],
        [
            ("policy", words(&policies)),
            ("consistentHash", key),
            ("locality", locality),
            ("priorities", list(priority, 0, MAX_PRIORITIES)),
            ("slowStart", duration()),
            ("panicThreshold", ratio()),
        ],
    );
    let hashed = "!has(self.policy) || self.policy != 'ConsistentHash' || has(self.consistentHash)";
    let named = "!has(self.consistentHash) || has(self.policy)";
    with_rules(
        balancing,
        &[
            (hashed, "ConsistentHash does not say what to hash: write consistentHash beside it"),
            (named, "write policy: ConsistentHash beside consistentHash"),
        ],
    )
}

fn retries() -> Value {
    object(
        &[],
        [
            ("attempts", integer(0, 10)),
            ("on", list(number_or_text(), 1, 64)),
            ("perTryTimeout", duration()),
            ("backoff", object(&[], [("base", duration()), ("max", duration())])),
            (
                "budget",
                object(
                    &[],
                    [("ratio", ratio()), ("minPerSecond", integer(0, REQUESTS)), ("window", duration())],
                ),
            ),
            ("maxBodyBytes", integer(0, 1024 * 1024)),
            // idempotent, any, or a list of methods.
            ("methods", anything()),
        ],
    )
}

fn breaker() -> Value {
    object(
        &[],
        [
            ("consecutiveFailures", integer(1, REQUESTS)),
            ("failureRatio", ratio()),
            ("minRequests", integer(1, REQUESTS)),
            ("window", duration()),
            ("openFor", duration()),
            ("halfOpenRequests", integer(1, REQUESTS)),
            ("maxEjected", ratio()),
        ],
    )
}

fn health_check() -> Value {
    let check = object(
        &[],
        [
            ("path", text()),
            ("grpc", object(&[], [("service", text())])),
            ("tcp", object(&[], [])),
            ("port", port()),
            ("interval", duration()),
            ("timeout", duration()),
            ("unhealthyAfter", integer(1, 100)),
            ("healthyAfter", integer(1, 100)),
        ],
    );
    let one = "!(has(self.path) && has(self.grpc))";
    with_rules(check, &[(one, "exactly one of path, grpc and tcp is expected")])
}
