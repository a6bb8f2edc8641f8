//! Taps: who wants to see which requests. Sidecars are told what is wanted, tell of what passes, and it goes to those who
//! look, as far as they keep up.

use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tonic::{Status, Streaming};
use weft_core::model::QualifiedName;
use weft_proto::v1;

/// Who may look at once.
const MOST: usize = 32;
/// Requests that may wait for one who looks.
const WAITING: usize = 1_024;
/// Who has taken nothing for so long looks no more.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who wants to see which requests.
#[derive(Default)]
pub(crate) struct Taps {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    last: u64,
    open: BTreeMap<u64, Tap>,
}

struct Tap {
    filter: v1::TapFilter,
    from: Option<QualifiedName>,
    seen: mpsc::Sender<Result<v1::TapSeen, Status>>,
    left_out: u64,
    full_since: Option<Instant>,
}

/// What one who looks gets to see, until it is dropped.
#[derive(Debug)]
pub(crate) struct Watching {
    taps: Arc<Taps>,
    id: u64,
    seen: mpsc::Receiver<Result<v1::TapSeen, Status>>,
    /// What other control planes show.
    elsewhere: Vec<Pin<Box<Streaming<v1::TapSeen>>>>,
    /// Who shows nothing, where that was not told yet.
    missing: Option<String>,
    turn: Turn,
}

/// Whose turn it is to be looked at first: who shows much must not hide the others.
#[derive(Debug, Clone, Copy)]
enum Turn {
    Ours,
    Others,
}

impl Watching {
    /// The same with what other control planes show, of whom those are missing.
    pub(crate) fn joined_by(mut self, elsewhere: Vec<Streaming<v1::TapSeen>>, missing: String) -> Self {
        self.elsewhere = elsewhere.into_iter().map(Box::pin).collect();
        self.missing = Some(missing).filter(|missing| !missing.is_empty());
        self
    }

    fn poll_others(&mut self, context: &mut Context<'_>) -> Poll<v1::TapSeen> {
        for _ in 0..self.elsewhere.len() {
            // The one that was looked at goes to the end.
            self.elsewhere.rotate_left(1);
            let Some(stream) = self.elsewhere.last_mut() else { break };
            match stream.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(seen))) => return Poll::Ready(seen),
                Poll::Ready(Some(Err(_)) | None) => {
                    self.elsewhere.pop();
                    let missing = "another control plane shows no more: look again".to_owned();
                    return Poll::Ready(v1::TapSeen { missing, ..v1::TapSeen::default() });
                }
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }
}

impl Taps {
    /// From now on requests that pass the filter are shown; of one caller alone where that is named.
    pub(crate) fn open(
        self: &Arc<Self>,
        mut filter: v1::TapFilter,
        from: Option<QualifiedName>,
    ) -> Result<Watching, Status> {
        let (sender, seen) = mpsc::channel(WAITING);
        let mut state = self.lock();
        if state.open.len() >= MOST {
            return Err(Status::resource_exhausted(format!("{MOST} look already; end one of them")));
        }
        state.last += 1;
        let id = state.last;
        filter.id = id;
        state.open.insert(id, Tap { filter, from, seen: sender, left_out: 0, full_since: None });
        self.changed.send_replace(id);
        let (elsewhere, missing, turn) = (Vec::new(), None, Turn::Ours);
        Ok(Watching { taps: self.clone(), id, seen, elsewhere, missing, turn })
    }

    /// Told whenever something else is wanted.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What is wanted of a sidecar of this account.
    pub(crate) fn wanted_of(&self, account: &QualifiedName) -> Vec<v1::TapFilter> {
        let state = self.lock();
        let wanted = state.open.values().filter(|tap| tap.from.as_ref().is_none_or(|from| from == account));
        wanted.map(|tap| v1::TapFilter { strangers: tap.from.is_none(), ..tap.filter.clone() }).collect()
    }

    /// Takes what a sidecar saw to those who look; who does not keep up is shown less. A sidecar tells of its own calls,
    /// and of what came to services of its own namespace.
    pub(crate) fn deliver(
        &self,
        workload: &QualifiedName,
        account: &QualifiedName,
        events: v1::TapEvents,
        now: Instant,
    ) {
        let mut state = self.lock();
        for mut event in events.events {
            let taps = std::mem::take(&mut event.taps);
            if !event.inbound {
                event.caller = account.to_string();
            }
            let own = |service: &str| {
                service.split_once('/').is_some_and(|(of, _)| of == account.namespace.as_str())
            };
            for id in taps {
                let Some(tap) = state.open.get_mut(&id) else { continue };
                if event.service == tap.filter.service && (!event.inbound || own(&event.service)) {
                    tap.show(event.clone(), workload, now);
                }
            }
        }
        for tap in state.open.values_mut().filter(|_| events.left_out > 0) {
            if tap.from.as_ref().is_none_or(|from| from == account) {
                tap.left_out += events.left_out;
            }
        }
        let before = state.open.len();
        state.open.retain(|_, tap| tap.full_since.is_none_or(|since| now - since < PATIENCE));
        if state.open.len() < before {
            self.changed.send_modify(|changes| *changes += 1);
        }
    }

    /// How many look now.
    pub(crate) fn looking(&self) -> usize {
        self.lock().open.len()
    }

    fn close(&self, id: u64) {
        if self.lock().open.remove(&id).is_some() {
            self.changed.send_modify(|changes| *changes += 1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tap {
    fn show(&mut self, event: v1::TapEvent, workload: &QualifiedName, now: Instant) {
        match self.seen.try_reserve() {
            Ok(place) => {
                let left_out = std::mem::take(&mut self.left_out);
                place.send(Ok(v1::TapSeen {
                    event: Some(event),
                    workload: workload.to_string(),
                    left_out,
                    missing: String::new(),
                }));
                self.full_since = None;
            }
            Err(_) => {
                self.left_out += 1;
                self.full_since.get_or_insert(now);
            }
        }
    }
}

impl Stream for Watching {
    type Item = Result<v1::TapSeen, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(missing) = self.missing.take() {
            return Poll::Ready(Some(Ok(v1::TapSeen { missing, ..v1::TapSeen::default() })));
        }
        let (first, then) = match self.turn {
            Turn::Ours => (Turn::Ours, Turn::Others),
            Turn::Others => (Turn::Others, Turn::Ours),
        };
        for whose in [first, then] {
            let seen = match whose {
                Turn::Ours => self.seen.poll_recv(context),
                Turn::Others => self.poll_others(context).map(|seen| Some(Ok(seen))),
            };
            if seen.is_ready() {
                self.turn = then;
                return seen;
            }
        }
        Poll::Pending
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.taps.close(self.id);
    }
}

impl fmt::Debug for Taps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Taps").field(&self.lock().open.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> QualifiedName {
        text.parse().unwrap()
    }

    fn filter() -> v1::TapFilter {
        v1::TapFilter { service: "default/orders".into(), ..Default::default() }
    }

    fn event(taps: &[u64], inbound: bool) -> v1::TapEvent {
        let (caller, service) = ("default/else".into(), "default/orders".into());
        v1::TapEvent { taps: taps.to_vec(), inbound, caller, service, ..Default::default() }
    }

    fn deliver(taps: &Taps, account: &str, event: v1::TapEvent, left_out: u64, now: Instant) {
        let events = v1::TapEvents { events: vec![event], left_out };
        taps.deliver(&name(&format!("{account}-1")), &name(account), events, now);
    }

    #[test]
    fn sidecars_are_told_what_concerns_them_until_nobody_looks() {
        let taps = Arc::new(Taps::default());
        let mut changes = taps.changes();
        let all = taps.open(filter(), None).unwrap();
        let of_web = taps.open(filter(), Some(name("default/web"))).unwrap();
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        let strangers = |account| {
            taps.wanted_of(&name(account)).iter().map(|filter| filter.strangers).collect::<Vec<_>>()
        };
        assert_eq!(strangers("default/web"), [true, false]);
        assert_eq!(strangers("default/payments"), [true]);
        drop((all, of_web));
        assert!(changes.has_changed().unwrap());
        assert!(strangers("default/web").is_empty());
    }

    #[test]
    fn a_sidecar_tells_of_its_own_calls_and_of_its_own_services_alone() {
        let taps = Arc::new(Taps::default());
        let mut watching = taps.open(filter(), None).unwrap();
        deliver(&taps, "default/web", event(&[watching.id, 99], false), 0, Instant::now());
        let seen = watching.seen.try_recv().unwrap().unwrap();
        assert_eq!(
            (seen.workload.as_str(), seen.event.unwrap().caller.as_str()),
            ("default/web-1", "default/web")
        );
        deliver(&taps, "other/web", event(&[watching.id], true), 0, Instant::now());
        let other = v1::TapEvent { service: "default/payments".into(), ..event(&[watching.id], false) };
        deliver(&taps, "default/web", other, 0, Instant::now());
        assert!(watching.seen.try_recv().is_err());
    }

    #[test]
    fn who_stops_reading_is_shown_less_and_then_nothing_and_who_reads_on_hears_how_much() {
        let taps = Arc::new(Taps::default());
        let stalled = taps.open(filter(), None).unwrap();
        let mut reads = taps.open(filter(), None).unwrap();
        let begun = Instant::now();
        for _ in 0..=WAITING {
            deliver(&taps, "default/web", event(&[stalled.id], false), 0, begun);
        }
        deliver(&taps, "default/web", event(&[reads.id], false), 7, begun);
        deliver(&taps, "default/web", event(&[reads.id], false), 0, begun);
        let left_out: Vec<u64> =
            std::iter::from_fn(|| reads.seen.try_recv().ok()).map(|seen| seen.unwrap().left_out).collect();
        assert_eq!(left_out, [0, 7]);
        assert_eq!(taps.wanted_of(&name("default/web")).len(), 2);
        deliver(&taps, "default/web", event(&[stalled.id], false), 0, begun + PATIENCE);
        let wanted = taps.wanted_of(&name("default/web"));
        assert_eq!(wanted.iter().map(|filter| filter.id).collect::<Vec<_>>(), [reads.id]);
    }

    #[test]
    fn only_so_many_look_at_once() {
        let taps = Arc::new(Taps::default());
        let open: Vec<_> = (0..MOST).map(|_| taps.open(filter(), None).unwrap()).collect();
        assert_eq!(taps.open(filter(), None).unwrap_err().code(), tonic::Code::ResourceExhausted);
        drop(open);
        assert!(taps.open(filter(), None).is_ok());
    }
}
