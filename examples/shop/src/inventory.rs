//! Inventory: the shelves, by gRPC; health checks by HTTP.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::{Method, Request};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Response, Status};
use weft_runtime::drain::DrainWatch;

use crate::http::{Failure, Reply, healthy, serve};
use crate::v1::inventory_server::{Inventory as InventoryApi, InventoryServer};
use crate::v1::{
    PutBackRequest, PutBackResponse, ReserveRequest, ReserveResponse, Shelf, ShelvesRequest, ShelvesResponse,
};
use crate::{MARKER, MARKER_HEADER};

/// What the shop sells, and for how many cents.
const RANGE: [(&str, u64); 4] = [("book", 1290), ("kettle", 3490), ("lamp", 2450), ("teapot", 1999)];
/// What a delivery brings up to.
const FULL_SHELF: u32 = 1000;

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Inventory {
    shelves: Arc<Mutex<BTreeMap<String, Stock>>>,
}

#[derive(Debug, Clone, Copy)]
struct Stock {
    price_cents: u64,
    left: u32,
}

impl Default for Inventory {
    fn default() -> Self {
        let full =
            |(item, price_cents): (&str, u64)| (item.to_owned(), Stock { price_cents, left: FULL_SHELF });
        Self { shelves: Arc::new(Mutex::new(RANGE.map(full).into())) }
    }
}

impl Inventory {
    /// Serves gRPC on one listener and health checks on the other, until told to drain.
    pub async fn serve(
        self,
        grpc: TcpListener,
        health: TcpListener,
        drain: DrainWatch,
    ) -> anyhow::Result<()> {
        let incoming = TcpIncoming::from(grpc).with_nodelay(Some(true));
        let mut told = drain.clone();
        let served = Server::builder()
            .add_service(InventoryServer::new(self))
            .serve_with_incoming_shutdown(incoming, async move { told.draining().await });
        tokio::try_join!(async { Ok(served.await?) }, serve(health, drain, answer_health))?;
        Ok(())
    }

    fn shelves(&self) -> MutexGuard<'_, BTreeMap<String, Stock>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer_health(request: Request<Incoming>) -> Result<Reply, Failure> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/health/live" | "/health/ready") => Ok(healthy()),
        _ => Err(Failure::no_such_page()),
    }
}

#[tonic::async_trait]
impl InventoryApi for Inventory {
    async fn reserve(
        &self,
        request: tonic::Request<ReserveRequest>,
    ) -> Result<Response<ReserveResponse>, Status> {
        let ReserveRequest { item, quantity } = request.into_inner();
        if !(1..=FULL_SHELF).contains(&quantity) {
            return Err(Status::invalid_argument(format!("{quantity} is not between 1 and {FULL_SHELF}")));
        }
        let mut shelves = self.shelves();
        let stock = shelves
            .get_mut(&item)
            .ok_or_else(|| Status::not_found(format!("the shop does not sell {item:?}")))?;
        if stock.left < quantity {
            stock.left = FULL_SHELF;
        }
        stock.left -= quantity;
        let price_cents = stock.price_cents * u64::from(quantity);
        Ok(marked(ReserveResponse { price_cents, left: stock.left, marker: MARKER.into() }))
    }

    async fn put_back(
        &self,
        request: tonic::Request<PutBackRequest>,
    ) -> Result<Response<PutBackResponse>, Status> {
        let PutBackRequest { item, quantity } = request.into_inner();
        if let Some(stock) = self.shelves().get_mut(&item) {
            stock.left = stock.left.saturating_add(quantity).min(FULL_SHELF);
        }
        Ok(marked(PutBackResponse {}))
    }

    async fn shelves(
        &self,
        _request: tonic::Request<ShelvesRequest>,
    ) -> Result<Response<ShelvesResponse>, Status> {
        let shelf = |(item, stock): (&String, &Stock)| Shelf {
            item: item.clone(),
            price_cents: stock.price_cents,
            left: stock.left,
        };
        let shelves = self.shelves().iter().map(shelf).collect();
        Ok(marked(ShelvesResponse { shelves, marker: MARKER.into() }))
    }
}

fn marked<T>(message: T) -> Response<T> {
    let mut response = Response::new(message);
    response.metadata_mut().insert(MARKER_HEADER, tonic::metadata::MetadataValue::from_static(MARKER));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn reserve(
        inventory: &Inventory,
        item: &str,
        quantity: u32,
    ) -> Result<ReserveResponse, tonic::Code> {
        let request = tonic::Request::new(ReserveRequest { item: item.into(), quantity });
        InventoryApi::reserve(inventory, request)
            .await
            .map(Response::into_inner)
            .map_err(|status| status.code())
    }

    #[tokio::test]
    async fn a_reservation_empties_the_shelf_and_a_delivery_fills_it() {
        let inventory = Inventory::default();
        assert_eq!(reserve(&inventory, "book", 2).await.unwrap().price_cents, 2 * 1290);
        assert_eq!(reserve(&inventory, "book", FULL_SHELF - 2).await.unwrap().left, 0);
        assert_eq!(reserve(&inventory, "book", 1).await.unwrap().left, FULL_SHELF - 1);
    }

    #[tokio::test]
    async fn what_is_not_sold_or_not_countable_is_refused() {
        let inventory = Inventory::default();
        assert_eq!(reserve(&inventory, "moon", 1).await.unwrap_err(), tonic::Code::NotFound);
        for quantity in [0, FULL_SHELF + 1, u32::MAX] {
            assert_eq!(
                reserve(&inventory, "book", quantity).await.unwrap_err(),
                tonic::Code::InvalidArgument
            );
        }
    }

    #[tokio::test]
    async fn what_is_put_back_is_on_the_shelf_again() {
        let inventory = Inventory::default();
        reserve(&inventory, "lamp", 10).await.unwrap();
        let request = PutBackRequest { item: "lamp".into(), quantity: 10 };
        InventoryApi::put_back(&inventory, tonic::Request::new(request)).await.unwrap();
        assert_eq!(reserve(&inventory, "lamp", 1).await.unwrap().left, FULL_SHELF - 1);
    }
}
