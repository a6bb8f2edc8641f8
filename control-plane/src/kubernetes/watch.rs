//! Follows a collection of objects: lists it once, then watches what becomes of it, and never misses a thing.
//!
//! A watch that ends goes on where it was; where the server no longer knows that place (410) everything is listed
//! anew. While the server is away nothing is forgotten: whoever is told keeps what there was.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::{ApiError, Client};
use crate::report::chain;

/// Objects in a page of a list.
const PAGE: usize = 500;
/// The same of ours, of which each may have more than 1 MiB.
const PAGE_OF_OURS: usize = 16;
/// How long a watch goes on, in seconds, and how much longer at most, so that not all end together.
const WATCH: u32 = 240;
const SPREAD: u32 = 60;
/// How much longer than it should a watch may go on.
const OVERDUE: Duration = Duration::from_secs(30);
/// Between two tries, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(10);
/// Until it is looked again for a kind that the cluster does not have.
const ABSENT: Duration = Duration::from_secs(30);

/// A kind of objects, of all namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Collection {
    /// The API group; empty: the core's.
    pub(crate) group: &'static str,
    /// Its versions that we read, the preferred one first.
    pub(crate) versions: &'static [&'static str],
    /// As paths have it.
    pub(crate) plural: &'static str,
}

/// What became of a collection. Between `Listing` and `Listed` come all that there are; what does not is gone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// All that there are follow.
    Listing,
    /// There is, in this version of the API, and it is now so.
    Is(&'static str, Value),
    /// It is gone.
    Gone(Value),
    /// These were all.
    Listed,
    /// The cluster has no such kind: whatever there was is gone.
    Absent,
}

/// Why a watch has ended.
enum Ended {
    /// Its place is no longer known.
    Expired,
    /// Nobody listens.
    Unheard,
}

/// A collection that is followed.
pub(crate) struct Watch {
    client: Arc<Client>,
    collection: Collection,
    sender: mpsc::Sender<(Collection, Event)>,
    /// The namespace and the labels that are looked for; none: all of the cluster.
    scope: Option<(String, &'static str)>,
}

/// Nobody listens any more.
struct Unheard;

impl Watch {
    /// Follows a collection, and tells of it.
    pub(crate) fn new(
        client: Arc<Client>,
        collection: Collection,
        sender: mpsc::Sender<(Collection, Event)>,
    ) -> Self {
        Self { client, collection, sender, scope: None }
    }

    /// Only those in our namespace that have this label.
    pub(crate) fn of_ours(self, label: &'static str) -> Self {
        let scope = Some((self.client.namespace().to_owned(), label));
        Self { scope, ..self }
    }

    /// Where they are asked for, up to the first parameter.
    fn path(&self, version: &str) -> String {
        let Some((namespace, label)) = &self.scope else {
            return format!("{}?", self.collection.path(version, None));
        };
        format!("{}?labelSelector={}&", self.collection.path(version, Some(namespace)), escaped(label))
    }

    /// Follows it until nobody listens.
    pub(crate) async fn run(self) {
        let mut pause = Pause::default();
        loop {
            match self.list().await {
                Ok(Some((version, place))) => {
                    pause = Pause::default();
                    if matches!(self.follow(version, place).await, Ended::Unheard) {
                        return;
                    }
                    sleep(FIRST_PAUSE).await;
                }
                Ok(None) if self.sender.is_closed() => return,
                Ok(None) => sleep(ABSENT).await,
                Err(error) => pause.after(self.collection, "list", &error).await,
            }
            if self.sender.is_closed() {
                return;
            }
        }
    }

    /// Tells of all that there are; the version of the API that has them, and the place to watch from. None: the
    /// cluster has no such kind, or nobody listens.
    async fn list(&self) -> Result<Option<(&'static str, String)>, ApiError> {
        for version in self.collection.versions {
            match self.list_version(version).await {
                Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {}
                listed => return listed.map(|place| Some((*version, place?))),
            }
        }
        // Whoever listens no more is found out by the caller.
        let _ = self.tell(Event::Absent).await;
        Ok(None)
    }

    async fn list_version(&self, version: &'static str) -> Result<Option<String>, ApiError> {
        let path = self.path(version);
        let limit = if self.scope.is_some() { PAGE_OF_OURS } else { PAGE };
        let mut page = self.client.get(&format!("{path}limit={limit}")).await?;
        if self.tell(Event::Listing).await.is_err() {
            return Ok(None);
        }
        loop {
            let items = page.get_mut("items").and_then(Value::as_array_mut).map(std::mem::take);
            for item in items.unwrap_or_default() {
                if self.tell(Event::Is(version, item)).await.is_err() {
                    return Ok(None);
                }
            }
            let Some(next) = text_at(&page, "/metadata/continue") else { break };
            page = self.client.get(&format!("{path}limit={limit}&continue={}", escaped(next))).await?;
        }
        let place = text_at(&page, "/metadata/resourceVersion").unwrap_or_default().to_owned();
        Ok(self.tell(Event::Listed).await.is_ok().then_some(place))
    }

    /// Watches from a place on.
    async fn follow(&self, version: &'static str, mut place: String) -> Ended {
        let mut pause = Pause::default();
        loop {
            match self.watch(version, &mut place, &mut pause).await {
                Ok(Some(ended)) => return ended,
                Ok(None) => {}
                Err(error) if is_expired(&error) => return Ended::Expired,
                Err(error) => pause.after(self.collection, "watch", &error).await,
            }
            if self.sender.is_closed() {
                return Ended::Unheard;
            }
        }
    }

    /// One watch, until the server ends it.
    async fn watch(
        &self,
        version: &'static str,
        place: &mut String,
        pause: &mut Pause,
    ) -> Result<Option<Ended>, ApiError> {
        let seconds = WATCH.saturating_add(fastrand::u32(..SPREAD));
        let path = format!(
            "{}watch=1&allowWatchBookmarks=true&timeoutSeconds={seconds}&resourceVersion={}",
            self.path(version),
            escaped(place)
        );
        let mut lines = self.client.lines(&path).await?;
        let patience = OVERDUE.saturating_add(Duration::from_secs(seconds.into()));
        loop {
            let next = tokio::select! {
                next = timeout(patience, lines.next()) => next.map_err(|_| ApiError::Late)??,
                () = self.sender.closed() => return Ok(Some(Ended::Unheard)),
            };
            let Some(mut event) = next else { return Ok(None) };
            let object = event.get_mut("object").map(Value::take).unwrap_or_default();
            let told = match event.get("type").and_then(Value::as_str).unwrap_or_default() {
                "ERROR" => return ended(&object).map(Some),
                kind => {
                    *pause = Pause::default();
                    if let Some(at) = text_at(&object, "/metadata/resourceVersion") {
                        at.clone_into(place);
                    }
                    match kind {
                        "ADDED" | "MODIFIED" => self.tell(Event::Is(version, object)).await,
                        "DELETED" => self.tell(Event::Gone(object)).await,
                        // A bookmark says only how far we are.
                        _ => Ok(()),
                    }
                }
            };
            if told.is_err() {
                return Ok(Some(Ended::Unheard));
            }
        }
    }

    async fn tell(&self, event: Event) -> Result<(), Unheard> {
        self.sender.send((self.collection, event)).await.map_err(|_| Unheard)
    }
}

/// An error in the middle of a watch is a `v1 Status`.
fn ended(status: &Value) -> Result<Ended, ApiError> {
    let code = status.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
    let code =
        code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let message = text_at(status, "/message").unwrap_or_default().to_owned();
    let error = ApiError::Refused { status: code, message, retry_after: None };
    if is_expired(&error) { Ok(Ended::Expired) } else { Err(error) }
}

/// The place is too old, or the kind is gone: either way everything is listed anew.
fn is_expired(error: &ApiError) -> bool {
    matches!(error.status(), Some(StatusCode::GONE | StatusCode::NOT_FOUND))
}

impl Collection {
    /// Of a namespace, or of all.
    fn path(&self, version: &str, namespace: Option<&str>) -> String {
        let Self { group, plural, .. } = self;
        let of = namespace.map(|namespace| format!("namespaces/{namespace}/")).unwrap_or_default();
        if group.is_empty() {
            format!("/api/{version}/{of}{plural}")
        } else {
            format!("/apis/{group}/{version}/{of}{plural}")
        }
    }
}

/// Longer after each failure.
#[derive(Debug, Default)]
struct Pause(Option<Duration>);

impl Pause {
    async fn after(&mut self, collection: Collection, what: &str, error: &ApiError) {
        let next = self.0.map_or(FIRST_PAUSE, |last| (2 * last).min(LAST_PAUSE));
        if self.0.is_none() {
            let reason = chain(error);
            tracing::warn!(
                what,
                kind = collection.plural,
                reason,
                "the API server fails; it is tried again, and what is known stays"
            );
        }
        self.0 = Some(next);
        // A third of it more or less, so that not all come back at once.
        let spread = next.mul_f64(0.67 + fastrand::f64() * 0.66);
        sleep(error.retry_after().map_or(spread, |asked| asked.clamp(spread, LAST_PAUSE))).await;
    }
}

fn text_at<'v>(value: &'v Value, pointer: &str) -> Option<&'v str> {
    value.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty())
}

/// What a query may not hold as it is (RFC 3986 section 3.4).
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'.' | b'~' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
