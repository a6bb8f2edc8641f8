//! Spans for a control plane that has one core: as many as it takes for a while, then as many a second as is asked. Prints what each took.
//!
//! The control plane is the program of a release build, held on the first core by `taskset`; whoever sends has the others. What is counted is
//! its whole work: gRPC, decoding, what is known of traces, the index, the disk.

#[path = "../control_plane.rs"]
mod control_plane;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, interval};
use tonic::transport::Channel;
use weft_runtime::task;

/// Spans of a batch, as sidecars send them.
const BATCH: u64 = 512;
/// Spans of a trace, two a hop.
const TRACE: u64 = 8;
/// What is said of a span besides.
const ATTRIBUTES: usize = 18;
/// Batches under way at once.
const AT_ONCE: usize = 8;
/// When all of them began, in nanoseconds: their own clocks do not matter.
const BEGIN: u64 = 1_700_000_000_000_000_000;

/// Sends spans to a control plane on one core, and says what they cost it.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seconds each part lasts.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Spans a second of the second part.
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Where weft-control-plane is.
    #[arg(long, default_value = "target/release")]
    bin: PathBuf,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let lasts = Duration::from_secs(arguments.seconds);
    let plane = Plane::start(&arguments).await?;
    let mut sent = 0;
    let (before, begun) = (plane.cpu()?, Instant::now());
    let mut senders = Vec::new();
    for sender in 0..AT_ONCE {
        let otlp = plane.connect().await?;
        let first = (u64::try_from(sender)? + 1) << 40;
        senders.push(task::spawn("sender", send_on(otlp, first, begun + lasts)));
    }
    for sender in senders {
        sent += sender.await??;
    }
    report("as many as it takes", sent, begun.elapsed(), plane.cpu()?.saturating_sub(before))?;

    let (before, begun) = (plane.cpu()?, Instant::now());
    let mut otlp = plane.connect().await?;
    let mut due = interval(Duration::from_secs_f64(real(BATCH) / real(arguments.rate)));
    let mut paced = 0;
    while begun.elapsed() < lasts {
        due.tick().await;
        otlp.export(batch((1 << 50) + paced)).await?;
        paced += BATCH;
    }
    report("at a rate", paced, begun.elapsed(), plane.cpu()?.saturating_sub(before))?;
    let (stored, dropped) = plane.counted().await?;
    writeln!(io::stdout(), "{} sent, {stored} stored, {dropped} not written to the disk", sent + paced)?;
    anyhow::ensure!(stored == sent + paced && dropped == 0, "some were lost");
    Ok(())
}

fn report(what: &str, spans: u64, took: Duration, cpu: Duration) -> anyhow::Result<()> {
    writeln!(
        io::stdout(),
        "{what}: {:.0} spans a second, {:.1} us of CPU a span, {:.0} % of the core",
        real(spans) / took.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / real(spans),
        cpu.as_secs_f64() / took.as_secs_f64() * 100.0
    )?;
    Ok(())
}

async fn send_on(mut otlp: TraceServiceClient<Channel>, first: u64, until: Instant) -> anyhow::Result<u64> {
    let mut sent = 0;
    while Instant::now() < until {
        otlp.export(batch(first + sent)).await?;
        sent += BATCH;
    }
    Ok(sent)
}

/// As a sidecar tells of them: each trace of several spans, each span with what the conventions ask for.
fn batch(first: u64) -> ExportTraceServiceRequest {
    let attribute = |key: String, value: String| KeyValue {
        key,
        value: Some(AnyValue { value: Some(Value::StringValue(value)) }),
        ..Default::default()
    };
    let span = |number: u64| Span {
        trace_id: [u64::MAX.to_be_bytes(), (number / TRACE).to_be_bytes()].concat(),
        span_id: (number + 1).to_be_bytes().to_vec(),
        parent_span_id: if number.is_multiple_of(TRACE) { Vec::new() } else { number.to_be_bytes().to_vec() },
        name: "GET default/orders".into(),
        kind: 2 + i32::from(number.is_multiple_of(2)),
        start_time_unix_nano: BEGIN + number % TRACE * 1_000_000,
        end_time_unix_nano: BEGIN + number % TRACE * 1_000_000 + 5_000_000,
        attributes: (0..ATTRIBUTES)
            .map(|n| attribute(format!("attribute.of.a.span.{n}"), format!("default/orders-{}", number % 50)))
            .collect(),
        ..Default::default()
    };
    let name = attribute("service.name".into(), format!("service-{}", first % 50));
    let resource = Resource { attributes: vec![name], ..Default::default() };
    let scope_spans =
        vec![ScopeSpans { spans: (first..first + BATCH).map(span).collect(), ..Default::default() }];
    let of_resource = ResourceSpans { resource: Some(resource), scope_spans, ..Default::default() };
    ExportTraceServiceRequest { resource_spans: vec![of_resource] }
}

/// A control plane on the first core, with its data in a folder of its own.
struct Plane {
    child: Child,
    otlp: SocketAddr,
    http: SocketAddr,
    _data: TempDir,
}

impl Plane {
    async fn start(arguments: &Arguments) -> anyhow::Result<Self> {
        let data = TempDir::new()?;
        let program = arguments.bin.join("weft-control-plane");
        let any = "127.0.0.1:0";
        let mut command = Command::new("taskset");
        command.args(["-c", "0"]).arg(&program).arg("--data-dir").arg(data.path());
        command.args(["--grpc-addr", any, "--http-addr", any, "--otlp-addr", any]);
        let (child, [otlp, http]) = control_plane::start(command, ["otlp", "http"]).await?;
        Ok(Self { child, otlp, http, _data: data })
    }

    async fn connect(&self) -> anyhow::Result<TraceServiceClient<Channel>> {
        Ok(TraceServiceClient::connect(format!("http://{}", self.otlp)).await?)
    }

    /// The CPU time that it has used. `taskset` becomes the program that it starts.
    fn cpu(&self) -> anyhow::Result<Duration> {
        control_plane::cpu(self.child.id().context("the control plane has ended")?)
    }

    /// The spans that were stored, and those that did not get to the disk, by its metrics.
    async fn counted(&self) -> anyhow::Result<(u64, u64)> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(self.http).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: weft\r\nconnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let count = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
        };
        Ok((count("weft_spans_stored_total"), count("weft_spans_dropped_total{reason=\"unwritten\"}")))
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact below 2^53")]
fn real(number: u64) -> f64 {
    number as f64
}
