//! How many requests an app is given at once, found out from how it answers.
//!
//! Who has all of its servers busy answers no faster for being given more: what it cannot begin yet waits inside it. So
//! when requests had to be refused, the limit is lowered until the app answers fewer than before. What a request takes
//! then is what it takes where none waits; times the rate at which the app answered (Little, 1961), that is how many it
//! works on at once. It is given those and a few to choose from, as many as keep its servers busy though requests come
//! and take as chance has it (Halfin and Whitt, 1981). Every few seconds of overload, and when answers take much longer
//! than they should, it is measured again. While nothing has to be refused there is nothing to find out, and the limit
//! goes back up.

use std::time::Duration;

/// Requests at once before anything is known, and where a limit that was lower goes back to.
const START: f64 = 128.0;

/// The limit is never lower.
const LEAST: f64 = 3.0;

/// The limit is never higher.
const MOST: f64 = 100_000.0;

/// A limit is let go by this factor with each window in which nobody was refused.
const RELIEF: f64 = 1.1;

/// For how long a measurement is believed.
const BELIEF: Duration = Duration::from_secs(10);

/// An app that answers less than this share of what it answered before is not given enough.
const HURT: f64 = 0.85;

/// Answers that take so many times as long as they should raise doubts.
const SUSPICIOUS: f64 = 3.0;

/// In so many windows in a row.
const DOUBTS: u32 = 2;

/// Windows that the rate is the best of.
const RATES: usize = 8;

/// What happened within some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// How long it was.
    pub elapsed: Duration,
    /// Requests that were answered.
    pub answered: u32,
    /// What these took, together.
    pub taken: Duration,
    /// What the fastest of them took.
    pub fastest: Duration,
    /// Requests that were refused, for as many as allowed were under way.
    pub refused: u32,
}

/// Finds out how many requests an app works on at once.
#[derive(Debug, Clone)]
pub struct Concurrency {
    limit: f64,
    /// How fast it answered in the last windows of overload, newest first.
    rates: [f64; RATES],
    /// What a request takes where none waits, in seconds.
    service: f64,
    /// How much longer that is believed.
    belief: Duration,
    doubts: u32,
    easing: Option<Easing>,
    /// How long an answer took in the last window.
    mean: f64,
}

/// The limit is being lowered, to see what comes of it.
#[derive(Debug, Clone, Copy)]
struct Easing {
    /// What was begun under the limit before has to end first.
    settling: bool,
    /// The best rate since it began.
    rate: f64,
    /// The limit when it began.
    from: f64,
}

impl Default for Concurrency {
    fn default() -> Self {
        Self {
            limit: START,
            rates: [0.0; RATES],
            service: 0.0,
            belief: Duration::ZERO,
            doubts: 0,
            easing: None,
            mean: 0.0,
        }
    }
}

impl Concurrency {
    /// Requests that may be under way at once.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within LEAST and MOST")]
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }

    /// Whether a window says enough: answers enough to be no accident, and twice as long as one takes.
    pub fn is_whole(&self, window: &Window) -> bool {
        let seconds = window.elapsed.as_secs_f64();
        match window.answered {
            0 => false,
            32.. => seconds >= (2.0 * self.mean).clamp(0.1, 2.0),
            4..32 => seconds >= 2.0,
            1..4 => seconds >= 10.0,
        }
    }

    /// Learns from a window that says enough.
    pub fn learn(&mut self, window: &Window) {
        let elapsed = window.elapsed.as_secs_f64();
        if window.answered == 0 || elapsed <= 0.0 {
            return;
        }
        let rate = f64::from(window.answered) / elapsed;
        self.mean = window.taken.as_secs_f64() / f64::from(window.answered);
        self.belief = self.belief.saturating_sub(window.elapsed);
        if window.refused == 0 {
            return self.relax();
        }
        let Some(easing) = self.easing else { return self.go_on(rate, window.fastest) };
        if easing.settling {
            self.easing = Some(Easing { settling: false, ..easing });
        } else {
            self.ease(easing, rate, window.fastest);
        }
    }

    /// Nobody had to be refused.
    fn relax(&mut self) {
        if let Some(easing) = self.easing.take() {
            self.limit = easing.from;
        }
        self.doubts = 0;
        self.limit = self.limit.max((self.limit * RELIEF).min(START));
    }

    fn go_on(&mut self, rate: f64, fastest: Duration) {
        if !self.is_doubtful() {
            return self.serve(rate);
        }
        self.rates = [0.0; RATES];
        self.lower(Easing { settling: true, rate, from: self.limit }, fastest);
    }

    /// Whether what was measured is not believed any more.
    fn is_doubtful(&mut self) -> bool {
        let is_slow = self.mean > SUSPICIOUS * self.service;
        self.doubts = if is_slow { self.doubts + 1 } else { 0 };
        self.belief.is_zero() || self.doubts >= DOUBTS
    }

    fn ease(&mut self, easing: Easing, rate: f64, fastest: Duration) {
        let is_hurt = rate < HURT * easing.rate;
        let easing = Easing { settling: true, rate: easing.rate.max(rate), ..easing };
        if !is_hurt && self.limit > LEAST {
            return self.lower(easing, fastest);
        }
        self.service = self.mean;
        self.belief = BELIEF;
        self.doubts = 0;
        self.easing = None;
        self.serve(easing.rate);
    }

    /// To the half, or at once to where it would be if all requests were like the fastest, four times over: too low does
    /// no harm but for a moment, and the way there is short.
    fn lower(&mut self, easing: Easing, fastest: Duration) {
        let at_once = 4.0 * easing.rate * fastest.as_secs_f64();
        self.limit = (self.limit / 2.0).min(at_once).max(LEAST);
        self.easing = Some(easing);
    }

    /// As many as it works on at once, and a few to choose from.
    fn serve(&mut self, rate: f64) {
        self.rates.rotate_right(1);
        if let Some(newest) = self.rates.first_mut() {
            *newest = rate;
        }
        let best = self.rates.iter().copied().fold(0.0, f64::max);
        let busy = best * self.service;
        let spare = (2.0 * libm::sqrt(busy) + 1.0).max(busy / 4.0);
        self.limit = (busy + spare).clamp(LEAST, MOST);
    }
}
