//! What a sidecar's metrics say about the requests that came in.

use std::collections::BTreeMap;

/// What came in at a sidecar.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Inbound {
    pub(crate) requests: f64,
    failed: f64,
    mutual: f64,
    /// Requests by the bound that they did not exceed: bounds in microseconds, counts cumulative.
    buckets: BTreeMap<u64, f64>,
}

impl Inbound {
    /// Reads metrics in Prometheus' text format.
    pub(crate) fn parse(metrics: &str) -> Self {
        let mut inbound = Self::default();
        for (name, labels, value) in metrics.lines().filter_map(parse_sample) {
            if label(labels, "direction") != Some("inbound") {
                continue;
            }
            match name {
                "weft_requests_total" => {
                    inbound.requests += value;
                    inbound.failed += if is_failure(labels) { value } else { 0.0 };
                    inbound.mutual += if label(labels, "tls") == Some("mutual") { value } else { 0.0 };
                }
                "weft_request_duration_seconds_bucket" => {
                    if let Some(bound) = label(labels, "le").and_then(parse_bound) {
                        *inbound.buckets.entry(bound).or_default() += value;
                    }
                }
                _ => {}
            }
        }
        inbound
    }

    /// The share that succeeded; 1 where there were none.
    pub(crate) fn success_rate(&self) -> f64 {
        share(self.requests - self.failed, self.requests)
    }

    /// The share that came by mutual TLS; 1 where there were none.
    pub(crate) fn mtls_rate(&self) -> f64 {
        share(self.mutual, self.requests)
    }

    /// What the given share of the requests did not exceed, in milliseconds, interpolated within its bucket.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        let total = self.buckets.values().copied().fold(0.0, f64::max);
        let rank = share * total;
        let (mut lower_bound, mut below) = (0.0, 0.0);
        for (&bound, &count) in &self.buckets {
            let bound = bound as f64 / 1000.0;
            if count >= rank && count > below {
                return lower_bound + (bound - lower_bound) * (rank - below) / (count - below);
            }
            (lower_bound, below) = (bound, count);
        }
        lower_bound
    }
}

/// The share of all requests that came by mutual TLS; 0 where there were none.
pub(crate) fn mtls_rate<'a>(inbound: impl Iterator<Item = &'a Inbound>) -> f64 {
    let (mutual, requests) =
        inbound.fold((0.0, 0.0), |(mutual, requests), each| (mutual + each.mutual, requests + each.requests));
    if requests > 0.0 { mutual / requests } else { 0.0 }
}

fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { part / whole } else { 1.0 }
}

fn is_failure(labels: &str) -> bool {
    let given = |name| label(labels, name).filter(|value| !value.is_empty());
    given("error").is_some()
        || given("status").is_some_and(|status| status.starts_with('5'))
        || given("grpc_status").is_some_and(|status| status != "0")
}

/// A line's name, labels and value; comments are none.
fn parse_sample(line: &str) -> Option<(&str, &str, f64)> {
    let (series, rest) = line.split_once("} ")?;
    let (name, labels) = series.split_once('{')?;
    let value = rest.split(' ').next()?.parse().ok()?;
    (!name.starts_with('#')).then_some((name, labels, value))
}

/// A label's value. Those asked for hold no quotes or commas.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
}

/// A bucket's bound in whole microseconds; none for the last bucket, which has no bound.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounds are small and positive")]
fn parse_bound(bound: &str) -> Option<u64> {
    let seconds: f64 = bound.parse().ok()?;
    seconds.is_finite().then(|| (seconds * 1e6).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = r#"# HELP weft_requests_total Requests that ended.
# TYPE weft_requests_total counter
weft_requests_total{direction="inbound",source="web",protocol="http/1.1",status="200",grpc_status="",error="",tls="mutual"} 90
weft_requests_total{direction="inbound",source="web",protocol="http/1.1",status="502",grpc_status="",error="",tls="mutual"} 5
weft_requests_total{direction="inbound",source="web",protocol="grpc",status="200",grpc_status="14",error="",tls="mutual"} 3
weft_requests_total{direction="inbound",source="",protocol="http/1.1",status="200",grpc_status="",error="",tls="none"} 2
weft_requests_total{direction="outbound",source="web",protocol="http/1.1",status="200",grpc_status="",error="",tls="mutual"} 7
weft_request_duration_seconds_bucket{direction="inbound",source="web",le="0.001"} 50
weft_request_duration_seconds_bucket{direction="inbound",source="web",le="0.01"} 99
weft_request_duration_seconds_bucket{direction="inbound",source="web",le="+Inf"} 100
process_open_fds 12
"#;

    #[test]
    fn only_what_came_in_counts() {
        let inbound = Inbound::parse(METRICS);
        assert_eq!(inbound.requests, 100.0);
        assert_eq!(inbound.success_rate(), 0.92);
        assert_eq!(inbound.mtls_rate(), 0.98);
        assert_eq!(mtls_rate([inbound.clone(), inbound].iter()), 0.98);
    }

    #[test]
    fn quantiles_are_interpolated() {
        let inbound = Inbound::parse(METRICS);
        assert!((inbound.quantile_ms(0.5) - 0.99).abs() < 1e-9, "{}", inbound.quantile_ms(0.5));
        assert!((inbound.quantile_ms(1.0) - 10.0).abs() < 1e-9, "{}", inbound.quantile_ms(1.0));
    }

    #[test]
    fn no_requests_are_no_failures_and_no_proof_of_encryption() {
        let inbound = Inbound::parse("garbage\n{} \nweft_requests_total{direction=\"inbound\"} x\n");
        assert_eq!(inbound, Inbound::default());
        assert_eq!((inbound.success_rate(), inbound.quantile_ms(0.5)), (1.0, 0.0));
        assert_eq!(mtls_rate([inbound].iter()), 0.0);
    }
}
