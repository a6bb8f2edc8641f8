//! Thousands of sidecars against one control plane: real gRPC streams over mutual TLS, each with a certificate, offers and
//! subscriptions of its own, as `weft-proxy` has them. Prints a table, or with `--json` one object.
//!
//! The control plane is the program of a release build, a process by itself, so that its memory and CPU are its own; the
//! sidecars share the machine with it.

#[path = "../control_plane.rs"]
mod control_plane;
mod fleet;
mod plane;
mod sidecar;
mod stream;
mod wire;

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use fleet::{Fleet, Shape};
use plane::{Plane, Proxy};
use serde_json::{Map, Value, json};
use tokio::time::sleep;

/// As in the programs under test: what the sidecars take of the machine, the control plane does not have.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Of the changes to what everybody subscribes to, and how far apart they are.
const PROBE_EVERY: Duration = Duration::from_millis(500);

/// Until what was used for a moment has been given back.
const SETTLED: Duration = Duration::from_secs(10);

/// How long a part of the churn lasts, after which it is said how things are.
const PART: Duration = Duration::from_secs(30);

/// Holds thousands of sidecars' streams against one control plane, and says what that costs.
#[derive(Debug, Parser)]
struct Arguments {
    /// Sidecars, each with one stream.
    #[arg(long, default_value_t = 1000)]
    streams: usize,
    /// Services of the mesh.
    #[arg(long, default_value_t = 1000)]
    services: usize,
    /// Endpoints behind them in all.
    #[arg(long, default_value_t = 10_000)]
    endpoints: usize,
    /// Services that a sidecar calls, besides the one that all of them call.
    #[arg(long, default_value_t = 20)]
    calls: usize,
    /// Changes to the service that all of them call, one after another.
    #[arg(long, default_value_t = 60)]
    probes: usize,
    /// Sidecars that come later, offer nothing and call as many: what a stream alone costs.
    #[arg(long, default_value_t = 0)]
    callers: usize,
    /// How many seconds endpoints change.
    #[arg(long, default_value_t = 0)]
    churn: u64,
    /// Endpoints that change in each of these seconds.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// Where weft-control-plane and weft-proxy are.
    #[arg(long, default_value = "target/release")]
    bin: PathBuf,
    /// One JSON object in place of the table.
    #[arg(long)]
    json: bool,
}

/// What was measured, in its order.
struct Report {
    rows: Map<String, Value>,
    is_json: bool,
}

impl Report {
    fn add(&mut self, name: &str, value: Value) -> anyhow::Result<()> {
        if !self.is_json {
            writeln!(io::stdout(), "{name:<58} {value}")?;
        }
        self.rows.insert(name.to_owned(), value);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let shape = Shape {
        streams: arguments.streams,
        services: arguments.services,
        offers: arguments.endpoints / arguments.streams,
        calls: arguments.calls,
    };
    let mut report = Report { rows: Map::new(), is_json: arguments.json };
    let mut plane = Plane::start(&arguments.bin).await?;
    report.add("control plane, nobody there: MiB", mib(plane.memory()?))?;
    let proxy = Proxy::start(&arguments.bin, &plane).await?;
    report.add("a real sidecar, nothing in the mesh: MiB", mib(proxy.memory()?))?;

    let mut fleet = Fleet::join(&plane, shape).await?;
    cold_start(&plane, &mut fleet, &mut report).await?;
    report.add("a real sidecar, the whole mesh there: MiB", mib(proxy.memory()?))?;
    let spread = probe(&plane, &mut fleet, arguments.probes).await?;
    report.add("endpoint change until acked by the last, p50 ms", millis(at(&spread, 50)))?;
    report.add("endpoint change until acked by the last, p99 ms", millis(at(&spread, 99)))?;
    report.add("endpoint change until acked by the last, worst ms", millis(at(&spread, 100)))?;
    reconnect(&mut plane, &mut fleet, &mut report).await?;
    if arguments.callers > 0 {
        callers(&plane, &mut fleet, arguments.callers, &mut report).await?;
    }
    if arguments.churn > 0 {
        let wanted = Churn { seconds: arguments.churn, rate: arguments.rate };
        churn(&plane, &mut fleet, &wanted, &mut report).await?;
    }
    report.add("control plane at the end: MiB", mib(plane.memory()?))?;
    report.add("control plane, most ever: MiB", mib(plane.peak_memory()?))?;
    report.add("sidecars refused or cut off", json!(plane.metric("weft_sidecars_refused_total").await?))?;
    if report.is_json {
        writeln!(io::stdout(), "{}", Value::Object(report.rows))?;
    }
    Ok(())
}

async fn cold_start(plane: &Plane, fleet: &mut Fleet, report: &mut Report) -> anyhow::Result<()> {
    let (begun, cpu) = (Instant::now(), plane.cpu()?);
    let wire = fleet.start().await.context("the cold start")?;
    report.add("cold start of all, certificates included: s", seconds(begun.elapsed()))?;
    report.add("cold start: CPU of the control plane, s", seconds(plane.cpu()?.saturating_sub(cpu)))?;
    report.add("cold start: MiB of pushes", mib(wire.pushed))?;
    report.add("cold start: connections tried again", json!(wire.retried))?;
    report.add("control plane with all of them: MiB", mib(plane.memory()?))
}

/// Changes an endpoint that everybody calls again and again; how long it took each time until the last had acked it.
async fn probe(plane: &Plane, fleet: &mut Fleet, probes: usize) -> anyhow::Result<Vec<Duration>> {
    let (cpu, own) = (plane.cpu()?, control_plane::cpu(std::process::id())?);
    let mut spread = Vec::new();
    let mut due = tokio::time::interval(PROBE_EVERY);
    for _ in 0..probes {
        due.tick().await;
        spread.push(fleet.probe().await?);
    }
    let probes = u32::try_from(probes)?.max(1);
    let each = plane.cpu()?.saturating_sub(cpu) / probes;
    let own = control_plane::cpu(std::process::id())?.saturating_sub(own) / probes;
    writeln!(
        io::stderr(),
        "a change and its half second cost the control plane {each:?} of CPU, the sidecars {own:?}"
    )?;
    spread.sort();
    Ok(spread)
}

async fn reconnect(plane: &mut Plane, fleet: &mut Fleet, report: &mut Report) -> anyhow::Result<()> {
    fleet.cut().await?;
    let (begun, cpu) = (Instant::now(), plane.cpu()?);
    let wire = fleet.back().await.context("the return")?;
    report.add("all reconnect, hashes unchanged: s", seconds(begun.elapsed()))?;
    report.add("all reconnect: CPU of the control plane, s", seconds(plane.cpu()?.saturating_sub(cpu)))?;
    report.add("all reconnect: KiB of messages sent", kib(wire.pushed))?;
    report.add("all reconnect: KiB sent, TLS and HTTP/2 included", kib(wire.received))?;
    report.add("all reconnect: connections tried again", json!(wire.retried))?;
    fleet.cut().await?;
    plane.restart().await?;
    let begun = Instant::now();
    let wire = fleet.back().await.context("the return after a restart")?;
    report.add("all reconnect to a control plane that restarted: s", seconds(begun.elapsed()))?;
    report.add("all reconnect after a restart: KiB of messages sent", kib(wire.pushed))
}

async fn callers(plane: &Plane, fleet: &mut Fleet, number: usize, report: &mut Report) -> anyhow::Result<()> {
    sleep(SETTLED).await;
    let (before, streams) = (plane.memory()?, u64::try_from(number)?);
    fleet.join_callers(plane, number).await?;
    let wire = fleet.start_callers().await?;
    let at_once = plane.memory()?.saturating_sub(before) / streams;
    report.add("a stream more: KiB of the control plane, at once", kib(at_once))?;
    sleep(SETTLED).await;
    let settled = plane.memory()?.saturating_sub(before) / streams;
    report.add("a stream more: KiB of the control plane, a while later", kib(settled))?;
    report.add("a stream more: KiB pushed to it", kib(wire.pushed / streams))
}

struct Churn {
    seconds: u64,
    rate: u32,
}

async fn churn(plane: &Plane, fleet: &mut Fleet, wanted: &Churn, report: &mut Report) -> anyhow::Result<()> {
    let (begun, cpu, pushes) = (Instant::now(), plane.cpu()?, plane.metric("weft_pushes_total").await?);
    let parts = wanted.seconds.div_ceil(PART.as_secs());
    let mut changes = 0;
    for part in 1..=parts {
        let end = begun + Duration::from_secs(wanted.seconds * part / parts);
        let (mut spread, made) = fleet.churn(wanted.rate, end).await?;
        changes += made;
        spread.sort();
        report.add(
            &format!("churn, part {part} of {parts}"),
            json!({
                "MiB": mib(plane.memory()?),
                "everybody's change acked by the last, p50 ms": millis(at(&spread, 50)),
                "p99 ms": millis(at(&spread, 99)),
            }),
        )?;
    }
    let took = begun.elapsed();
    let used = plane.cpu()?.saturating_sub(cpu).as_secs_f64() / took.as_secs_f64();
    report.add("churn: changes", json!(changes))?;
    report.add("churn: changes a second", rounded(f64::from(changes) / took.as_secs_f64()))?;
    report.add("churn: cores of the control plane", rounded(used))?;
    let pushes = plane.metric("weft_pushes_total").await? - pushes;
    report.add("churn: pushes a second", rounded(pushes / took.as_secs_f64()))
}

/// The percentile of what is sorted.
fn at(sorted: &[Duration], percent: usize) -> Duration {
    let index = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or_default()
}

fn rounded(value: f64) -> Value {
    json!((value * 100.0).round() / 100.0)
}

fn seconds(time: Duration) -> Value {
    rounded(time.as_secs_f64())
}

fn millis(time: Duration) -> Value {
    rounded(time.as_secs_f64() * 1000.0)
}

fn kib(bytes: u64) -> Value {
    json!(bytes.div_ceil(1024))
}

fn mib(bytes: u64) -> Value {
    json!(bytes.div_ceil(1 << 20))
}
