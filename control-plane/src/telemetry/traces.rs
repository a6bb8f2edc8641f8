//! The traces in memory: so many spans, so many bytes, so old; the oldest traces make room.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use super::span::{Span, SpanId, TraceId};

/// Spans of all traces.
const MOST_SPANS: usize = 100_000;
/// Bytes of all spans, roughly.
const MOST_BYTES: usize = 96 << 20;
/// Spans of one trace.
const MOST_IN_TRACE: usize = 10_000;
/// How old a trace may get.
const AGE: Duration = Duration::from_hours(24);

/// The traces.
#[derive(Debug)]
pub(crate) struct Traces {
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy)]
struct Limits {
    spans: usize,
    bytes: usize,
    in_trace: usize,
    age: Duration,
}

#[derive(Debug, Default)]
struct State {
    traces: BTreeMap<TraceId, Trace>,
    /// By arrival, oldest first.
    order: VecDeque<TraceId>,
    spans: usize,
    bytes: usize,
}

/// The spans of a trace, and when the last of them came in: their own clocks may say anything.
#[derive(Debug)]
struct Trace {
    spans: Vec<Span>,
    ids: HashSet<SpanId>,
    arrived: SystemTime,
}

/// What became of spans that came in.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Stored.
    pub stored: u64,
    /// Dropped to make room: these or older ones.
    pub evicted: u64,
}

/// Which traces.
#[derive(Debug, Default, Clone)]
pub(crate) struct Filter {
    /// That pass through this service.
    pub service: Option<String>,
    /// Whether they must hold a failed span.
    pub errors: Errors,
    /// That took at least so long.
    pub slower_than: Duration,
    /// With a span on this route.
    pub route: Option<String>,
    /// With a span that ended with this status of HTTP.
    pub status: Option<u32>,
    /// With a span that has all these attributes.
    pub attributes: Vec<(String, String)>,
    /// That came in at this time or later.
    pub since: Option<SystemTime>,
    /// That came in before this time.
    pub until: Option<SystemTime>,
    /// At most so many.
    pub limit: usize,
}

/// Whether traces without errors are wanted.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errors {
    /// All traces.
    #[default]
    Any,
    /// Only those with a failed span.
    Only,
}

/// A trace in a line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Summary {
    /// Its id.
    pub id: TraceId,
    /// The name of its root span.
    pub root: String,
    /// The service of its root span.
    pub service: Arc<str>,
    /// When it began.
    pub start: SystemTime,
    /// From its beginning to the end of its last span.
    pub duration: Duration,
    /// How many spans it has.
    pub spans: usize,
    /// The services it passes through.
    pub services: BTreeSet<Arc<str>>,
    /// How many of its spans failed.
    pub errors: usize,
}

impl Default for Traces {
    fn default() -> Self {
        Self::new(Limits { spans: MOST_SPANS, bytes: MOST_BYTES, in_trace: MOST_IN_TRACE, age: AGE })
    }
}

impl Traces {
    fn new(limits: Limits) -> Self {
        Self { limits, state: Mutex::default() }
    }

    /// Takes spans in that arrive at this time. A span that is there already (an exporter tried twice) is not stored again.
    pub(crate) fn insert(&self, spans: Vec<Span>, now: SystemTime) -> Taken {
        let mut state = self.lock();
        let mut taken = Taken::default();
        for span in spans {
            let weight = span.weight();
            let id = span.trace;
            let State { traces, order, .. } = &mut *state;
            let trace = traces.entry(id).or_insert_with(|| {
                order.push_back(id);
                Trace { spans: Vec::new(), ids: HashSet::new(), arrived: now }
            });
            if trace.ids.contains(&span.id) {
                continue;
            }
            if trace.spans.len() >= self.limits.in_trace {
                taken.evicted += 1;
                continue;
            }
            trace.arrived = trace.arrived.max(now);
            trace.ids.insert(span.id);
            trace.spans.push(span);
            state.spans += 1;
            state.bytes += weight;
            taken.stored += 1;
        }
        while state.spans > self.limits.spans || state.bytes > self.limits.bytes {
            let Some(gone) = state.forget_oldest() else { break };
            taken.evicted += gone;
        }
        taken
    }

    /// Forgets what is too old.
    pub(crate) fn expire(&self, now: SystemTime) {
        let mut state = self.lock();
        while let Some(trace) = state.order.front().and_then(|oldest| state.traces.get(oldest)) {
            if now.duration_since(trace.arrived).is_ok_and(|age| age > self.limits.age) {
                state.forget_oldest();
            } else {
                return;
            }
        }
    }

    /// The traces that pass the filter, newest first.
    pub(crate) fn list(&self, filter: &Filter) -> Vec<Summary> {
        let state = self.lock();
        let newest_first = state.order.iter().rev().filter_map(|id| Some((id, state.traces.get(id)?)));
        let wanted = newest_first.filter(|(_, trace)| filter.wants(trace));
        let summaries = wanted.filter_map(|(id, trace)| Summary::of(*id, &trace.spans));
        let mut found: Vec<_> =
            summaries.filter(|summary| filter.admits(summary)).take(filter.limit).collect();
        found.sort_by_key(|summary| std::cmp::Reverse(summary.start));
        found
    }

    /// Looks at all spans of traces that came in at this time or later.
    pub(crate) fn each_since(&self, since: SystemTime, mut look: impl FnMut(&[Span])) {
        let state = self.lock();
        state.traces.values().filter(|trace| trace.arrived >= since).for_each(|trace| look(&trace.spans));
    }

    /// The traces whose id begins with these hexadecimal digits, of which two say as much as many.
    pub(crate) fn matching(&self, prefix: &str) -> Vec<TraceId> {
        let prefix = prefix.trim().to_ascii_lowercase();
        let Some(from) = lowest(&prefix) else { return Vec::new() };
        let state = self.lock();
        let matching = state.traces.range(from..).map(|(id, _)| *id);
        matching.take_while(|id| id.to_string().starts_with(&prefix)).take(2).collect()
    }

    /// The spans of a trace.
    pub(crate) fn spans_of(&self, id: TraceId) -> Vec<Span> {
        self.lock().traces.get(&id).map(|trace| trace.spans.clone()).unwrap_or_default()
    }

    /// The spans of these traces, without their attributes.
    pub(crate) fn bones(&self, ids: impl IntoIterator<Item = TraceId>) -> Vec<Span> {
        let state = self.lock();
        let of = ids.into_iter().filter_map(|id| state.traces.get(&id));
        of.flat_map(|trace| trace.spans.iter().map(Span::bare)).collect()
    }

    /// How many spans there are.
    pub(crate) fn spans(&self) -> usize {
        self.lock().spans
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget_oldest(&mut self) -> Option<u64> {
        let oldest = self.order.pop_front()?;
        let spans = self.traces.remove(&oldest).map(|trace| trace.spans).unwrap_or_default();
        self.spans -= spans.len();
        self.bytes -= spans.iter().map(Span::weight).sum::<usize>();
        Some(spans.len() as u64)
    }
}

impl Summary {
    pub(crate) fn of(id: TraceId, spans: &[Span]) -> Option<Self> {
        let start = spans.iter().map(|span| span.start).min()?;
        let end = spans.iter().map(Span::end).max()?;
        let ids: BTreeSet<_> = spans.iter().map(|span| span.id).collect();
        let is_root = |span: &&Span| span.parent.is_none_or(|parent| !ids.contains(&parent));
        let root = spans.iter().filter(is_root).min_by_key(|span| span.start).or_else(|| spans.first())?;
        Some(Self {
            id,
            root: root.name.clone(),
            service: root.service.clone(),
            start,
            duration: end.duration_since(start).unwrap_or_default(),
            spans: spans.len(),
            services: spans.iter().map(|span| span.service.clone()).collect(),
            errors: spans.iter().filter(|span| span.error).count(),
        })
    }
}

impl Filter {
    /// Whether the trace's spans are wanted; cheaper than to sum it up.
    fn wants(&self, trace: &Trace) -> bool {
        let any = |holds: &dyn Fn(&Span) -> bool| trace.spans.iter().any(holds);
        let has = |span: &Span, key: &str, value: &str| {
            span.attributes.iter().any(|(own, is)| own == key && is == value)
        };
        let status = self.status.map(|status| status.to_string());
        self.since.is_none_or(|since| trace.arrived >= since)
            && self.until.is_none_or(|until| trace.arrived < until)
            && self.route.as_ref().is_none_or(|route| any(&|span| has(span, "http.route", route)))
            && status.is_none_or(|status| any(&|span| has(span, "http.response.status_code", &status)))
            && (self.attributes.is_empty()
                || any(&|span| self.attributes.iter().all(|(key, value)| has(span, key, value))))
    }

    fn admits(&self, summary: &Summary) -> bool {
        let passes = |wanted: &String| summary.services.iter().any(|service| **service == **wanted);
        self.service.as_ref().is_none_or(passes)
            && (self.errors == Errors::Any || summary.errors > 0)
            && summary.duration >= self.slower_than
    }
}

/// The lowest id that begins with these digits.
fn lowest(prefix: &str) -> Option<TraceId> {
    if prefix.is_empty() || prefix.len() > 32 {
        return None;
    }
    let padded = u128::from_str_radix(&format!("{prefix:0<32}"), 16).ok()?;
    prefix.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| TraceId(padded.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::super::span::{SpanId, SpanKind};
    use super::*;

    fn span(trace: u8, id: u8, parent: Option<u8>, service: &str, millis: u64) -> Span {
        Span {
            trace: TraceId([trace; 16]),
            id: SpanId([id; 8]),
            parent: parent.map(|parent| SpanId([parent; 8])),
            service: service.into(),
            kind: SpanKind::Server,
            name: format!("GET /{id}"),
            start: SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(trace) * 100 + u64::from(id)),
            duration: Duration::from_millis(millis),
            attributes: Vec::new(),
            error: service == "bad",
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn filter() -> Filter {
        Filter { limit: 10, ..Filter::default() }
    }

    #[test]
    fn a_trace_is_summed_up_over_all_its_services() {
        let traces = Traces::default();
        traces.insert(vec![span(1, 2, Some(1), "orders", 10)], at(0));
        traces.insert(vec![span(1, 1, Some(9), "web", 2000), span(1, 3, Some(2), "bad", 1)], at(0));
        traces.insert(vec![span(1, 3, Some(2), "bad", 1), span(2, 1, None, "web", 5)], at(0));
        let found = traces.list(&filter());
        assert_eq!(found.iter().map(|summary| summary.id.0[0]).collect::<Vec<_>>(), [2, 1]);
        let first = &found[1];
        assert_eq!(
            (first.root.as_str(), &*first.service, first.spans, first.errors),
            ("GET /1", "web", 3, 1)
        );
        assert_eq!(first.services.len(), 3);
        assert_eq!(first.duration, Duration::from_secs(2).max(Duration::from_millis(2001)));
    }

    #[test]
    fn filters_choose_by_service_error_and_duration() {
        let traces = Traces::default();
        let with = |mut span: Span, attributes: &[(&str, &str)]| {
            span.attributes = attributes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            span
        };
        traces.insert(vec![span(1, 1, None, "web", 5), span(2, 1, None, "bad", 500)], at(10));
        let routed = [("http.route", "/a"), ("http.response.status_code", "503"), ("user", "7")];
        traces.insert(vec![with(span(3, 1, None, "web", 90), &routed)], at(20));
        let check = |filter: Filter, expected: &[u8]| {
            let found: Vec<u8> = traces.list(&filter).iter().map(|summary| summary.id.0[0]).collect();
            assert_eq!(found, expected, "{filter:?}");
        };
        check(Filter { service: Some("web".into()), ..filter() }, &[3, 1]);
        check(Filter { errors: Errors::Only, ..filter() }, &[2]);
        check(Filter { slower_than: Duration::from_millis(90), ..filter() }, &[3, 2]);
        check(Filter { limit: 1, ..filter() }, &[3]);
        check(Filter { route: Some("/a".into()), ..filter() }, &[3]);
        check(Filter { route: Some("/".into()), ..filter() }, &[]);
        check(Filter { status: Some(503), ..filter() }, &[3]);
        let attributes = |all: &[(&str, &str)]| Filter {
            attributes: all.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            ..filter()
        };
        check(attributes(&[("user", "7"), ("http.route", "/a")]), &[3]);
        check(attributes(&[("user", "8")]), &[]);
        check(Filter { since: Some(at(20)), ..filter() }, &[3]);
        check(Filter { until: Some(at(20)), ..filter() }, &[2, 1]);
    }

    #[test]
    fn a_trace_is_found_by_the_beginning_of_its_id() {
        let traces = Traces::default();
        traces.insert(vec![span(0x11, 1, None, "web", 5), span(0x12, 1, None, "web", 5)], at(0));
        let [first, second] = [0x11, 0x12].map(|byte| TraceId([byte; 16]));
        assert_eq!(traces.matching("11"), [first]);
        assert_eq!(traces.matching(&"12".repeat(16)), [second]);
        assert_eq!(traces.matching("1"), [first, second]);
        for none in ["", "13", "+1", "x", &"11".repeat(17)] {
            assert_eq!(traces.matching(none), [], "{none:?}");
        }
    }

    #[test]
    fn bones_are_spans_without_their_attributes() {
        let traces = Traces::default();
        let attributes = vec![("a".to_owned(), "b".to_owned())];
        let whole = Span { attributes, ..span(1, 1, None, "web", 5) };
        traces.insert(vec![whole.clone(), span(2, 1, None, "web", 5)], at(0));
        assert_eq!(traces.bones([whole.trace]), [span(1, 1, None, "web", 5)]);
        assert_eq!(traces.spans_of(whole.trace), [whole]);
    }

    #[test]
    fn the_oldest_traces_make_room() {
        let limits = Limits { spans: 3, bytes: usize::MAX, in_trace: 2, age: AGE };
        let traces = Traces::new(limits);
        let spans = |all: &[(u8, u8)]| all.iter().map(|(t, id)| span(*t, *id, None, "a", 1)).collect();
        let taken = traces.insert(spans(&[(1, 1), (1, 2), (1, 3)]), at(0));
        assert_eq!(taken, Taken { stored: 2, evicted: 1 });
        let taken = traces.insert(spans(&[(2, 1), (3, 1)]), at(50));
        assert_eq!(taken, Taken { stored: 2, evicted: 2 });
        assert_eq!(traces.spans(), 2);
        traces.expire(at(40) + AGE);
        assert_eq!(traces.list(&filter()).len(), 2);
        traces.expire(at(51) + AGE);
        assert_eq!(traces.list(&filter()).len(), 0);
        assert_eq!(traces.lock().bytes, 0);
    }

    #[test]
    fn a_clock_that_is_wrong_keeps_nothing_for_ever_and_hides_nothing() {
        let traces = Traces::default();
        let far = SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::MAX);
        traces.insert(vec![Span { start: far, ..span(1, 1, None, "web", 1) }], at(0));
        traces.insert(vec![Span { start: SystemTime::UNIX_EPOCH, ..span(2, 1, None, "web", 1) }], at(1));
        assert_eq!(traces.list(&filter()).len(), 2);
        traces.expire(at(2) + AGE);
        assert_eq!(traces.list(&filter()), []);
    }

    #[test]
    fn rings_and_missing_parents_have_a_root_all_the_same() {
        let traces = Traces::default();
        traces.insert(vec![span(1, 2, Some(1), "b", 1), span(1, 1, Some(2), "a", 1)], at(0));
        traces.insert(vec![span(2, 1, Some(1), "own", 1)], at(0));
        traces.insert(vec![span(3, 5, Some(9), "orphan", 1), span(3, 6, Some(5), "child", 1)], at(0));
        let roots: Vec<String> =
            traces.list(&filter()).iter().map(|summary| summary.service.to_string()).collect();
        assert_eq!(roots, ["orphan", "own", "b"]);
    }

    #[test]
    fn a_trace_of_ten_thousand_spans_is_whole_and_one_of_more_is_cut_off() {
        let traces = Traces::default();
        let all = |count: u32| {
            (1..=count).map(|number| {
                let mut id = [0; 8];
                id[..4].copy_from_slice(&number.to_be_bytes());
                Span { id: SpanId(id), ..span(1, 1, Some(1), "web", 1) }
            })
        };
        let taken = traces.insert(all(10_007).collect(), at(0));
        assert_eq!(taken, Taken { stored: 10_000, evicted: 7 });
        assert_eq!(traces.insert(all(9_000).collect(), at(0)), Taken::default());
        assert_eq!(traces.spans_of(TraceId([1; 16])).len(), 10_000);
    }
}
