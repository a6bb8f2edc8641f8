//! What others change, as it happens: a stream that is opened again wherever it ended, without a gap.
//!
//! What etcd has compacted away meanwhile it cannot tell of any more: then everything is to be read anew.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::metadata::MetadataValue;
use weft_proto::etcd::event::EventType;
use weft_proto::etcd::watch_client::WatchClient;
use weft_proto::etcd::{WatchCreateRequest, WatchRequest, WatchResponse, watch_request};

use super::EtcdError;
use super::client::{Client, LONGEST, end_of};
use crate::report::chain;

/// For the stream to be there.
const OPENING: Duration = Duration::from_secs(4);
/// Until it is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// What happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) key: Vec<u8>,
    /// When, as etcd counts.
    pub(crate) revision: i64,
    /// None: it is gone.
    pub(crate) value: Option<Vec<u8>>,
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Batch {
    /// What happened, in its order.
    Events(Vec<Event>),
    /// Something that cannot be told any more; from here on there is no gap.
    Gap,
}

/// How a stream ended.
enum Ended {
    /// It broke, or the member has no leader.
    Broken(EtcdError),
    /// What should come next was compacted; this revision is the oldest there is.
    Compacted(i64),
}

/// Tells what happens to keys that begin so, from this revision on, for as long as anybody listens.
pub(crate) async fn follow(client: Client, prefix: Vec<u8>, mut next: i64, told: mpsc::Sender<Batch>) {
    while !told.is_closed() {
        let ended = tokio::select! {
            ended = stream(&client, &prefix, &mut next, &told) => ended,
            () = told.closed() => return,
        };
        match ended {
            Ended::Broken(error) => {
                tracing::debug!(reason = chain(&error), "the watch of etcd begins again");
                sleep(PAUSE).await;
            }
            Ended::Compacted(oldest) => {
                tracing::warn!(
                    from = next,
                    oldest,
                    "etcd has forgotten what happened: everything is read anew"
                );
                // Told first: whoever reads anew now reads at least what is from here on.
                next = oldest;
                if told.send(Batch::Gap).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn stream(client: &Client, prefix: &[u8], next: &mut i64, told: &mpsc::Sender<Batch>) -> Ended {
    let line = match client.line().await {
        Ok(line) => line,
        Err(error) => return Ended::Broken(error),
    };
    let (member, turn) = (line.member.clone(), line.turn());
    let create = WatchCreateRequest {
        key: prefix.to_vec(),
        range_end: end_of(prefix),
        start_revision: *next,
        // So that `next` goes on where nothing happens, and compaction does not overtake us.
        progress_notify: true,
        fragment: true,
    };
    let create = WatchRequest { request_union: Some(watch_request::RequestUnion::CreateRequest(create)) };
    let (asks, asked) = mpsc::channel(1);
    // There is room for one.
    let _ = asks.try_send(create);
    let mut request = line.request(ReceiverStream::new(asked));
    // A member that was cut off from the others ends the stream, in place of being silent.
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    let mut watch = WatchClient::new(line.channel).max_decoding_message_size(LONGEST);
    let opened = timeout(OPENING, watch.watch(request)).await;
    let opened = opened.unwrap_or_else(|_| Err(Status::deadline_exceeded("no watch in time")));
    let mut answers = match opened {
        Ok(answers) => answers.into_inner(),
        Err(status) => {
            client.give_up(turn).await;
            return Ended::Broken(EtcdError::Away(member, status));
        }
    };
    loop {
        let status = match answers.message().await {
            Ok(Some(answer)) => match take(answer, next) {
                Ok(events) if events.is_empty() => continue,
                Ok(events) => match told.send(Batch::Events(events)).await {
                    Ok(()) => continue,
                    Err(_) => return Ended::Broken(EtcdError::Answer("nobody listens")),
                },
                Err(ended) => return ended,
            },
            Ok(None) => Status::unavailable("the watch ended"),
            Err(status) => status,
        };
        client.give_up(turn).await;
        return Ended::Broken(EtcdError::Away(member, status));
    }
}

/// Reads an answer, and what comes next after it.
fn take(answer: WatchResponse, next: &mut i64) -> Result<Vec<Event>, Ended> {
    if answer.compact_revision > 0 {
        return Err(Ended::Compacted(answer.compact_revision));
    }
    if answer.canceled {
        return Err(Ended::Broken(EtcdError::Refused(Status::aborted(answer.cancel_reason))));
    }
    // Where there are events the header may be ahead of them. A part of a revision says nothing of where it ends, and the
    // answer to the opening tells of a revision whose events may still be to come.
    let last = answer.events.iter().filter_map(|event| event.kv.as_ref()).map(|kv| kv.mod_revision).max();
    let told_of = last.or_else(|| answer.header.map(|header| header.revision)).unwrap_or_default();
    if !answer.fragment && !answer.created && told_of >= *next {
        *next = told_of.saturating_add(1);
    }
    let event = |event: weft_proto::etcd::Event| {
        let is_gone = event.r#type() == EventType::Delete;
        event.kv.map(|kv| Event {
            key: kv.key,
            revision: kv.mod_revision,
            value: (!is_gone).then_some(kv.value),
        })
    };
    Ok(answer.events.into_iter().filter_map(event).collect())
}
