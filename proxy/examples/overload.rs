//! Four times as much as an app can do, with and without `concurrency: {mode: Adaptive}`, for `bench/overload`: both sidecars
//! over mutual TLS, before an app of 8 servers that take 10 ms a request each. Requests come by the clock, whatever became
//! of those before them.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::string_slice,
    clippy::print_stdout,
    reason = "a measuring tool made of the tests' fixture: what goes wrong ends it"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use weft_core::model::{ConcurrencyMode, Workload};
use weft_proxy::state::Snapshot;

#[path = "../tests/it/pair.rs"]
#[expect(dead_code, reason = "the tests' fixture has more than is needed here")]
mod pair;

const SERVERS: usize = 8;
const SERVICE: Duration = Duration::from_millis(10);

/// What an app of such servers can answer in a second.
const CAPACITY: u32 = 800;

/// Connections of the callers: requests that wait for an answer at once, at most.
const CONNECTIONS: usize = 1024;

/// Later than this nobody wants an answer any more.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long is measured, after the same time to settle in.
const MEASURED: Duration = Duration::from_secs(6);

/// An answer: its status, when it was asked for, and when it came.
type Answer = (u16, Instant, Instant);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let app = app().await;
    let pair = pair::Pair::new(app);
    println!(
        "{:<10}{:>9}{:>9}{:>9}{:>10}{:>9}{:>9}",
        "mode", "asked/s", "ok/s", "in time", "refused/s", "p50 ms", "p99 ms"
    );
    run(&pair, "Off", CAPACITY * 9 / 10, ConcurrencyMode::Off).await;
    let (peak, _) = run(&pair, "Off", 4 * CAPACITY, ConcurrencyMode::Off).await;
    let (_, in_time) = run(&pair, "Adaptive", 4 * CAPACITY, ConcurrencyMode::Adaptive).await;
    println!("answered in time under overload: {:.0} % of the most that it answers", in_time / peak * 100.0);
}

/// An app of so many servers, for which requests wait in order.
async fn app() -> SocketAddr {
    let (listener, address) = pair::app().await;
    let servers = Arc::new(Semaphore::new(SERVERS));
    weft_runtime::task::spawn("app", async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            weft_runtime::task::spawn("app-connection", answer(stream, Arc::clone(&servers)));
        }
    });
    address
}

async fn answer(stream: TcpStream, servers: Arc<Semaphore>) {
    stream.set_nodelay(true).expect("an open connection");
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
            return;
        }
        if line != "\r\n" {
            continue;
        }
        let server = servers.acquire().await.expect("servers");
        sleep(SERVICE).await;
        drop(server);
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
            return;
        }
    }
}

/// Asks so often a second, prints what came of it, and returns how many answers a second there were, and how many in time.
async fn run(pair: &pair::Pair, name: &str, per_second: u32, mode: ConcurrencyMode) -> (f64, f64) {
    protect(pair, mode);
    let (asks, asked) = mpsc::channel(CONNECTIONS);
    let asked = Arc::new(Mutex::new(asked));
    let callers: Vec<_> = (0..CONNECTIONS)
        .map(|_| weft_runtime::task::spawn("caller", call(pair.caller.orders, Arc::clone(&asked))))
        .collect();
    let began = Instant::now();
    let mut clock = interval(Duration::from_secs(1) / per_second);
    clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while began.elapsed() < 2 * MEASURED {
        let due = clock.tick().await;
        // A caller that finds no connection free goes away.
        let _ = asks.try_send(due);
    }
    drop(asks);
    let mut seen: Vec<Answer> = Vec::new();
    for caller in callers {
        seen.extend(caller.await.expect("a caller"));
    }
    report(name, per_second, &seen, began + MEASURED)
}

/// Has the app's sidecar find out how much its app can do, or not.
fn protect(pair: &pair::Pair, concurrency: ConcurrencyMode) {
    pair.callee.publisher.publish(Snapshot {
        mesh: Some(Arc::new(pair::mesh())),
        workload: Some(Arc::new(Workload { concurrency, ..pair::workload() })),
        ..Snapshot::default()
    });
}

async fn call(to: SocketAddr, asked: Arc<Mutex<mpsc::Receiver<Instant>>>) -> Vec<Answer> {
    let mut seen = Vec::new();
    let mut stream = BufReader::new(TcpStream::connect(to).await.expect("a connection"));
    stream.get_ref().set_nodelay(true).expect("an open connection");
    loop {
        let Some(due) = asked.lock().await.recv().await else { return seen };
        stream.write_all(b"GET / HTTP/1.1\r\nhost: orders\r\n\r\n").await.expect("sent");
        let (mut status, mut length, mut line) = (0, 0, String::new());
        while line != "\r\n" {
            line.clear();
            assert!(stream.read_line(&mut line).await.expect("an answer") > 0, "the sidecar closed");
            if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
                status = rest[..3].parse().expect("a status");
            } else if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.expect("a body");
        seen.push((status, due, Instant::now()));
    }
}

fn report(name: &str, per_second: u32, seen: &[Answer], from: Instant) -> (f64, f64) {
    let counted: Vec<_> = seen.iter().filter(|(_, _, at)| *at >= from && *at < from + MEASURED).collect();
    let of = |status: u16| counted.iter().filter(move |(found, ..)| *found == status);
    let mut latencies: Vec<_> = of(200).map(|(_, due, at)| *at - *due).collect();
    latencies.sort_unstable();
    let at = |share: usize| {
        latencies.get((latencies.len() * share / 100).min(latencies.len().saturating_sub(1))).copied()
    };
    let milliseconds = |share| at(share).unwrap_or_default().as_secs_f64() * 1000.0;
    let seconds = MEASURED.as_secs_f64();
    let rate = |count: usize| f64::from(u32::try_from(count).expect("a count")) / seconds;
    let in_time = rate(latencies.iter().filter(|latency| **latency <= PATIENCE).count());
    let answered = rate(latencies.len());
    println!(
        "{name:<10}{per_second:>9}{:>9.0}{in_time:>9.0}{:>10.0}{:>9.1}{:>9.1}",
        answered,
        rate(of(503).count()),
        milliseconds(50),
        milliseconds(99),
    );
    (answered, in_time)
}
