//! What becomes of an endpoint's requests, as far as its circuit breaker must know: one breaker for all workers.
//!
//! No worker ever waits for another. That a request worked is kept by the worker itself while the breaker has nothing
//! against the endpoint; what else there is to tell waits its turn where another worker is telling something. Whoever
//! changes an endpoint's standing counts that up, and every worker looks at the count before it chooses.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};
use std::time::Instant;

use weft_core::breaker::{Breaker, Phase, Sent, Standing, Verdict};
use weft_core::model::{CircuitBreaker, Endpoint, QualifiedName};

use super::Source;

/// Requests that worked and are not told of, at most.
const UNTOLD: u32 = 16;

/// Others that could not be told of, at most; beyond, the endpoint is not judged by them.
const MOST_UNTOLD: usize = 256;

/// The breakers of all endpoints that have one. Asked when endpoints or policies change, never by a request.
#[derive(Debug, Clone, Default)]
pub struct Breakers(Arc<Mutex<HashMap<Source, Circuit>>>);

/// The breakers of one destination.
#[derive(Debug, Default)]
struct Circuit {
    changes: Arc<AtomicU64>,
    endpoints: HashMap<QualifiedName, (Weak<Endpoint>, Weak<Joint>)>,
}

/// One endpoint's breaker, as all workers know it.
#[derive(Debug, Default)]
pub(super) struct Joint {
    breaker: Mutex<Breaker>,
    /// Whether there is nothing against the endpoint.
    is_quiet: AtomicBool,
    /// Counts how often an endpoint of the same destination has got another standing.
    pub(super) changes: Arc<AtomicU64>,
}

/// How an endpoint stands, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// The service, or the workload where it is called by its own address.
    pub destination: QualifiedName,
    /// Its port.
    pub port: u16,
    /// The endpoint; none: the destination as a whole.
    pub endpoint: Option<QualifiedName>,
    /// What it may be sent.
    pub phase: Phase,
}

/// One worker's view of a breaker; without settings it lets everything pass, and counts nothing.
#[derive(Debug, Default)]
pub(super) struct Watched {
    settings: Cell<Option<CircuitBreaker>>,
    joint: RefCell<Arc<Joint>>,
    /// Requests that worked and were not told of.
    worked: Cell<u32>,
    /// What could not be told yet.
    untold: RefCell<Vec<(Sent, Verdict)>>,
}

/// A request whose outcome the breaker waits for. What is dropped without one says nothing.
#[derive(Debug)]
pub struct Ticket {
    watched: Rc<Watched>,
    sent: Option<Sent>,
}

impl Breakers {
    /// The breaker of an endpoint, the same for all workers; another one where the endpoint has become another.
    pub(super) fn joint(&self, source: &Source, endpoint: &Arc<Endpoint>) -> Arc<Joint> {
        let mut circuits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        circuits.retain(|known, circuit| {
            circuit.endpoints.retain(|_, (_, joint)| joint.strong_count() > 0);
            known == source || !circuit.endpoints.is_empty()
        });
        let circuit = circuits.entry(source.clone()).or_default();
        if let Some((of, joint)) = circuit.endpoints.get(&endpoint.workload)
            && of.upgrade().is_some_and(|of| of.is_same_place(endpoint))
            && let Some(joint) = joint.upgrade()
        {
            return joint;
        }
        let changes = Arc::clone(&circuit.changes);
        let joint = Arc::new(Joint { is_quiet: AtomicBool::new(true), changes, ..Joint::default() });
        let known = (Arc::downgrade(endpoint), Arc::downgrade(&joint));
        circuit.endpoints.insert(endpoint.workload.clone(), known);
        joint
    }

    /// How every endpoint stands at `now`, and every destination: open where all of its endpoints are.
    pub fn list(&self, now: Instant) -> Vec<Listed> {
        let circuits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut listed = Vec::new();
        for (source, circuit) in &*circuits {
            let mut best = None;
            for (workload, (_, joint)) in &circuit.endpoints {
                let Some(joint) = joint.upgrade() else { continue };
                let phase = joint.breaker.lock().unwrap_or_else(PoisonError::into_inner).phase(now);
                best = Some(best.map_or(phase, |best: Phase| best.min(phase)));
                listed.extend(named(source, workload, Some(workload.clone()), phase));
            }
            let any = circuit.endpoints.keys().next();
            listed.extend(any.zip(best).and_then(|(any, best)| named(source, any, None, best)));
        }
        listed.sort();
        listed
    }
}

fn named(
    source: &Source,
    workload: &QualifiedName,
    endpoint: Option<QualifiedName>,
    phase: Phase,
) -> Option<Listed> {
    let (destination, port) = match source {
        Source::Service(service, port) | Source::Host(service, port, _) => (service.clone(), *port),
        Source::Workload(_, port) => (workload.clone(), *port),
        Source::App(..) => return None,
    };
    Some(Listed { destination, port, endpoint, phase })
}

impl Watched {
    /// Puts other settings in force, on a breaker that all workers share.
    pub(super) fn set(&self, settings: Option<(CircuitBreaker, Arc<Joint>)>) {
        let (settings, joint) = settings.unzip();
        *self.joint.borrow_mut() = joint.unwrap_or_default();
        self.settings.set(settings);
    }

    /// What the endpoint may be sent; none where another worker has just something to tell of it.
    pub(super) fn standing(&self, settings: &CircuitBreaker, now: Instant) -> Option<Standing> {
        held(&self.joint.borrow().breaker).map(|breaker| breaker.standing(settings, now))
    }

    /// A request is sent; none where nobody waits for what becomes of it.
    pub(super) fn send(self: &Rc<Self>, now: Instant) -> Option<Ticket> {
        let settings = self.settings.get()?;
        let joint = self.joint.borrow();
        let mut sent = Sent::default();
        let mut is_another = false;
        if !joint.is_quiet.load(Ordering::Relaxed)
            && let Some(mut breaker) = held(&joint.breaker)
        {
            is_another = breaker.standing(&settings, now) != Standing::Closed;
            sent = breaker.send(now);
        }
        if is_another {
            joint.count_change();
        }
        Some(Ticket { watched: Rc::clone(self), sent: Some(sent) })
    }

    fn tell(&self, sent: Sent, verdict: Verdict) {
        let Some(settings) = self.settings.get() else { return };
        let joint = self.joint.borrow();
        let is_usual = sent == Sent::default();
        match verdict {
            Verdict::Unknown if is_usual => return,
            Verdict::Worked if is_usual && joint.is_quiet.load(Ordering::Relaxed) => {
                self.worked.set(self.worked.get() + 1);
                if self.worked.get() < UNTOLD {
                    return;
                }
            }
            _ => self.keep(sent, verdict),
        }
        let Some(mut breaker) = held(&joint.breaker) else { return };
        let now = Instant::now();
        breaker.worked(self.worked.take(), &settings, now);
        let mut is_another = false;
        for (sent, verdict) in self.untold.borrow_mut().drain(..) {
            is_another |= breaker.judge(sent, verdict, &settings, now);
        }
        joint.is_quiet.store(breaker.is_quiet(), Ordering::Relaxed);
        drop(breaker);
        if is_another {
            joint.count_change();
        }
    }

    fn keep(&self, sent: Sent, verdict: Verdict) {
        let mut untold = self.untold.borrow_mut();
        if untold.len() < MOST_UNTOLD {
            untold.push((sent, verdict));
        }
    }
}

impl Joint {
    /// Counts a change up. Only when the breaker is let go of: whoever looks then must be able to see it.
    fn count_change(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }
}

/// The breaker, unless another worker has it.
fn held(breaker: &Mutex<Breaker>) -> Option<std::sync::MutexGuard<'_, Breaker>> {
    match breaker.try_lock() {
        Ok(breaker) => Some(breaker),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

impl Ticket {
    /// Says what became of it.
    pub fn judge(mut self, verdict: Verdict) {
        self.tell(verdict);
    }

    fn tell(&mut self, verdict: Verdict) {
        if let Some(sent) = self.sent.take() {
            self.watched.tell(sent, verdict);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tell(Verdict::Unknown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Arc<Endpoint> {
        Arc::new(Endpoint {
            workload: "default/orders-1".parse().unwrap(),
            addresses: vec![[10, 0, 0, 1].into()],
            identity: None,
            inbound_port: None,
            zone: String::new(),
            node: Arc::default(),
            weight: 1,
            ports: Vec::new(),
            healthy: true,
            fits: weft_core::model::Fits::default(),
        })
    }

    fn source() -> Source {
        Source::Service("default/orders".parse().unwrap(), 80)
    }

    fn settings() -> CircuitBreaker {
        CircuitBreaker { consecutive_failures: Some(4), failure_ratio: None, ..CircuitBreaker::default() }
    }

    /// Two workers' views of one endpoint.
    fn workers(breakers: &Breakers, endpoint: &Arc<Endpoint>) -> [Rc<Watched>; 2] {
        [(); 2].map(|()| {
            let watched = Rc::new(Watched::default());
            watched.set(Some((settings(), breakers.joint(&source(), endpoint))));
            watched
        })
    }

    fn call(watched: &Rc<Watched>, verdict: Verdict) {
        watched.send(Instant::now()).unwrap().judge(verdict);
    }

    fn phase(breakers: &Breakers) -> Phase {
        let listed = breakers.list(Instant::now());
        assert_eq!(listed.len(), 2, "the endpoint, and the service as a whole: {listed:?}");
        assert_eq!(listed[0].phase, listed[1].phase);
        listed[0].phase
    }

    #[test]
    fn failures_that_workers_see_are_counted_together_and_a_success_of_either_ends_the_row() {
        let (breakers, endpoint) = (Breakers::default(), endpoint());
        let [one, other] = workers(&breakers, &endpoint);
        for _ in 0..3 {
            call(&one, Verdict::Failed);
            call(&other, Verdict::Failed);
            call(&one, Verdict::Failed);
            call(&other, Verdict::Worked);
        }
        assert_eq!(phase(&breakers), Phase::Closed);
        let before = one.joint.borrow().changes.load(Ordering::Relaxed);
        call(&one, Verdict::Failed);
        call(&one, Verdict::Failed);
        call(&other, Verdict::Failed);
        call(&other, Verdict::Failed);
        assert_eq!(phase(&breakers), Phase::Open);
        assert!(one.joint.borrow().changes.load(Ordering::Relaxed) > before, "both workers look again");
    }

    #[test]
    fn what_cannot_be_told_is_told_with_the_next_outcome() {
        let (breakers, endpoint) = (Breakers::default(), endpoint());
        let [one, other] = workers(&breakers, &endpoint);
        let joint = Arc::clone(&one.joint.borrow());
        let busy = joint.breaker.lock().unwrap();
        for _ in 0..3 {
            call(&one, Verdict::Failed);
        }
        assert_eq!(one.standing(&settings(), Instant::now()), None, "nobody waits to see it");
        drop(busy);
        assert_eq!(phase(&breakers), Phase::Closed);
        call(&one, Verdict::Failed);
        assert_eq!(phase(&breakers), Phase::Open);
        assert!(matches!(other.standing(&settings(), Instant::now()), Some(Standing::Open { .. })));
    }

    #[test]
    fn an_endpoint_that_is_another_has_a_breaker_of_its_own() {
        let (breakers, endpoint) = (Breakers::default(), endpoint());
        let first = breakers.joint(&source(), &endpoint);
        let sick = Arc::new(Endpoint { healthy: false, ..Endpoint::clone(&endpoint) });
        assert!(
            Arc::ptr_eq(&first, &breakers.joint(&source(), &sick)),
            "its health is no part of what it is"
        );
        let moved =
            Arc::new(Endpoint { addresses: vec![[10, 0, 0, 2].into()], ..Endpoint::clone(&endpoint) });
        let second = breakers.joint(&source(), &moved);
        assert!(!Arc::ptr_eq(&first, &second));
        drop((first, second));
        assert_eq!(breakers.list(Instant::now()), []);
    }
}
