//! One request from the caller's connection to an upstream's, and its response back.

use std::rc::Rc;

use http::header::TRANSFER_ENCODING;
use http::{Request, Response, Version};
use hyper::body::Incoming;

use super::headers::{self, Upgrade};
use super::{Body, Exchange, Wish, fulfil, refusal};
use crate::failure::ErrorCode;
use crate::observe::Security;
use crate::session::{Ruling, Session};
use crate::upstream;
use crate::worker::Worker;

/// Answers a request as is ruled of it. Always answers: where no endpoint does, the mesh itself.
///
/// Requests are boxed: each async function that takes one would keep room for it twice in every request's future.
pub async fn relay(session: &Session, request: Box<Request<Incoming>>) -> Response<Body> {
    let worker = &*session.worker;
    let (mut head, body) = request.into_parts();
    let Ruling { verdict, exchange, grpc } = session.rule(&mut head);
    let exchange = Rc::new(exchange);
    let cluster = match verdict {
        Ok(cluster) => cluster,
        Err(code) => return refuse(&exchange, code, grpc),
    };
    let mut request = Box::new(Request::from_parts(head, body));
    let wish = Wish::of(&mut request);
    let request = outgoing(request, wish.as_ref(), &exchange);
    match upstream::send(worker, &cluster, request, &exchange).await {
        Ok((response, lease)) => {
            let mut response = response;
            if lease.security() != Some(Security::Mutual) {
                headers::disown(response.headers_mut());
            }
            match wish {
                Some(wish) if wish.is_granted(&response) => switch(worker, wish, response, exchange, lease),
                Some(_) | None => {
                    let (mut head, body) = response.into_parts();
                    headers::strip_hop_by_hop(&mut head.headers, Upgrade::Dropped);
                    head.headers.remove(TRANSFER_ENCODING);
                    if worker.leaving.announced.is_draining() {
                        headers::say_goodbye(&mut head.headers);
                    }
                    exchange.answered(&head, lease);
                    Response::from_parts(head, Body::response(body, exchange))
                }
            }
        }
        Err(code) => refuse(&exchange, code, grpc),
    }
}

/// The mesh's own answer.
fn refuse(exchange: &Exchange, code: ErrorCode, grpc: bool) -> Response<Body> {
    let response = refusal(code, grpc);
    exchange.refused(response.status().as_u16(), code);
    response
}

fn outgoing(
    request: Box<Request<Incoming>>,
    wish: Option<&Wish>,
    exchange: &Rc<Exchange>,
) -> Box<Request<Body>> {
    let (mut head, body) = request.into_parts();
    let upgrade = if wish.is_some_and(Wish::is_upgrade) { Upgrade::Kept } else { Upgrade::Dropped };
    headers::strip_hop_by_hop(&mut head.headers, upgrade);
    head.headers.remove(TRANSFER_ENCODING);
    // A caller's HTTP/1.0 is its own; the pooled connection is kept alive (RFC 9110 section 6.2).
    head.version = Version::HTTP_11;
    Box::new(Request::from_parts(head, Body::request(body, Rc::clone(exchange))))
}

/// Answers that the upgrade is granted, and carries bytes once it has happened on both sides.
fn switch(
    worker: &Worker,
    wish: Wish,
    mut response: Response<Incoming>,
    exchange: Rc<Exchange>,
    lease: upstream::Lease,
) -> Response<Body> {
    let app = hyper::upgrade::on(&mut response);
    let (mut head, _) = response.into_parts();
    let upgrade = if headers::asks_upgrade(&head.headers) { Upgrade::Kept } else { Upgrade::Dropped };
    headers::strip_hop_by_hop(&mut head.headers, upgrade);
    head.headers.remove(TRANSFER_ENCODING);
    exchange.switched(&head);
    worker.spawn("upgraded", fulfil(wish, app, exchange, lease));
    Response::from_parts(head, Body::empty())
}
