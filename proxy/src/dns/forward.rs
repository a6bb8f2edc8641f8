//! Questions that are not ours, passed on to the pod's own resolvers, and what they answered, remembered.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch};
use tokio::time::timeout;
use weft_runtime::task;

use super::cache::{Cache, Stored};
use super::upstream::{Heard, Question, Upstream};
use super::wire::{self, Query, Rcode, Reply};
use super::{ResolvConf, Transport};

/// Questions that may be on their way to the resolvers at once, each with a socket for each of them.
const UNDER_WAY: usize = 128;

/// Questions that may be on their way or wait until they can be; more fail at once.
const ADMITTED: usize = 1024;

/// Passes questions on.
#[derive(Debug)]
pub struct Forwarder {
    path: PathBuf,
    /// Our own listeners, which are never asked.
    own: Vec<SocketAddr>,
    mark: Option<u32>,
    state: Mutex<State>,
    under_way: Semaphore,
    admitted: Arc<Semaphore>,
}

/// Everything that holds as long as `resolv.conf` stays as it is.
#[derive(Debug, Default)]
struct State {
    /// What the file looked like when it was read.
    read: Option<(Option<Look>, Arc<Upstream>)>,
    cache: Cache,
    asking: HashMap<(Box<[u8]>, Transport), Asking>,
}

/// Hears what a question that is on its way is answered.
type Asking = watch::Receiver<Option<Arc<Stored>>>;

/// By what a changed file is told: device, inode, size, and when it was written and changed.
type Look = [i64; 6];

/// An answer, and whether it came from memory.
#[derive(Debug)]
pub(super) enum Forwarded {
    /// A resolver said so just now.
    Fresh(Vec<u8>),
    /// It was said earlier, and holds.
    Remembered(Vec<u8>),
}

impl Forwarder {
    /// Asks whom the file says, from sockets with this mark.
    pub fn new(path: PathBuf, own: Vec<SocketAddr>, mark: Option<u32>) -> Self {
        Self {
            path,
            own,
            mark,
            state: Mutex::default(),
            under_way: Semaphore::new(UNDER_WAY),
            admitted: Arc::new(Semaphore::new(ADMITTED)),
        }
    }

    /// The resolvers that the file says now. What was remembered of others is forgotten.
    pub(super) fn upstream(&self) -> Arc<Upstream> {
        let look = std::fs::metadata(&self.path).ok().map(|file| {
            let (device, inode, size) = (file.dev(), file.ino(), file.size());
            let [device, inode, size] = [device, inode, size].map(u64::cast_signed);
            [device, inode, size, file.mtime(), file.mtime_nsec(), file.ctime_nsec()]
        });
        let mut state = self.state();
        if let Some((seen, upstream)) = &state.read
            && *seen == look
        {
            return Arc::clone(upstream);
        }
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let upstream = Arc::new(Upstream::new(ResolvConf::parse(&text), &self.own, self.mark));
        *state = State { read: Some((look, Arc::clone(&upstream))), ..State::default() };
        upstream
    }

    /// The answer to a question about somebody else's name.
    pub(super) async fn ask(
        self: &Arc<Self>,
        message: &[u8],
        query: &Query,
        transport: Transport,
        upstream: &Arc<Upstream>,
    ) -> Forwarded {
        if query.particular {
            let heard = match self.admit() {
                Some(admitted) => {
                    let question = Question { message, query: Some(query), transport };
                    self.send(&question, upstream, admitted).await
                }
                None => None,
            };
            return Forwarded::Fresh(heard.map_or_else(|| failure(query), |heard| with_id(heard, query.id)));
        }
        let key = query.key();
        let mut answered = {
            let mut state = self.state();
            if let Some(stored) = state.cache.find(&key) {
                return Forwarded::Remembered(stored.answer(query));
            }
            match state.asking.get(&(key.clone(), transport)) {
                Some(answered) => answered.clone(),
                None => {
                    let Some(answered) = self.start(message, query, transport, upstream) else {
                        return Forwarded::Fresh(failure(query));
                    };
                    state.asking.insert((key, transport), answered.clone());
                    answered
                }
            }
        };
        let answer = answered.wait_for(Option::is_some).await;
        let stored = answer.ok().and_then(|stored| stored.clone());
        Forwarded::Fresh(stored.map_or_else(|| failure(query), |stored| stored.answer(query)))
    }

    /// The answer to what is no question but goes the same way.
    pub(super) async fn pass(&self, message: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let question = Question { message, query: None, transport };
        let heard = self.send(&question, &self.upstream(), self.admit()?).await?;
        let mut answer = heard.message;
        wire::overwrite(&mut answer, 0, message.get(..2)?);
        Some(answer)
    }

    /// Asks on a task of its own, so that it goes on for others when the first who asked has left.
    fn start(
        self: &Arc<Self>,
        message: &[u8],
        query: &Query,
        transport: Transport,
        upstream: &Arc<Upstream>,
    ) -> Option<Asking> {
        let admitted = self.admit()?;
        let (tell, answered) = watch::channel(None);
        let (message, query) = (message.to_vec(), query.clone());
        let (forwarder, upstream) = (Arc::clone(self), Arc::clone(upstream));
        task::spawn("dns-forward", async move {
            let question = Question { message: &message, query: Some(&query), transport };
            let heard = forwarder.send(&question, &upstream, admitted).await;
            let stored = match heard {
                Some(Heard { answer, message }) if answer.rcode != Rcode::ServFail => {
                    Stored::new(message, answer)
                }
                Some(Heard { message, .. }) => Stored::failure(message),
                None => Stored::failure(failure(&query)),
            };
            let stored = Arc::new(stored);
            forwarder.keep(query.key(), transport, &stored, &upstream);
            tell.send_replace(Some(stored));
        });
        Some(answered)
    }

    fn admit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.admitted).try_acquire_owned().ok()
    }

    /// Asks as soon as there is room, if that is before the program asks again.
    async fn send(
        &self,
        question: &Question<'_>,
        upstream: &Upstream,
        _admitted: OwnedSemaphorePermit,
    ) -> Option<Heard> {
        let room = timeout(upstream.settings.timeout, self.under_way.acquire());
        let _under_way: SemaphorePermit<'_> = room.await.ok()?.ok()?;
        upstream.ask(question).await
    }

    fn keep(&self, key: Box<[u8]>, transport: Transport, stored: &Arc<Stored>, upstream: &Arc<Upstream>) {
        let mut state = self.state();
        // What the resolvers of an earlier file said is not kept.
        if state.read.as_ref().is_some_and(|(_, now)| Arc::ptr_eq(now, upstream)) {
            state.asking.remove(&(key.clone(), transport));
            state.cache.insert(key, stored);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn failure(query: &Query) -> Vec<u8> {
    Reply::to(query, Rcode::ServFail).finish()
}

fn with_id(heard: Heard, id: u16) -> Vec<u8> {
    let mut message = heard.message;
    wire::overwrite(&mut message, 0, &id.to_be_bytes());
    message
}
