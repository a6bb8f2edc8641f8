//! Four small services that the demo runs: web -> orders -> inventory and payments.
//!
//! They are ordinary programs that know nothing of a mesh: plain HTTP/1.1, one gRPC hop, one long-lived TCP
//! connection on which the server speaks first. All they do for it is what every service behind a tracing
//! mesh has to do: pass on the trace headers of the request they are serving.
//!
//! - `web`: the front, calls orders by HTTP
//! - `orders`: reserves at inventory by gRPC, charges at payments by HTTP
//! - `inventory`: the shelves (gRPC), and the ledger (`ledger`) on a second port
//! - `payments`: books charges in the ledger over one connection that it keeps

mod context;
mod http;
mod inventory;
mod ledger;
mod listen;
mod orders;
mod payments;
mod service;
mod web;

pub use http::Upstream;
pub use inventory::Inventory;
pub use ledger::{Ledger, LedgerClient};
pub use listen::listen;
pub use orders::Orders;
pub use payments::Payments;
pub use service::{Service, run};
pub use web::Web;

/// Stands in every body and header that the services exchange: a capture that shows it was not encrypted.
pub const MARKER: &str = "WEFT-DEMO-MARKER-7d1c4b0e9a52f368";

/// The header that carries [`MARKER`].
pub const MARKER_HEADER: &str = "x-shop-marker";

/// The generated gRPC service.
pub(crate) mod v1 {
    #![expect(
        unreachable_pub,
        unused_qualifications,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        clippy::too_many_lines,
        reason = "generated: documented in shop.proto"
    )]
    tonic::include_proto!("shop.v1");
}
