//! Zipkin's JSON, version 2 (zipkin.io/zipkin-api), with OpenTelemetry's attributes as its tags.

use std::time::UNIX_EPOCH;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::Who;
use crate::observe::event::Direction;
use crate::observe::record::Record;
use crate::observe::span::{self, Tags};

/// A span.
pub(super) fn encode(record: &Record, who: &Who) -> Bytes {
    let (service, _) = who.service();
    let (kind, peer, other) = match record.direction {
        Direction::Inbound => ("SERVER", record.client, &record.source),
        Direction::Outbound => ("CLIENT", record.upstream, &record.destination),
    };
    let mut remote = json!({ "serviceName": &**other });
    if let (Some(peer), Some(remote)) = (peer, remote.as_object_mut()) {
        let ip = peer.ip().to_canonical();
        remote.insert(if ip.is_ipv4() { "ipv4" } else { "ipv6" }.to_owned(), json!(ip.to_string()));
        remote.insert("port".to_owned(), json!(peer.port()));
    }
    let mut tags = JsonTags::default();
    span::attributes(record, &mut tags);
    let (started, duration) = record.tried;
    let started = started.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut all = json!({
        "traceId": record.trace.trace.to_string(),
        "id": record.trace.span.to_string(),
        "kind": kind,
        "name": span::name(record).concat(),
        "timestamp": microseconds(started),
        // Zero is no duration to Zipkin, but unknown.
        "duration": microseconds(duration).max(1),
        "localEndpoint": { "serviceName": service },
        "remoteEndpoint": remote,
        "tags": tags.0,
    });
    if let (Some(parent), Some(all)) = (record.parent, all.as_object_mut()) {
        all.insert("parentId".to_owned(), json!(parent.to_string()));
    }
    if let (Some(error), Some(tags)) =
        (span::error_type(record), all.get_mut("tags").and_then(Value::as_object_mut))
    {
        tags.insert("error".to_owned(), json!(error));
    }
    all.to_string().into()
}

/// A list of spans.
pub(super) fn join(batch: &[Bytes]) -> Vec<u8> {
    let mut list = vec![b'['];
    for (index, span) in batch.iter().enumerate() {
        if index > 0 {
            list.push(b',');
        }
        list.extend_from_slice(span);
    }
    list.push(b']');
    list
}

#[derive(Default)]
struct JsonTags(Map<String, Value>);

impl Tags for JsonTags {
    fn joined(&mut self, key: &str, parts: &[&str]) {
        self.0.insert(key.to_owned(), json!(parts.concat()));
    }

    fn number(&mut self, key: &str, value: u64) {
        self.0.insert(key.to_owned(), json!(value.to_string()));
    }
}

fn microseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
