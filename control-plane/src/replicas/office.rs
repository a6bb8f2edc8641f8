//! Who leads: the one whose name stands in a key that goes with its lease.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{InEtcd, RETRY};
use crate::etcd::{EtcdError, KeptLease, Txn, grant, keep, revoke};
use crate::report::chain;

/// How long nobody leads after the one who led is gone, at most, and a moment more.
const LASTS: Duration = Duration::from_secs(3);
/// By how much we stop before our lease does.
const MARGIN: Duration = Duration::from_millis(300);
/// How often it is looked whether the office is free; that it is free is told at once.
const LOOK: Duration = Duration::from_secs(2);
/// For the office to be given back at the end.
const LEAVING: Duration = Duration::from_secs(1);

impl InEtcd {
    pub(super) fn office(&self) -> Vec<u8> {
        self.key("leader")
    }

    /// Leads, or waits for that, for ever.
    pub(crate) async fn lead(self: Arc<Self>) {
        loop {
            match self.take_office().await {
                Ok(Some(lease)) => self.hold_office(lease).await,
                Ok(None) => {
                    // Late is not lost: it is looked again.
                    let _ = timeout(LOOK, self.vacant.notified()).await;
                }
                Err(error) => {
                    tracing::debug!(reason = chain(&error), "it cannot be found out who leads");
                    sleep(RETRY).await;
                }
            }
        }
    }

    /// Gives the office back, so that another may have it at once.
    pub(crate) async fn leave_office(&self) {
        if !*self.leads.borrow() {
            return;
        }
        self.leads.send_replace(false);
        let mut txn = Txn::default();
        txn.expect(self.office(), Some(self.id.clone().into_bytes()));
        txn.delete(self.office());
        // Its lease ends soon in any case.
        let _ = timeout(LEAVING, self.client.txn(txn)).await;
    }

    /// Takes the office, where it is free.
    async fn take_office(&self) -> Result<Option<KeptLease>, EtcdError> {
        if self.client.value(self.office()).await?.0.is_some() {
            return Ok(None);
        }
        let lease = grant(&self.client, LASTS).await?;
        let mut txn = Txn::default();
        txn.expect(self.office(), None);
        txn.put(self.office(), self.id.clone().into_bytes(), lease.id);
        let tried = self.client.txn(txn).await?;
        let ours = tried.succeeded.first() == Some(&true)
            || (tried.repeated
                && self.client.value(self.office()).await?.0.as_deref() == Some(self.id.as_bytes()));
        if ours {
            return Ok(Some(lease));
        }
        revoke(&self.client, lease.id).await?;
        Ok(None)
    }

    async fn hold_office(&self, lease: KeptLease) {
        let kept = watch::Sender::new(lease);
        let mut renewed = kept.subscribe();
        tracing::info!(replica = self.id, "leads");
        self.leads.send_replace(true);
        tokio::select! {
            () = keep(&self.client, LASTS, &kept) => {}
            // etcd may be away, and another may lead by then.
            () = over(&mut renewed) => {}
        }
        self.leads.send_replace(false);
        tracing::warn!(replica = self.id, "leads no more: its lease was not renewed");
    }
}

/// Waits until a lease may be over.
async fn over(renewed: &mut watch::Receiver<KeptLease>) {
    loop {
        let until = renewed.borrow_and_update().until;
        tokio::select! {
            () = sleep_until(until.checked_sub(MARGIN).unwrap_or_else(Instant::now)) => return,
            Ok(()) = renewed.changed() => {}
        }
    }
}
