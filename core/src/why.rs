//! Why a request went as it did: which hop of its trace failed, or where the time went. What is said of errors in words
//! stands here too; `docs/errors.md` says more.

use std::collections::{HashMap, HashSet};

/// A span of a trace, as far as it matters here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hop {
    /// Its id, unique within the trace; of two with the same the first is looked at.
    pub id: u64,
    /// The span that caused it.
    pub parent: Option<u64>,
    /// When it began and ended, in microseconds of Unix time.
    pub start_us: u64,
    /// The same.
    pub end_us: u64,
    /// It failed, whoever is to blame.
    pub failed: bool,
    /// What the mesh itself said (`weft-error`); empty: nothing.
    pub code: String,
}

/// How a request went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// A hop failed, and the one that called it with it.
    Failed,
    /// A hop failed, and whoever called it coped.
    Recovered,
    /// All went well; the hop is where most of the time went.
    Worked,
}

/// What there is to say of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How it went.
    pub verdict: Verdict,
    /// The hop that decided, by its place among the hops.
    pub decisive: usize,
    /// How long each hop took without those that it waited for, in microseconds.
    pub own_us: Vec<u64>,
}

impl Verdict {
    /// As scripts read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Recovered => "recovered",
            Self::Worked => "worked",
        }
    }
}

/// Finds the hop that decided how a request went; none where there is no hop.
pub fn find(hops: &[Hop]) -> Option<Finding> {
    let tree = Tree::of(hops);
    let own_us: Vec<u64> = (0..hops.len()).map(|place| tree.own_us(hops, place)).collect();
    let is_bad = |place: usize| hops.get(place).is_some_and(|hop| hop.failed || !hop.code.is_empty());
    let cause = |place: &usize| is_bad(*place) && !tree.below(*place).iter().any(|below| is_bad(*below));
    // Who failed of itself; of several, one that the mesh knows a reason for, then the last: the tries before it were
    // made good by others.
    let worst = (0..hops.len()).filter(cause).max_by_key(|place| {
        let hop = hops.get(*place);
        let is_failed = tree.to_root(*place).all(is_bad);
        (is_failed, hop.is_some_and(|hop| !hop.code.is_empty()), hop.map_or(0, |hop| hop.end_us))
    });
    if let Some(decisive) = worst {
        let reaches_the_caller = tree.to_root(decisive).all(is_bad);
        let verdict = if reaches_the_caller { Verdict::Failed } else { Verdict::Recovered };
        return Some(Finding { verdict, decisive, own_us });
    }
    let decisive = (0..hops.len()).max_by_key(|place| own_us.get(*place).copied())?;
    Some(Finding { verdict: Verdict::Worked, decisive, own_us })
}

/// A stretch of time in which everybody waited for a hop itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The hop, by its place among the hops.
    pub hop: usize,
    /// When it began and ended, in microseconds of Unix time.
    pub start_us: u64,
    /// The same.
    pub end_us: u64,
}

/// What the longest of the hops at the top waited for, from its beginning to its end: each stretch is of the hop that, had it been
/// quicker then, would have let the whole be quicker. In the order of time.
pub fn critical_path(hops: &[Hop]) -> Vec<Stretch> {
    let tree = Tree::of(hops);
    let length = |place: usize| hops.get(place).map(|hop| hop.end_us.saturating_sub(hop.start_us));
    let is_top = |place: &usize| tree.parents.get(*place).is_some_and(Option::is_none);
    // Of several as long, the first.
    let top = (0..hops.len()).rev().filter(is_top).max_by_key(|place| length(*place));
    let mut open = Vec::new();
    open.extend(top.and_then(|place| hops.get(place).map(|hop| (place, hop.start_us, hop.end_us))));
    let mut path = Vec::new();
    while let Some((hop, from, until)) = open.pop() {
        let clipped = |below: &usize| {
            let of = hops.get(*below)?;
            let (start, end) = (of.start_us.max(from), of.end_us.min(until));
            (start < end).then_some((end, start, *below))
        };
        let mut below: Vec<_> = tree.below(hop).iter().filter_map(clipped).collect();
        below.sort_unstable();
        let mut until = until;
        // The last to end is what the hop waited for last; what ran beside it was not waited for.
        for (end, start, place) in below.into_iter().rev() {
            if end <= until {
                path.push(Stretch { hop, start_us: end, end_us: until });
                open.push((place, start, end));
                until = start;
            }
        }
        path.push(Stretch { hop, start_us: from, end_us: until });
    }
    path.retain(|stretch| stretch.start_us < stretch.end_us);
    path.sort_unstable_by_key(|stretch| stretch.start_us);
    path
}

/// Which hop is below which. Whose parent is missing, or in a ring, is at the top.
struct Tree {
    parents: Vec<Option<usize>>,
    children: Vec<Vec<usize>>,
}

impl Tree {
    fn of(hops: &[Hop]) -> Self {
        let mut places = HashMap::new();
        for (place, hop) in hops.iter().enumerate() {
            places.entry(hop.id).or_insert(place);
        }
        let mut parents: Vec<Option<usize>> = hops
            .iter()
            .enumerate()
            .map(|(place, hop)| hop.parent.and_then(|id| places.get(&id).copied()).filter(|p| *p != place))
            .collect();
        cut_rings(&mut parents);
        let mut children = vec![Vec::new(); hops.len()];
        for (place, parent) in parents.iter().enumerate() {
            if let Some(siblings) = parent.and_then(|parent| children.get_mut(parent)) {
                siblings.push(place);
            }
        }
        Self { parents, children }
    }

    fn below(&self, place: usize) -> &[usize] {
        self.children.get(place).map_or(&[], Vec::as_slice)
    }

    /// The hop itself, and all above it.
    fn to_root(&self, place: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(place), |place| self.parents.get(*place).copied().flatten())
    }

    /// The time of a hop in which none below it ran. A clock that goes wrong takes no more away than there is.
    fn own_us(&self, hops: &[Hop], place: usize) -> u64 {
        let Some(hop) = hops.get(place) else { return 0 };
        let clipped = |below: &usize| {
            let below = hops.get(*below)?;
            let (start, end) = (below.start_us.max(hop.start_us), below.end_us.min(hop.end_us));
            (start < end).then_some((start, end))
        };
        let mut spans: Vec<(u64, u64)> = self.below(place).iter().filter_map(clipped).collect();
        spans.sort_unstable();
        let mut covered = 0_u64;
        let mut until = 0;
        for (start, end) in spans {
            covered = covered.saturating_add(end.saturating_sub(start.max(until)));
            until = until.max(end);
        }
        hop.end_us.saturating_sub(hop.start_us).saturating_sub(covered)
    }
}

/// Takes the parent away from one of each ring, so that every walk up ends.
fn cut_rings(parents: &mut [Option<usize>]) {
    let mut safe = HashSet::new();
    for place in 0..parents.len() {
        let mut walked = Vec::new();
        let mut on_this_walk = HashSet::new();
        let mut next = Some(place);
        while let Some(here) = next.filter(|here| !safe.contains(here)) {
            if !on_this_walk.insert(here) {
                if let Some(parent) = parents.get_mut(here) {
                    *parent = None;
                }
                break;
            }
            walked.push(here);
            next = parents.get(here).copied().flatten();
        }
        safe.extend(walked);
    }
}

/// What an error code means, and what to do about it: `(code, meaning, what to do)`.
const ERRORS: [(&str, &str, &str); 19] = [
    (
        "no-endpoints",
        "the service has no workload that may be called",
        "see weft status and weft get service NAME: is it running, ready, and healthy?",
    ),
    (
        "connect-failed",
        "nobody took the connection at the endpoint's address",
        "does the app listen on that port? see the sidecar's log beside it",
    ),
    (
        "connect-timeout",
        "no connection came about in time",
        "is the network between the two open on port 4143? see timeouts.connect of a TrafficPolicy",
    ),
    (
        "timeout",
        "no response came within the time that a policy or route allows",
        "see where the time went with weft trace; raise timeouts.request where that is how long it takes",
    ),
    (
        "circuit-open",
        "the circuit breaker holds calls back, because those before failed",
        "see weft stat NAME and weft traces --service NAME --errors for what failed before",
    ),
    (
        "overloaded",
        "the app has as much as it can do at once, as far as its sidecar found out",
        "give it more replicas; see weft_concurrency_limit of its sidecar",
    ),
    (
        "queue-full",
        "as many calls wait for the service as its bulkhead allows",
        "raise bulkhead of its TrafficPolicy, or call it less",
    ),
    (
        "rate-limited",
        "a RateLimit is used up",
        "wait as long as retry-after says; see weft get ratelimit for the limit",
    ),
    (
        "denied",
        "an AuthorizationPolicy, or the mesh's default, does not let this caller in",
        "see weft explain for the rule; try a change of it with weft policy test -f FILE",
    ),
    (
        "unauthenticated",
        "the caller proved neither who it is nor, where a policy wants one, a token's claims",
        "has the caller a sidecar? is its token there, not expired, and of the right issuer and audience?",
    ),
    (
        "no-route",
        "the service has routes, and none of them takes this request",
        "see weft explain; add a rule without matches to take what is left",
    ),
    (
        "no-backend",
        "the route that takes this request leads to no service that there is",
        "see weft get httproute NAME for its ResolvedRefs condition",
    ),
    (
        "bad-request",
        "the request is not HTTP as its RFCs have it",
        "see the log of the sidecar that refused it for what is wrong with it",
    ),
    (
        "header-too-large",
        "the request's header fields are larger than a sidecar takes",
        "send fewer or smaller cookies; ARCHITECTURE.md has the limits",
    ),
    (
        "fault-injected",
        "a FaultInjection answered as it was told to",
        "weft get faultinjection lists those that there are; weft delete ends one",
    ),
    (
        "upstream-reset",
        "the endpoint broke off before its response was whole",
        "did the app crash or restart? see its own log at that time",
    ),
    (
        "protocol-error",
        "the endpoint answered something that is not the protocol of this port",
        "does the port's appProtocol say what the app speaks?",
    ),
    (
        "tls-failed",
        "the two sidecars, or a server outside, could not agree on TLS or did not prove who they are",
        "see weft identity for expired or revoked certificates, and weft_tls_handshake_failures_total",
    ),
    ("draining", "the sidecar was going away", "a retry reaches another one: see retries of a TrafficPolicy"),
];

/// What an error code means, and what to do about it.
pub fn advice(code: &str) -> Option<(&'static str, &'static str)> {
    ERRORS.iter().find(|(known, ..)| *known == code).map(|(_, means, does)| (*means, *does))
}

/// Every error code that there is advice on.
pub fn codes() -> impl Iterator<Item = &'static str> {
    ERRORS.iter().map(|(code, ..)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(id: u64, parent: u64, start_us: u64, end_us: u64, what: &str) -> Hop {
        let parent = (parent > 0).then_some(parent);
        let (failed, code) = match what {
            "" => (false, ""),
            "failed" => (true, ""),
            code => (true, code),
        };
        Hop { id, parent, start_us, end_us, failed, code: code.to_owned() }
    }

    fn check(hops: &[Hop], verdict: Verdict, decisive: u64) {
        let found = find(hops).unwrap();
        let id = hops.get(found.decisive).map(|hop| hop.id);
        assert_eq!((found.verdict, id), (verdict, Some(decisive)), "{hops:?}");
    }

    #[test]
    fn the_critical_path_is_what_was_waited_for() {
        let path = |hops: &[Hop]| -> Vec<(u64, u64, u64)> {
            let stretches = critical_path(hops).into_iter();
            stretches.map(|it| (hops[it.hop].id, it.start_us, it.end_us)).collect()
        };
        // 3 and 4 run beside each other, and 4 ends last; 5 comes after both.
        let hops = [
            hop(1, 0, 0, 100, ""),
            hop(3, 1, 10, 40, ""),
            hop(4, 1, 12, 60, ""),
            hop(5, 1, 70, 90, ""),
            hop(6, 4, 20, 50, ""),
        ];
        let expected =
            [(1, 0, 12), (4, 12, 20), (6, 20, 50), (4, 50, 60), (1, 60, 70), (5, 70, 90), (1, 90, 100)];
        assert_eq!(path(&hops), expected);
        assert_eq!(path(&[]), []);
        // Clocks that go wrong take no time that there is not, and rings end.
        assert_eq!(path(&[hop(1, 0, 50, 60, ""), hop(2, 1, 0, 55, "")]), [(2, 50, 55), (1, 55, 60)]);
        assert_eq!(path(&[hop(1, 2, 0, 9, ""), hop(2, 1, 0, 9, "")]).len(), 1);
        assert_eq!(path(&[hop(1, 0, 9, 0, "")]), []);
        let deep: Vec<_> = (1..=10_000).map(|id| hop(id, id - 1, id, 30_000 - id, "")).collect();
        let total: u64 = critical_path(&deep).iter().map(|it| it.end_us - it.start_us).sum();
        assert_eq!(total, 29_998);
    }

    #[test]
    fn the_lowest_hop_that_failed_is_to_blame() {
        let hops = [
            hop(1, 0, 0, 100, "failed"),
            hop(2, 1, 10, 90, "failed"),
            hop(3, 2, 20, 80, "denied"),
            hop(4, 1, 91, 95, ""),
        ];
        check(&hops, Verdict::Failed, 3);
    }

    #[test]
    fn what_was_made_good_by_another_try_is_told_as_such() {
        let hops = [hop(1, 0, 0, 100, ""), hop(2, 1, 10, 20, "connect-failed"), hop(3, 1, 30, 90, "")];
        check(&hops, Verdict::Recovered, 2);
        let hops =
            [hop(1, 0, 0, 100, "failed"), hop(2, 1, 10, 20, "connect-failed"), hop(3, 1, 30, 90, "timeout")];
        check(&hops, Verdict::Failed, 3);
    }

    #[test]
    fn where_nothing_failed_the_hop_that_took_most_time_of_its_own_is_told() {
        let hops =
            [hop(1, 0, 0, 100, ""), hop(2, 1, 5, 95, ""), hop(3, 2, 10, 30, ""), hop(4, 2, 20, 40, "")];
        check(&hops, Verdict::Worked, 2);
        assert_eq!(find(&hops).unwrap().own_us, [10, 60, 20, 20]);
    }

    #[test]
    fn rings_doubles_missing_parents_and_wrong_clocks_do_not_trap_us() {
        check(&[hop(1, 2, 0, 9, "failed"), hop(2, 1, 0, 10, "failed")], Verdict::Failed, 2);
        check(&[hop(1, 1, 0, 9, "failed")], Verdict::Failed, 1);
        check(&[hop(1, 7, 0, 9, ""), hop(1, 7, 0, 9, "")], Verdict::Worked, 1);
        check(&[hop(1, 0, 100, 90, ""), hop(2, 1, 0, 500, "")], Verdict::Worked, 2);
        let ring: Vec<Hop> = (0..10_000).map(|id| hop(id + 1, (id + 1) % 10_000 + 1, 0, 1, "")).collect();
        assert_eq!(find(&ring).map(|found| found.own_us.len()), Some(10_000));
        assert_eq!(find(&[]), None);
    }

    #[test]
    fn every_error_has_advice_once() {
        let codes: HashSet<_> = codes().collect();
        assert_eq!(codes.len(), ERRORS.len());
        assert!(advice("denied").is_some() && advice("503").is_none());
    }
}
