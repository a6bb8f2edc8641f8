//! Tap: requests that somebody wants to see as they pass. What does not pass the filters is not even copied, and while
//! nobody looks a request pays one relaxed load for it.
//!
//! Of a request its line and what became of it is told: no query, no header, no body.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use weft_proto::v1;

use super::event::{Direction, RequestEnded, Requested, Security};

/// The time between two messages.
const GATHER: Duration = Duration::from_millis(100);
/// Requests of one message: so 1,000 a second are told of at most.
const TOGETHER: usize = 100;
/// Requests that may wait to be told of.
const QUEUE: usize = 1_000;
/// Filters at once.
const TAPS: usize = 64;
/// Characters of a text that came from a caller.
const LONGEST: usize = 1_024;

/// The workers' end: what is wanted, and where it goes.
#[derive(Clone)]
pub struct Taps(Arc<Shared>);

struct Shared {
    wanted: AtomicBool,
    filters: ArcSwap<Vec<v1::TapFilter>>,
    queue: mpsc::Sender<v1::TapEvent>,
    left_out: AtomicU64,
}

/// The other end.
#[derive(Debug)]
pub struct Tapped {
    taps: Taps,
    queue: mpsc::Receiver<v1::TapEvent>,
    due: Instant,
}

/// Both ends.
pub fn taps() -> (Taps, Tapped) {
    let (queue, receiver) = mpsc::channel(QUEUE);
    let shared = Shared {
        wanted: AtomicBool::default(),
        filters: ArcSwap::default(),
        queue,
        left_out: AtomicU64::new(0),
    };
    let taps = Taps(Arc::new(shared));
    (taps.clone(), Tapped { taps, queue: receiver, due: Instant::now() })
}

impl Taps {
    /// Whether anything is wanted.
    pub fn are_wanted(&self) -> bool {
        self.0.wanted.load(Ordering::Relaxed)
    }

    /// How many look.
    pub fn count(&self) -> u32 {
        u32::try_from(self.0.filters.load().len()).unwrap_or(u32::MAX)
    }

    /// What is wanted from now on.
    pub fn want(&self, mut filters: Vec<v1::TapFilter>) {
        filters.truncate(TAPS);
        self.0.wanted.store(!filters.is_empty(), Ordering::Relaxed);
        self.0.filters.store(Arc::new(filters));
    }

    /// A request ended: it is told of where somebody wants to see it and there is room.
    pub fn offer(&self, event: &RequestEnded<'_>, target: Requested<'_>) {
        let filters = self.0.filters.load();
        let wanting = filters.iter().filter(|filter| admits(filter, event, target));
        let taps: Vec<u64> = wanting.map(|filter| filter.id).collect();
        if taps.is_empty() {
            return;
        }
        match self.0.queue.try_reserve() {
            Ok(place) => place.send(seen(event, target, taps)),
            Err(_) => {
                self.0.left_out.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Tapped {
    /// What workers look at.
    pub fn taps(&self) -> &Taps {
        &self.taps
    }

    /// These could not be passed on.
    pub fn lost(&self, events: usize) {
        self.taps.0.left_out.fetch_add(events as u64, Ordering::Relaxed);
    }

    /// Waits for what is to be told next. Nothing is lost where the wait is given up.
    pub async fn next(&mut self) -> v1::TapEvents {
        sleep_until(self.due).await;
        let mut events = Vec::new();
        // We hold a sender, so there is always one to come.
        self.queue.recv_many(&mut events, TOGETHER).await;
        self.due = Instant::now() + GATHER;
        v1::TapEvents { events, left_out: self.taps.0.left_out.swap(0, Ordering::Relaxed) }
    }
}

fn admits(filter: &v1::TapFilter, event: &RequestEnded<'_>, target: Requested<'_>) -> bool {
    // Where a sidecar calls, that one tells of it.
    let is_ours = match event.flow.direction() {
        Direction::Outbound => true,
        Direction::Inbound => filter.strangers && event.security != Security::Mutual,
    };
    let status = u32::from(event.status.unwrap_or(0));
    is_ours
        && **event.flow.destination() == *filter.service
        && (filter.method.is_empty() || target.method.as_str().eq_ignore_ascii_case(&filter.method))
        && begins(&filter.path, target.path)
        && (filter.status_to == 0 || (filter.status_from..filter.status_to).contains(&status))
}

fn begins(wanted: &str, path: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(beginning) => path.starts_with(beginning),
        None => wanted.is_empty() || wanted == path,
    }
}

fn seen(event: &RequestEnded<'_>, target: Requested<'_>, taps: Vec<u64>) -> v1::TapEvent {
    let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let ended = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    v1::TapEvent {
        taps,
        ended_us: micros(ended),
        duration_us: micros(event.duration),
        inbound: event.flow.direction() == Direction::Inbound,
        caller: event.flow.source().to_string(),
        service: event.flow.destination().to_string(),
        route: event.route.map(ToString::to_string).unwrap_or_default(),
        method: short(target.method.as_str()),
        authority: short(target.authority),
        path: short(target.path),
        protocol: event.protocol.as_str().to_owned(),
        status: event.status.unwrap_or(0).into(),
        grpc_status: event.grpc_status.map(Into::into),
        error: event.error.map_or("", crate::failure::ErrorCode::as_str).to_owned(),
        upstream: event.upstream.map(|upstream| upstream.to_string()).unwrap_or_default(),
        retries: event.retries,
        trace_id: event.trace.trace.to_string(),
        tls: event.security.as_str().to_owned(),
    }
}

fn short(text: &str) -> String {
    text.chars().take(LONGEST).collect()
}

impl fmt::Debug for Taps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Taps").field(&self.0.filters.load()).finish()
    }
}

#[cfg(test)]
mod tests {
    use weft_runtime::metrics::Registry;

    use super::super::tests::{TARGET, request};
    use super::super::{Observe, Party};
    use super::*;

    fn filter() -> v1::TapFilter {
        v1::TapFilter { id: 7, service: "default/orders".into(), ..Default::default() }
    }

    fn passes(filter: v1::TapFilter, direction: Direction, security: Security) -> bool {
        let (observe, _queue) = Observe::new(&Registry::new());
        let orders = Party::Named("default/orders".parse().unwrap());
        let flow = observe.observer().flow(direction, Party::Unknown, orders);
        let event = RequestEnded { security, ..request(&flow, true) };
        admits(&filter, &event, TARGET)
    }

    #[test]
    fn filters_choose_by_service_method_path_and_status() {
        let check = |change: &dyn Fn(&mut v1::TapFilter), expected| {
            let mut filter = filter();
            change(&mut filter);
            assert_eq!(passes(filter.clone(), Direction::Outbound, Security::Mutual), expected, "{filter:?}");
        };
        check(&|_| {}, true);
        check(&|filter| filter.service = "default/payments".into(), false);
        check(&|filter| filter.method = "get".into(), true);
        check(&|filter| filter.method = "POST".into(), false);
        check(&|filter| filter.path = "/orders/7".into(), true);
        check(&|filter| filter.path = "/orders".into(), false);
        check(&|filter| filter.path = "/orders/*".into(), true);
        check(&|filter| (filter.status_from, filter.status_to) = (200, 300), true);
        check(&|filter| (filter.status_from, filter.status_to) = (500, 600), false);
    }

    #[test]
    fn a_call_between_sidecars_is_told_of_once() {
        let strangers = v1::TapFilter { strangers: true, ..filter() };
        assert!(!passes(strangers.clone(), Direction::Inbound, Security::Mutual));
        assert!(passes(strangers, Direction::Inbound, Security::Plaintext));
        assert!(!passes(filter(), Direction::Inbound, Security::Plaintext));
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_a_thousand_a_second_are_told_of_and_the_others_counted() {
        let (observe, _queue) = Observe::new(&Registry::new());
        let orders = Party::Named("default/orders".parse().unwrap());
        let flow = observe.observer().flow(Direction::Outbound, Party::Unknown, orders);
        let (taps, mut tapped) = taps();
        assert!(!taps.are_wanted());
        taps.want(vec![filter()]);
        assert!(taps.are_wanted());
        for _ in 0..QUEUE + 50 {
            taps.offer(&request(&flow, true), TARGET);
        }
        let begun = Instant::now();
        let mut told = 0;
        let mut left_out = 0;
        while told < QUEUE {
            let events = tapped.next().await;
            assert!(events.events.len() <= TOGETHER);
            told += events.events.len();
            left_out += events.left_out;
        }
        assert_eq!((told, left_out), (QUEUE, 50));
        assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
        taps.want(Vec::new());
        assert!(!taps.are_wanted());
    }
}
