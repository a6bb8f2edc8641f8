//! Which service to run, where it listens and whom it calls.

use std::time::Duration;

use http::Uri;
use weft_runtime::drain::DrainWatch;
use weft_runtime::{drain, signal};

use crate::http::Upstream;
use crate::{Inventory, Ledger, LedgerClient, Orders, Payments, Web, listen};

/// How long the requests under way may take at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// One of the shop's services.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Service {
    /// The front: GET / and POST /buy?item=book.
    Web {
        /// Port for HTTP.
        #[arg(long, env = "PORT", default_value_t = 8080)]
        port: u16,
        /// Where orders are placed.
        #[arg(long, env = "ORDERS_URL", default_value = "http://orders:8080")]
        orders: Uri,
    },
    /// Reserves at inventory by gRPC, charges at payments by HTTP.
    Orders {
        /// Port for HTTP.
        #[arg(long, env = "PORT", default_value_t = 8080)]
        port: u16,
        /// The inventory's gRPC.
        #[arg(long, env = "INVENTORY_URL", default_value = "http://inventory:9090")]
        inventory: Uri,
        /// Where charges are made.
        #[arg(long, env = "PAYMENTS_URL", default_value = "http://payments:8080")]
        payments: Uri,
    },
    /// The shelves, by gRPC, and the ledger.
    Inventory {
        /// Port for gRPC.
        #[arg(long, env = "GRPC_PORT", default_value_t = 9090)]
        grpc_port: u16,
        /// Port for the ledger.
        #[arg(long, env = "LEDGER_PORT", default_value_t = 7000)]
        ledger_port: u16,
        /// Port for health checks by HTTP.
        #[arg(long, env = "PORT", default_value_t = 8080)]
        port: u16,
    },
    /// Books charges in the ledger over one connection that it keeps.
    Payments {
        /// Port for HTTP.
        #[arg(long, env = "PORT", default_value_t = 8080)]
        port: u16,
        /// The ledger, as HOST:PORT.
        #[arg(long, env = "LEDGER_ADDR", default_value = "inventory:7000")]
        ledger: String,
    },
    /// The ledger alone: a line protocol in which the server speaks first.
    Ledger {
        /// Port for the ledger.
        #[arg(long, env = "LEDGER_PORT", default_value_t = 7000)]
        ledger_port: u16,
    },
}

/// Runs a service until SIGTERM or SIGINT, and then finishes the requests under way.
pub fn run(service: Service) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut shutdown = signal::shutdown()?;
        let (drain, drained) = drain::channel();
        let ending = async {
            shutdown.received().await;
            if let Err(error) = drain.finish(DRAIN_TIMEOUT).await {
                tracing::warn!("{error}");
            }
            Ok(())
        };
        tokio::try_join!(serve(service, drained), ending).map(|_| ())
    })
}

async fn serve(service: Service, drain: DrainWatch) -> anyhow::Result<()> {
    match service {
        Service::Web { port, orders } => {
            let orders = Upstream::new("orders", &orders)?;
            Web::new(orders).serve(listen(port).await?, drain).await
        }
        Service::Orders { port, inventory, payments } => {
            let payments = Upstream::new("payments", &payments)?;
            Orders::new(inventory, payments).serve(listen(port).await?, drain).await
        }
        Service::Inventory { grpc_port, ledger_port, port } => {
            let (grpc, ledger, health) =
                (listen(grpc_port).await?, listen(ledger_port).await?, listen(port).await?);
            tokio::try_join!(
                Inventory::default().serve(grpc, health, drain.clone()),
                Ledger::default().serve(ledger, drain),
            )?;
            Ok(())
        }
        Service::Payments { port, ledger } => {
            Payments::new(LedgerClient::new(ledger)).serve(listen(port).await?, drain).await
        }
        Service::Ledger { ledger_port } => Ledger::default().serve(listen(ledger_port).await?, drain).await,
    }
}
