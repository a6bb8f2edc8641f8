//! Answers of the pod's resolvers, kept for as long as they hold: positive ones by their times to live, negative ones by
//! their zone's word (RFC 2308), and within bounds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::wire::{Answer, HEADER, Query, flag, overwrite};

/// Answers kept at once; the one longest unused goes first.
const MOST_ENTRIES: usize = 1024;

/// Bytes kept at once, of keys and answers.
const MOST_BYTES: usize = 512 << 10;

/// Longer answers are not kept.
const LONGEST: usize = 8 << 10;

/// No answer is kept for longer, whatever it says.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);

/// An answer that can be given to everyone who asks the same.
#[derive(Debug)]
pub(super) struct Stored {
    message: Vec<u8>,
    ttls: Box<[u16]>,
    since: Instant,
    /// How long it holds; none: only for those who have asked already.
    lifetime: Option<Duration>,
}

impl Stored {
    /// An answer that has just come.
    pub(super) fn new(message: Vec<u8>, answer: Answer) -> Self {
        let lifetime = answer.lifetime.map(|seconds| Duration::from_secs(seconds.into()).min(LONGEST_LIFE));
        Self { message, ttls: answer.ttls, since: Instant::now(), lifetime }
    }

    /// A failure, which is not looked into again for a moment (RFC 9520 section 3.2).
    pub(super) fn failure(message: Vec<u8>) -> Self {
        let lifetime = Some(Duration::from_secs(1));
        Self { message, ttls: Box::default(), since: Instant::now(), lifetime }
    }

    /// The message as the answer to `query`: its id, its case, and times to live that have run down.
    pub(super) fn answer(&self, query: &Query) -> Vec<u8> {
        let mut message = self.message.clone();
        overwrite(&mut message, 0, &query.id.to_be_bytes());
        overwrite(&mut message, HEADER, query.name.as_bytes());
        let age = u32::try_from(self.since.elapsed().as_secs()).unwrap_or(u32::MAX);
        if age == 0 {
            return message;
        }
        for at in self.ttls.iter().map(|at| usize::from(*at)) {
            let ttl = message.get(at..).and_then(|rest| rest.first_chunk::<4>()).copied().unwrap_or_default();
            let left = u32::from_be_bytes(ttl).saturating_sub(age);
            overwrite(&mut message, at, &left.to_be_bytes());
        }
        message
    }

    fn bytes(&self, key: &[u8]) -> usize {
        // The bookkeeping counts too: twice the key, and about this much of a node.
        self.message.len() + 2 * self.ttls.len() + 2 * key.len() + 128
    }

    fn is_fresh(&self) -> bool {
        self.lifetime.is_some_and(|lifetime| self.since.elapsed() < lifetime)
    }
}

/// What is kept of the answers of one `resolv.conf`.
#[derive(Debug, Default)]
pub(super) struct Cache {
    entries: HashMap<Box<[u8]>, (u64, Arc<Stored>)>,
    /// By when they were last used.
    order: BTreeMap<u64, Box<[u8]>>,
    used: u64,
    bytes: usize,
}

impl Cache {
    /// The answer that still holds, as it is given a second time: nobody's own word any more.
    pub(super) fn find(&mut self, key: &[u8]) -> Option<Arc<Stored>> {
        let (used, stored) = self.entries.get_mut(key)?;
        if !stored.is_fresh() {
            self.remove(key);
            return None;
        }
        let key = self.order.remove(used)?;
        self.used += 1;
        *used = self.used;
        self.order.insert(self.used, key);
        Some(Arc::clone(stored))
    }

    /// Keeps an answer, if it may be kept.
    pub(super) fn insert(&mut self, key: Box<[u8]>, stored: &Arc<Stored>) {
        self.remove(&key);
        if !stored.is_fresh() || stored.message.len() > LONGEST {
            return;
        }
        let mut kept = Stored {
            message: stored.message.clone(),
            ttls: stored.ttls.clone(),
            since: stored.since,
            lifetime: stored.lifetime,
        };
        // What comes from memory does not come from whose names they are (RFC 1035 section 7.4).
        if let Some(flags) = kept.message.get_mut(2) {
            *flags &= !flag::AUTHORITATIVE.to_be_bytes()[0];
        }
        self.used += 1;
        self.bytes += kept.bytes(&key);
        self.order.insert(self.used, key.clone());
        self.entries.insert(key, (self.used, Arc::new(kept)));
        while self.entries.len() > MOST_ENTRIES || self.bytes > MOST_BYTES {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some((used, stored)) = self.entries.remove(key) {
            self.order.remove(&used);
            self.bytes = self.bytes.saturating_sub(stored.bytes(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::wire::{Rcode, Reply};

    fn query(name: &str) -> Query {
        let mut packet = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        packet.extend(crate::dns::wire::Name::of(name.split('.')).unwrap().as_bytes());
        packet.extend([0, 1, 0, 1]);
        Query::parse(&packet).unwrap()
    }

    fn stored(query: &Query, length: usize, lifetime: Option<u32>) -> Arc<Stored> {
        let mut message = Reply::to(query, Rcode::NoError).finish();
        message.resize(length.max(message.len()), 0);
        let answer = Answer { rcode: Rcode::NoError, truncated: false, lifetime, ttls: Box::default() };
        Arc::new(Stored::new(message, answer))
    }

    #[tokio::test(start_paused = true)]
    async fn entries_and_bytes_are_bounded_and_the_longest_unused_goes_first() {
        let mut cache = Cache::default();
        let first = query("first.example");
        for number in 0..MOST_ENTRIES + 10 {
            let query = query(&format!("n{number}.example"));
            if number == 10 {
                cache.insert(first.key(), &stored(&first, 0, Some(9)));
            }
            cache.insert(query.key(), &stored(&query, 0, Some(9)));
            if number > 10 {
                assert!(cache.find(&first.key()).is_some(), "it is used all the time");
            }
        }
        assert_eq!((cache.entries.len(), cache.order.len()), (MOST_ENTRIES, MOST_ENTRIES));
        assert!(cache.find(&query("n0.example").key()).is_none());
        for number in 0..MOST_ENTRIES {
            let query = query(&format!("l{number}.example"));
            cache.insert(query.key(), &stored(&query, LONGEST, Some(9)));
        }
        assert!(cache.bytes <= MOST_BYTES && cache.entries.len() <= MOST_BYTES / LONGEST, "{}", cache.bytes);
        let sum: usize = cache.entries.iter().map(|(key, (_, stored))| stored.bytes(key)).sum();
        assert_eq!(cache.bytes, sum);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_that_is_too_long_or_holds_for_no_time_and_nothing_for_more_than_an_hour() {
        let (mut cache, query) = (Cache::default(), query("a.example"));
        cache.insert(query.key(), &stored(&query, LONGEST + 1, Some(9)));
        cache.insert(query.key(), &stored(&query, 0, None));
        assert!(cache.find(&query.key()).is_none());
        cache.insert(query.key(), &stored(&query, 0, Some(u32::MAX / 2)));
        tokio::time::advance(Duration::from_secs(3599)).await;
        assert!(cache.find(&query.key()).is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(cache.find(&query.key()).is_none());
        assert_eq!((cache.bytes, cache.order.len()), (0, 0));
    }
}
