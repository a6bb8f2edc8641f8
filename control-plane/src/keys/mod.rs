//! The keys that prove tokens, fetched from where policies say and kept: a control loop that compares what is wanted with what is
//! there. What was fetched last stays in force until there is something better, also over restarts; nothing else ever is.

mod address;
mod fetch;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use weft_core::jwt::{KeySetError, read_key_set};
use weft_core::model::{KeySource, TokenKey};
use weft_core::world::{Change, World as Known};

use crate::metrics::Metrics;
use crate::report::chain;
use crate::store::{KeySet, Store, StoreError};
use crate::world::World;
use fetch::{FetchError, fetch};
pub(crate) use fetch::{addresses, trust};

/// How long fetched keys are kept before they are fetched again, whatever their server says.
const SHORTEST: Duration = Duration::from_mins(1);
const USUAL: Duration = Duration::from_mins(10);
const LONGEST: Duration = Duration::from_hours(1);

/// After a failure it is tried again, later from time to time.
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LAST_RETRY: Duration = Duration::from_mins(5);

/// How often at most keys are fetched because a token names one that is not known: whoever makes up tokens decides on that.
const ASKED_FOR: Duration = Duration::from_secs(10);

/// Issuers that are remembered as asked for.
const MOST_ASKED: usize = 1_000;

/// Fetches and keeps keys.
#[derive(Debug)]
pub(crate) struct Keys {
    world: Arc<World>,
    store: Store,
    metrics: Arc<Metrics>,
    asked: Mutex<BTreeSet<String>>,
    wake: Notify,
}

/// One source.
#[derive(Debug)]
struct Kept {
    due: Instant,
    /// When it was last fetched, or tried to be.
    tried: Option<Instant>,
    /// How long it is waited after the next failure.
    retry: Duration,
}

impl Kept {
    fn due(now: Instant) -> Self {
        Self { due: now, tried: None, retry: FIRST_RETRY }
    }
}

/// Why keys could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("{0} is no set of keys")]
    Set(String, #[source] KeySetError),
    #[error("{0} is no description of the issuer {1}")]
    Description(String, String),
}

impl Keys {
    /// What was kept before, put into force.
    pub(crate) async fn open(
        world: Arc<World>,
        store: Store,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, StoreError> {
        for set in store.key_sets().await? {
            if let Ok(keys) = read_key_set(set.text.as_bytes()) {
                world.apply(Change::Keys { source: set.source(), keys });
            }
        }
        let (asked, wake) = (Mutex::default(), Notify::new());
        Ok(Arc::new(Self { world, store, metrics, asked, wake }))
    }

    /// Takes over keys that another control plane has fetched.
    pub(crate) fn take_over(&self, set: &KeySet) {
        if let Ok(keys) = read_key_set(set.text.as_bytes()) {
            self.world.apply(Change::Keys { source: set.source(), keys });
        }
    }

    /// A sidecar has met a token of this issuer whose key it does not know.
    pub(crate) fn ask(&self, issuer: &str) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if asked.len() < MOST_ASKED {
            asked.insert(issuer.to_owned());
        }
        drop(asked);
        self.wake.notify_one();
    }

    /// Keeps what is wanted, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut published = self.world.published();
        let begun = Instant::now();
        let held = |known: &Known| {
            known.held_key_sources().map(|source| (source.clone(), Kept::due(begun))).collect()
        };
        let mut kept: BTreeMap<KeySource, Kept> = self.world.read(held);
        loop {
            published.borrow_and_update();
            let wanted = self.world.read(Known::key_sources);
            self.forget(&mut kept, &wanted).await;
            let asked = std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner));
            for (source, issuers) in wanted {
                let now = Instant::now();
                let kept = kept.entry(source.clone()).or_insert_with(|| Kept::due(now));
                if issuers.iter().any(|issuer| asked.contains(issuer)) {
                    let soonest = kept.tried.map_or(now, |tried| tried + ASKED_FOR);
                    kept.due = kept.due.min(soonest);
                }
                if kept.due <= now {
                    self.renew(&source, kept).await;
                }
            }
            let due = kept.values().map(|kept| kept.due).min();
            tokio::select! {
                () = until(due) => {}
                () = self.wake.notified() => {}
                // The sender lives in the world that we hold.
                Ok(()) = published.changed() => {}
            }
        }
    }

    /// Fetches the keys of a source and puts them into force; where that fails, those that were stay.
    async fn renew(&self, source: &KeySource, kept: &mut Kept) {
        let fetched = key_set(source).await;
        let now = Instant::now();
        kept.tried = Some(now);
        match fetched {
            Ok((text, keys, fresh_for)) => {
                tracing::debug!(%source, keys = keys.len(), "keys fetched");
                self.metrics.key_sets_fetched.increment();
                kept.retry = FIRST_RETRY;
                kept.due = now + fresh_for.unwrap_or(USUAL).clamp(SHORTEST, LONGEST);
                self.world.apply(Change::Keys { source: source.clone(), keys });
                if let Err(error) = self.store.keep_key_set(&KeySet::of(source, text)).await {
                    tracing::error!(reason = chain(&error), "cannot write down keys");
                }
            }
            Err(error) => {
                tracing::warn!(%source, reason = chain(&error), retry = ?kept.retry, "keys cannot be fetched: those that were fetched last stay");
                self.metrics.key_sets_failed.increment();
                kept.due = now + kept.retry;
                kept.retry = (kept.retry * 2).min(LAST_RETRY);
            }
        }
    }

    async fn forget(
        &self,
        kept: &mut BTreeMap<KeySource, Kept>,
        wanted: &BTreeMap<KeySource, BTreeSet<String>>,
    ) {
        let gone: Vec<_> = kept.keys().filter(|source| !wanted.contains_key(source)).cloned().collect();
        for source in gone {
            kept.remove(&source);
            self.world.apply(Change::Keys { source: source.clone(), keys: Vec::new() });
            if let Err(error) = self.store.forget_key_set(&KeySet::of(&source, String::new())).await {
                tracing::error!(reason = chain(&error), "cannot forget keys");
            }
        }
    }
}

/// The keys at a source, as they were written and read, and how long they may be kept.
pub(crate) async fn key_set(
    source: &KeySource,
) -> Result<(String, Vec<TokenKey>, Option<Duration>), KeysError> {
    let (uri, authorities) = match source {
        KeySource::At { uri, authorities } => (uri.clone(), authorities),
        KeySource::Discovered { issuer, authorities } => (discover(issuer, authorities).await?, authorities),
    };
    let fetched = fetch(&uri, authorities).await?;
    let keys = read_key_set(&fetched.body).map_err(|error| KeysError::Set(uri, error))?;
    Ok((String::from_utf8_lossy(&fetched.body).into_owned(), keys, fetched.fresh_for))
}

/// Where an issuer says that its keys are (OpenID Connect Discovery 1.0 section 4). It must speak of itself: section 4.3.
async fn discover(issuer: &str, authorities: &str) -> Result<String, KeysError> {
    let uri = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let fetched = fetch(&uri, authorities).await?;
    let said: Option<Value> = serde_json::from_slice(&fetched.body).ok();
    let text = |name: &str| said.as_ref().and_then(|said| said.get(name)).and_then(Value::as_str);
    match (text("issuer"), text("jwks_uri")) {
        (Some(itself), Some(keys)) if itself == issuer => Ok(keys.to_owned()),
        _ => Err(KeysError::Description(uri.clone(), issuer.to_owned())),
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}
