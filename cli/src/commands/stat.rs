//! `weft stat`: how requests fared.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use weft_proto::v1;

use super::status::Plaintext;
use crate::args::{Common, duration};
use crate::client::{self, answer};
use crate::demo::percent;
use crate::output::{self, Format, Row, harmless};
use crate::target::Target;
use crate::time::milliseconds;

/// Show how requests fared: success rate, requests a second, latencies, retries, by route and caller
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft stat                                every service of the namespace
  weft stat orders                         one, by route and caller
  weft stat --from web --window 10m        all that web has called
  weft stat -A --by service -o json        one row a service, for scripts

A row is of one service, route and caller. Requests count as their caller sees them: after
retries, and with those that reached nobody. A failure is a status of 500 and more, a gRPC
status that blames the server, or an answer of the mesh's own. -o wide shows the state of
circuit breakers and how much came by mutual TLS; below the table stands who was let in
without it.")]
pub(crate) struct Arguments {
    /// The service: NAME or NAME.NAMESPACE [default: all]
    service: Option<String>,
    /// Only requests of this service account: NAME or NAME.NAMESPACE
    #[arg(long, value_name = "ACCOUNT")]
    from: Option<String>,
    /// Of how long a time until now, 6h at most
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1m")]
    window: Duration,
    /// What is told apart [default: everything]
    #[arg(long, value_enum)]
    by: Option<By>,
}

/// What is told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    Service,
    Route,
    Caller,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let by = match arguments.by {
        None => "",
        Some(By::Service) => "service",
        Some(By::Route) => "route",
        Some(By::Caller) => "caller",
    };
    let request = v1::StatRequest {
        namespace: common.namespace.to_string(),
        all_namespaces: common.all_namespaces,
        service: arguments.service.unwrap_or_default(),
        from: arguments.from.unwrap_or_default(),
        window_ms: u64::try_from(arguments.window.as_millis()).unwrap_or(u64::MAX).max(1),
        by: by.to_owned(),
    };
    let v1::StatResponse { rows, missing, .. } = answer(admin.stat(request).await)?;
    output::missing(&missing)?;
    let rows: Vec<_> = rows.into_iter().map(|row| Stat::new(row, common)).collect();
    output::list(common.output, &rows)?;
    if common.output == Format::Table {
        for row in rows.iter().filter(|row| row.circuit != "closed") {
            output::note(&row.about_circuit())?;
        }
        for told in rows.iter().filter_map(Stat::about_plaintext).collect::<BTreeSet<_>>() {
            output::note(&told)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// How the requests of one caller to one service fared, on one route.
#[derive(Debug, Serialize)]
pub(super) struct Stat {
    service: String,
    route: String,
    caller: String,
    rps: f64,
    success_rate: f64,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    retries: u64,
    namespace: String,
    requests: u64,
    mtls_rate: f64,
    circuit: String,
    circuits_open: u32,
    plaintext: Vec<Plaintext>,
    /// The service as it is shown: with its namespace, where that is not the one asked about.
    #[serde(skip)]
    shown: String,
}

impl Stat {
    pub(super) fn new(row: v1::StatRow, common: &Common) -> Self {
        let shown = if row.namespace == common.namespace.as_str() || row.namespace.is_empty() {
            row.service.clone()
        } else {
            format!("{}.{}", row.service, row.namespace)
        };
        Self {
            service: row.service,
            route: row.route,
            caller: row.caller,
            rps: row.rps,
            success_rate: row.success_rate,
            p50_ms: row.p50_ms,
            p95_ms: row.p95_ms,
            p99_ms: row.p99_ms,
            retries: row.retries,
            namespace: row.namespace,
            requests: row.requests,
            mtls_rate: row.mtls_rate,
            circuit: row.circuit,
            circuits_open: row.circuits_open,
            plaintext: row.plaintext.into_iter().map(Plaintext::from).collect(),
            shown,
        }
    }

    /// Who still needs plaintext to be taken.
    fn about_plaintext(&self) -> Option<String> {
        let callers: Vec<_> = self.plaintext.iter().map(Plaintext::named).collect();
        let callers = (!callers.is_empty()).then(|| callers.join(", "))?;
        Some(format!("plaintext: {} takes it from {}", harmless(&self.shown), harmless(&callers)))
    }

    fn about_circuit(&self) -> String {
        let from = if self.caller.is_empty() { "somebody" } else { &self.caller };
        let open = match self.circuits_open {
            0 => "is tried again".to_owned(),
            1 => "is open".to_owned(),
            many => format!("is open towards {many} endpoints"),
        };
        format!("circuit breaker: from {} to {} {open}", harmless(from), harmless(&self.shown))
    }
}

impl Row for Stat {
    const COLUMNS: &'static [&'static str] =
        &["SERVICE", "ROUTE", "CALLER", "SUCCESS", "RPS", "P50", "P95", "P99", "RETRIES", "CIRCUIT", "MTLS"];
    const WIDE_ONLY: usize = 2;
    const PLURAL: &'static str = "requests in this time";

    fn cells(&self) -> Vec<String> {
        let or = |text: &str, empty: &str| if text.is_empty() { empty.to_owned() } else { harmless(text) };
        vec![
            harmless(&self.shown),
            or(&self.route, "-"),
            or(&self.caller, "all"),
            percent(self.success_rate),
            rate(self.rps),
            milliseconds(self.p50_ms),
            milliseconds(self.p95_ms),
            milliseconds(self.p99_ms),
            self.retries.to_string(),
            self.circuit.clone(),
            percent(self.mtls_rate),
        ]
    }
}

/// Requests a second, with as many digits as matter.
fn rate(rps: f64) -> String {
    match rps {
        rps if rps < 10.0 => format!("{rps:.2}"),
        rps if rps < 1_000.0 => format!("{rps:.1}"),
        rps => format!("{rps:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn stat(namespace: &str) -> Stat {
        let line = crate::args::Arguments::try_parse_from(["weft", "stat"]).unwrap();
        let row = v1::StatRow {
            namespace: namespace.into(),
            service: "orders".into(),
            route: String::new(),
            caller: "web".into(),
            requests: 600,
            rps: 10.0,
            success_rate: 0.995,
            p50_ms: 1.25,
            p95_ms: 20.0,
            p99_ms: 40.5,
            retries: 3,
            circuit: "open".into(),
            circuits_open: 2,
            mtls_rate: 1.0,
            plaintext: vec![v1::PlaintextHeard {
                caller: "default/legacy".into(),
                address: "10.0.0.9".into(),
                port: 8080,
                last_seen: "2026-01-03T03:04:05Z".into(),
            }],
        };
        Stat::new(row, &line.common)
    }

    #[test]
    fn the_json_is_as_scripts_rely_on() {
        assert_eq!(
            serde_json::to_string(&stat("default")).unwrap(),
            r#"{"service":"orders","route":"","caller":"web","rps":10.0,"success_rate":0.995,"p50_ms":1.25,"p95_ms":20.0,"p99_ms":40.5,"retries":3,"namespace":"default","requests":600,"mtls_rate":1.0,"circuit":"open","circuits_open":2,"plaintext":[{"caller":"default/legacy","address":"10.0.0.9","port":8080,"last_seen":"2026-01-03T03:04:05Z"}]}"#
        );
    }

    #[test]
    fn a_row_is_read_at_80_columns_and_open_circuits_are_told_of() {
        let shop = stat("shop");
        assert_eq!(shop.cells().len(), Stat::COLUMNS.len());
        assert_eq!(
            output::align([shop.cells().into_iter().take(9).collect()]),
            "orders.shop  -  web  99.50%  10.0  1.2ms  20ms  40ms  3\n"
        );
        assert_eq!(
            shop.about_circuit(),
            "circuit breaker: from web to orders.shop is open towards 2 endpoints"
        );
        assert_eq!(
            shop.about_plaintext().as_deref(),
            Some("plaintext: orders.shop takes it from default/legacy on port 8080")
        );
    }
}
