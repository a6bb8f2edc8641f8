//! The shop's services as a program of their own.

use std::process::ExitCode;

use clap::Parser;
use weft_runtime::logs::{self, LogFormat};

/// Four small services: web -> orders -> inventory and payments.
#[derive(Debug, Parser)]
#[command(name = "weft-shop", version)]
struct Arguments {
    #[command(subcommand)]
    service: weft_shop::Service,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let served = logs::init(LogFormat::Text, "info")
        .map_err(anyhow::Error::from)
        .and_then(|_| weft_shop::run(arguments.service));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
