//! `weft traces`: recent traces.

use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use weft_proto::v1;

use crate::args::{Common, duration, key_value};
use crate::client::{self, answer};
use crate::output::{self, Format, Row, harmless};
use crate::target::Target;
use crate::time::{milliseconds, until};

/// Show recent traces, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft traces
  weft traces --service orders --errors
  weft traces --slower-than 100ms --limit 5 -o json
  weft traces --status 503 --since 10m
  weft traces --attribute weft.source=default/web --route /orders")]
pub(crate) struct Arguments {
    /// Only traces that this service took part in
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only traces with an error
    #[arg(long)]
    errors: bool,
    /// Only traces that took longer
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    slower_than: Option<Duration>,
    /// Only traces with a span on this route
    #[arg(long, value_name = "ROUTE")]
    route: Option<String>,
    /// Only traces with a span that ended with this HTTP status
    #[arg(long)]
    status: Option<u16>,
    /// Only traces with a span that has this attribute; several: one that has them all
    #[arg(long = "attribute", value_name = "KEY=VALUE", value_parser = key_value)]
    attributes: Vec<(String, String)>,
    /// Only traces that came in no longer ago
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    since: Option<Duration>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let request = v1::TracesRequest {
        service: arguments.service.unwrap_or_default(),
        errors: arguments.errors,
        slower_than_ms: arguments.slower_than.unwrap_or_default().as_secs_f64() * 1000.0,
        limit: arguments.limit,
        route: arguments.route.unwrap_or_default(),
        status: arguments.status.map_or(0, Into::into),
        attributes: arguments.attributes.into_iter().collect(),
        since_ms: arguments
            .since
            .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX).max(1)),
    };
    let v1::TracesResponse { traces, missing } = answer(admin.traces(request).await)?;
    output::missing(&missing)?;
    // The beginning of an id is enough to ask by.
    let shown = match output::room() {
        Some(room) if room < 120 && common.output == Format::Table => 16,
        _ => 32,
    };
    output::list(
        common.output,
        &traces.into_iter().map(|trace| Trace::new(trace, shown)).collect::<Vec<_>>(),
    )?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Debug, Serialize)]
struct Trace {
    trace_id: String,
    root: String,
    service: String,
    start: String,
    duration_ms: f64,
    spans: u32,
    services: Vec<String>,
    errors: u32,
    /// Of the id, in a table.
    #[serde(skip)]
    shown: usize,
}

impl Trace {
    fn new(trace: v1::TraceSummary, shown: usize) -> Self {
        let v1::TraceSummary { trace_id, root, service, start, duration_ms, spans, services, errors } = trace;
        Self { trace_id, root, service, start, duration_ms, spans, services, errors, shown }
    }
}

impl Row for Trace {
    const COLUMNS: &'static [&'static str] =
        &["TRACE", "START", "SERVICE", "ROOT", "DURATION", "SPANS", "ERRORS", "SERVICES"];
    const WIDE_ONLY: usize = 1;
    const PLURAL: &'static str = "traces";

    fn cells(&self) -> Vec<String> {
        vec![
            self.trace_id.chars().take(self.shown).collect(),
            until(&self.start),
            harmless(&self.service),
            harmless(&self.root),
            milliseconds(self.duration_ms),
            self.spans.to_string(),
            self.errors.to_string(),
            harmless(&self.services.join(",")),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_as_scripts_rely_on() {
        let summary = v1::TraceSummary {
            trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
            root: "GET /".into(),
            service: "web".into(),
            start: "2026-01-02T03:04:05Z".into(),
            duration_ms: 1.5,
            spans: 8,
            services: vec!["orders".into(), "web".into()],
            errors: 0,
        };
        let trace = Trace::new(summary, 16);
        assert_eq!(
            serde_json::to_string(&trace).unwrap(),
            r#"{"trace_id":"4bf92f3577b34da6a3ce929d0e0e4736","root":"GET /","service":"web","start":"2026-01-02T03:04:05Z","duration_ms":1.5,"spans":8,"services":["orders","web"],"errors":0}"#
        );
        assert_eq!(trace.cells().len(), Trace::COLUMNS.len());
        assert_eq!(trace.cells()[0], "4bf92f3577b34da6");
    }
}
