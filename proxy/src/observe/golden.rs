//! The golden counters of this sidecar as it tells the control plane of them: what has changed since the last time, read
//! from the metrics, so that a request pays nothing for it.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use tokio::time::Instant;
use weft_core::classify::{Outcome, classify};
use weft_proto::v1;
use weft_runtime::metrics::{Registry, Sample};

/// How often the control plane is told.
pub const INTERVAL: Duration = Duration::from_secs(2);
/// What was counted over a longer time says nothing of now: it is left out.
const STALE: Duration = Duration::from_secs(30);
/// Rows of one message; what is less busy than these is told as one.
const ROWS: usize = 256;
/// Circuits of one message.
const CIRCUITS: usize = 64;
/// What stands for everything that has no row of its own.
const OVERFLOW: &str = "_overflow";

/// Reads the counters and remembers what was told.
#[derive(Debug)]
pub struct Golden {
    registry: Registry,
    told: BTreeMap<Key, Counts>,
    told_at: Instant,
    had_circuits: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    inbound: bool,
    caller: String,
    service: String,
    route: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Counts {
    requests: u64,
    failures: u64,
    retries: u64,
    mutual: u64,
    buckets: Vec<u64>,
}

impl Golden {
    /// Of these metrics; nothing is told yet.
    pub fn new(registry: Registry) -> Self {
        Self { registry, told: BTreeMap::new(), told_at: Instant::now(), had_circuits: false }
    }

    /// What is to be told now; none: nothing has changed.
    pub fn report(&mut self) -> Option<v1::Golden> {
        let now = Instant::now();
        let is_stale = now - std::mem::replace(&mut self.told_at, now) > STALE;
        let (counted, bounds_us) = self.read();
        let before = std::mem::replace(&mut self.told, counted);
        let circuits = self.read_circuits();
        let rows = if is_stale { Vec::new() } else { busiest(self.differences(&before)) };
        // Circuits are a state: they are told again for as long as there are any, and once more when there are none.
        let had_circuits = std::mem::replace(&mut self.had_circuits, !circuits.is_empty());
        if rows.is_empty() && circuits.is_empty() && !had_circuits {
            return None;
        }
        Some(v1::Golden { bounds_us, rows, circuits })
    }

    fn read(&self) -> (BTreeMap<Key, Counts>, Vec<u64>) {
        let mut all: BTreeMap<Key, Counts> = BTreeMap::new();
        for sample in self.registry.samples("weft_requests_total") {
            let counts = all.entry(Key::of(&sample)).or_default();
            counts.requests += whole(sample.value());
            counts.failures += if is_failure(&sample) { whole(sample.value()) } else { 0 };
            counts.mutual += if sample.label("tls") == "mutual" { whole(sample.value()) } else { 0 };
        }
        for sample in self.registry.samples("weft_retries_total") {
            all.entry(Key::of(&sample)).or_default().retries += whole(sample.value());
        }
        let mut bounds = Vec::new();
        for sample in self.registry.samples("weft_request_duration_seconds") {
            let buckets = &mut all.entry(Key::of(&sample)).or_default().buckets;
            buckets.resize(sample.buckets().len(), 0);
            for (sum, count) in buckets.iter_mut().zip(sample.buckets()) {
                *sum += count;
            }
            if bounds.is_empty() {
                bounds = sample.bounds().iter().map(|bound| whole(bound * 1e6)).collect();
            }
        }
        (all, bounds)
    }

    fn differences(&self, before: &BTreeMap<Key, Counts>) -> Vec<v1::GoldenRow> {
        let none = Counts::default();
        let row = |(key, counts): (&Key, &Counts)| {
            let row = counts.since(before.get(key).unwrap_or(&none)).row(key);
            (row.requests + row.retries > 0).then_some(row)
        };
        self.told.iter().filter_map(row).collect()
    }

    fn read_circuits(&self) -> Vec<v1::Circuit> {
        let circuit = |sample: Sample| {
            let half_open = match whole(sample.value()) {
                0 => return None,
                state => state == 1,
            };
            let endpoint = sample.label("endpoint").to_owned();
            Some(v1::Circuit { service: sample.label("service").to_owned(), endpoint, half_open })
        };
        self.registry.samples("weft_circuit_state").into_iter().filter_map(circuit).take(CIRCUITS).collect()
    }
}

impl Key {
    fn of(sample: &Sample) -> Self {
        Self {
            inbound: sample.label("direction") == "inbound",
            caller: sample.label("source").to_owned(),
            service: sample.label("destination").to_owned(),
            route: sample.label("route").to_owned(),
        }
    }
}

impl Counts {
    /// What came since; a counter never goes back.
    fn since(&self, before: &Self) -> Self {
        let earlier = before.buckets.iter().chain(std::iter::repeat(&0));
        Self {
            requests: self.requests.saturating_sub(before.requests),
            failures: self.failures.saturating_sub(before.failures),
            retries: self.retries.saturating_sub(before.retries),
            mutual: self.mutual.saturating_sub(before.mutual),
            buckets: self.buckets.iter().zip(earlier).map(|(now, then)| now.saturating_sub(*then)).collect(),
        }
    }

    fn row(self, key: &Key) -> v1::GoldenRow {
        let Key { inbound, caller, service, route } = key.clone();
        let Self { requests, failures, retries, mutual, buckets } = self;
        v1::GoldenRow { inbound, caller, service, route, requests, failures, retries, buckets, mutual }
    }
}

/// The rows with most requests; all others as one for each direction.
fn busiest(mut rows: Vec<v1::GoldenRow>) -> Vec<v1::GoldenRow> {
    if rows.len() <= ROWS {
        return rows;
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.requests));
    let mut rest: BTreeMap<bool, v1::GoldenRow> = BTreeMap::new();
    for row in rows.split_off(ROWS) {
        match rest.entry(row.inbound) {
            Entry::Vacant(free) => {
                let name = || OVERFLOW.to_owned();
                free.insert(v1::GoldenRow { caller: name(), service: name(), route: name(), ..row });
            }
            Entry::Occupied(sum) => add(sum.into_mut(), &row),
        }
    }
    rows.extend(rest.into_values());
    rows
}

fn add(sum: &mut v1::GoldenRow, row: &v1::GoldenRow) {
    sum.requests += row.requests;
    sum.failures += row.failures;
    sum.retries += row.retries;
    sum.mutual += row.mutual;
    sum.buckets.resize(sum.buckets.len().max(row.buckets.len()), 0);
    for (sum, count) in sum.buckets.iter_mut().zip(&row.buckets) {
        *sum += count;
    }
}

/// Whether whoever answers is to blame, or the mesh answered in its place.
fn is_failure(sample: &Sample) -> bool {
    let status = sample.label("status").parse::<u16>();
    let blames = |status| classify(status, sample.label("grpc_status").parse().ok()) == Outcome::Failure;
    !sample.label("error").is_empty() || status.is_ok_and(blames)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are whole and not negative"
)]
fn whole(value: f64) -> u64 {
    value.round().max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::tests::request;
    use super::super::{Direction, Observe, Observer, Party, RequestEnded};
    use super::*;
    use crate::failure::ErrorCode;

    fn rig() -> (Observer, Golden) {
        let registry = Registry::new();
        let (observe, _queue) = Observe::new(&registry);
        (observe.observer(), Golden::new(registry))
    }

    fn party(name: &str) -> Party {
        Party::Named(name.parse().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_has_changed_is_told() {
        let (observer, mut golden) = rig();
        assert_eq!(golden.report(), None);
        let flow = observer.flow(Direction::Outbound, party("default/web"), party("default/orders"));
        observer.request_ended(&request(&flow, false));
        let failed = RequestEnded {
            status: Some(503),
            error: Some(ErrorCode::NoEndpoints),
            retries: 2,
            ..request(&flow, false)
        };
        observer.request_ended(&failed);
        let told = golden.report().unwrap();
        assert_eq!(told.rows.len(), 1, "{told:?}");
        let row = &told.rows[0];
        assert_eq!((row.requests, row.failures, row.retries, row.inbound), (2, 1, 2, false));
        assert_eq!((row.caller.as_str(), row.service.as_str()), ("default/web", "default/orders"));
        assert_eq!(row.buckets.iter().sum::<u64>(), 2);
        assert_eq!(row.buckets.len(), told.bounds_us.len() + 1);
        assert_eq!(golden.report(), None);
        observer.request_ended(&request(&flow, false));
        assert_eq!(golden.report().unwrap().rows[0].requests, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_callers_error_is_no_failure() {
        let (observer, mut golden) = rig();
        let flow = observer.flow(Direction::Inbound, Party::Unknown, party("default/orders"));
        observer.request_ended(&RequestEnded { status: Some(404), ..request(&flow, false) });
        observer.request_ended(&RequestEnded { status: None, ..request(&flow, false) });
        let row = golden.report().unwrap().rows.remove(0);
        assert_eq!((row.requests, row.failures, row.inbound, row.caller.as_str()), (2, 0, true, "unknown"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_told_for_long_is_not_told_as_if_it_were_new() {
        let (observer, mut golden) = rig();
        let flow = observer.flow(Direction::Outbound, party("default/web"), party("default/orders"));
        observer.request_ended(&request(&flow, false));
        tokio::time::advance(STALE + INTERVAL).await;
        assert_eq!(golden.report(), None);
        observer.request_ended(&request(&flow, false));
        assert_eq!(golden.report().unwrap().rows[0].requests, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_less_busy_is_told_as_one() {
        let (observer, mut golden) = rig();
        let flow = observer.flow(Direction::Outbound, party("default/web"), party("default/orders"));
        let routes: Vec<Arc<str>> = (0..ROWS + 9).map(|number| format!("r{number}").into()).collect();
        for (number, route) in routes.iter().enumerate() {
            for _ in 0..=usize::from(number < ROWS) {
                observer.request_ended(&RequestEnded { route: Some(route), ..request(&flow, false) });
            }
        }
        let rows = golden.report().unwrap().rows;
        assert_eq!(rows.len(), ROWS + 1);
        let rest = rows.last().unwrap();
        assert_eq!((rest.service.as_str(), rest.requests), (OVERFLOW, 9));
        assert_eq!(rest.buckets.iter().sum::<u64>(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn circuits_are_told_while_they_are_not_closed_and_once_more() {
        let registry = Registry::new();
        let state = Arc::new(std::sync::atomic::AtomicU8::new(0));
        let read = Arc::clone(&state);
        registry.gauge_from("weft_circuit_state", "x", ["service", "port", "endpoint"], move || {
            let value = read.load(std::sync::atomic::Ordering::Relaxed);
            vec![(["default/orders".into(), "80".into(), "10.0.0.1:80".into()], f64::from(value))]
        });
        let mut golden = Golden::new(registry);
        assert_eq!(golden.report(), None);
        state.store(2, std::sync::atomic::Ordering::Relaxed);
        let circuit = golden.report().unwrap().circuits.remove(0);
        assert_eq!((circuit.service.as_str(), circuit.half_open), ("default/orders", false));
        state.store(1, std::sync::atomic::Ordering::Relaxed);
        assert!(golden.report().unwrap().circuits[0].half_open);
        state.store(0, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(golden.report().unwrap().circuits, []);
        assert_eq!(golden.report(), None);
    }
}
