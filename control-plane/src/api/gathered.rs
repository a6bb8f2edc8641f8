//! What all control planes over our store hold together: what we hold, and what the others tell in time.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use tonic::Status;
use weft_core::model::QualifiedName;
use weft_proto::v1;

use super::AdminService;
use crate::status::{Known, Which};
use crate::taps::Watching;
use crate::telemetry::{By, Counted, Filter, Span, Summary, Tally, TraceId};
use crate::together::{Asking, wire};

impl AdminService {
    /// What was counted in a time until now.
    pub(crate) async fn counted(&self, asking: &mut Asking<'_>, window: Duration, by: By) -> Counted {
        let now = SystemTime::now();
        let mut counted = self.counted_here(now, window, by);
        let request = v1::CountedRequest {
            now_ms: wire::milliseconds(now),
            window_ms: milliseconds(window),
            by: by.as_str().to_owned(),
        };
        let told = asking.each(|mut client| {
            let request = request.clone();
            async move { client.counted(request).await }
        });
        told.await.into_iter().for_each(|told| counted.add(wire::read_counted(told)));
        counted
    }

    /// What was asked of a service, step by step.
    pub(crate) async fn course(
        &self,
        asking: &mut Asking<'_>,
        service: &QualifiedName,
        window: Duration,
        step: Duration,
    ) -> Vec<Option<Tally>> {
        let (now, service) = (SystemTime::now(), service.to_string());
        let mut course = self.course_here(&service, now, window, step);
        let request = v1::CourseRequest {
            now_ms: wire::milliseconds(now),
            window_ms: milliseconds(window),
            step_ms: milliseconds(step),
            service,
        };
        let told = asking.each(|mut client| {
            let request = request.clone();
            async move { client.course(request).await }
        });
        for told in told.await {
            for (point, told) in course.iter_mut().zip(told.points) {
                if let Some(told) = told.tally {
                    point.get_or_insert_default().add(&Tally::told(&told));
                }
            }
        }
        course
    }

    /// The traces that pass the filter, newest first. One passes where it does by the spans that one of us holds; it is summed up over the
    /// spans of all.
    pub(crate) async fn list_traces(&self, asking: &mut Asking<'_>, filter: &Filter) -> Vec<Summary> {
        let found = self.telemetry.traces().list(filter);
        if asking.is_alone() {
            return found;
        }
        let request = wire::find(filter);
        let told = asking.each(|mut client| {
            let request = request.clone();
            async move { client.find_traces(request).await }
        });
        let mut ids: BTreeSet<_> = found.iter().map(|summary| summary.id).collect();
        told.await.iter().for_each(|told| ids.extend(wire::read_ids(&told.trace_ids)));
        let trace_ids: Vec<_> = ids.iter().map(|id| id.0.to_vec()).collect();
        let told = asking.each(|mut client| {
            let request = v1::BonesRequest { trace_ids: trace_ids.clone() };
            async move { client.bones(request).await }
        });
        let told = told.await.into_iter().flat_map(|told| told.spans).filter_map(wire::read_span);
        let mut traces: BTreeMap<TraceId, Vec<Span>> = BTreeMap::new();
        let own = self.telemetry.traces().bones(ids.iter().copied());
        for span in once_each(own.into_iter().chain(told)) {
            traces.entry(span.trace).or_default().push(span);
        }
        let mut all: Vec<_> = traces.iter().filter_map(|(id, spans)| Summary::of(*id, spans)).collect();
        all.sort_by_key(|summary| std::cmp::Reverse(summary.start));
        all.truncate(filter.limit);
        all
    }

    /// The spans of the one trace whose id begins with these hexadecimal digits, by start; none where there is no such trace, or several.
    pub(crate) async fn find_trace(
        &self,
        asking: &mut Asking<'_>,
        prefix: &str,
    ) -> Option<(TraceId, Vec<Span>)> {
        let mut ids: BTreeSet<_> = self.telemetry.traces().matching(prefix).into_iter().collect();
        let told = asking.each(|mut client| {
            let request = v1::TraceRequest { trace_id: prefix.to_owned() };
            async move { client.spans(request).await }
        });
        let told = told.await;
        told.iter().for_each(|told| ids.extend(wire::read_ids(&told.trace_ids)));
        let id = ids.pop_first().filter(|_| ids.is_empty())?;
        let told = told.into_iter().flat_map(|told| told.spans).filter_map(wire::read_span);
        let own = self.telemetry.traces().spans_of(id);
        let mut spans = once_each(own.into_iter().chain(told.filter(|span| span.trace == id)));
        spans.sort_by_key(|span| (span.start, std::cmp::Reverse(span.duration)));
        Some((id, spans))
    }

    /// The sidecars that are connected to the others.
    pub(super) async fn elsewhere(
        &self,
        asking: &mut Asking<'_>,
        which: Which,
    ) -> HashMap<QualifiedName, Known> {
        let told = asking.each(|mut client| {
            let request = v1::ConnectedRequest { with_plaintext: which == Which::WithPlaintext };
            async move { client.connected(request).await }
        });
        wire::read_connected(told.await)
    }

    /// Requests as they pass any of us.
    pub(crate) async fn tap(&self, request: v1::TapRequest) -> Result<Watching, Status> {
        let here = self.tap_here(&request)?;
        let mut asking = self.together.asking();
        let elsewhere = asking.each(|mut client| {
            let request = request.clone();
            async move { client.tap(request).await }
        });
        let elsewhere = elsewhere.await;
        Ok(here.joined_by(elsewhere, asking.missing().words()))
    }
}

/// An exporter may have tried again at another one.
fn once_each(spans: impl Iterator<Item = Span>) -> Vec<Span> {
    let mut seen = HashSet::new();
    spans.filter(|span| seen.insert((span.trace, span.id))).collect()
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
