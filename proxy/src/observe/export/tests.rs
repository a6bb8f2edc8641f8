//! What becomes of spans where receivers are away, slow, refuse, or half-accept.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use weft_core::model::AccessLog;
use weft_runtime::metrics::{Format, Registry};
use weft_runtime::{drain, http as server, task};

use super::super::record::QUEUE;
use super::super::{Direction, Observe, Observer, Party, tests::request};
use super::*;
use crate::state;

struct Harness {
    observer: Observer,
    registry: Registry,
    exporter: Exporter<Vec<u8>>,
    _keep: (Observe, watch::Sender<Option<Channel>>, state::Publisher),
}

fn harness() -> Harness {
    let registry = Registry::new();
    let (observe, queue) = Observe::new(&registry);
    observe.set_access_log(AccessLog::Json, 1_000_000);
    let (discovery, publisher, _asked) = state::channel(Vec::new());
    let (keep, collector) = watch::channel(None);
    let who = Who { discovery, workload: "web".parse().unwrap(), resource: Arc::default() };
    let (shard, log) = (registry.shard(), Vec::new());
    let exporter = Exporter { queue, collector, who, shard, own: None, mark: None, log };
    Harness { observer: observe.observer(), registry, exporter, _keep: (observe, keep, publisher) }
}

impl Harness {
    fn record(&self, count: usize) {
        let flow = self.observer.flow(Direction::Outbound, Party::Unknown, Party::Unknown);
        for _ in 0..count {
            self.observer.request_ended(&request(&flow, true));
        }
    }

    fn count(&self, metric: &str) -> u64 {
        let text = self.registry.render(Format::Prometheus);
        let line = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        line.map_or(0, |count| count.parse().unwrap())
    }

    /// Lanes to a collector alone, whose address is this.
    fn lanes(&self, url: &str) -> Lanes {
        let mut lanes = self.exporter.lanes();
        let export = TraceExport::Zipkin(url.to_owned());
        lanes.all = vec![self.exporter.lane_to(&export, &lanes.finish).unwrap()];
        lanes
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_control_plane_spans_wait_within_bounds_and_lines_are_written() {
    let mut harness = harness();
    let mut lanes = harness.exporter.lanes();
    for _ in 0..3 {
        harness.record(QUEUE);
        harness.exporter.deliver(&mut lanes).await;
    }
    let dropped = harness.count(r#"weft_spans_dropped_total{exporter="control-plane",reason="queue-full"}"#);
    // What the lane has taken in hand is not in the queue any more.
    assert_eq!(dropped, (2 * QUEUE - BATCH) as u64);
    assert_eq!(harness.exporter.log.iter().filter(|byte| **byte == b'\n').count(), 3 * QUEUE);
    lanes.finish().await;
    let lost = harness.count(r#"weft_spans_dropped_total{exporter="control-plane",reason="unavailable"}"#);
    assert_eq!(lost, (QUEUE + BATCH) as u64, "each that waited is counted when the sidecar ends");
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_is_not_made_to_wait() {
    let harness = harness();
    let begun = tokio::time::Instant::now();
    harness.record(BATCH);
    harness.exporter.queue.gather(DELAY).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

/// A collector that answers so, one answer after the other, and the last for ever.
async fn collector(answers: Vec<(u16, &'static str)>) -> (String, drain::Drain, watch::Receiver<usize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (count, counted) = watch::channel(0);
    let (drain, watch) = drain::channel();
    let limits = server::Limits {
        connections: 8,
        read: Duration::from_secs(10),
        connection: Duration::from_secs(60),
        grace: Duration::from_secs(1),
        head: 16 << 10,
        body: 4 << 20,
    };
    let handler = move |request: Request<Bytes>| {
        assert_eq!(request.uri().path(), "/api/v2/spans");
        assert_eq!(request.headers()["content-encoding"], "gzip");
        let (status, retry_after) = answers[(*count.borrow()).min(answers.len() - 1)];
        count.send_modify(|count| *count += 1);
        let response = Response::builder().status(status).header("retry-after", retry_after);
        async move { response.body(Full::default()).unwrap() }
    };
    task::spawn("collector", server::serve(listener, limits, watch, handler));
    (url, drain, counted)
}

#[tokio::test]
async fn a_busy_collector_is_asked_again_until_it_takes_them() {
    let mut harness = harness();
    let (url, _drain, mut answered) = collector(vec![(503, "0"), (429, "0"), (202, "")]).await;
    let mut lanes = harness.lanes(&url);
    harness.record(3);
    harness.exporter.deliver(&mut lanes).await;
    answered.wait_for(|count| *count == 3).await.unwrap();
    lanes.finish().await;
    let authority = url.trim_start_matches("http://");
    assert_eq!(harness.count(&format!("weft_spans_exported_total{{exporter=\"{authority}\"}}")), 3);
}

#[tokio::test]
async fn a_collector_that_refuses_is_not_asked_again() {
    let mut harness = harness();
    let (url, _drain, answered) = collector(vec![(400, "")]).await;
    let mut lanes = harness.lanes(&url);
    harness.record(3);
    harness.exporter.deliver(&mut lanes).await;
    lanes.finish().await;
    assert_eq!(*answered.borrow(), 1);
    let authority = url.trim_start_matches("http://");
    let refused = format!("weft_spans_dropped_total{{exporter=\"{authority}\",reason=\"refused\"}}");
    assert_eq!(harness.count(&refused), 3);
}

#[tokio::test]
async fn zipkins_spans_are_what_its_collectors_read() {
    let harness = harness();
    harness.record(1);
    let mut exporter = harness.exporter;
    let record = exporter.queue.take().remove(0);
    let span: serde_json::Value =
        serde_json::from_slice(&zipkin::join(&[zipkin::encode(&record, &exporter.who)])).unwrap();
    let span = &span[0];
    for (key, expected) in [("kind", "CLIENT"), ("name", "GET")] {
        assert_eq!(span[key], expected);
    }
    assert_eq!(span["duration"], 3000);
    assert_eq!((span["traceId"].as_str().unwrap().len(), span["id"].as_str().unwrap().len()), (32, 16));
    assert_eq!(span["localEndpoint"]["serviceName"], "web");
    assert_eq!(span["remoteEndpoint"]["serviceName"], "unknown");
    assert_eq!(span["tags"]["http.response.status_code"], "200", "tags are text");
    assert!(span.get("parentId").is_none() && span["tags"].get("error").is_none());
}
