//! Connections that stop being HTTP: an upgrade that the app agreed to, or `CONNECT`. From then on bytes both ways.

use std::rc::Rc;

use http::{Method, Request, Response, StatusCode};
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
    is_upgrade: bool,
}

impl Wish {
    /// Takes the wish out of a request, where it has one.
    pub fn of(request: &mut Request<Incoming>) -> Option<Self> {
        let is_upgrade = headers::asks_upgrade(request.headers());
        if !is_upgrade && request.method() != Method::CONNECT {
            return None;
        }
        Some(Self { caller: hyper::upgrade::on(request), is_upgrade })
    }

    /// Whether it was said with an `Upgrade` field.
    pub fn is_upgrade(&self) -> bool {
        self.is_upgrade
    }

    /// Whether the response grants it.
    pub fn is_granted<B>(&self, response: &Response<B>) -> bool {
        if self.is_upgrade {
            response.status() == StatusCode::SWITCHING_PROTOCOLS
        } else {
            response.status().is_success()
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
