//! `weft top`: a service, live.

use std::process::ExitCode;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use weft_proto::v1;

use super::stat::Stat;
use crate::args::Common;
use crate::client::{self, answer};
use crate::output::{self, Format};
use crate::target::Target;

/// How often it is drawn.
const EVERY: Duration = Duration::from_secs(1);
/// Of how long a time until now the numbers are.
const WINDOW: Duration = Duration::from_secs(10);

/// Show a service live, by route: drawn again every second, until Ctrl-C
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft top orders
  weft top orders --callers       by route and caller
  weft top orders --once          one table; so too where the output is no terminal

The numbers are of the last 10 seconds.")]
pub(crate) struct Arguments {
    /// The service: NAME or NAME.NAMESPACE
    service: String,
    /// Tell callers apart too
    #[arg(long)]
    callers: bool,
    /// Show it once
    #[arg(long)]
    once: bool,
}

pub(crate) async fn execute(common: &Common, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let mut admin = client::connect(&Target::find(&common.target)?).await?;
    let request = v1::StatRequest {
        namespace: common.namespace.to_string(),
        service: arguments.service.clone(),
        window_ms: u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX),
        by: if arguments.callers { "" } else { "route" }.to_owned(),
        ..Default::default()
    };
    let is_drawn = matches!(common.output, Format::Table | Format::Wide);
    if arguments.once || !is_drawn || !output::is_terminal() {
        let v1::StatResponse { rows, missing, .. } = answer(admin.stat(request).await)?;
        output::missing(&missing)?;
        output::list(common.output, &rows_of(rows, common))?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut tick = interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let v1::StatResponse { rows, missing, .. } = answer(admin.stat(request.clone()).await)?;
        let table = output::table(common.output, &rows_of(rows, common))?;
        output::draw(&format!(
            "{}, last {} s, Ctrl-C ends it\n{missing}\n{table}",
            arguments.service,
            WINDOW.as_secs()
        ))?;
    }
}

fn rows_of(mut rows: Vec<v1::StatRow>, common: &Common) -> Vec<Stat> {
    rows.sort_by(|a, b| b.rps.total_cmp(&a.rps));
    rows.into_iter().map(|row| Stat::new(row, common)).collect()
}
