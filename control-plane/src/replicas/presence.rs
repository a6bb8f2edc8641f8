//! That we are there: a lease that what is ours in the store goes with, and what we say of our sidecars.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{interval, sleep};

use super::others::Said;
use super::{Followers, InEtcd, RETRY};
use crate::etcd::{EtcdError, KeptLease, Txn, grant, keep};
use crate::report::chain;
use crate::source::registry::RESTART_GRACE;
use crate::store::encode;

/// Where each says that it is there. In the order of keys this is before registrations: when a lease is over, what was put with it
/// goes in that order, so that it is known of whom the registrations were that go.
const PRESENT: &str = "control-planes/";
/// How often it is looked whether we have something else to say.
const LOOK: Duration = Duration::from_millis(250);

impl InEtcd {
    /// Is there, for ever.
    pub(crate) async fn attend(self: Arc<Self>, followers: Arc<Followers>) {
        loop {
            match grant(&self.client, RESTART_GRACE).await {
                Ok(lease) => self.attend_under(lease, &followers).await,
                Err(error) => {
                    tracing::debug!(reason = chain(&error), "no lease can be had");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// The same under a lease, until it is lost.
    async fn attend_under(&self, lease: KeptLease, followers: &Followers) {
        followers.store.lease_with(Some(lease));
        followers.registry.write_all_again();
        let kept = watch::Sender::new(lease);
        tokio::select! {
            () = keep(&self.client, RESTART_GRACE, &kept) => {}
            () = self.say(lease.id, followers) => {}
        }
        tracing::warn!(replica = self.id, "our lease in etcd was lost; another one is taken");
    }

    /// Says how far our sidecars have come, whenever that changes.
    async fn say(&self, lease: i64, followers: &Followers) {
        let (mut look, mut last) = (interval(LOOK), None);
        loop {
            look.tick().await;
            let said = Said::of(followers);
            if last.as_ref() == Some(&said) {
                continue;
            }
            match self.put_said(lease, &said).await {
                Ok(()) => last = Some(said),
                // Then what is under it is not there any more.
                Err(error) if error.is_lease_lost() => return,
                Err(error) => tracing::debug!(reason = chain(&error), "cannot say how our sidecars are"),
            }
        }
    }

    async fn put_said(&self, lease: i64, said: &Said) -> Result<(), EtcdError> {
        let record = encode("what we say", said).map_err(|_| EtcdError::Answer("what we say is no JSON"))?;
        let mut txn = Txn::default();
        txn.put(self.key(&format!("{PRESENT}{}", self.id)), record, lease);
        self.client.txn(txn).await.map(drop)
    }

    pub(super) async fn hear_others(&self) -> Result<(), EtcdError> {
        let (found, _) = self.client.all(&self.key(PRESENT), false).await?;
        self.others.forget();
        for kv in found {
            if let Some(id) = self.other(&kv.key) {
                self.others.hear(id, Some(&kv.value));
            }
        }
        Ok(())
    }

    /// Which other one a key speaks of.
    pub(super) fn other<'k>(&self, key: &'k [u8]) -> Option<&'k str> {
        let id = std::str::from_utf8(key.strip_prefix(self.key(PRESENT).as_slice())?).ok()?;
        (id != self.id).then_some(id)
    }
}
