//! Web: the front. `GET /` shows the shop, `POST /buy?item=book&quantity=1` buys.

use std::fmt::Write;
use std::sync::Arc;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use weft_runtime::drain::DrainWatch;

use crate::MARKER;
use crate::context::Context;
use crate::http::{Failure, Reply, Upstream, healthy, json, reply, serve};
use crate::orders::{Order, OrderRequest, Summary};

/// The service. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Web {
    orders: Arc<Upstream>,
}

impl Web {
    /// With the orders service to order at.
    pub fn new(orders: Arc<Upstream>) -> Self {
        Self { orders }
    }

    /// Serves until told to drain.
    pub async fn serve(self, listener: TcpListener, drain: DrainWatch) -> anyhow::Result<()> {
        serve(listener, drain, move |request| {
            let web = self.clone();
            async move { web.answer(request).await }
        })
        .await
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Reply, Failure> {
        let context = Context::of(request.headers());
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/health/live" | "/health/ready") => Ok(healthy()),
            (&Method::GET, "/") => {
                let summary: Summary = self.orders.get(&context, "/orders/summary").await?;
                Ok(reply(StatusCode::OK, "text/html; charset=utf-8", page(&summary)))
            }
            (&Method::POST, "/buy") => {
                let wanted = parse_query(request.uri().query().unwrap_or_default())?;
                let order: Order = self.orders.post(&context, "/orders", &wanted).await?;
                Ok(json(StatusCode::CREATED, &order))
            }
            _ => Err(Failure::no_such_page()),
        }
    }
}

fn parse_query(query: &str) -> Result<OrderRequest, Failure> {
    let mut wanted = OrderRequest { item: String::new(), quantity: 1, marker: MARKER.into() };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("item", item)) => item.clone_into(&mut wanted.item),
            Some(("quantity", quantity)) => {
                wanted.quantity =
                    quantity.parse().map_err(|_| bad_query(&format!("{quantity:?} is no quantity")))?;
            }
            _ => return Err(bad_query(&format!("{pair:?} is not understood"))),
        }
    }
    if wanted.item.is_empty() { Err(bad_query("the item is missing")) } else { Ok(wanted) }
}

fn bad_query(why: &str) -> Failure {
    Failure::new(StatusCode::BAD_REQUEST, format!("{why}; try /buy?item=book&quantity=1"))
}

fn page(summary: &Summary) -> String {
    let mut rows = String::new();
    for shelf in &summary.shelves {
        // Writing to a String cannot fail.
        let _ =
            write!(rows, "<tr><td>{}<td>{}<td>{}", escape(&shelf.item), money(shelf.price_cents), shelf.left);
    }
    let (entries, total) = (summary.sold.entries, money(summary.sold.total_cents));
    format!(
        "<!doctype html><title>Shop</title><h1>Shop</h1><table><tr><th>Item<th>Price<th>Left{rows}</table>\
         <p>{entries} orders, {total} earned.<!-- {MARKER} -->\n"
    )
}

fn money(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, expected: Option<(&str, u32)>) {
        let parsed = parse_query(query).ok().map(|wanted| (wanted.item, wanted.quantity));
        assert_eq!(parsed, expected.map(|(item, quantity)| (item.to_owned(), quantity)), "{query:?}");
    }

    #[test]
    fn queries_name_an_item_and_perhaps_how_many() {
        check("item=book", Some(("book", 1)));
        check("item=lamp&quantity=3", Some(("lamp", 3)));
        check("quantity=3&item=lamp&", Some(("lamp", 3)));
        for bad in ["", "item=", "item", "quantity=2", "item=a&quantity=x", "item=a&quantity=-1", "thing=a"] {
            check(bad, None);
        }
    }
}
