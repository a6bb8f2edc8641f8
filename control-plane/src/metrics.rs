//! What the control plane counts, declared once.

use std::sync::Arc;
use std::time::SystemTime;

use weft_certs::Roots;
use weft_runtime::metrics::{Counter, Family, Gauge, Histogram, Registry};

use crate::leader::Leadership;

/// From a change to everything being told of it, in seconds.
const LATENCIES: [f64; 12] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

const CONFIG_VERSION: Family<Gauge, 0> =
    Family::gauge("weft_config_version", "The configuration revision in force.", []);
const SIDECARS: Family<Gauge, 0> =
    Family::gauge("weft_sidecars_connected", "Sidecars with an open stream.", []);
const PUSHES: Family<Counter, 0> = Family::counter("weft_pushes_total", "Pushes sent to sidecars.", []);
const PUSH_LATENCY: Family<Histogram, 0> = Family::histogram(
    "weft_push_latency_seconds",
    "From a change until one sidecar has acknowledged it.",
    [],
    &LATENCIES,
);
const REJECTED: Family<Counter, 1> =
    Family::counter("weft_resources_rejected_total", "Resources that a sidecar did not take.", ["kind"]);
const STREAMS_REFUSED: Family<Counter, 0> =
    Family::counter("weft_sidecars_refused_total", "Sidecar streams refused or ended by us.", []);
const ISSUED: Family<Counter, 0> =
    Family::counter("weft_certificates_issued_total", "Certificates issued.", []);
const CERTIFICATES_REFUSED: Family<Counter, 0> =
    Family::counter("weft_certificates_refused_total", "Certificate requests refused.", []);
const SPANS_STORED: Family<Counter, 0> = Family::counter("weft_spans_stored_total", "Spans stored.", []);
const SPANS_DROPPED: Family<Counter, 1> =
    Family::counter("weft_spans_dropped_total", "Spans that were not stored, or not kept.", ["reason"]);
const HANDSHAKES_FAILED: Family<Counter, 1> = Family::counter(
    "weft_tls_handshakes_failed_total",
    "Connections that ended before they were of use.",
    ["reason"],
);
const KEYS_FETCHED: Family<Counter, 1> =
    Family::counter("weft_key_sets_fetched_total", "Keys of token issuers fetched, or not.", ["outcome"]);
const DNS: Family<Counter, 1> = Family::counter(
    "weft_dns_answers_total",
    "Questions of where workloads are, answered or not.",
    ["outcome"],
);
const INJECTIONS: Family<Counter, 1> =
    Family::counter("weft_injections_total", "Admission reviews of pods, by what was answered.", ["outcome"]);
const CONFIG_PROBLEMS: Family<Gauge, 0> =
    Family::gauge("weft_config_dir_problems", "Mistakes in the configuration directory now.", []);

/// The handles of everything that is counted.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    pub(crate) registry: Registry,
    pub(crate) config_version: Gauge,
    pub(crate) sidecars: Gauge,
    pub(crate) pushes: Counter,
    pub(crate) push_latency: Histogram,
    pub(crate) streams_refused: Counter,
    pub(crate) certificates_issued: Counter,
    pub(crate) certificates_refused: Counter,
    pub(crate) spans_stored: Counter,
    pub(crate) spans_invalid: Counter,
    pub(crate) spans_evicted: Counter,
    pub(crate) spans_unwritten: Counter,
    pub(crate) handshakes_failed: Counter,
    pub(crate) handshakes_late: Counter,
    pub(crate) key_sets_fetched: Counter,
    pub(crate) key_sets_failed: Counter,
    pub(crate) config_problems: Gauge,
    pub(crate) dns_answered: Counter,
    pub(crate) dns_failed: Counter,
    shard: weft_runtime::metrics::Shard,
}

impl Metrics {
    /// All of them, at zero.
    pub(crate) fn new() -> Arc<Self> {
        let registry = Registry::new();
        let shard = registry.shard();
        registry.declare(&REJECTED);
        registry.declare(&INJECTIONS);
        Arc::new(Self {
            config_version: shard.series(&CONFIG_VERSION, &[]),
            sidecars: shard.series(&SIDECARS, &[]),
            pushes: shard.series(&PUSHES, &[]),
            push_latency: shard.series(&PUSH_LATENCY, &[]),
            streams_refused: shard.series(&STREAMS_REFUSED, &[]),
            certificates_issued: shard.series(&ISSUED, &[]),
            certificates_refused: shard.series(&CERTIFICATES_REFUSED, &[]),
            spans_stored: shard.series(&SPANS_STORED, &[]),
            spans_invalid: shard.series(&SPANS_DROPPED, &["invalid"]),
            spans_evicted: shard.series(&SPANS_DROPPED, &["evicted"]),
            spans_unwritten: shard.series(&SPANS_DROPPED, &["unwritten"]),
            handshakes_failed: shard.series(&HANDSHAKES_FAILED, &["failed"]),
            handshakes_late: shard.series(&HANDSHAKES_FAILED, &["timeout"]),
            key_sets_fetched: shard.series(&KEYS_FETCHED, &["ok"]),
            key_sets_failed: shard.series(&KEYS_FETCHED, &["failed"]),
            dns_answered: shard.series(&DNS, &["ok"]),
            dns_failed: shard.series(&DNS, &["failed"]),
            config_problems: shard.series(&CONFIG_PROBLEMS, &[]),
            registry,
            shard,
        })
    }

    /// Shows how many spans there are.
    pub(crate) fn show_spans(&self, spans: impl Fn() -> usize + Send + Sync + 'static) {
        let held = move || vec![([], f64::from(u32::try_from(spans()).unwrap_or(u32::MAX)))];
        self.registry.gauge_from("weft_spans_held", "Spans in memory.", [], held);
    }

    /// Shows how many look at requests.
    pub(crate) fn show_taps(&self, looking: impl Fn() -> usize + Send + Sync + 'static) {
        let held = move || vec![([], f64::from(u32::try_from(looking()).unwrap_or(u32::MAX)))];
        self.registry.gauge_from("weft_tap_readers", "Who looks at requests as they pass, now.", [], held);
    }

    /// Shows how long the roots and the certificate that signs are still valid.
    pub(crate) fn show_authority(&self, roots: impl Fn() -> Arc<Roots> + Send + Sync + 'static) {
        let left = |end: SystemTime| match end.duration_since(SystemTime::now()) {
            Ok(left) => left.as_secs_f64(),
            Err(over) => -over.duration().as_secs_f64(),
        };
        let held = move || {
            let roots = roots();
            let issuing = (["issuing".to_owned()], left(roots.issuing_not_after()));
            // Of several, the one that certificates lead to.
            let root = roots.roots().ok().and_then(|roots| roots.first().map(|root| root.not_after));
            root.map(|end| (["root".to_owned()], left(end))).into_iter().chain([issuing]).collect()
        };
        self.registry.gauge_from(
            "weft_ca_certificate_expiry_seconds",
            "How long the authority's certificates are still valid; negative once they have expired.",
            ["certificate"],
            held,
        );
    }

    /// Shows whether we lead.
    pub(crate) fn show_leadership(&self, leads: Leadership) {
        let held = move || vec![([], f64::from(u8::from(leads.holds())))];
        let text = "Whether this control plane leads those that share its store; one that is alone does.";
        self.registry.gauge_from("weft_leader", text, [], held);
    }

    pub(crate) fn injected(&self, outcome: &'static str) {
        self.shard.series(&INJECTIONS, &[outcome]).increment();
    }

    pub(crate) fn rejected(&self, kind: &'static str) {
        self.shard.series(&REJECTED, &[kind]).increment();
    }
}
