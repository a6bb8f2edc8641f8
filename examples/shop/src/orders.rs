//! Orders: reserves at inventory, charges at payments, undoes the first where the second fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use http::{Method, Request, StatusCode, Uri};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};
use weft_runtime::drain::DrainWatch;

use crate::MARKER;
use crate::context::Context;
use crate::http::{CALL_TIMEOUT, Failure, Reply, Upstream, healthy, json, read_json, serve};
use crate::ledger::Balance;
use crate::payments::{Charge, Receipt};
use crate::v1::inventory_client::InventoryClient;
use crate::v1::{PutBackRequest, ReserveRequest, ShelvesRequest};

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Orders {
    inventory: InventoryClient<Channel>,
    payments: Arc<Upstream>,
    ids: Arc<Ids>,
}

/// Order numbers that a restart does not repeat.
#[derive(Debug)]
struct Ids {
    start: u128,
    last: AtomicU64,
}

/// What web asks for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OrderRequest {
    pub(crate) item: String,
    pub(crate) quantity: u32,
    pub(crate) marker: String,
}

/// What web hears.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) order: String,
    pub(crate) item: String,
    pub(crate) quantity: u32,
    pub(crate) amount_cents: u64,
    pub(crate) left: u32,
    pub(crate) marker: String,
}

/// The state of the shop, for the front page.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) shelves: Vec<ShelfSummary>,
    pub(crate) sold: Balance,
    pub(crate) marker: String,
}

/// One thing on sale.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ShelfSummary {
    pub(crate) item: String,
    pub(crate) price_cents: u64,
    pub(crate) left: u32,
}

impl Orders {
    /// With the inventory to reserve at and the payments to charge at.
    pub fn new(inventory: Uri, payments: Arc<Upstream>) -> Self {
        let inventory = Endpoint::from(inventory).timeout(CALL_TIMEOUT).connect_lazy();
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let ids = Arc::new(Ids { start, last: AtomicU64::new(0) });
        Self { inventory: InventoryClient::new(inventory), payments, ids }
    }

    /// Serves until told to drain.
    pub async fn serve(self, listener: TcpListener, drain: DrainWatch) -> anyhow::Result<()> {
        serve(listener, drain, move |request| {
            let orders = self.clone();
            async move { orders.answer(request).await }
        })
        .await
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Reply, Failure> {
        let context = Context::of(request.headers());
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/health/live" | "/health/ready") => Ok(healthy()),
            (&Method::GET, "/orders/summary") => Ok(json(StatusCode::OK, &self.summary(&context).await?)),
            (&Method::POST, "/orders") => {
                let wanted = read_json(request.into_body()).await?;
                Ok(json(StatusCode::CREATED, &self.place(&context, wanted).await?))
            }
            _ => Err(Failure::no_such_page()),
        }
    }

    async fn place(&self, context: &Context, wanted: OrderRequest) -> Result<Order, Failure> {
        let OrderRequest { item, quantity, .. } = wanted;
        let reserve = context.around(ReserveRequest { item: item.clone(), quantity });
        let reserved = self.inventory.clone().reserve(reserve).await.map_err(refused)?.into_inner();

        let order = self.ids.next();
        let charge =
            Charge { order: order.clone(), amount_cents: reserved.price_cents, marker: MARKER.into() };
        let charged: Result<Receipt, Failure> = self.payments.post(context, "/charges", &charge).await;
        if let Err(failure) = charged {
            let put_back = context.around(PutBackRequest { item, quantity });
            if let Err(status) = self.inventory.clone().put_back(put_back).await {
                tracing::warn!(order, %status, "an uncharged order could not be put back");
            }
            return Err(failure);
        }
        let (amount_cents, left) = (reserved.price_cents, reserved.left);
        Ok(Order { order, item, quantity, amount_cents, left, marker: MARKER.into() })
    }

    async fn summary(&self, context: &Context) -> Result<Summary, Failure> {
        let mut inventory = self.inventory.clone();
        let (shelves, receipt) = tokio::join!(
            inventory.shelves(context.around(ShelvesRequest {})),
            self.payments.get::<Receipt>(context, "/charges"),
        );
        let shelves = shelves.map_err(refused)?.into_inner().shelves.into_iter().map(|shelf| ShelfSummary {
            item: shelf.item,
            price_cents: shelf.price_cents,
            left: shelf.left,
        });
        Ok(Summary { shelves: shelves.collect(), sold: receipt?.balance, marker: MARKER.into() })
    }
}

impl Ids {
    fn next(&self) -> String {
        format!("{:x}-{}", self.start, self.last.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

fn refused(status: tonic::Status) -> Failure {
    match status.code() {
        tonic::Code::NotFound => Failure::new(StatusCode::NOT_FOUND, status.message()),
        tonic::Code::InvalidArgument => Failure::new(StatusCode::BAD_REQUEST, status.message()),
        code => Failure::upstream("inventory", format!("{code:?}: {}", status.message())),
    }
}
