//! The circuit breaker on a virtual clock.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use weft_core::breaker::{Breaker, Ejection, Sent, Standing, Verdict, eject};
use weft_core::model::{CircuitBreaker, Ratio};

use crate::balancing::virtual_start;

const SECOND: Duration = Duration::from_secs(1);

struct Watched {
    breaker: Breaker,
    settings: CircuitBreaker,
    now: Instant,
}

impl Watched {
    fn new(settings: CircuitBreaker) -> Self {
        Self { breaker: Breaker::default(), settings, now: virtual_start() }
    }

    fn send(&mut self) -> Sent {
        self.breaker.send(self.now)
    }

    fn judge(&mut self, sent: Sent, verdict: Verdict) -> bool {
        self.breaker.judge(sent, verdict, &self.settings, self.now)
    }

    fn all(&mut self, verdict: Verdict, times: u32) {
        for _ in 0..times {
            let sent = self.send();
            self.judge(sent, verdict);
        }
    }

    /// `closed`, `trial` or `open`.
    fn standing(&self) -> &'static str {
        match self.breaker.standing(&self.settings, self.now) {
            Standing::Closed => "closed",
            Standing::Trial { .. } => "trial",
            Standing::Open { .. } => "open",
        }
    }

    /// How many whole seconds it stays open.
    fn open_for(&mut self) -> u64 {
        let mut seconds = 0;
        while self.standing() == "open" {
            self.now += SECOND;
            seconds += 1;
        }
        seconds
    }
}

fn in_a_row() -> CircuitBreaker {
    CircuitBreaker { failure_ratio: None, ..CircuitBreaker::default() }
}

fn by_ratio() -> CircuitBreaker {
    CircuitBreaker { consecutive_failures: None, ..CircuitBreaker::default() }
}

#[test]
fn failures_in_a_row_open_it_and_a_success_between_them_does_not() {
    let mut watched = Watched::new(in_a_row());
    for _ in 0..100 {
        watched.all(Verdict::Failed, 4);
        watched.all(Verdict::Worked, 1);
    }
    assert_eq!(watched.standing(), "closed");
    watched.all(Verdict::Failed, 5);
    assert_eq!(watched.standing(), "open");
}

#[test]
fn a_ratio_opens_it_only_among_enough_requests_within_the_window() {
    let mut watched = Watched::new(by_ratio());
    watched.all(Verdict::Failed, 9);
    assert_eq!(watched.standing(), "closed");
    watched.now += 11 * SECOND;
    watched.all(Verdict::Worked, 20);
    watched.all(Verdict::Failed, 19);
    assert_eq!(watched.standing(), "closed", "19 of 39, the first nine are forgotten");
    watched.all(Verdict::Failed, 1);
    assert_eq!(watched.standing(), "open", "20 of 40");
}

#[test]
fn what_says_nothing_of_the_endpoint_does_not_count() {
    let mut watched = Watched::new(in_a_row());
    watched.all(Verdict::Unknown, 1000);
    assert_eq!(watched.standing(), "closed");
}

#[test]
fn after_its_time_it_is_tried_and_one_success_closes_it() {
    let mut watched = Watched::new(in_a_row());
    watched.all(Verdict::Failed, 5);
    assert_eq!(watched.open_for(), 30);
    assert_eq!(watched.standing(), "trial");
    let trial = watched.send();
    assert_eq!(watched.standing(), "open", "one trial at a time");
    assert!(watched.judge(trial, Verdict::Unknown));
    assert_eq!(watched.standing(), "trial", "it told nothing, another may");
    let trial = watched.send();
    assert!(watched.judge(trial, Verdict::Worked));
    assert_eq!(watched.standing(), "closed");
}

#[test]
fn each_failed_trial_doubles_the_time_up_to_tenfold() {
    let mut watched = Watched::new(in_a_row());
    watched.all(Verdict::Failed, 5);
    let mut times = vec![watched.open_for()];
    for _ in 0..5 {
        watched.all(Verdict::Failed, 1);
        times.push(watched.open_for());
    }
    assert_eq!(times, [30, 60, 120, 240, 300, 300]);
    // Closed again, but not for long: the time goes on growing. After a rest it begins anew.
    watched.all(Verdict::Worked, 1);
    watched.all(Verdict::Failed, 5);
    assert_eq!(watched.open_for(), 300);
    watched.all(Verdict::Worked, 1);
    watched.now += 301 * SECOND;
    watched.all(Verdict::Failed, 5);
    assert_eq!(watched.open_for(), 30);
}

#[test]
fn several_trials_must_all_work() {
    let mut watched = Watched::new(CircuitBreaker { half_open_requests: 3, ..in_a_row() });
    watched.all(Verdict::Failed, 5);
    watched.open_for();
    let trials: Vec<_> = (0..3).map(|_| watched.send()).collect();
    assert_eq!(watched.standing(), "open");
    watched.judge(trials[0], Verdict::Worked);
    watched.judge(trials[1], Verdict::Worked);
    assert_eq!(watched.standing(), "open");
    watched.judge(trials[2], Verdict::Worked);
    assert_eq!(watched.standing(), "closed");
}

#[test]
fn what_was_sent_before_it_opened_says_nothing_of_the_trial() {
    let mut watched = Watched::new(in_a_row());
    let old = watched.send();
    watched.all(Verdict::Failed, 5);
    watched.open_for();
    let trial = watched.send();
    assert!(!watched.judge(old, Verdict::Failed));
    watched.judge(trial, Verdict::Worked);
    assert_eq!(watched.standing(), "closed");
}

#[test]
fn never_more_are_left_out_than_may_be_and_all_only_when_none_works() {
    let now = virtual_start();
    let open = |after: u64| Standing::Open { since: now + Duration::from_secs(after), until: None };
    let settings = CircuitBreaker { max_ejected: Ratio::percent(50), ..CircuitBreaker::default() };
    let closed = Standing::Closed;
    let check = |standings: &[Standing], expected: &[usize]| {
        assert_eq!(eject(standings, &settings), Ejection::Some(expected.into()), "{standings:?}");
    };
    check(&[closed, closed], &[]);
    check(&[closed, open(1)], &[1]);
    check(&[open(3), open(1), open(2), closed], &[1, 2]);
    check(&[open(1), closed, closed, closed, closed, closed], &[0]);
    check(&[open(1), Standing::Trial { since: now }, closed], &[0]);
    check(&[], &[]);
    assert_eq!(eject(&[open(1)], &settings), Ejection::All);
    assert_eq!(eject(&[open(1), open(2), open(3)], &settings), Ejection::All);
    let careful = CircuitBreaker { max_ejected: Ratio::NONE, ..settings };
    assert_eq!(eject(&[open(1), closed], &careful), Ejection::Some(vec![]));
}

proptest! {
    #[test]
    fn trials_are_never_more_than_allowed_and_it_always_comes_back(
        steps in prop::collection::vec((0_u8..4, 0_u64..20), 1..400), most in 1_u32..4,
    ) {
        let mut watched = Watched::new(CircuitBreaker { half_open_requests: most, ..CircuitBreaker::default() });
        let mut under_way: Vec<Sent> = Vec::new();
        let mut trials_in_a_row = 0;
        for (step, seconds) in steps {
            watched.now += Duration::from_secs(seconds);
            match step {
                0 | 1 if watched.standing() == "open" => {}
                0 | 1 => {
                    trials_in_a_row += u32::from(watched.standing() == "trial");
                    prop_assert!(trials_in_a_row <= most);
                    under_way.push(watched.send());
                }
                verdict => {
                    if let Some(sent) = under_way.pop() {
                        trials_in_a_row = 0;
                        watched.judge(sent, if verdict == 2 { Verdict::Worked } else { Verdict::Failed });
                    }
                }
            }
        }
        for sent in under_way {
            watched.judge(sent, Verdict::Unknown);
        }
        watched.open_for();
        for _ in 0..2 * most {
            let sent = watched.send();
            watched.judge(sent, Verdict::Worked);
        }
        prop_assert_eq!(watched.standing(), "closed");
    }
}
