//! `AuthorizationPolicy`, `RateLimit`, `JwtAuthentication`, `FaultInjection`.

use serde_json::{Value, json};

use super::{anything, duration, flag, integer, list, object, port, target, text, with_rules, words};

const TARGETS: [&str; 4] = ["Service", "Workload", "Namespace", "Mesh"];

pub(super) fn authorization() -> Value {
    object(
        &["targetRef", "rules"],
        [
            ("targetRef", target(&TARGETS)),
            ("action", words(&["Allow", "Deny"])),
            ("mode", words(&["Enforce", "Audit"])),
            ("rules", rules()),
        ],
    )
}

pub(super) fn rate_limit() -> Value {
    let limit = object(
        &["requests", "per"],
        [
            ("requests", integer(1, 1_000_000_000)),
            ("per", duration()),
            ("burst", integer(1, 1_000_000_000)),
            ("key", list(text(), 0, 8)),
            ("scope", words(&["Local", "Global"])),
        ],
    );
    object(
        &["targetRef", "limits"],
        [("targetRef", target(&TARGETS)), ("rules", rules()), ("limits", list(limit, 1, 16))],
    )
}

pub(super) fn jwt_authentication() -> Value {
    let jwks = object(&[], [("inline", text()), ("uri", text()), ("ca", text())]);
    let header = object(&["name"], [("name", text()), ("prefix", text())]);
    let claim = object(&["claim", "header"], [("claim", text()), ("header", text())]);
    let provider = object(
        &["issuer", "audiences"],
        [
            ("issuer", text()),
            ("audiences", list(text(), 1, 16)),
            ("jwks", jwks),
            ("fromHeaders", list(header, 1, 16)),
            ("fromParams", list(text(), 1, 16)),
            ("forward", words(&["Keep", "Strip"])),
            ("claimHeaders", list(claim, 1, 16)),
            ("clockSkew", duration()),
        ],
    );
    object(
        &["targetRef", "providers"],
        [("targetRef", target(&TARGETS)), ("required", flag()), ("providers", list(provider, 1, 16))],
    )
}

pub(super) fn fault_injection() -> Value {
    let header = object(&["name", "value"], [("name", text()), ("value", text())]);
    let matched = object(&[], [("headers", list(header, 0, 16)), ("from", list(workloads(), 0, 1000))]);
    let delay = object(&["fixed"], [("fixed", duration()), ("percent", anything())]);
    let abort =
        object(&[], [("status", integer(200, 599)), ("grpcStatus", integer(1, 16)), ("percent", anything())]);
    let fault = object(
        &["targetRef"],
        [
            ("targetRef", target(&["Service", "Namespace", "Mesh", "HTTPRoute", "GRPCRoute"])),
            ("match", matched),
            ("delay", delay),
            ("abort", abort),
            ("expires", json!({"type": "string", "format": "date-time"})),
        ],
    );
    with_rules(fault, &[("has(self.delay) || has(self.abort)", "a delay or an abort is expected")])
}

fn rules() -> Value {
    let texts = || list(text(), 1, 1000);
    let from = object(
        &[],
        [
            ("principals", texts()),
            ("notPrincipals", texts()),
            ("serviceAccounts", texts()),
            ("notServiceAccounts", texts()),
            ("namespaces", texts()),
            ("notNamespaces", texts()),
            ("cidrs", texts()),
            ("notCidrs", texts()),
        ],
    );
    let to = object(
        &[],
        [
            ("ports", list(port(), 1, 1000)),
            ("notPorts", list(port(), 1, 1000)),
            ("methods", texts()),
            ("notMethods", texts()),
            ("paths", texts()),
            ("notPaths", texts()),
            ("hosts", texts()),
            ("notHosts", texts()),
        ],
    );
    let when =
        object(&[], [("header", text()), ("claim", text()), ("values", texts()), ("notValues", texts())]);
    let rule = object(
        &[],
        [("from", list(from, 0, 1000)), ("to", list(to, 0, 1000)), ("when", list(when, 0, 1000))],
    );
    list(rule, 0, 1000)
}

fn workloads() -> Value {
    let texts = || list(text(), 1, 1000);
    object(
        &[],
        [
            ("serviceAccounts", texts()),
            ("notServiceAccounts", texts()),
            ("namespaces", texts()),
            ("notNamespaces", texts()),
        ],
    )
}
