//! The buckets of one limit: as many as fit, shared by all workers without a lock.
//!
//! A key has eight places that it may be at. Where all are taken, the fullest bucket there makes room. Who has used up its
//! bucket so loses it last, and whoever makes up keys to be rid of a used bucket must use up as many others first. Memory
//! is taken page by page as keys come.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Places that one key may be at.
const WAYS: usize = 8;
/// Groups of these in a page.
const GROUPS: usize = 32;
/// Buckets of a page: 4 KiB.
const PAGE: usize = WAYS * GROUPS;
/// Pages, so that one byte of a key says which.
const PAGES: usize = 256;

/// The most buckets that a limit has.
#[cfg(test)]
const MOST: usize = PAGES * PAGE;

/// When a bucket will be full again. Every order of what threads do to one costs or gives one call at most, so none is asked for.
pub(super) type FullAt = AtomicU64;

/// The buckets of one limit.
#[derive(Debug)]
pub(super) enum Buckets {
    /// One for all calls.
    One(FullAt),
    /// One for each key.
    Many(Box<[OnceLock<Box<[Bucket]>>]>),
}

/// A bucket, and whose it is.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    /// The key; 0: no one's.
    key: AtomicU64,
    full_at: FullAt,
}

impl Buckets {
    pub(super) fn one() -> Self {
        Self::One(FullAt::default())
    }

    pub(super) fn many() -> Self {
        Self::Many((0..PAGES).map(|_| OnceLock::new()).collect())
    }

    /// The bucket of a key. Keys are to be as good as random.
    pub(super) fn of(&self, key: u64, now: u64) -> &FullAt {
        match self {
            Self::One(full_at) => full_at,
            Self::Many(pages) => among(group(pages, key), key.max(1), now),
        }
    }
}

fn group(pages: &[OnceLock<Box<[Bucket]>>], key: u64) -> &[Bucket] {
    let [page, group, ..] = key.to_be_bytes();
    let page = pages.get(usize::from(page)).map(|page| page.get_or_init(new_page));
    let group = usize::from(group) % GROUPS * WAYS;
    page.and_then(|page| page.get(group..group + WAYS)).unwrap_or_default()
}

fn new_page() -> Box<[Bucket]> {
    (0..PAGE).map(|_| Bucket::default()).collect()
}

fn among(group: &[Bucket], key: u64, now: u64) -> &FullAt {
    // Where no one has a place, everyone shares one that is never full.
    static NOWHERE: FullAt = FullAt::new(u64::MAX);
    loop {
        if let Some(found) = group.iter().find(|bucket| bucket.key.load(Ordering::Relaxed) == key) {
            return &found.full_at;
        }
        let fullest = group.iter().min_by_key(|bucket| bucket.full_at.load(Ordering::Relaxed));
        let Some(fullest) = fullest else { return &NOWHERE };
        let before = fullest.key.load(Ordering::Relaxed);
        // Of two threads that take places for one key, at least one sees the other's.
        if fullest.key.compare_exchange(before, key, Ordering::SeqCst, Ordering::Relaxed).is_ok() {
            // A place that was no one's is full; the one before may have used up this one.
            if before != 0 && fullest.full_at.load(Ordering::Relaxed) > now {
                fullest.full_at.store(0, Ordering::Relaxed);
            }
            let is_second =
                |bucket: &Bucket| bucket.key.load(Ordering::SeqCst) == key && !std::ptr::eq(bucket, fullest);
            if !group.iter().any(is_second) {
                return &fullest.full_at;
            }
            fullest.key.store(0, Ordering::Relaxed);
        }
        // Another thread was first, perhaps for the same key.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(buckets: &Buckets) -> usize {
        let Buckets::Many(pages) = buckets else { return 0 };
        pages.iter().filter(|page| page.get().is_some()).count()
    }

    #[test]
    fn a_key_keeps_its_bucket_and_few_keys_take_few_pages() {
        let buckets = Buckets::many();
        let mut rng = fastrand::Rng::with_seed(1);
        let keys: Vec<u64> = (0..5).map(|_| rng.u64(..)).collect();
        for (value, key) in (1..).zip(&keys) {
            buckets.of(*key, 0).store(value, Ordering::Relaxed);
        }
        for (value, key) in (1..).zip(&keys) {
            assert_eq!(buckets.of(*key, 0).load(Ordering::Relaxed), value);
        }
        assert!(pages(&buckets) <= 5);
    }

    #[test]
    fn a_million_keys_take_no_more_memory_and_push_out_no_bucket_that_is_used_up() {
        let buckets = Buckets::many();
        let mut rng = fastrand::Rng::with_seed(1);
        let abuser = rng.u64(..);
        buckets.of(abuser, 0).store(1_000, Ordering::Relaxed);
        for _ in 0..1_000_000 {
            // Each has used up less.
            buckets.of(rng.u64(..), 0).store(rng.u64(1..1_000), Ordering::Relaxed);
        }
        assert_eq!(buckets.of(abuser, 0).load(Ordering::Relaxed), 1_000);
        let Buckets::Many(pages) = &buckets else { panic!("keys have buckets of their own") };
        assert_eq!(pages.iter().flat_map(|page| page.get()).flatten().count(), MOST);
        assert_eq!(MOST * size_of::<Bucket>(), 1 << 20);
    }

    #[test]
    fn threads_that_race_for_one_key_find_one_bucket() {
        let buckets = Buckets::many();
        let mut rng = fastrand::Rng::with_seed(3);
        let keys: Vec<u64> = (0..1_000).map(|_| rng.u64(..)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for key in &keys {
                        buckets.of(*key, 0).fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let total: u64 = keys.iter().map(|key| buckets.of(*key, 0).load(Ordering::Relaxed)).sum();
        // A race for a place may cost a call or two.
        assert!((3_990..=4_000).contains(&total), "{total}");
    }
}
