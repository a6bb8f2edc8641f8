//! Connections that stop being HTTP: an upgrade that the app agreed to, or `CONNECT`. From then on bytes both ways.

use std::rc::Rc;

use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::{Exchange, headers};
use crate::stream::Reset;
use crate::tcp;
use crate::upstream::Lease;

/// A request's wish to become something else.
#[derive(Debug)]
pub struct Wish {
    caller: OnUpgrade,
    protocol: Option<HeaderValue>,
}

impl Wish {
    /// Takes the wish out of a request, where it has one.
    pub fn of(request: &mut Request<Incoming>) -> Option<Self> {
        let protocol = headers::upgrade(request.headers());
        if protocol.is_none() && request.method() != Method::CONNECT {
            return None;
        }
        Some(Self { caller: hyper::upgrade::on(request), protocol })
    }

    /// What the `Upgrade` field says.
    pub fn protocol(&self) -> Option<HeaderValue> {
        self.protocol.clone()
    }

    /// Whether the response grants it.
    pub fn is_granted<B>(&self, response: &Response<B>) -> bool {
        match self.protocol {
            Some(_) => response.status() == StatusCode::SWITCHING_PROTOCOLS,
            None => response.status().is_success(),
        }
    }
}

/// Moves bytes both ways once both connections have become something else. Holds the connection's lease till the end.
pub async fn fulfil(wish: Wish, app: OnUpgrade, exchange: Rc<Exchange>, lease: Lease) {
    let (caller, app) = match tokio::try_join!(wish.caller, app) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%error, "an upgrade came to nothing");
            return;
        }
    };
    let copied = tcp::copy(TokioIo::new(caller), TokioIo::new(app), |moved| {
        exchange.request_moved(moved.forth);
        exchange.response_moved(moved.back);
    });
    if let Err(error) = copied.await {
        tracing::debug!(%error, "an upgraded connection broke");
    }
    drop(lease);
}

impl Reset for TokioIo<Upgraded> {
    /// What is underneath is hyper's; dropping it ends it.
    fn reset(&self) {}
}
