//! How much of a service's requests are under way at once, and how many connections are open to it, in all workers: one
//! service that hangs takes no more than its own share of anything.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;
use weft_core::model::{Bulkhead, QualifiedName};

use crate::failure::ErrorCode;

/// How long a request waits for others to end.
const PATIENCE: Duration = Duration::from_secs(1);

/// The bulkheads of all services that have one. Asked when a policy changes, never by a request.
#[derive(Debug, Clone, Default)]
pub struct Bulkheads {
    rooms: Arc<Mutex<HashMap<QualifiedName, Weak<Room>>>>,
    wanted: watch::Sender<()>,
}

/// The room for one service's requests and connections.
#[derive(Debug)]
pub(super) struct Room {
    settings: Bulkhead,
    running: Arc<Semaphore>,
    waiting: Semaphore,
    connections: Arc<Semaphore>,
    /// Requests that wait for a connection to be closed.
    wanting: AtomicU32,
    wanted: watch::Sender<()>,
}

/// A place in the room, until dropped.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
}

/// A connection's place in the room, until dropped.
#[derive(Debug)]
pub struct Berth {
    _permit: OwnedSemaphorePermit,
    room: Arc<Room>,
}

impl Bulkheads {
    /// The room for `service`, the same for all workers. When the settings change there is a new one, and what is under
    /// way in the old one is not counted in it.
    pub(super) fn room(&self, service: &QualifiedName, settings: Bulkhead) -> Arc<Room> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = rooms.get(service).and_then(Weak::upgrade)
            && room.settings == settings
        {
            return room;
        }
        rooms.retain(|_, room| room.strong_count() > 0);
        let room = Arc::new(Room::new(settings, self.wanted.clone()));
        rooms.insert(service.clone(), Arc::downgrade(&room));
        room
    }

    /// Hears that someone waits for a connection to be closed, which may lie idle in any worker.
    pub fn wanted(&self) -> watch::Receiver<()> {
        self.wanted.subscribe()
    }
}

impl Room {
    fn new(settings: Bulkhead, wanted: watch::Sender<()>) -> Self {
        let permits = |count: u32| usize::try_from(count).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self {
            settings,
            running: Arc::new(Semaphore::new(permits(settings.max_concurrent_requests))),
            waiting: Semaphore::new(permits(settings.max_pending_requests)),
            connections: Arc::new(Semaphore::new(permits(settings.max_connections))),
            wanting: AtomicU32::default(),
            wanted,
        }
    }

    /// A place, where there is one now.
    pub(super) fn try_enter(&self) -> Option<Slot> {
        Arc::clone(&self.running).try_acquire_owned().ok().map(|permit| Slot { _permit: permit })
    }

    /// A place, waited for where others wait no more than allowed.
    pub(super) async fn enter(&self) -> Result<Slot, ErrorCode> {
        let _waiting = self.waiting.try_acquire().map_err(|_| ErrorCode::QueueFull)?;
        match timeout(PATIENCE, Arc::clone(&self.running).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Slot { _permit: permit }),
            Ok(Err(_)) | Err(_) => Err(ErrorCode::QueueFull),
        }
    }

    /// A place for one more connection; where there is none, idle ones are closed for it, wherever they lie.
    pub(super) async fn berth(self: &Arc<Self>) -> Result<Berth, ErrorCode> {
        let berth = |permit| Berth { _permit: permit, room: Arc::clone(self) };
        if let Ok(permit) = Arc::clone(&self.connections).try_acquire_owned() {
            return Ok(berth(permit));
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| ErrorCode::QueueFull)?;
        let _wanting = Wanting::begin(self);
        match timeout(PATIENCE, Arc::clone(&self.connections).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(berth(permit)),
            Ok(Err(_)) | Err(_) => Err(ErrorCode::QueueFull),
        }
    }

    /// Whether someone waits for a connection to be closed.
    pub(super) fn wants_connections(&self) -> bool {
        self.wanting.load(Relaxed) > 0
    }

    /// Tells all workers that a connection lies idle for which someone waits.
    pub(super) fn announce_idle(&self) {
        if self.wants_connections() {
            self.wanted.send_replace(());
        }
    }
}

impl Berth {
    /// Whether someone waits for a connection of the same service to be closed.
    pub fn is_wanted(&self) -> bool {
        self.room.wants_connections()
    }
}

/// Someone who waits for a connection to be closed.
struct Wanting<'r>(&'r Room);

impl<'r> Wanting<'r> {
    fn begin(room: &'r Room) -> Self {
        room.wanting.fetch_add(1, Relaxed);
        room.wanted.send_replace(());
        Self(room)
    }
}

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.wanting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(running: u32, pending: u32) -> Room {
        let settings =
            Bulkhead { max_connections: 1, max_concurrent_requests: running, max_pending_requests: pending };
        Room::new(settings, watch::Sender::default())
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_no_place_waits_and_who_may_not_wait_is_told_at_once() {
        let room = room(1, 1);
        let first = room.try_enter().unwrap();
        assert!(room.try_enter().is_none());
        let begun = tokio::time::Instant::now();
        let (second, third, ()) = tokio::join!(room.enter(), room.enter(), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            drop(first);
        });
        assert!(second.is_ok());
        assert_eq!(third.err(), Some(ErrorCode::QueueFull));
        assert_eq!(begun.elapsed(), Duration::from_millis(300));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_has_an_end() {
        let room = room(1, 1);
        let _first = room.try_enter().unwrap();
        let begun = tokio::time::Instant::now();
        assert_eq!(room.enter().await.err(), Some(ErrorCode::QueueFull));
        assert_eq!(begun.elapsed(), PATIENCE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_waited_for_and_whoever_holds_an_idle_one_hears_of_it() {
        let room = Arc::new(room(9, 1));
        let first = room.berth().await.unwrap();
        let mut wanted = room.wanted.subscribe();
        assert!(!first.is_wanted());
        let holder = async {
            wanted.changed().await.unwrap();
            assert!(first.is_wanted());
            drop(first);
        };
        let (second, third, ()) = tokio::join!(room.berth(), room.berth(), holder);
        let second = second.unwrap();
        assert_eq!(third.err(), Some(ErrorCode::QueueFull));
        assert!(!second.is_wanted(), "nobody waits any more");
        assert_eq!(room.berth().await.err(), Some(ErrorCode::QueueFull));
    }

    #[test]
    fn all_who_ask_for_the_same_share_a_room() {
        let (bulkheads, orders) = (Bulkheads::default(), "default/orders".parse().unwrap());
        let settings =
            Bulkhead { max_concurrent_requests: 1, max_pending_requests: 0, ..Bulkhead::default() };
        let one = bulkheads.room(&orders, settings);
        let _slot = one.try_enter().unwrap();
        assert!(bulkheads.room(&orders, settings).try_enter().is_none());
        assert!(bulkheads.room(&"default/web".parse().unwrap(), settings).try_enter().is_some());
        let wider = Bulkhead { max_concurrent_requests: 2, ..settings };
        assert!(bulkheads.room(&orders, wider).try_enter().is_some());
    }
}
