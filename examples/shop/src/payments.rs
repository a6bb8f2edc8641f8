//! Payments: books charges in the ledger.

use std::sync::Arc;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use weft_runtime::drain::DrainWatch;

use crate::MARKER;
use crate::http::{Failure, Reply, healthy, json, read_json, serve};
use crate::ledger::{Balance, LedgerClient};

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Payments {
    ledger: Arc<LedgerClient>,
}

/// What orders asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Charge {
    pub(crate) order: String,
    pub(crate) amount_cents: u64,
    pub(crate) marker: String,
}

/// What orders hears.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) balance: Balance,
    pub(crate) marker: String,
}

impl Payments {
    /// With the ledger that it books in.
    pub fn new(ledger: LedgerClient) -> Self {
        Self { ledger: Arc::new(ledger) }
    }

    /// Serves until told to drain.
    pub async fn serve(self, listener: TcpListener, drain: DrainWatch) -> anyhow::Result<()> {
        serve(listener, drain, move |request| {
            let payments = self.clone();
            async move { payments.answer(request).await }
        })
        .await
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Reply, Failure> {
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/health/live") => Ok(healthy()),
            (&Method::GET, "/health/ready") => {
                let ready = self.ledger.total().await;
                ready.map(|_| healthy()).map_err(|error| {
                    Failure::new(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {error:#}"))
                })
            }
            (&Method::GET, "/charges") => Ok(receipt(StatusCode::OK, self.ledger.total().await)?),
            (&Method::POST, "/charges") => {
                let charge: Charge = read_json(request.into_body()).await?;
                receipt(StatusCode::CREATED, self.ledger.add(&charge.order, charge.amount_cents).await)
            }
            _ => Err(Failure::no_such_page()),
        }
    }
}

fn receipt(status: StatusCode, booked: anyhow::Result<Balance>) -> Result<Reply, Failure> {
    let balance = booked.map_err(|error| Failure::upstream("ledger", format!("{error:#}")))?;
    Ok(json(status, &Receipt { balance, marker: MARKER.into() }))
}
