//! What control planes tell one another, as messages and back. What cannot be read is left out.

use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind as WireKind;
use weft_core::model::QualifiedName;
use weft_proto::v1;

use crate::push::SyncState;
use crate::status::{Known, PlaintextCaller};
use crate::telemetry::{Counted, Errors, Filter, Of, Span, SpanId, SpanKind, Tally, TraceId};

/// Unix time in milliseconds.
pub(crate) fn milliseconds(time: SystemTime) -> u64 {
    long(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis())
}

/// And back.
pub(super) fn at_milliseconds(since: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(since)).unwrap_or(UNIX_EPOCH)
}

/// The same in microseconds.
pub(crate) fn microseconds(time: SystemTime) -> u64 {
    long(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros())
}

/// And back.
pub(super) fn at_microseconds(since: u64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_micros(since)).unwrap_or(UNIX_EPOCH)
}

fn long(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

/// What was counted, for another one.
pub(super) fn counted(counted: Counted) -> v1::CountedResponse {
    let row = |(of, tally): (Of, Tally)| v1::CountedRow {
        service: of.service.to_string(),
        caller: of.caller.to_string(),
        route: of.route.to_string(),
        tally: Some(tally.to_wire()),
    };
    v1::CountedResponse {
        rows: counted.sums.into_iter().map(row).collect(),
        over_ms: long(counted.over.as_millis()),
        circuits: counted
            .circuits
            .into_iter()
            .map(|(caller, circuit)| v1::CallersCircuit {
                caller: caller.to_string(),
                circuit: Some(circuit),
            })
            .collect(),
    }
}

/// What another one counted.
pub(crate) fn read_counted(told: v1::CountedResponse) -> Counted {
    let row = |row: v1::CountedRow| {
        let of = Of { service: row.service.into(), caller: row.caller.into(), route: row.route.into() };
        (of, Tally::told(&row.tally.unwrap_or_default()))
    };
    let circuit = |told: v1::CallersCircuit| Some((told.caller.into(), told.circuit?));
    Counted {
        sums: told.rows.into_iter().map(row).collect(),
        over: Duration::from_millis(told.over_ms),
        circuits: told.circuits.into_iter().filter_map(circuit).collect(),
    }
}

/// Which traces, for another one.
pub(crate) fn find(filter: &Filter) -> v1::FindTracesRequest {
    v1::FindTracesRequest {
        service: filter.service.clone().unwrap_or_default(),
        errors: filter.errors == Errors::Only,
        slower_than_us: long(filter.slower_than.as_micros()),
        route: filter.route.clone().unwrap_or_default(),
        status: filter.status.unwrap_or_default(),
        attributes: filter.attributes.iter().cloned().collect(),
        since_us: filter.since.map(microseconds).unwrap_or_default(),
        until_us: filter.until.map(microseconds).unwrap_or_default(),
        limit: u32::try_from(filter.limit).unwrap_or(u32::MAX),
    }
}

/// Which traces another one asks for.
pub(super) fn read_find(asked: v1::FindTracesRequest) -> Filter {
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    let time = |since: u64| (since > 0).then(|| at_microseconds(since));
    Filter {
        service: text(asked.service),
        errors: if asked.errors { Errors::Only } else { Errors::Any },
        slower_than: Duration::from_micros(asked.slower_than_us),
        route: text(asked.route),
        status: Some(asked.status).filter(|status| *status > 0),
        attributes: asked.attributes.into_iter().collect(),
        since: time(asked.since_us),
        until: time(asked.until_us),
        limit: usize::try_from(asked.limit).unwrap_or(usize::MAX),
    }
}

/// Identifiers of traces.
pub(crate) fn read_ids(told: &[Vec<u8>]) -> impl Iterator<Item = TraceId> {
    told.iter().filter_map(|id| id.as_slice().try_into().ok().map(TraceId))
}

/// A span for another one.
pub(super) fn span(span: Span) -> v1::KeptSpan {
    let attribute = |(key, value)| v1::Attribute { key, value };
    let start = span.start.duration_since(UNIX_EPOCH).unwrap_or_default();
    v1::KeptSpan {
        trace_id: span.trace.0.to_vec(),
        span_id: span.id.0.to_vec(),
        parent_id: span.parent.map(|parent| parent.0.to_vec()).unwrap_or_default(),
        service: span.service.to_string(),
        kind: u32::try_from(i32::from(span.kind.to_wire())).unwrap_or_default(),
        name: span.name,
        start_ns: long(start.as_nanos()),
        duration_ns: long(span.duration.as_nanos()),
        attributes: span.attributes.into_iter().map(attribute).collect(),
        error: span.error,
    }
}

/// A span of another one.
pub(crate) fn read_span(told: v1::KeptSpan) -> Option<Span> {
    let kind = i32::try_from(told.kind).ok().and_then(|kind| WireKind::try_from(kind).ok());
    Some(Span {
        trace: TraceId(told.trace_id.try_into().ok()?),
        id: SpanId(told.span_id.try_into().ok()?),
        parent: told.parent_id.try_into().ok().map(SpanId),
        service: told.service.into(),
        kind: SpanKind::of(kind.unwrap_or_default()),
        name: told.name,
        start: UNIX_EPOCH.checked_add(Duration::from_nanos(told.start_ns))?,
        duration: Duration::from_nanos(told.duration_ns),
        attributes: told.attributes.into_iter().map(|it| (it.key, it.value)).collect(),
        error: told.error,
    })
}

/// A sidecar that is connected here, for another one.
pub(super) fn connected((name, known): (QualifiedName, Known)) -> v1::ConnectedSidecar {
    let stranger = |caller: PlaintextCaller| v1::Stranger {
        address: caller.address.to_string(),
        port: caller.port.into(),
        last_seen_us: microseconds(caller.last_seen),
    };
    v1::ConnectedSidecar {
        workload: name.to_string(),
        revision: known.sync.revision,
        in_sync: known.sync.in_sync,
        rejected: known
            .sync
            .rejected
            .into_iter()
            .map(|(resource, reason)| v1::Refused { resource, reason })
            .collect(),
        plaintext: known.plaintext.into_iter().map(stranger).collect(),
    }
}

/// The sidecars that are connected to others.
pub(crate) fn read_connected(told: Vec<v1::ConnectedResponse>) -> HashMap<QualifiedName, Known> {
    let stranger = |told: v1::Stranger| {
        Some(PlaintextCaller {
            address: told.address.parse().ok()?,
            port: told.port.try_into().ok()?,
            last_seen: at_microseconds(told.last_seen_us),
        })
    };
    let sidecar = |told: v1::ConnectedSidecar| {
        let rejected = told.rejected.into_iter().map(|it| (it.resource, it.reason)).collect();
        let sync = SyncState { revision: told.revision, in_sync: told.in_sync, rejected, trust: None };
        let plaintext = told.plaintext.into_iter().filter_map(stranger).collect();
        Some((told.workload.parse().ok()?, Known { sync, plaintext }))
    };
    told.into_iter().flat_map(|told| told.sidecars).filter_map(sidecar).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_the_same_after_the_way_and_none_where_it_is_none() {
        let whole = Span {
            trace: TraceId([1; 16]),
            id: SpanId([2; 8]),
            parent: Some(SpanId([3; 8])),
            service: "web".into(),
            kind: SpanKind::Client,
            name: "GET".into(),
            start: UNIX_EPOCH + Duration::from_nanos(123_456_789),
            duration: Duration::from_nanos(987),
            attributes: vec![("http.route".into(), "/a".into())],
            error: true,
        };
        assert_eq!(read_span(span(whole.clone())), Some(whole.clone()));
        let root = Span { parent: None, ..whole.clone() };
        assert_eq!(read_span(span(root.clone())), Some(root));
        let short = v1::KeptSpan { trace_id: vec![1; 15], ..span(whole) };
        assert_eq!(read_span(short), None);
    }

    #[test]
    fn a_filter_is_the_same_after_the_way() {
        let filter = Filter {
            service: Some("web".into()),
            errors: Errors::Only,
            slower_than: Duration::from_millis(5),
            route: Some("/a".into()),
            status: Some(503),
            attributes: vec![("a".into(), "b".into())],
            since: Some(at_microseconds(7)),
            until: None,
            limit: 20,
        };
        assert_eq!(format!("{:?}", read_find(find(&filter))), format!("{filter:?}"));
        let every = Filter { limit: 1, ..Filter::default() };
        assert_eq!(format!("{:?}", read_find(find(&every))), format!("{every:?}"));
    }

    #[test]
    fn what_was_counted_is_the_same_after_the_way() {
        let row = v1::GoldenRow { requests: 3, failures: 1, buckets: vec![1, 2], ..Default::default() };
        let of = Of { service: "default/orders".into(), caller: "default/web".into(), route: "".into() };
        let circuit = v1::Circuit { service: "default/orders".into(), ..Default::default() };
        let all = || Counted {
            sums: [(of.clone(), Tally::of(&row, &[1_000]))].into(),
            over: Duration::from_secs(60),
            circuits: vec![("default/web".into(), circuit.clone())],
        };
        let read = read_counted(counted(all()));
        assert_eq!((read.sums, read.over, read.circuits), (all().sums, all().over, all().circuits));
    }

    #[test]
    fn of_sidecars_what_cannot_be_read_is_left_out() {
        let known = Known {
            sync: SyncState { revision: 3, in_sync: true, ..SyncState::default() },
            plaintext: vec![PlaintextCaller {
                address: "10.0.0.1".parse().unwrap(),
                port: 80,
                last_seen: at_microseconds(5),
            }],
        };
        let name: QualifiedName = "default/web-1".parse().unwrap();
        let mut sidecar = connected((name.clone(), known.clone()));
        sidecar.plaintext.push(v1::Stranger { address: "?".into(), port: 1 << 20, last_seen_us: 0 });
        let nameless = v1::ConnectedSidecar { workload: "?".into(), ..v1::ConnectedSidecar::default() };
        let told = v1::ConnectedResponse { sidecars: vec![sidecar, nameless] };
        let read = read_connected(vec![told]);
        assert_eq!(read.len(), 1);
        assert_eq!(read[&name], known);
    }
}
