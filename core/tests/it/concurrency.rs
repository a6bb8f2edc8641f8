//! The adaptive limit before apps of known capacity, on a virtual clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use weft_core::concurrency::{Concurrency, Window};

/// An app of so many servers, and who asks it: requests come and take as chance has it. Times are nanoseconds.
struct Simulation {
    concurrency: Concurrency,
    rng: fastrand::Rng,
    now: u64,
    servers: usize,
    service: Duration,
    busy: usize,
    /// When requests came that no server has begun.
    queue: VecDeque<u64>,
    /// When a server is done, and when its request came.
    ends: BinaryHeap<Reverse<(u64, u64)>>,
    window: Window,
    window_began: u64,
    steadiness: f64,
}

/// What callers saw.
#[derive(Debug, Default)]
struct Seen {
    asked: u32,
    answered: u32,
    refused: u32,
    latencies: Vec<u64>,
}

impl Seen {
    fn p99_ms(&mut self) -> u64 {
        self.latencies.sort_unstable();
        self.latencies[self.latencies.len() * 99 / 100] / 1_000_000
    }
}

impl Simulation {
    fn new(seed: u64, servers: usize, service_ms: u64) -> Self {
        Self {
            concurrency: Concurrency::default(),
            rng: fastrand::Rng::with_seed(seed),
            now: 0,
            servers,
            service: Duration::from_millis(service_ms),
            busy: 0,
            queue: VecDeque::new(),
            ends: BinaryHeap::new(),
            window: nothing_yet(),
            window_began: 0,
            steadiness: 0.5,
        }
    }

    fn in_flight(&self) -> usize {
        self.busy + self.queue.len()
    }

    fn exponential(&mut self) -> f64 {
        -self.rng.f64().max(1e-12).ln()
    }

    fn begin(&mut self, came: u64) {
        // In part fixed, in part as chance has it.
        let share = self.steadiness + (1.0 - self.steadiness) * self.exponential();
        let end = self.now + nanoseconds(self.service.as_secs_f64() * share);
        self.busy += 1;
        self.ends.push(Reverse((end, came)));
    }

    fn tick(&mut self) {
        self.window.elapsed = Duration::from_nanos(self.now - self.window_began);
        if self.concurrency.is_whole(&self.window) {
            self.concurrency.learn(&self.window);
            self.window = nothing_yet();
            self.window_began = self.now;
        }
    }

    /// Asks so often a second, for so long.
    fn run(&mut self, per_second: f64, seconds: u64) -> Seen {
        let mut seen = Seen::default();
        let until = self.now + seconds * 1_000_000_000;
        let mut next = self.now + nanoseconds(self.exponential() / per_second);
        while self.now < until {
            match self.ends.peek().copied() {
                Some(Reverse((end, came))) if end <= next => {
                    self.ends.pop();
                    self.now = end;
                    self.busy -= 1;
                    let took = end - came;
                    seen.answered += 1;
                    seen.latencies.push(took);
                    self.window.answered += 1;
                    self.window.taken += Duration::from_nanos(took);
                    self.window.fastest = self.window.fastest.min(Duration::from_nanos(took));
                    while self.busy < self.servers
                        && let Some(came) = self.queue.pop_front()
                    {
                        self.begin(came);
                    }
                }
                _ => {
                    self.now = next;
                    seen.asked += 1;
                    next += nanoseconds(self.exponential() / per_second);
                    if self.in_flight() >= self.concurrency.limit() as usize {
                        seen.refused += 1;
                        self.window.refused += 1;
                    } else if self.busy < self.servers {
                        self.begin(self.now);
                    } else {
                        self.queue.push_back(self.now);
                    }
                }
            }
            self.tick();
        }
        seen
    }
}

fn nothing_yet() -> Window {
    Window { fastest: Duration::MAX, ..Window::default() }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "times of a simulation")]
fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

#[test]
fn four_times_as_much_as_an_app_can_do_costs_it_next_to_nothing() {
    for seed in 0..3 {
        for (servers, service_ms) in [(8, 10), (1, 10), (100, 100), (4, 200)] {
            let mut simulation = Simulation::new(seed, servers, service_ms);
            let peak = servers as f64 * 1000.0 / service_ms as f64;
            simulation.run(4.0 * peak, 20);
            let mut seen = simulation.run(4.0 * peak, 30);
            let goodput = f64::from(seen.answered) / (30.0 * peak);
            let p99 = seen.p99_ms();
            let what =
                format!("{servers} x {service_ms} ms, seed {seed}: {goodput:.3} of its peak, p99 {p99} ms");
            assert!(goodput > 0.9, "{what}");
            assert!(p99 < 16 * service_ms, "{what}");
        }
    }
}

#[test]
fn nobody_is_refused_by_an_app_that_can_do_what_is_asked() {
    for seed in 0..3 {
        for (servers, service_ms) in [(8, 10), (100, 100)] {
            let peak = servers as f64 * 1000.0 / service_ms as f64;
            let mut simulation = Simulation::new(seed, servers, service_ms);
            let calm = simulation.run(0.5 * peak, 20);
            assert_eq!(calm.refused, 0, "{servers} x {service_ms} ms, seed {seed}");
            // After an overload everything is as it was.
            simulation.run(4.0 * peak, 10);
            simulation.run(0.5 * peak, 20);
            let calm = simulation.run(0.5 * peak, 20);
            assert!(calm.refused * 1000 <= calm.asked, "{servers} x {service_ms} ms, seed {seed}: {calm:?}");
        }
    }
}

#[test]
fn an_app_that_was_scaled_up_is_given_more_and_one_that_lost_servers_less() {
    for seed in 0..3 {
        let mut simulation = Simulation::new(seed, 8, 10);
        simulation.run(8_000.0, 15);
        simulation.servers = 32;
        simulation.run(8_000.0, 5);
        let grown = simulation.run(8_000.0, 10);
        assert!(grown.answered > 28_000, "of 32,000 that 32 servers can do, seed {seed}: {}", grown.answered);
        simulation.servers = 4;
        simulation.run(8_000.0, 15);
        let mut shrunk = simulation.run(8_000.0, 10);
        assert!(shrunk.answered > 3_600, "of 4,000, seed {seed}: {}", shrunk.answered);
        assert!(shrunk.p99_ms() < 120, "seed {seed}: {} ms", shrunk.p99_ms());
    }
}

#[test]
fn answers_that_take_longer_for_a_reason_of_their_own_are_not_taken_for_a_queue() {
    for seed in 0..3 {
        // Servers enough for anything: it is what they wait for that got slower.
        let mut simulation = Simulation::new(seed, 100_000, 10);
        simulation.run(2_000.0, 10);
        simulation.service = Duration::from_millis(200);
        simulation.run(2_000.0, 8);
        let after = simulation.run(2_000.0, 10);
        assert!(after.refused * 12 <= after.asked, "seed {seed}: {} of {}", after.refused, after.asked);
    }
}

#[test]
fn a_stopped_app_teaches_nothing() {
    let mut concurrency = Concurrency::default();
    let before = concurrency.limit();
    let window = Window { elapsed: Duration::from_secs(60), refused: 1000, ..Window::default() };
    assert!(!concurrency.is_whole(&window));
    concurrency.learn(&window);
    assert_eq!(concurrency.limit(), before);
}
