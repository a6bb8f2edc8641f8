//! `MeshConfig`, `Workload`, `ExternalService`.

use serde_json::{Value, json};

use super::{flag, integer, list, name, object, port, ratio, text, with_rules, words};

const PROTOCOLS: [&str; 5] = ["http", "http2", "grpc", "tcp", "tls"];

pub(super) fn mesh_config() -> Value {
    let mode = |key: &'static str, choices: &[&str]| object(&[], [(key, words(choices))]);
    let url = || json!({"type": "string", "pattern": "^https?://[^/@:]"});
    let export = with_rules(
        object(&[], [("otlp", url()), ("zipkin", url())]),
        &[("has(self.otlp) != has(self.zipkin)", "exactly one of otlp and zipkin is expected")],
    );
    let tracing = object(
        &[],
        [
            ("sampling", ratio()),
            ("propagation", list(words(&["w3c", "b3", "jaeger", "datadog", "xray"]), 0, 8)),
            ("export", list(export, 0, 8)),
        ],
    );
    object(
        &[],
        [
            ("trustDomain", json!({"type": "string", "pattern": "^[a-z0-9._-]+$", "maxLength": 255})),
            ("mtls", mode("mode", &["Strict", "Permissive"])),
            ("outbound", mode("mode", &["AllowAny", "RegistryOnly"])),
            ("authorization", mode("default", &["Any", "Authenticated", "Deny"])),
            ("tracing", tracing),
            (
                "accessLog",
                object(&[], [("format", words(&["json", "common", "off"])), ("sampling", ratio())]),
            ),
        ],
    )
}

pub(super) fn workload() -> Value {
    let port = object(&[], [("port", port()), ("name", name()), ("protocol", words(&PROTOCOLS))]);
    let workload = object(
        &[],
        [
            ("address", text()),
            ("srv", text()),
            ("ports", list(port, 0, 64)),
            ("serviceAccount", name()),
            ("zone", text()),
            ("weight", integer(0, 1_000_000)),
            ("mtls", flag()),
        ],
    );
    let place = "has(self.address) != has(self.srv)";
    let numbers = "!has(self.ports) || self.ports.all(p, has(p.port) != has(self.srv))";
    let proof = "!has(self.mtls) || !self.mtls || has(self.serviceAccount)";
    let rules = [
        (place, "one of address and srv says where it is"),
        (numbers, "every port says its number, but for that of an SRV record, which says it itself"),
        (proof, "mtls needs the service account that it proves"),
    ];
    with_rules(workload, &rules)
}

pub(super) fn external_service() -> Value {
    let port = object(
        &["port"],
        [("port", port()), ("targetPort", port()), ("name", name()), ("protocol", words(&PROTOCOLS))],
    );
    let tls = object(&["originate"], [("originate", flag()), ("sni", text()), ("ca", text())]);
    object(&["hosts", "ports"], [("hosts", list(text(), 1, 64)), ("ports", list(port, 1, 64)), ("tls", tls)])
}
