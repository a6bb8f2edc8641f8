//! Which of several control planes writes into the cluster: the one that holds a lease (`coordination.k8s.io/v1`).
//!
//! Clocks of different machines are not compared: a holder has lost its lease when nobody has renewed it for as long
//! as it lasts by the clock of whoever looks.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::{ApiError, Client};
use crate::report::chain;

/// How long it lasts; it is renewed, or looked at, four times as often: within 5 s of a leader's death another one leads.
pub(crate) const LASTS: Duration = Duration::from_secs(3);
/// For it to be given back at the end.
const LEAVING: Duration = Duration::from_secs(1);

/// Our part in who leads.
#[derive(Debug)]
pub(crate) struct Lease {
    client: Arc<Client>,
    name: &'static str,
    holder: String,
    lasts: Duration,
    leads: watch::Sender<bool>,
}

/// What was last seen of it, and since when it has been so.
#[derive(Default)]
struct Seen {
    version: String,
    since: Option<Instant>,
}

impl Lease {
    /// One of this name in our namespace, for a holder that is named so.
    pub(crate) fn new(client: Arc<Client>, name: &'static str, holder: String, lasts: Duration) -> Self {
        Self { client, name, holder, lasts, leads: watch::Sender::new(false) }
    }

    /// Whether we lead, now and later.
    pub(crate) fn leads(&self) -> watch::Receiver<bool> {
        self.leads.subscribe()
    }

    /// Holds it or waits for it, for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut seen = Seen::default();
        let mut held_until = Instant::now();
        let renewed = self.lasts / 4;
        loop {
            let asked = Instant::now();
            // What takes longer than we hold it for is no success.
            match timeout(renewed, self.take(&mut seen)).await {
                Ok(Ok(true)) => held_until = asked + self.lasts - renewed,
                Ok(Ok(false)) => held_until = asked,
                Ok(Err(error)) => tracing::debug!(reason = chain(&error), "the lease cannot be renewed"),
                Err(_) => tracing::debug!("the lease cannot be renewed in time"),
            }
            let leads = Instant::now() < held_until;
            let changed = self.leads.send_if_modified(|led| std::mem::replace(led, leads) != leads);
            if changed {
                tracing::info!(leads, holder = self.holder, "who writes into the cluster");
            }
            sleep(renewed).await;
        }
    }

    /// Gives it back, so that another may have it at once.
    pub(crate) async fn leave(&self) {
        if !self.leads.send_replace(false) {
            return;
        }
        // It is over soon in any case.
        let _ = timeout(LEAVING, self.give_back()).await;
    }

    async fn give_back(&self) -> Result<(), ApiError> {
        let path = self.path();
        let mut lease = self.client.get(&path).await?;
        if lease.pointer("/spec/holderIdentity").and_then(Value::as_str) != Some(&self.holder) {
            return Ok(());
        }
        if let Some(spec) = lease.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("holderIdentity".into(), "".into());
        }
        self.client.replace(&path, &lease).await.map(drop)
    }

    fn path(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/{}", self.client.namespace(), self.name)
    }

    /// Renews it, or takes it where it is nobody's any more; whether it is ours.
    async fn take(&self, seen: &mut Seen) -> Result<bool, ApiError> {
        let namespace = self.client.namespace();
        let all = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        let path = self.path();
        let mut lease = match self.client.get(&path).await {
            Ok(lease) => lease,
            Err(error) if error.status() == Some(StatusCode::NOT_FOUND) => {
                let mut lease = json!({
                    "apiVersion": "coordination.k8s.io/v1",
                    "kind": "Lease",
                    "metadata": {"name": self.name, "namespace": namespace},
                    "spec": {},
                });
                self.sign(&mut lease, 0);
                return ours(self.client.create(&all, &lease).await);
            }
            Err(error) => return Err(error),
        };
        let text = |pointer: &str| lease.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let (holder, version) =
            (text("/spec/holderIdentity").to_owned(), text("/metadata/resourceVersion").to_owned());
        let transitions = lease.pointer("/spec/leaseTransitions").and_then(Value::as_u64).unwrap_or_default();
        if seen.version != version {
            *seen = Seen { version, since: Some(Instant::now()) };
        }
        let is_over = seen.since.is_some_and(|since| since.elapsed() >= self.lasts);
        if holder != self.holder && !holder.is_empty() && !is_over {
            return Ok(false);
        }
        self.sign(
            &mut lease,
            if holder == self.holder { transitions } else { transitions.saturating_add(1) },
        );
        ours(self.client.replace(&path, &lease).await)
    }

    fn sign(&self, lease: &mut Value, transitions: u64) {
        let now = crate::report::rfc3339_micros(SystemTime::now());
        let Some(spec) = lease.get_mut("spec").and_then(Value::as_object_mut) else { return };
        if spec.get("holderIdentity").and_then(Value::as_str) != Some(&self.holder) {
            spec.insert("acquireTime".into(), now.clone().into());
        }
        spec.insert("holderIdentity".into(), self.holder.clone().into());
        spec.insert("leaseDurationSeconds".into(), self.lasts.as_secs().max(1).into());
        spec.insert("leaseTransitions".into(), transitions.into());
        spec.insert("renewTime".into(), now.into());
    }
}

/// Somebody else was quicker where it is not as it was.
fn ours(written: Result<Value, ApiError>) -> Result<bool, ApiError> {
    match written {
        Ok(_) => Ok(true),
        Err(error) if error.status() == Some(StatusCode::CONFLICT) => Ok(false),
        Err(error) => Err(error),
    }
}
