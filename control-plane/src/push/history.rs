//! What a service's endpoints were before, so that a delta can start there: for each change the names that it touched, with a
//! fingerprint of what they stood for. The sets themselves are not kept: however long endpoints come and go, that costs
//! no more memory than a few names.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use prost::Message as _;
use weft_core::model::ResourceName;
use weft_proto::v1;

use super::snapshot::hash;

/// Changes that are remembered per service.
const CHANGES: usize = 16;
/// Names that are remembered even of a service that has fewer endpoints.
const FEW: usize = 16;

/// The last changes of one service's endpoints; newest first.
#[derive(Debug, Default)]
pub(super) struct History(Vec<Past>);

/// An earlier set of endpoints, by what has changed since.
#[derive(Debug)]
struct Past {
    left: Arc<Change>,
    /// What became of it, found out once for all who hold it.
    delta: OnceLock<Option<v1::EndpointDelta>>,
}

/// How one set of endpoints differs from the one that followed.
#[derive(Debug)]
struct Change {
    /// Of the earlier set.
    from_hash: u64,
    /// By workload, what it was in the earlier set; none: it was not there.
    was: Vec<(String, Option<u64>)>,
}

impl History {
    /// The history of the set `now`, which follows on `before`, whose history this is.
    pub(super) fn next(&self, before: &[v1::Endpoint], before_hash: u64, now: &[v1::Endpoint]) -> Self {
        let newest = Arc::new(Change { from_hash: before_hash, was: differences(before, now) });
        let earlier = self.0.iter().map(|past| past.left.clone());
        // A delta of more names than there are endpoints is not shorter than all of them.
        let (mut names, most) = (0, now.len().max(FEW));
        let kept = [newest].into_iter().chain(earlier).take(CHANGES).take_while(|change| {
            names += change.was.len();
            names <= most
        });
        Self(kept.map(|left| Past { left, delta: OnceLock::new() }).collect())
    }

    /// What became of the endpoints since the set with `from_hash`, where that is known and less than `bytes`; `now` and
    /// `now_hash` are what they are.
    pub(super) fn since(
        &self,
        from_hash: u64,
        (name, now, now_hash): (&ResourceName, &[v1::Endpoint], u64),
        bytes: usize,
    ) -> Option<v1::EndpointDelta> {
        let place = self.0.iter().position(|past| past.left.from_hash == from_hash)?;
        let found = || {
            let delta = v1::EndpointDelta {
                service: name.to_string(),
                from_hash,
                hash: now_hash,
                ..self.delta(place, now)
            };
            (delta.encoded_len() < bytes).then_some(delta)
        };
        self.0.get(place)?.delta.get_or_init(found).clone()
    }

    fn delta(&self, place: usize, now: &[v1::Endpoint]) -> v1::EndpointDelta {
        let changes = self.0.iter().take(place + 1).flat_map(|past| &past.left.was);
        // Of a name that changed again and again the oldest, which comes last, says what it was there.
        let mut was: BTreeMap<&str, Option<u64>> =
            changes.map(|(workload, was)| (workload.as_str(), *was)).collect();
        let mut upserts = Vec::new();
        for endpoint in now {
            let Some(was) = was.remove(endpoint.workload.as_str()) else { continue };
            if was != Some(fingerprint(endpoint)) {
                upserts.push(endpoint.clone());
            }
        }
        let gone = was.into_iter().filter(|(_, was)| was.is_some());
        let removed = gone.map(|(workload, _)| workload.to_owned()).collect();
        v1::EndpointDelta { upserts, removed, ..Default::default() }
    }
}

fn differences(before: &[v1::Endpoint], now: &[v1::Endpoint]) -> Vec<(String, Option<u64>)> {
    let mut before: HashMap<&str, &v1::Endpoint> =
        before.iter().map(|endpoint| (endpoint.workload.as_str(), endpoint)).collect();
    let mut was = Vec::new();
    for endpoint in now {
        match before.remove(endpoint.workload.as_str()) {
            Some(earlier) if earlier == endpoint => {}
            earlier => was.push((endpoint.workload.clone(), earlier.map(fingerprint))),
        }
    }
    was.extend(before.into_values().map(|gone| (gone.workload.clone(), Some(fingerprint(gone)))));
    was
}

fn fingerprint(endpoint: &v1::Endpoint) -> u64 {
    hash(&endpoint.encode_to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(number: u32, weight: u32) -> v1::Endpoint {
        v1::Endpoint {
            workload: format!("default/w{number}"),
            addresses: vec![vec![10, 0, 0, 1]],
            weight,
            ..Default::default()
        }
    }

    /// Sets that follow on one another, each with its hash and its history.
    struct Sets(Vec<(u64, Vec<v1::Endpoint>, History)>);

    impl Sets {
        fn new(first: Vec<v1::Endpoint>) -> Self {
            Self(vec![(1, first, History::default())])
        }

        fn follow(&mut self, now: Vec<v1::Endpoint>) {
            let (hash, before, history) = self.0.last().unwrap();
            let next = history.next(before, *hash, &now);
            self.0.push((hash + 1, now, next));
        }

        fn since(&self, from_hash: u64) -> Option<v1::EndpointDelta> {
            let (hash, now, history) = self.0.last().unwrap();
            let name = ResourceName::Endpoints("default/orders".parse().unwrap());
            history.since(from_hash, (&name, now, *hash), usize::MAX)
        }

        fn kept(&self) -> (usize, usize) {
            let history = &self.0.last().unwrap().2.0;
            (history.len(), history.iter().map(|past| past.left.was.len()).sum())
        }
    }

    #[test]
    fn who_holds_an_earlier_set_and_takes_the_delta_holds_the_newest() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut sets = Sets::new(Vec::new());
        let mut checked = 0;
        for _ in 0..300 {
            let mut now = sets.0.last().unwrap().1.clone();
            for _ in 0..rng.u32(1..4) {
                let number = rng.u32(..30);
                now.retain(|endpoint| endpoint.workload != format!("default/w{number}"));
                if rng.bool() {
                    now.push(endpoint(number, rng.u32(1..3)));
                }
            }
            now.sort_by(|a, b| a.workload.cmp(&b.workload));
            sets.follow(now);
            for (from_hash, held, _) in sets.0.iter().rev().skip(1) {
                let Some(delta) = sets.since(*from_hash) else { break };
                let mut held: BTreeMap<_, _> = held.iter().map(|e| (e.workload.clone(), e.clone())).collect();
                for gone in &delta.removed {
                    assert!(held.remove(gone).is_some(), "{gone} was not there");
                }
                for endpoint in delta.upserts {
                    let before = held.insert(endpoint.workload.clone(), endpoint.clone());
                    assert_ne!(before, Some(endpoint), "did not change");
                }
                assert_eq!(held.into_values().collect::<Vec<_>>(), sets.0.last().unwrap().1);
                checked += 1;
            }
        }
        assert!(checked > 1_000, "{checked}");
    }

    #[test]
    fn endpoints_that_change_for_ever_leave_sixteen_names_behind() {
        let all =
            |failing: u32| (0..10).map(|number| endpoint(number, 1 + u32::from(number == failing))).collect();
        let mut sets = Sets::new(all(99));
        for round in 0..5_000 {
            sets.follow(all(if round % 2 == 0 { round % 10 } else { 99 }));
        }
        assert_eq!(sets.kept(), (16, 16));
        let newest = sets.0.last().unwrap().0;
        assert!(sets.since(newest - 16).is_some());
        assert_eq!(sets.since(newest - 17), None);
    }

    #[test]
    fn no_more_names_are_remembered_than_there_are_endpoints() {
        let all = |weight| (0..100).map(|number| endpoint(number, weight)).collect();
        let mut sets = Sets::new(all(0));
        for weight in 1..50 {
            sets.follow(all(weight));
        }
        assert_eq!(sets.kept(), (1, 100));
        sets.follow(Vec::new());
        assert_eq!(sets.kept(), (0, 0));
    }
}
