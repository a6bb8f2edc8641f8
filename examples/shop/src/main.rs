//! The shop's services as a program of their own.

use clap::Parser;
use weft_runtime::logs::{self, LogFormat};

/// Four small services: web -> orders -> inventory and payments.
#[derive(Debug, Parser)]
#[command(name = "weft-shop", version)]
struct Arguments {
    #[command(subcommand)]
    service: weft_shop::Service,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    logs::init(LogFormat::Text, "info")?;
    weft_shop::run(arguments.service)
}
