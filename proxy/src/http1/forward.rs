//! What becomes of a request: it is carried to an endpoint, answered or refused by the mesh, or its connection becomes
//! something else.

use std::rc::Rc;
use std::time::Duration;

use http::Response;
use tokio::io::AsyncWriteExt as _;

use super::buffer::Buffer;
use super::connection::{After, Caller};
use super::framing::Framing;
use super::head::{Terms, Wish};
use super::journey::{Journey, Passed};
use super::outgoing::Outgoing;
use super::refuse::{Plain, Refusal};
use super::upload::Upload;
use super::way::KEPT;
use crate::failure::ErrorCode;
use crate::http::Exchange;
use crate::session::{Answer, Ruling, Session};
use crate::stream::{Link as _, Stream};
use crate::tcp;
use crate::ties::Tie;
use crate::upstream::{Cluster, InFlight};

/// A request whose head has been read.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) terms: Terms,
    pub(super) upload: Upload,
    /// How long its head was waited for once it had begun.
    pub(super) waited: Duration,
}

impl Request {
    /// Whether it may be sent once more though someone may have seen it, and can be.
    pub(super) fn may_repeat(&self) -> bool {
        let is_kept = match self.terms.framing {
            Framing::Empty => true,
            Framing::Length(length) => length.saturating_add(self.upload.way.out.bytes.len() as u64) <= KEPT,
            Framing::Chunked | Framing::UntilClose => false,
        };
        self.terms.is_idempotent && is_kept
    }
}

/// Two connections that have become something else.
#[derive(Debug)]
pub(super) struct Tunnel {
    server: Stream,
    greeting: Buffer,
    exchange: Exchange,
    tie: Option<Tie>,
    _flight: Box<InFlight>,
}

/// Does with a request what is ruled of it.
pub(super) async fn forward(
    session: &Session,
    caller: &mut Caller,
    mut request: Request,
    ruling: Ruling,
) -> After {
    let Ruling { verdict, exchange, grpc, tie } = ruling;
    let (code, fields) = match verdict {
        Ok(cluster) => match carry(session, caller, &mut request, &exchange, &cluster).await {
            Ok(Passed::On(after)) => return after,
            Ok(Passed::Into(server, greeting, flight)) => {
                return After::Tunnel(Box::new(Tunnel { server, greeting, exchange, tie, _flight: flight }));
            }
            Err(code) => (code, None),
        },
        Err(Answer::Error(code)) => (code, None),
        Err(Answer::Explained(explained)) => (explained.code, Some(explained.fields)),
        Err(Answer::Plain(response)) => return answer(session, caller, &request, &exchange, response).await,
    };
    exchange.refused(if grpc { 200 } else { code.status() }, code);
    let terms = Some(&request.terms);
    // What a malformed request's bytes mean is uncertain, and so is what follows them.
    let is_sound = !matches!(code, ErrorCode::BadRequest | ErrorCode::HeaderTooLarge);
    let persists = is_sound && may_persist(session, &request.terms) && ends_here(caller, &request);
    caller.say(Refusal { code, fields: fields.as_ref(), terms, grpc, persists }).await
}

async fn carry(
    session: &Session,
    caller: &mut Caller,
    request: &mut Request,
    exchange: &Exchange,
    cluster: &Rc<Cluster>,
) -> Result<Passed, ErrorCode> {
    let mut journey = Journey::new(session, caller, request, exchange, cluster);
    journey.run().await
}

/// Answers in the mesh's name where nothing is wrong.
async fn answer(
    session: &Session,
    caller: &mut Caller,
    request: &Request,
    exchange: &Exchange,
    mut response: Box<Response<()>>,
) -> After {
    exchange.amend_response(response.headers_mut());
    exchange.answered_by_mesh(response.status().as_u16());
    let persists = may_persist(session, &request.terms) && ends_here(caller, request);
    let mut out = Outgoing::new();
    Plain { response: &response, terms: &request.terms, persists }.write(&mut out.bytes);
    caller.answer(out, if persists { After::Next } else { After::Close }).await
}

/// Whether the caller's connection is to be used again, as far as the request and we say.
pub(super) fn may_persist(session: &Session, terms: &Terms) -> bool {
    terms.persists && !session.is_spent() && !session.is_parting()
}

/// Whether nothing of a refused request is still to come.
fn ends_here(caller: &Caller, request: &Request) -> bool {
    request.upload.way.decoder.has_ended() && request.terms.wish == Wish::None && !caller.has_ended
}

impl Tunnel {
    /// Carries bytes both ways until both have ended.
    pub(super) async fn run(mut self, caller: Caller) {
        let Caller { mut stream, input, .. } = caller;
        if let Some(tie) = self.tie.take() {
            stream = stream.tied(tie);
        }
        let held = async {
            stream.write_all(self.greeting.unseen()).await?;
            stream.flush().await?;
            self.server.write_all(input.unseen()).await?;
            self.server.flush().await
        };
        if held.await.is_err() {
            stream.reset();
            return self.server.reset();
        }
        let exchange = &self.exchange;
        exchange.response_moved(self.greeting.unseen().len() as u64);
        exchange.request_moved(input.unseen().len() as u64);
        drop((self.greeting, input));
        let idle = || exchange.idle().unwrap_or(tcp::IDLE);
        let copied = tcp::copy(stream, self.server, idle, |moved| {
            exchange.request_moved(moved.forth);
            exchange.response_moved(moved.back);
        });
        if let Err(error) = copied.await {
            tracing::debug!(%error, "an upgraded connection broke");
        }
    }
}
