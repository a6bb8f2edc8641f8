//! Steady load on the shop's front from a pod of its own: requests leave at their time, however the others fare.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use weft_runtime::task;

use super::latencies::Latencies;
use crate::mesh::Resident;

/// Where the front is, as every pod calls it.
const FRONT: &str = "web:8080";
/// Requests that may be under way at a time; what comes when there are more counts as failed.
const IN_FLIGHT: u32 = 1000;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// What the shoppers do, in turn: mostly they buy.
const ERRANDS: [(&str, &str); 5] = [
    ("POST", "/buy?item=book"),
    ("POST", "/buy?item=kettle"),
    ("GET", "/"),
    ("POST", "/buy?item=lamp&quantity=2"),
    ("POST", "/buy?item=teapot"),
];

/// What became of the requests so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) latencies: Latencies,
    /// Why the first one failed.
    pub(crate) first_failure: Option<String>,
}

/// Steady load, until it is ended.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    pacing: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    from: Arc<Resident>,
    idle: Mutex<Vec<SendRequest<Empty<Bytes>>>>,
    in_flight: Arc<Semaphore>,
    outcome: Mutex<Outcome>,
}

impl Outcome {
    /// How many there were.
    pub(crate) fn requests(&self) -> u64 {
        self.succeeded + self.failed
    }

    /// The share that succeeded; 0 where there were none.
    pub(crate) fn success_rate(&self) -> f64 {
        if self.requests() == 0 { 0.0 } else { self.succeeded as f64 / self.requests() as f64 }
    }

    /// Adds one.
    pub(crate) fn record(&mut self, latency: Duration, succeeded: bool) {
        self.latencies.record(latency);
        *if succeeded { &mut self.succeeded } else { &mut self.failed } += 1;
    }
}

impl Load {
    /// Starts so many requests a second.
    pub(crate) fn start(from: Arc<Resident>, rps: u32) -> Self {
        let shared = Arc::new(Shared {
            from,
            idle: Mutex::default(),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT as usize)),
            outcome: Mutex::default(),
        });
        Self { pacing: task::spawn("load", pace(shared.clone(), rps)), shared }
    }

    /// What became of the requests so far.
    pub(crate) fn outcome(&self) -> Outcome {
        self.shared.outcome().clone()
    }

    /// Sends no more and waits for what is under way.
    pub(crate) async fn end(self) -> Outcome {
        self.pacing.abort();
        // One that takes longer than its own time limit does not exist.
        let _ = timeout(2 * REQUEST_TIMEOUT, self.shared.in_flight.acquire_many(IN_FLIGHT)).await;
        self.shared.outcome().clone()
    }
}

/// Asks once, and says why it failed.
pub(crate) async fn try_front(from: Arc<Resident>) -> anyhow::Result<()> {
    Shared { from, idle: Mutex::default(), in_flight: Arc::new(Semaphore::new(0)), outcome: Mutex::default() }
        .run_errand(2)
        .await
}

async fn pace(shared: Arc<Shared>, rps: u32) {
    let mut ticks = interval(Duration::from_secs(1) / rps);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for errand in 0_usize.. {
        // The time at which it should leave: waiting for us counts as its latency.
        let due = ticks.tick().await;
        let Ok(slot) = shared.in_flight.clone().try_acquire_owned() else {
            shared.record(due, Err(anyhow::anyhow!("{IN_FLIGHT} requests are under way already")));
            continue;
        };
        let shared = shared.clone();
        task::spawn("request", async move {
            let result = match timeout(REQUEST_TIMEOUT, shared.run_errand(errand)).await {
                Ok(result) => result,
                Err(_) => Err(anyhow::anyhow!("no answer within {REQUEST_TIMEOUT:?}")),
            };
            shared.record(due, result);
            drop(slot);
        });
    }
}

impl Shared {
    async fn run_errand(&self, errand: usize) -> anyhow::Result<()> {
        let Some((method, path)) = ERRANDS.get(errand % ERRANDS.len()) else { return Ok(()) };
        let request =
            Request::builder().method(*method).uri(*path).header("host", FRONT).body(Empty::new())?;
        let mut connection = match self.idle_connection() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        connection.ready().await?;
        let response = connection.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        let said = || format!("{status}: {}", String::from_utf8_lossy(&body));
        if status.is_success() { Ok(()) } else { Err(anyhow::anyhow!(said())) }
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Empty<Bytes>>> {
        let stream = self.from.connect(FRONT).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("cannot speak HTTP")?;
        task::spawn("load-connection", async {
            // The request on it tells.
            let _ = connection.await;
        });
        Ok(sender)
    }

    fn idle_connection(&self) -> Option<SendRequest<Empty<Bytes>>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| !connection.is_closed());
        idle.pop()
    }

    fn record(&self, due: Instant, result: anyhow::Result<()>) {
        let mut outcome = self.outcome();
        outcome.record(due.elapsed(), result.is_ok());
        if let Err(error) = result {
            outcome.first_failure.get_or_insert_with(|| format!("{error:#}"));
        }
    }

    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_success_rate_is_exact_at_its_ends() {
        let mut outcome = Outcome::default();
        assert_eq!(outcome.success_rate(), 0.0);
        outcome.record(Duration::from_millis(1), true);
        assert_eq!(outcome.success_rate(), 1.0);
        outcome.record(Duration::from_millis(1), false);
        assert_eq!((outcome.success_rate(), outcome.requests()), (0.5, 2));
    }
}
