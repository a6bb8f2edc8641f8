//! Leases: what is put with one is gone when nobody has renewed it for as long as it lasts.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use weft_proto::etcd::lease_client::LeaseClient;
use weft_proto::etcd::{LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest};

use super::{Client, EtcdError};
use crate::report::chain;

/// A lease, and until when it surely lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeptLease {
    pub(crate) id: i64,
    /// Counted from before it was asked for: etcd counts from later.
    pub(crate) until: Instant,
}

/// Takes a new one.
pub(crate) async fn grant(client: &Client, lasts: Duration) -> Result<KeptLease, EtcdError> {
    let asked_at = Instant::now();
    let seconds = i64::try_from(lasts.as_secs()).unwrap_or(i64::MAX);
    let call = |line: super::client::Line| {
        let asked = line.request(LeaseGrantRequest { ttl: seconds, id: 0 });
        async move { LeaseClient::new(line.channel).lease_grant(asked).await.map(tonic::Response::into_inner) }
    };
    let (answer, _) = client.ask(call).await?;
    Ok(KeptLease { id: answer.id, until: asked_at + lasts })
}

/// Gives one back: what was put with it is gone at once.
pub(crate) async fn revoke(client: &Client, id: i64) -> Result<(), EtcdError> {
    let call = |line: super::client::Line| {
        let asked = line.request(LeaseRevokeRequest { id });
        async move { LeaseClient::new(line.channel).lease_revoke(asked).await.map(tonic::Response::into_inner) }
    };
    client.ask(call).await.map(|_| ())
}

/// Renews it, three times as often as need be, until it is lost: then nothing stands any more that was put with it.
pub(crate) async fn keep(client: &Client, lasts: Duration, kept: &watch::Sender<KeptLease>) {
    loop {
        sleep(lasts / 3).await;
        let id = kept.borrow().id;
        let asked_at = Instant::now();
        match timeout(lasts, renew(client, id)).await {
            Ok(Ok(true)) => {
                kept.send_replace(KeptLease { id, until: asked_at + lasts });
            }
            Ok(Ok(false)) => return,
            Ok(Err(error)) => tracing::debug!(reason = chain(&error), "a lease cannot be renewed"),
            Err(_) => tracing::debug!("a lease cannot be renewed in time"),
        }
    }
}

/// Whether it is still there.
async fn renew(client: &Client, id: i64) -> Result<bool, EtcdError> {
    let call = |line: super::client::Line| {
        let (asks, asked) = mpsc::channel(1);
        // There is room for one.
        let _ = asks.try_send(LeaseKeepAliveRequest { id });
        let asked = line.request(ReceiverStream::new(asked));
        async move {
            let mut answers = LeaseClient::new(line.channel).lease_keep_alive(asked).await?.into_inner();
            let answer = answers.message().await?;
            // The way to ask stays open until there is an answer.
            drop(asks);
            answer.ok_or_else(|| tonic::Status::unavailable("no answer about a lease"))
        }
    };
    let (answer, _) = client.ask(call).await?;
    Ok(answer.ttl > 0)
}
