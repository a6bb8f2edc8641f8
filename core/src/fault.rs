//! Which faults are injected into a request: what was said to be tried out, while it is to be tried out.

use std::sync::Arc;
use std::time::Duration;

use crate::authorize;
use crate::model::{Abort, Fault, Ratio, SpiffeId};

/// What is done to a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Injected {
    /// It is held up for so long before it is sent, by this policy.
    pub delay: Option<(Duration, Arc<str>)>,
    /// It is not sent, but answered so, by this policy.
    pub abort: Option<(Abort, Arc<str>)>,
}

impl Injected {
    /// This, and where it strikes nothing of a kind, what `other` does.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { delay: self.delay.or(other.delay), abort: self.abort.or(other.abort) }
    }
}

/// Whether a fault is for calls of this identity; none: it is not known yet who calls.
pub fn is_for(fault: &Fault, caller: Option<&SpiffeId>) -> bool {
    fault.from.is_empty() || caller.is_some_and(|caller| authorize::is_among(caller, &fault.from))
}

/// Draws the faults of a request whose headers `has` says to have a value or not, at `now` (Unix time). Of several faults
/// the first that strikes counts, of each kind.
pub fn inject<'f>(
    faults: impl IntoIterator<Item = &'f Fault>,
    has: impl Fn(&str, &str) -> bool,
    now: Duration,
    rng: &mut fastrand::Rng,
) -> Injected {
    let mut injected = Injected::default();
    for fault in faults {
        let expired = fault.expires.is_some_and(|expires| expires <= now);
        if expired || !fault.headers.iter().all(|(name, value)| has(name, value)) {
            continue;
        }
        if injected.delay.is_none() {
            injected.delay = struck(fault, fault.delay, rng);
        }
        if injected.abort.is_none() {
            injected.abort = struck(fault, fault.abort, rng);
        }
    }
    injected
}

fn struck<T>(fault: &Fault, what: Option<(T, Ratio)>, rng: &mut fastrand::Rng) -> Option<(T, Arc<str>)> {
    what.filter(|(_, share)| share.strikes(rng)).map(|(what, _)| (what, Arc::clone(&fault.policy)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault() -> Fault {
        let abort = Abort { status: 503, grpc_status: 14 };
        Fault {
            policy: "default/chaos".into(),
            from: Vec::new(),
            headers: vec![("x-chaos".into(), "1".into())],
            delay: Some((Duration::from_secs(2), Ratio::percent(10))),
            abort: Some((abort, Ratio::percent(50))),
            expires: Some(Duration::from_secs(1_000)),
        }
    }

    #[test]
    fn so_many_are_struck_as_is_said() {
        let mut rng = fastrand::Rng::with_seed(3);
        let (mut delays, mut aborts) = (0, 0);
        for _ in 0..10_000 {
            let injected = inject([&fault()], |_, _| true, Duration::ZERO, &mut rng);
            delays += u32::from(injected.delay.is_some());
            aborts += u32::from(injected.abort.is_some());
        }
        assert!((850..=1_150).contains(&delays) && (4_800..=5_200).contains(&aborts), "{delays} {aborts}");
    }

    #[test]
    fn only_what_matches_is_struck_and_only_until_it_expires() {
        let mut rng = fastrand::Rng::with_seed(3);
        let always = Fault { abort: fault().abort.map(|(abort, _)| (abort, Ratio::WHOLE)), ..fault() };
        let mut aborts = |has: bool, now: u64| {
            inject([&always], |_, _| has, Duration::from_secs(now), &mut rng).abort.is_some()
        };
        assert!(aborts(true, 999));
        assert!(!aborts(false, 999));
        assert!(!aborts(true, 1_000));
        assert_eq!(inject([], |_, _| true, Duration::ZERO, &mut rng), Injected::default());
    }

    #[test]
    fn a_fault_is_for_the_callers_that_it_names() {
        use crate::model::{Callers, Selection};
        let accounts = |names: &[&str]| Selection {
            one_of: names.iter().map(|name| name.parse().unwrap()).collect(),
            none_of: Vec::new(),
        };
        let of = |names: &[&str]| Callers { service_accounts: accounts(names), ..Callers::default() };
        let web: SpiffeId = "spiffe://mesh.local/ns/default/sa/web".parse().unwrap();
        for (from, expected) in [
            (vec![], true),
            (vec![of(&["default/web"])], true),
            (vec![of(&["shop/web", "default/other"])], false),
            (vec![of(&["shop/web"]), of(&["default/web"])], true),
        ] {
            let fault = Fault { from, ..fault() };
            assert_eq!(is_for(&fault, Some(&web)), expected, "{fault:?}");
            assert_eq!(is_for(&fault, None), fault.from.is_empty());
        }
    }

    #[test]
    fn of_two_draws_the_first_that_strikes_counts_of_each_kind() {
        let late = |seconds, policy: &str| Some((Duration::from_secs(seconds), policy.into()));
        let abort = Some((Abort { status: 503, grpc_status: 14 }, "default/second".into()));
        let first = Injected { delay: late(1, "default/first"), abort: None };
        let second = Injected { delay: late(2, "default/second"), abort: abort.clone() };
        let both = Injected { delay: late(1, "default/first"), abort };
        assert_eq!(first.clone().or(second), both);
        assert_eq!(Injected::default().or(first.clone()), first);
    }
}
