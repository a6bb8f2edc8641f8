//! traces, trace.

use std::time::{Duration, SystemTime};

use tonic::Status;
use weft_proto::v1;

use super::AdminService;
use crate::report::rfc3339_micros;
use crate::telemetry::{Errors, Filter, Span, Summary, TraceId};

/// Traces that are listed where no number is given.
const LISTED: usize = 20;
/// Traces that are listed at most.
const MOST: usize = 1000;

impl AdminService {
    pub(super) async fn traces(&self, request: v1::TracesRequest) -> Result<v1::TracesResponse, Status> {
        let limit = match usize::try_from(request.limit).unwrap_or(MOST) {
            0 => LISTED,
            limit => limit.min(MOST),
        };
        let slower_than = Duration::try_from_secs_f64(request.slower_than_ms / 1000.0)
            .map_err(|error| Status::invalid_argument(format!("slower than: {error}")))?;
        let filter = Filter {
            service: Some(request.service).filter(|service| !service.is_empty()),
            errors: if request.errors { Errors::Only } else { Errors::Any },
            slower_than,
            route: Some(request.route).filter(|route| !route.is_empty()),
            status: Some(request.status).filter(|status| *status > 0),
            attributes: request.attributes.into_iter().collect(),
            since: (request.since_ms > 0)
                .then(|| SystemTime::now().checked_sub(Duration::from_millis(request.since_ms)))
                .flatten(),
            until: None,
            limit,
        };
        let mut asking = self.together.asking();
        let traces = self.list_traces(&mut asking, &filter).await;
        let missing = asking.missing().words();
        Ok(v1::TracesResponse { traces: traces.iter().map(summary).collect(), missing })
    }

    pub(super) async fn trace(&self, request: v1::TraceRequest) -> Result<v1::TraceResponse, Status> {
        let (id, spans, missing) = self.trace_of(&request.trace_id).await?;
        let spans = spans.into_iter().map(span).collect();
        Ok(v1::TraceResponse { trace_id: id.to_string(), spans, missing })
    }

    /// The one trace whose id begins so, and who did not answer.
    pub(super) async fn trace_of(&self, id: &str) -> Result<(TraceId, Vec<Span>, String), Status> {
        let mut asking = self.together.asking();
        let found = self.find_trace(&mut asking, id).await;
        let missing = asking.missing().words();
        let Some((id, spans)) = found else {
            let asked: String = id.chars().take(40).collect();
            let missing = if missing.is_empty() { missing } else { format!("; {missing}") };
            return Err(Status::not_found(format!(
                "no trace's id begins with {asked:?}, or several do{missing}"
            )));
        };
        Ok((id, spans, missing))
    }
}

fn summary(summary: &Summary) -> v1::TraceSummary {
    let number = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    v1::TraceSummary {
        trace_id: summary.id.to_string(),
        root: summary.root.clone(),
        service: summary.service.to_string(),
        start: rfc3339_micros(summary.start),
        duration_ms: summary.duration.as_secs_f64() * 1000.0,
        spans: number(summary.spans),
        services: summary.services.iter().map(ToString::to_string).collect(),
        errors: number(summary.errors),
    }
}

fn span(span: Span) -> v1::Span {
    v1::Span {
        span_id: span.id.to_string(),
        parent_id: span.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        service: span.service.to_string(),
        kind: span.kind.as_str().into(),
        name: span.name,
        start: rfc3339_micros(span.start),
        duration_ms: span.duration.as_secs_f64() * 1000.0,
        attributes: span.attributes.into_iter().collect(),
        error: span.error,
        inferred: false,
    }
}
