//! Questions to whichever member answers.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use weft_proto::etcd::auth_client::AuthClient;
use weft_proto::etcd::compare::{CompareTarget, TargetUnion};
use weft_proto::etcd::kv_client::KvClient;
use weft_proto::etcd::{
    AuthenticateRequest, Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RequestOp,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse, request_op, response_op,
};

use super::{Access, EtcdError};

/// For one member to answer. A healthy one takes milliseconds, one that has just lost its leader a second or two.
const TRY: Duration = Duration::from_secs(2);
/// For any member to answer.
const PATIENCE: Duration = Duration::from_secs(8);
/// Between two rounds of asking all.
const PAUSE: Duration = Duration::from_millis(100);
/// Keys of one answer.
const PAGE: i64 = 500;
/// No answer of 500 records is longer.
pub(super) const LONGEST: usize = 1 << 30;

/// A client. Clones share its connection.
#[derive(Clone)]
pub(crate) struct Client(Arc<Inner>);

struct Inner {
    access: Access,
    /// Counts the members that were given up; the one spoken to is the remainder.
    turn: AtomicUsize,
    line: Mutex<Option<Line>>,
}

/// A connection to a member, and who we are there.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) channel: Channel,
    pub(super) member: String,
    turn: usize,
    token: Option<MetadataValue<Ascii>>,
}

/// Changes that happen together, if what is expected is there.
#[derive(Debug, Clone, Default)]
pub(crate) struct Txn {
    compare: Vec<Compare>,
    ops: Vec<RequestOp>,
}

/// What a transaction came to, and whether it may have been asked for more than once.
#[derive(Debug)]
pub(crate) struct Tried {
    pub(crate) succeeded: Vec<bool>,
    pub(crate) revision: i64,
    pub(crate) repeated: bool,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.0.access).finish()
    }
}

impl Txn {
    /// Wants this to stand there; none: nothing.
    pub(crate) fn expect(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let (target, union) = match value {
            Some(value) => (CompareTarget::Value, TargetUnion::Value(value)),
            None => (CompareTarget::Version, TargetUnion::Version(0)),
        };
        let target_union = Some(union);
        self.compare.push(Compare { result: 0, target: target.into(), key, target_union });
    }

    /// Puts a value, for as long as the lease lasts; 0: for ever.
    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>, lease: i64) {
        self.ops.push(op(request_op::Request::RequestPut(PutRequest { key, value, lease })));
    }

    /// Deletes a key.
    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.ops.push(op(request_op::Request::RequestDeleteRange(DeleteRangeRequest { key })));
    }

    fn request(self) -> TxnRequest {
        TxnRequest { compare: self.compare, success: self.ops }
    }
}

fn revision_of(header: Option<ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

impl Client {
    /// One that has not called anybody yet.
    pub(crate) fn new(access: Access) -> Self {
        Self(Arc::new(Inner { access, turn: AtomicUsize::new(0), line: Mutex::new(None) }))
    }

    /// How it reaches them.
    pub(crate) fn access(&self) -> &Access {
        &self.0.access
    }

    /// The value of a key, and the revision at which it was so.
    pub(crate) async fn value(&self, key: Vec<u8>) -> Result<(Option<Vec<u8>>, i64), EtcdError> {
        let asked = RangeRequest { key, ..RangeRequest::default() };
        let answer = self.range(asked).await?;
        Ok((answer.0.into_iter().next().map(|kv| kv.value), answer.2))
    }

    /// The values of several keys at one moment.
    pub(crate) async fn values(&self, keys: Vec<Vec<u8>>) -> Result<Vec<Option<Vec<u8>>>, EtcdError> {
        let range =
            |key| op(request_op::Request::RequestRange(RangeRequest { key, ..RangeRequest::default() }));
        let asked = TxnRequest { compare: Vec::new(), success: keys.into_iter().map(range).collect() };
        let (answer, _) = self.transact(asked).await?;
        let value = |response: ResponseOp| match response.response {
            Some(response_op::Response::ResponseRange(range)) => {
                Ok(range.kvs.into_iter().next().map(|kv| kv.value))
            }
            _ => Err(EtcdError::Answer("no answer to a range within a transaction")),
        };
        answer.responses.into_iter().map(value).collect()
    }

    /// Everything under a prefix as it was at one moment, in the order of the keys, and that moment's revision.
    pub(crate) async fn all(
        &self,
        prefix: &[u8],
        keys_only: bool,
    ) -> Result<(Vec<KeyValue>, i64), EtcdError> {
        let range_end = end_of(prefix);
        let mut asked = RangeRequest { key: prefix.to_vec(), range_end, limit: PAGE, revision: 0, keys_only };
        let mut found = Vec::new();
        loop {
            let (page, more, revision) = self.range(asked.clone()).await?;
            if asked.revision == 0 {
                asked.revision = revision;
            }
            let last = page.last().map(|kv| kv.key.clone());
            found.extend(page);
            match last {
                Some(mut last) if more => {
                    last.push(0);
                    asked.key = last;
                }
                _ => return Ok((found, asked.revision)),
            }
        }
    }

    async fn range(&self, asked: RangeRequest) -> Result<(Vec<KeyValue>, bool, i64), EtcdError> {
        let call = |line: Line| {
            let asked = line.request(asked.clone());
            async move {
                let mut client = KvClient::new(line.channel).max_decoding_message_size(LONGEST);
                client.range(asked).await.map(tonic::Response::into_inner)
            }
        };
        let (answer, _) = self.ask(call).await?;
        let header = answer.header.ok_or(EtcdError::Answer("a range without a header"))?;
        Ok((answer.kvs, answer.more, header.revision))
    }

    /// One transaction.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<Tried, EtcdError> {
        let (answer, repeated) = self.transact(txn.request()).await?;
        Ok(Tried { succeeded: vec![answer.succeeded], revision: revision_of(answer.header), repeated })
    }

    /// Several at once, each of which is done or not by itself. They must not write the same keys.
    pub(crate) async fn each(&self, txns: Vec<Txn>) -> Result<Tried, EtcdError> {
        let success =
            txns.into_iter().map(|txn| op(request_op::Request::RequestTxn(txn.request()))).collect();
        let (answer, repeated) = self.transact(TxnRequest { compare: Vec::new(), success }).await?;
        let revision = revision_of(answer.header);
        let one = |response: ResponseOp| match response.response {
            Some(response_op::Response::ResponseTxn(txn)) => Ok(txn.succeeded),
            _ => Err(EtcdError::Answer("no answer to a transaction within one")),
        };
        let succeeded = answer.responses.into_iter().map(one).collect::<Result<_, _>>()?;
        Ok(Tried { succeeded, revision, repeated })
    }

    async fn transact(&self, asked: TxnRequest) -> Result<(TxnResponse, bool), EtcdError> {
        self.ask(|line: Line| {
            let asked = line.request(asked.clone());
            async move {
                let mut client = KvClient::new(line.channel).max_decoding_message_size(LONGEST);
                client.txn(asked).await.map(tonic::Response::into_inner)
            }
        })
        .await
    }

    /// Asks one member after the other until one answers; also whether any may have heard it before.
    pub(super) async fn ask<T, F>(&self, call: impl Fn(Line) -> F) -> Result<(T, bool), EtcdError>
    where
        F: Future<Output = Result<T, Status>> + Send,
    {
        let (begun, mut tries, mut heard, mut named) = (Instant::now(), 0_usize, false, false);
        loop {
            tries += 1;
            let (member, status) = match self.line().await {
                Ok(line) => {
                    let (member, turn) = (line.member.clone(), line.turn);
                    match timeout(TRY, call(line)).await {
                        Ok(Ok(answer)) => return Ok((answer, heard)),
                        // Once: a token may be over, but a name that is not known stays so.
                        Ok(Err(status)) if is_unnamed(&status) && !named => {
                            named = true;
                            self.forget(turn).await;
                            continue;
                        }
                        Ok(Err(status)) if !is_passing(&status) => return Err(EtcdError::Refused(status)),
                        Ok(Err(status)) => {
                            heard = true;
                            self.give_up(turn).await;
                            (member, status)
                        }
                        Err(_) => {
                            heard = true;
                            self.give_up(turn).await;
                            (member, Status::deadline_exceeded("no answer in time"))
                        }
                    }
                }
                Err(EtcdError::Away(member, status)) => (member, status),
                Err(error) => return Err(error),
            };
            tracing::debug!(member, reason = status.message(), "an etcd member does not answer");
            if begun.elapsed() >= PATIENCE {
                return Err(EtcdError::Away(member, status));
            }
            if tries.is_multiple_of(self.0.access.members().len()) {
                sleep(PAUSE).await;
            }
        }
    }

    /// The connection that there is, or one to the member whose turn it is.
    pub(super) async fn line(&self) -> Result<Line, EtcdError> {
        let mut line = self.0.line.lock().await;
        if let Some(line) = &*line {
            return Ok(line.clone());
        }
        let members = self.0.access.members();
        let turn = self.0.turn.load(Ordering::Relaxed);
        let member = turn.checked_rem(members.len()).and_then(|at| members.get(at)).cloned();
        let member = member.ok_or(EtcdError::Answer("there is no member"))?;
        let opened = timeout(TRY, self.open(&member, turn)).await;
        let opened = opened.unwrap_or_else(|_| {
            Err(EtcdError::Away(member.clone(), Status::deadline_exceeded("no connection in time")))
        });
        match opened {
            Ok(open) => {
                *line = Some(open.clone());
                Ok(open)
            }
            Err(error) => {
                self.0.turn.store(turn.wrapping_add(1), Ordering::Relaxed);
                Err(error)
            }
        }
    }

    async fn open(&self, member: &str, turn: usize) -> Result<Line, EtcdError> {
        let away = |error: EtcdError| match error {
            EtcdError::Connect(member, error) => {
                EtcdError::Away(member, Status::unavailable(crate::report::chain(&error)))
            }
            error => error,
        };
        let channel = self.0.access.connect(member).await.map_err(away)?;
        let mut line = Line { channel, member: member.to_owned(), turn, token: None };
        if let Some(user) = self.0.access.user() {
            let asked = AuthenticateRequest { name: user.name().to_owned(), password: user.password()? };
            let answer = AuthClient::new(line.channel.clone()).authenticate(asked).await;
            let answer = answer.map_err(|status| match is_passing(&status) {
                true => EtcdError::Away(member.to_owned(), status),
                false => EtcdError::Refused(status),
            })?;
            let token = answer.into_inner().token.parse();
            line.token = Some(token.map_err(|_| EtcdError::Answer("a token that is none"))?);
        }
        Ok(line)
    }

    /// Speaks to the next member from now on, unless somebody has seen to that already.
    pub(super) async fn give_up(&self, turn: usize) {
        let mut line = self.0.line.lock().await;
        if line.as_ref().is_some_and(|line| line.turn == turn) {
            *line = None;
            self.0.turn.store(turn.wrapping_add(1), Ordering::Relaxed);
        }
    }

    /// Comes anew to the same member, with a new token.
    async fn forget(&self, turn: usize) {
        let mut line = self.0.line.lock().await;
        if line.as_ref().is_some_and(|line| line.turn == turn) {
            *line = None;
        }
    }
}

impl Line {
    /// Whose turn it was.
    pub(super) fn turn(&self) -> usize {
        self.turn
    }

    /// What is asked, by whom we are.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }
}

/// Where the keys end that begin so.
pub(super) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            return end;
        }
    }
    // All of them.
    vec![0]
}

/// Whether another member, or the same a little later, may do better.
pub(super) fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted | Code::Internal => true,
        // What the transport says of a connection that broke.
        Code::Unknown => true,
        _ => false,
    }
}

/// Whether it does not know us any more: a token ends after minutes, or when users are changed.
fn is_unnamed(status: &Status) -> bool {
    status.code() == Code::Unauthenticated
        || (status.code() == Code::InvalidArgument
            && status.message().contains("revision of auth store is old"))
}
