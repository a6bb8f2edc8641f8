//! One of several control planes over one etcd.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep;
use weft_runtime::task;

use super::{BACKLOG, FollowError, Followers, Happened, Others, RETRY};
use crate::etcd::{Batch, Client, EtcdError, Event, follow};
use crate::leader::Leadership;
use crate::report::chain;
use crate::store::{Table, record};

/// Our place among them.
#[derive(Debug)]
pub(crate) struct InEtcd {
    pub(super) client: Client,
    pub(super) id: String,
    /// Where in etcd's history everything that is followed was not read yet.
    begun: i64,
    pub(super) leads: watch::Sender<bool>,
    /// The office may be free.
    pub(super) vacant: Notify,
    pub(super) others: Arc<Others>,
    /// When another one was last lost, as etcd counts.
    lost: AtomicI64,
}

impl InEtcd {
    /// One more, of this name; nothing of what is followed may have been read before.
    pub(crate) async fn join(client: Client, id: String) -> Result<Arc<Self>, EtcdError> {
        let (leads, others) = (watch::Sender::new(false), Arc::default());
        let mut replica =
            Self { client, id, begun: 0, leads, vacant: Notify::new(), others, lost: AtomicI64::new(0) };
        replica.begun = replica.client.value(replica.office()).await?.1;
        Ok(Arc::new(replica))
    }

    /// Whether we lead.
    pub(crate) fn leadership(&self) -> Leadership {
        Leadership::told_by(&self.leads)
    }

    /// Follows what the others change, for ever.
    pub(crate) async fn follow(self: Arc<Self>, followers: Arc<Followers>) {
        let (told, mut batches) = mpsc::channel(BACKLOG);
        let prefix = format!("{}/", self.client.access().prefix()).into_bytes();
        let watching = follow(self.client.clone(), prefix, self.begun.saturating_add(1), told);
        let watching = task::spawn("etcd-watch", watching);
        // Since `join` others may have come, who will say nothing new.
        let mut all_anew = true;
        loop {
            if all_anew {
                match self.read_anew(&followers).await {
                    Ok(()) => all_anew = false,
                    Err(error) => {
                        tracing::warn!(reason = chain(&error), "cannot read anew what others have changed");
                        sleep(RETRY).await;
                        continue;
                    }
                }
            }
            let Some(batch) = batches.recv().await else { break };
            let followed = match batch {
                Batch::Events(events) => self.take(&followers, events).await,
                Batch::Gap => {
                    all_anew = true;
                    Ok(())
                }
            };
            if let Err(error) = followed {
                tracing::warn!(reason = chain(&error), "cannot follow what others change");
                all_anew = true;
            }
        }
        watching.abort();
    }

    async fn take(&self, followers: &Followers, events: Vec<Event>) -> Result<(), FollowError> {
        let mut happened = Vec::with_capacity(events.len());
        for Event { key, revision, value } in events {
            if key == self.office() {
                if value.is_none() {
                    self.vacant.notify_one();
                }
                continue;
            }
            if let Some(id) = self.other(&key) {
                if value.is_none() {
                    self.lost.store(revision, Ordering::Relaxed);
                }
                self.others.hear(id, value.as_deref());
                continue;
            }
            let Some((table, name)) = record(self.client.access().prefix(), &key) else { continue };
            let is_orphaned = table == Table::Registrations
                && value.is_none()
                && revision == self.lost.load(Ordering::Relaxed);
            happened.push(Happened { table, name, value, at: revision, is_orphaned });
        }
        followers.take(happened).await
    }

    async fn read_anew(&self, followers: &Followers) -> Result<(), FollowError> {
        followers.read_anew().await?;
        self.hear_others().await?;
        self.vacant.notify_one();
        Ok(())
    }

    pub(super) fn key(&self, name: &str) -> Vec<u8> {
        format!("{}/{name}", self.client.access().prefix()).into_bytes()
    }
}
