//! `weft demo`: a whole mesh on this machine, with load and a live view, and nothing left behind.

mod latencies;
mod load;
mod scrape;
mod shop;
mod view;

use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use weft_pods::{Snapshot, adopt_orphans, userns};
use weft_proto::v1;
use weft_runtime::logs::{self, LogFormat};
use weft_runtime::{signal, task};

use crate::args::duration;
use crate::client::{self, answer};
use crate::mesh::{Own, listen_for_dashboard, rendezvous};
use crate::output;
use crate::time::milliseconds;
use load::{Load, Outcome};
use shop::{SERVICES, Shop};
use view::View;
pub(crate) use view::percent;

/// How often the view is drawn anew.
const TICK: Duration = Duration::from_secs(1);
/// How many traces are asked for at the end, the newest.
const TRACES: u32 = 1000;
/// How long threads may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// Run a whole mesh on this machine: control plane, four services with sidecars, load, a live view
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  weft demo                      until Ctrl-C, which leaves nothing behind
  weft demo --for 20s --json     the same for programs: the last line is one JSON object")]
pub(crate) struct Arguments {
    /// End by itself after this time
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    length: Option<Duration>,
    /// Requests a second
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rps: u32,
    /// Print the result as one JSON object on the last line
    #[arg(long)]
    json: bool,
    /// Where the dashboard listens [default: 127.0.0.1:7080, or a free port where that is taken]
    #[arg(long, value_name = "ADDR")]
    dashboard: Option<SocketAddr>,
}

/// What the run amounted to; with `--json` the last line.
#[derive(Debug, Serialize)]
struct Report {
    requests: u64,
    success_rate: f64,
    mtls_rate: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// How many of the newest traces go through all four services.
    traces: usize,
    services: [&'static str; SERVICES.len()],
    /// Whether the machine is as it was before.
    clean: bool,
}

pub(crate) fn execute(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let before = Snapshot::take()?;
    adopt_orphans()?;
    // In the host's network namespace, which an ordinary user's namespace still gives us.
    let dashboard = listen_for_dashboard(arguments.dashboard)?;
    let line = rendezvous::listen(&rendezvous::Name::of_demo())?;
    if userns::needed() {
        userns::enter()?;
    }
    logs::init(LogFormat::Text, std::env::var("RUST_LOG").as_deref().unwrap_or("error"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(run(arguments, dashboard, line));
    runtime.shutdown_timeout(PATIENCE);
    let left = before.diff(&Snapshot::take()?);

    let Some(report) = result? else { return Ok(ExitCode::FAILURE) };
    let report = Report { clean: left.is_empty(), ..report };
    if arguments.json {
        output::json_line(&report)?;
    } else {
        output::print(&report.summary())?;
    }
    if !report.clean {
        bail!("something was left behind: {left}");
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs the demo; none where it was interrupted before it ran.
async fn run(
    arguments: &Arguments,
    dashboard: TcpListener,
    line: Option<UnixListener>,
) -> anyhow::Result<Option<Report>> {
    let mut shutdown = signal::shutdown()?;
    let mut shop = tokio::select! {
        started = Shop::start(dashboard) => started?,
        _ = shutdown.received() => return Ok(None),
    };
    let own = shop.control_plane();
    output::progress(&format!("dashboard: {}", own.dashboard));
    // While we run, the other commands find this mesh.
    let telling = line.map(|line| task::spawn("rendezvous", rendezvous::tell(line, shop.access())));

    let load = Load::start(shop.shopper(), arguments.rps);
    let mut view = View::new(!arguments.json, &own.dashboard);
    let end = arguments.length.map(|length| Instant::now() + length);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let trouble = loop {
        tokio::select! {
            _ = shutdown.received() => break None,
            () = until(end) => break None,
            trouble = shop.until_trouble() => break Some(trouble),
            _ = ticks.tick() => {}
        }
        view.show(&shop.scrape().await, &load.outcome())?;
    };
    let outcome = load.end().await;
    let scraped = shop.scrape().await;
    view.show(&scraped, &outcome)?;
    let mtls_rate = scrape::mtls_rate(scraped.iter().map(|(_, inbound)| inbound));

    // Sidecars send their last spans when they end.
    let control_plane = shop.close().await;
    let traces = whole_traces(&own).await;
    if let Some(telling) = telling {
        telling.abort();
    }
    control_plane.end().await;
    match trouble {
        Some(trouble) => bail!("{trouble}"),
        None => Ok(Some(Report::new(&outcome, mtls_rate, traces?))),
    }
}

/// How many of the newest traces go through all four services.
async fn whole_traces(own: &Own) -> anyhow::Result<usize> {
    let mut admin = client::connect(&own.target()).await?;
    let request = v1::TracesRequest { limit: TRACES, ..Default::default() };
    let traces = answer(admin.traces(request).await)?.traces;
    Ok(traces.iter().filter(|trace| is_whole(&trace.services)).count())
}

/// Services are named with their namespace or without.
fn is_whole(services: &[String]) -> bool {
    let name = |service: &str| service.rsplit('/').next().unwrap_or_default().to_owned();
    let names: Vec<String> = services.iter().map(|service| name(service)).collect();
    SERVICES.iter().all(|service| names.iter().any(|name| name == service.name))
}

async fn until(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

impl Report {
    fn new(outcome: &Outcome, mtls_rate: f64, traces: usize) -> Self {
        Self {
            requests: outcome.requests(),
            success_rate: outcome.success_rate(),
            mtls_rate,
            p50_ms: outcome.latencies.quantile_ms(0.5),
            p99_ms: outcome.latencies.quantile_ms(0.99),
            traces,
            services: SERVICES.map(|service| service.name),
            clean: false,
        }
    }

    fn summary(&self) -> String {
        let clean = if self.clean { "nothing left behind" } else { "something was left behind" };
        format!(
            "{} requests, {} succeeded, {} over mTLS, p50 {}, p99 {}, {} traces through all four services; {clean}\n",
            self.requests,
            percent(self.success_rate),
            percent(self.mtls_rate),
            milliseconds(self.p50_ms),
            milliseconds(self.p99_ms),
            self.traces,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_is_as_the_contract_says() {
        let mut outcome = Outcome::default();
        outcome.record(Duration::from_millis(2), true);
        let report = Report { clean: true, ..Report::new(&outcome, 1.0, 1) };
        let json = serde_json::to_value(&report).unwrap();
        let fields: Vec<&String> = json.as_object().unwrap().keys().collect();
        assert_eq!(
            fields,
            ["requests", "success_rate", "mtls_rate", "p50_ms", "p99_ms", "traces", "services", "clean"]
        );
        assert_eq!(json["success_rate"], 1.0);
        assert_eq!(json["services"], serde_json::json!(["web", "orders", "inventory", "payments"]));
        assert!(
            report.summary().starts_with("1 requests, 100% succeeded, 100% over mTLS"),
            "{}",
            report.summary()
        );
    }

    #[test]
    fn a_trace_is_whole_when_it_names_all_four_services() {
        let check = |services: &[&str], expected| {
            let services: Vec<String> = services.iter().map(|&service| service.to_owned()).collect();
            assert_eq!(is_whole(&services), expected, "{services:?}");
        };
        check(&["web", "orders", "inventory", "payments"], true);
        check(
            &["default/shopper", "default/web", "default/orders", "default/inventory", "default/payments"],
            true,
        );
        check(&["web", "orders", "inventory"], false);
        check(&[], false);
    }
}
