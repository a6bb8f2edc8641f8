//! The golden counters that sidecars report: who called whom on which route, how often, how well and how fast. Kept in
//! memory by time: slots of seconds for a while, slots of minutes for some hours.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use weft_core::model::QualifiedName;
use weft_proto::v1;

use super::tally::Tally;

/// Seconds of a slot while it is new.
const FINE: u64 = 5;
/// Slots that are new.
const FINE_SLOTS: usize = 120;
/// Seconds of a slot later on.
const COARSE: u64 = 60;
/// Slots that are not new any more.
const COARSE_SLOTS: usize = 360;
/// Rows of all slots; the oldest slots make room.
const MOST_ROWS: usize = 100_000;
/// Rows of one report, and its buckets.
const MOST_REPORTED: usize = 1_000;
const MOST_BUCKETS: usize = 64;
const MOST_CIRCUITS: usize = 64;
/// Characters of a route's name.
const LONGEST: usize = 512;
/// Callers and services that have no name of their own.
const NAMELESS: [&str; 2] = ["unknown", "_overflow"];

/// What was counted in the whole mesh.
#[derive(Debug, Default)]
pub(crate) struct Golden(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    fine: VecDeque<Slot>,
    coarse: VecDeque<Slot>,
    keys: HashSet<Arc<Key>>,
    circuits: HashMap<QualifiedName, (Arc<str>, Vec<v1::Circuit>)>,
}

/// What was counted in a stretch of time.
#[derive(Debug)]
struct Slot {
    /// Unix time in seconds.
    start: u64,
    rows: HashMap<Arc<Key>, Tally>,
}

/// What is counted apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    inbound: bool,
    caller: Arc<str>,
    service: Arc<str>,
    route: Arc<str>,
}

/// What is to be told together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// Nothing: service, route and caller apart.
    All,
    /// All of a service.
    Service,
    /// All of a service's route.
    Route,
    /// All that a caller asked of a service.
    Caller,
}

/// Whose requests; `namespace/name`, or empty where all are told together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Of {
    pub service: Arc<str>,
    pub caller: Arc<str>,
    pub route: Arc<str>,
}

/// What was counted.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub sums: BTreeMap<Of, Tally>,
    /// Over how long a time there was something to count.
    pub over: Duration,
    /// The circuits that are not closed, and whose each is.
    pub circuits: Vec<(Arc<str>, v1::Circuit)>,
}

/// Which requests.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    pub now: SystemTime,
    pub window: Duration,
    pub by: By,
    /// Accounts of sidecars: of calls between two, the caller's count.
    pub known: &'a HashSet<String>,
}

impl Golden {
    /// Takes a sidecar's report. It speaks for itself alone: as a caller it is who its certificate says, and called are
    /// services of its own namespace.
    pub(crate) fn take(
        &self,
        workload: &QualifiedName,
        account: &QualifiedName,
        report: v1::Golden,
        now: SystemTime,
    ) {
        let v1::Golden { bounds_us, rows, mut circuits } = report;
        if bounds_us.len() >= MOST_BUCKETS || !bounds_us.is_sorted() {
            return;
        }
        let own: Arc<str> = account.to_string().into();
        let mut state = self.lock();
        circuits.truncate(MOST_CIRCUITS);
        if circuits.is_empty() {
            state.circuits.remove(workload);
        } else {
            state.circuits.insert(workload.clone(), (own.clone(), circuits));
        }
        state.make_room(seconds(now));
        for row in rows.into_iter().take(MOST_REPORTED) {
            let caller = if row.inbound { row.caller.as_str().into() } else { own.clone() };
            let key = Key {
                inbound: row.inbound,
                caller,
                service: row.service.as_str().into(),
                route: row.route.chars().take(LONGEST).collect::<String>().into(),
            };
            if key.is_sound(account) {
                let tally = Tally::of(&row, &bounds_us);
                state.count(key, &tally);
            }
        }
    }

    /// A sidecar is not connected any more.
    pub(crate) fn gone(&self, workload: &QualifiedName) {
        self.lock().circuits.remove(workload);
    }

    /// What was counted.
    pub(crate) fn sum(&self, query: &Query<'_>) -> Counted {
        let now = seconds(query.now);
        let from = now.saturating_sub(query.window.as_secs());
        let state = self.lock();
        let slots = || state.coarse.iter().chain(&state.fine);
        let mut sums: BTreeMap<Of, Tally> = BTreeMap::new();
        // A slot that began before the window counts where most of it lies within.
        let within = |slot: &&Slot| slot.start + FINE / 2 >= from;
        for (key, tally) in slots().filter(within).flat_map(|slot| &slot.rows) {
            if !key.inbound || !query.known.contains(&*key.caller) {
                sums.entry(Of::all_like(key, query.by)).or_default().add(tally);
            }
        }
        let first = slots().find(within).map_or(now, |slot| slot.start).max(from);
        let open = state.circuits.values().flat_map(|(of, all)| all.iter().map(move |circuit| (of, circuit)));
        let circuits = open.map(|(of, circuit)| (of.clone(), circuit.clone())).collect();
        Counted { sums, over: Duration::from_secs(now.saturating_sub(first).max(1)), circuits }
    }

    /// What was asked of a service, in steps up to the last whole one, oldest first; none where nothing was kept yet. A step of
    /// less than a minute is told as far back as there are slots of seconds.
    pub(crate) fn series(&self, service: &str, step: Duration, query: &Query<'_>) -> Vec<Option<Tally>> {
        let step = step.as_secs().max(FINE);
        let end = seconds(query.now) / step * step;
        let count = query.window.as_secs() / step;
        let from = end.saturating_sub(count * step);
        let state = self.lock();
        let coarse = state.coarse.iter().filter(|_| step >= COARSE);
        let slots = || coarse.clone().chain(&state.fine);
        let first = slots().next().map_or(end, |slot| slot.start);
        let mut points: Vec<_> =
            (0..count).map(|point| (from + (point + 1) * step > first).then(Tally::default)).collect();
        for slot in slots().filter(|slot| (from..end).contains(&slot.start)) {
            let place = usize::try_from((slot.start - from) / step).ok();
            let Some(Some(point)) = place.and_then(|place| points.get_mut(place)) else { continue };
            for (key, tally) in slot.rows.iter().filter(|(key, _)| *key.service == *service) {
                if !key.inbound || !query.known.contains(&*key.caller) {
                    point.add(tally);
                }
            }
        }
        points
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    /// Adds what others counted.
    pub(crate) fn add(&mut self, other: Self) {
        for (of, tally) in other.sums {
            self.sums.entry(of).or_default().add(&tally);
        }
        self.over = self.over.max(other.over);
        self.circuits.extend(other.circuits);
    }

    /// The circuits towards a service that are not closed, and whose each is.
    pub(crate) fn circuits_towards(&self, service: &str) -> impl Iterator<Item = &(Arc<str>, v1::Circuit)> {
        self.circuits.iter().filter(move |(_, circuit)| circuit.service == service)
    }

    /// The same of all callers or of one: how many are open, and whether there are others.
    pub(crate) fn circuits(&self, service: &str, caller: &str) -> (u32, bool) {
        let of_caller = self.circuits_towards(service).filter(|(of, _)| caller.is_empty() || **of == *caller);
        let (half, open): (Vec<_>, Vec<_>) = of_caller.partition(|(_, circuit)| circuit.half_open);
        (u32::try_from(open.len()).unwrap_or(u32::MAX), !half.is_empty())
    }
}

impl By {
    /// As it is asked for; none: nobody asks so.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::All, Self::Service, Self::Route, Self::Caller].into_iter().find(|by| by.as_str() == text)
    }

    /// As it is asked for.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::All => "",
            Self::Service => "service",
            Self::Route => "route",
            Self::Caller => "caller",
        }
    }
}

impl State {
    /// The newest slot is that of now; what is too old, or too much, goes.
    fn make_room(&mut self, now: u64) {
        let start = now - now % FINE;
        // A clock that was set back must not make slots that never end.
        if self.fine.back().is_none_or(|newest| newest.start < start) {
            self.fine.push_back(Slot { start, rows: HashMap::new() });
        }
        let mut gone = false;
        while self.fine.len() > FINE_SLOTS
            || self.fine.front().is_some_and(|oldest| oldest.start + FINE * FINE_SLOTS as u64 <= start)
        {
            let Some(oldest) = self.fine.pop_front() else { break };
            self.coarsen(oldest);
        }
        while self.coarse.len() > COARSE_SLOTS || self.rows() > MOST_ROWS {
            gone |= self.coarse.pop_front().or_else(|| self.fine.pop_front()).is_some();
        }
        if gone {
            self.keys.retain(|key| Arc::strong_count(key) > 1);
        }
        if self.fine.is_empty() {
            self.fine.push_back(Slot { start, rows: HashMap::new() });
        }
    }

    fn coarsen(&mut self, slot: Slot) {
        let start = slot.start - slot.start % COARSE;
        match self.coarse.back_mut() {
            Some(minute) if minute.start >= start => {
                for (key, tally) in slot.rows {
                    minute.rows.entry(key).or_default().add(&tally);
                }
            }
            _ => self.coarse.push_back(Slot { start, rows: slot.rows }),
        }
    }

    fn rows(&self) -> usize {
        self.fine.iter().chain(&self.coarse).map(|slot| slot.rows.len()).sum()
    }

    fn count(&mut self, key: Key, tally: &Tally) {
        let key = match self.keys.get(&key) {
            Some(key) => key.clone(),
            None => {
                let key = Arc::new(key);
                self.keys.insert(key.clone());
                key
            }
        };
        if let Some(slot) = self.fine.back_mut() {
            slot.rows.entry(key).or_default().add(tally);
        }
    }
}

impl Key {
    /// Whether the sidecar may speak of this.
    fn is_sound(&self, account: &QualifiedName) -> bool {
        let is_name = |text: &str| NAMELESS.contains(&text) || text.parse::<QualifiedName>().is_ok();
        let is_own = |text: &str| {
            text.split_once('/').is_none_or(|(namespace, _)| namespace == account.namespace.as_str())
        };
        is_name(&self.caller) && is_name(&self.service) && (!self.inbound || is_own(&self.service))
    }
}

impl Of {
    fn all_like(key: &Key, by: By) -> Self {
        let (mut caller, mut route) = (key.caller.clone(), key.route.clone());
        if matches!(by, By::Service | By::Route) {
            caller = "".into();
        }
        if matches!(by, By::Service | By::Caller) {
            route = "".into();
        }
        Self { service: key.service.clone(), caller, route }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> QualifiedName {
        text.parse().unwrap()
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn row(inbound: bool, caller: &str, service: &str, route: &str, requests: u64) -> v1::GoldenRow {
        v1::GoldenRow {
            inbound,
            caller: caller.into(),
            service: service.into(),
            route: route.into(),
            requests,
            failures: 1,
            retries: 2,
            buckets: vec![requests, 0, 0],
            mutual: requests,
        }
    }

    fn report(rows: Vec<v1::GoldenRow>) -> v1::Golden {
        v1::Golden { bounds_us: vec![1_000, 5_000], rows, circuits: Vec::new() }
    }

    fn sums(golden: &Golden, now: u64, window: u64, by: By) -> Vec<(String, u64)> {
        let known = HashSet::from(["default/web".to_owned()]);
        let query = Query { now: at(now), window: Duration::from_secs(window), by, known: &known };
        let shown = |(of, tally): (Of, Tally)| {
            (format!("{} {} {}", of.service, of.caller, of.route), tally.requests())
        };
        golden.sum(&query).sums.into_iter().map(shown).collect()
    }

    fn take(golden: &Golden, account: &str, second: u64, rows: Vec<v1::GoldenRow>) {
        golden.take(&name(&format!("{account}-1")), &name(account), report(rows), at(second));
    }

    #[test]
    fn a_window_is_of_its_time_alone_and_is_summed_up_as_asked() {
        let golden = Golden::default();
        take(&golden, "default/web", 0, vec![row(false, "default/web", "default/orders", "a", 10)]);
        take(
            &golden,
            "default/web",
            100,
            vec![
                row(false, "default/web", "default/orders", "a", 3),
                row(false, "default/web", "default/orders", "b", 4),
            ],
        );
        let of = |text: &str, requests| (text.to_owned(), requests);
        assert_eq!(
            sums(&golden, 101, 60, By::All),
            [of("default/orders default/web a", 3), of("default/orders default/web b", 4)]
        );
        assert_eq!(sums(&golden, 101, 60, By::Service), [of("default/orders  ", 7)]);
        assert_eq!(sums(&golden, 101, 60, By::Caller), [of("default/orders default/web ", 7)]);
        assert_eq!(
            sums(&golden, 101, 600, By::Route),
            [of("default/orders  a", 13), of("default/orders  b", 4)]
        );
        assert_eq!(sums(&golden, 500, 60, By::All), []);
    }

    #[test]
    fn a_series_has_whole_steps_and_says_since_when_it_knows() {
        let golden = Golden::default();
        let known = HashSet::from(["default/web".to_owned()]);
        for second in [0, 5, 12, 31] {
            take(
                &golden,
                "default/web",
                second,
                vec![
                    row(false, "default/web", "default/orders", "a", 2),
                    row(false, "default/web", "default/payments", "", 7),
                ],
            );
        }
        let series = |now: u64, step: u64, window: u64| -> Vec<Option<u64>> {
            let window = Duration::from_secs(window);
            let query = Query { now: at(now), window, by: By::Service, known: &known };
            let points = golden.series("default/orders", Duration::from_secs(step), &query);
            points.into_iter().map(|point| point.map(|tally| tally.requests())).collect()
        };
        assert_eq!(series(39, 10, 50), [None, None, Some(4), Some(2), Some(0)]);
        assert_eq!(series(40, 10, 40), [Some(4), Some(2), Some(0), Some(2)]);
        take(&golden, "default/web", 700, vec![row(false, "default/web", "default/orders", "a", 1)]);
        let hour = series(800, 60, 3600);
        assert_eq!((hour.len(), hour.iter().flatten().sum::<u64>()), (60, 9));
    }

    #[test]
    fn of_a_call_between_two_sidecars_the_callers_count() {
        let golden = Golden::default();
        take(&golden, "default/web", 0, vec![row(false, "default/web", "default/orders", "", 3)]);
        take(
            &golden,
            "default/orders",
            0,
            vec![
                row(true, "default/web", "default/orders", "", 3),
                row(true, "unknown", "default/orders", "", 5),
            ],
        );
        assert_eq!(sums(&golden, 1, 60, By::Service), [("default/orders  ".to_owned(), 8)]);
    }

    #[test]
    fn a_sidecar_speaks_for_itself_alone() {
        let golden = Golden::default();
        take(
            &golden,
            "default/web",
            0,
            vec![
                row(false, "default/payments", "default/orders", "", 3),
                row(true, "unknown", "other/orders", "", 5),
                row(false, "default/web", "<script>", "", 5),
            ],
        );
        assert_eq!(sums(&golden, 1, 60, By::All), [("default/orders default/web ".to_owned(), 3)]);
    }

    #[test]
    fn what_is_older_is_kept_by_the_minute_and_what_is_too_old_goes() {
        let golden = Golden::default();
        for second in (0..7 * 3600).step_by(5) {
            take(&golden, "default/web", second, vec![row(false, "default/web", "default/orders", "", 1)]);
        }
        let state = golden.lock();
        assert_eq!((state.fine.len(), state.coarse.len()), (FINE_SLOTS, COARSE_SLOTS));
        drop(state);
        let hour = sums(&golden, 7 * 3600, 3600, By::Service)[0].1;
        assert!((708..=732).contains(&hour), "{hour}");
    }

    #[test]
    fn rows_are_bounded_whatever_is_reported() {
        let golden = Golden::default();
        for second in 0..120 {
            let rows = (0..MOST_REPORTED + 7)
                .map(|n| row(false, "default/web", "default/orders", &format!("{second}-{n}"), 1));
            take(&golden, "default/web", second * 5, rows.collect());
        }
        let state = golden.lock();
        assert!(state.rows() <= MOST_ROWS + MOST_REPORTED, "{}", state.rows());
        assert!(state.keys.len() <= MOST_ROWS + MOST_REPORTED);
    }

    #[test]
    fn circuits_are_those_of_connected_sidecars() {
        let golden = Golden::default();
        let circuit = |half_open| v1::Circuit {
            service: "default/orders".into(),
            endpoint: "10.0.0.1:80".into(),
            half_open,
        };
        let report = v1::Golden { circuits: vec![circuit(false), circuit(true)], ..report(Vec::new()) };
        golden.take(&name("default/web-1"), &name("default/web"), report, at(0));
        let counted = || {
            let known = HashSet::new();
            let window = Duration::from_secs(60);
            golden.sum(&Query { now: at(1), window, by: By::All, known: &known })
        };
        let circuits = |service, caller| counted().circuits(service, caller);
        assert_eq!(circuits("default/orders", ""), (1, true));
        assert_eq!(circuits("default/orders", "default/web"), (1, true));
        assert_eq!(circuits("default/orders", "default/x"), (0, false));
        assert_eq!(circuits("default/web", ""), (0, false));
        let mut twice = counted();
        twice.add(counted());
        assert_eq!(twice.circuits("default/orders", ""), (2, true));
        let of: Vec<_> = counted().circuits_towards("default/orders").map(|(of, _)| of.to_string()).collect();
        assert_eq!(of, ["default/web"; 2]);
        golden.gone(&name("default/web-1"));
        assert_eq!(circuits("default/orders", ""), (0, false));
    }
}
