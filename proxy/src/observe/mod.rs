//! Stage 9, observe: one event per happening in; metric, access log line and span out.
//!
//! Every worker has its own [`Observer`]. What costs time is done elsewhere: a request counts in its
//! worker's own cells, and its record goes through a bounded queue that drops rather than waits.

pub mod access_log;
mod event;
pub mod export;
pub mod golden;
mod methods;
mod metrics;
mod record;
pub mod span;
pub mod tap;
mod wire;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use weft_core::authorize::Decision;
use weft_core::model::{AccessLog, QualifiedName};
use weft_core::trace::TraceContext;
use weft_runtime::metrics::{Counter, Gauge, Registry, Shard};

pub use event::{Direction, Note, Party, Refusal, RequestEnded, Requested, Security, Spoken, Verb};
pub use methods::RpcMethod;
pub use record::{Record, RecordQueue, Records};

use crate::mirror::Mirrored;
use crate::ties::Cut;
use golden::Golden;
use methods::Methods;
use metrics::{Connections, FlowSeries, ServerNames};
use tap::{Tapped, Taps};

/// Flows that a worker tells apart; what comes after them is from and to nobody known.
const FLOWS: usize = 10_000;

/// What all workers' observers share.
#[derive(Debug, Clone)]
pub struct Observe {
    registry: Registry,
    records: Records,
    access_log: Arc<LogSetting>,
    telemetry: Telemetry,
    tapped: Arc<Mutex<Option<Tapped>>>,
    taps: Taps,
}

/// Whether requests are counted, traced and told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Telemetry {
    /// They are.
    #[default]
    On,
    /// They are not: only connections are counted, and what the sidecar itself does.
    Off,
}

/// What the access log tells of, and how.
#[derive(Debug, Default)]
struct LogSetting {
    form: AtomicU8,
    per_million: AtomicU32,
}

/// One worker's view: what it saw is told to this. Cheap to clone within the worker.
#[derive(Debug, Clone)]
pub struct Observer(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    shard: Shard,
    records: Records,
    access_log: Arc<LogSetting>,
    telemetry: Telemetry,
    taps: Taps,
    flows: RefCell<HashMap<FlowKey, Flow>>,
    decisions: RefCell<HashMap<QualifiedName, Vec<(Decision, Counter)>>>,
    tokens: RefCell<HashMap<(QualifiedName, &'static str), Counter>>,
    server_names: RefCell<ServerNames>,
    methods: RefCell<Methods>,
}

/// The direction, who calls, who is called, and on which port; 0: that is not told of.
type FlowKey = (Direction, Party, Party, u16);

/// Who calls whom, in one direction: looked up once a connection, so that a request looks up nothing.
#[derive(Clone)]
pub struct Flow(Rc<FlowInner>);

struct FlowInner {
    direction: Direction,
    source: Arc<str>,
    destination: Arc<str>,
    series: FlowSeries,
}

/// A connection that carries something. Dropping it says that it was closed.
#[derive(Debug)]
#[must_use = "the connection counts as open for as long as this lives"]
pub struct OpenConnection {
    flow: Flow,
    open: Gauge,
}

impl Observe {
    /// Makes the shared part, and the end of the queue that the exporter reads.
    pub fn new(registry: &Registry) -> (Self, RecordQueue) {
        metrics::declare(registry);
        let dropped = registry.shard().series(&metrics::SPANS_DROPPED, &["all", "queue-full"]);
        let (records, queue) = record::queue(dropped);
        let (taps, tapped) = tap::taps();
        let looked_at = taps.clone();
        registry.gauge_from("weft_taps", "Who looks at requests as they pass.", [], move || {
            vec![([], f64::from(looked_at.count()))]
        });
        let tapped = Arc::new(Mutex::new(Some(tapped)));
        let (registry, access_log, telemetry) = (registry.clone(), Arc::default(), Telemetry::On);
        (Self { registry, records, access_log, telemetry, tapped, taps }, queue)
    }

    /// The same, where requests are told of or not.
    #[must_use]
    pub fn with(self, telemetry: Telemetry) -> Self {
        Self { telemetry, ..self }
    }

    /// An observer for the worker that calls.
    pub fn observer(&self) -> Observer {
        Observer(Rc::new(Inner {
            shard: self.registry.shard(),
            records: self.records.clone(),
            access_log: Arc::clone(&self.access_log),
            telemetry: self.telemetry,
            taps: self.taps.clone(),
            flows: RefCell::default(),
            decisions: RefCell::default(),
            tokens: RefCell::default(),
            server_names: RefCell::default(),
            methods: RefCell::default(),
        }))
    }

    /// What the control plane is told of now and then.
    pub fn golden(&self) -> Golden {
        Golden::new(self.registry.clone())
    }

    /// The requests that somebody wants to see; whoever asks first has them.
    pub fn tapped(&self) -> Option<Tapped> {
        self.tapped.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Sets the access log's form, and how many of a million requests it tells of.
    pub fn set_access_log(&self, form: AccessLog, per_million: u32) {
        let code = match form {
            AccessLog::Off => 0,
            AccessLog::Json => 1,
            AccessLog::Common => 2,
        };
        self.access_log.per_million.store(per_million, Ordering::Relaxed);
        self.access_log.form.store(code, Ordering::Relaxed);
    }
}

impl Observer {
    /// The flow from one party to another; ask once a connection and keep it.
    pub fn flow(&self, direction: Direction, source: Party, destination: Party) -> Flow {
        self.find((direction, source, destination, 0))
    }

    /// The flow of our app's calls to a port of a party that the mesh knows.
    pub fn flow_to(&self, source: Party, destination: Party, port: u16) -> Flow {
        self.find((Direction::Outbound, source, destination, port))
    }

    fn find(&self, key: FlowKey) -> Flow {
        let mut flows = self.0.flows.borrow_mut();
        if let Some(flow) = flows.get(&key) {
            return flow.clone();
        }
        // Parties come from the configuration, but that may be large and change often.
        let key = if flows.len() < FLOWS { key } else { (key.0, Party::Unknown, Party::Unknown, 0) };
        if let Some(flow) = flows.get(&key) {
            return flow.clone();
        }
        let (direction, source, destination) = (key.0, key.1.label(), key.2.label());
        let series = FlowSeries::new(&self.0.shard, direction, (&source, &destination), key.3);
        let flow = Flow(Rc::new(FlowInner { direction, source, destination, series }));
        flows.insert(key, flow.clone());
        flow
    }

    /// A request was answered, failed or given up.
    pub fn request_ended(&self, event: &RequestEnded<'_>) {
        if !self.tells() {
            return;
        }
        event.flow.0.series.request_ended(&self.0.shard, event);
        if let Some(target) = event.target {
            if self.0.taps.are_wanted() {
                self.0.taps.offer(event, target);
            }
            let log = self.access_log(&event.trace);
            if event.trace.sampled || log != AccessLog::Off {
                self.0.records.offer(Record::of(event, target, log));
            }
        }
    }

    /// A try of a request came to nothing, and there is another one: a span of its own.
    pub fn try_ended(&self, event: &RequestEnded<'_>) {
        if let (Some(target), true) = (event.target, event.trace.sampled) {
            self.0.records.offer(Record::of(event, target, AccessLog::Off));
        }
    }

    /// Whether a request of this trace is kept beyond its end, so that what was asked must be.
    pub fn records(&self, trace: &TraceContext) -> bool {
        self.tells()
            && (trace.sampled || self.access_log(trace) != AccessLog::Off || self.0.taps.are_wanted())
    }

    /// Whether requests are counted, traced and told of.
    pub fn tells(&self) -> bool {
        self.0.telemetry == Telemetry::On
    }

    fn access_log(&self, trace: &TraceContext) -> AccessLog {
        let LogSetting { form, per_million } = &*self.0.access_log;
        match form.load(Ordering::Relaxed) {
            0 => AccessLog::Off,
            _ if trace.trace.lot() >= per_million.load(Ordering::Relaxed) => AccessLog::Off,
            1 => AccessLog::Json,
            _ => AccessLog::Common,
        }
    }

    /// The method that a call of gRPC asks for.
    pub fn rpc_method(&self, path: &str) -> RpcMethod {
        self.0.methods.borrow().find(path)
    }

    /// As labels name the method of a call that ended so; none: no app is known to have it.
    pub fn rpc_label(&self, method: &RpcMethod, grpc_status: Option<u8>) -> Option<Arc<str>> {
        match method {
            RpcMethod::Known(name) => Some(Arc::clone(name)),
            RpcMethod::Unheard(path) => self.0.methods.borrow_mut().ended(path, grpc_status),
        }
    }

    /// A connection begins to carry something.
    pub fn connection_opened(&self, flow: &Flow, protocol: Spoken, security: Security) -> OpenConnection {
        let Connections { open, opened } = flow.0.series.connections(&self.0.shard, protocol, security);
        open.increment();
        opened.increment();
        OpenConnection { flow: flow.clone(), open }
    }

    /// A connection was closed before it could carry anything.
    pub fn connection_refused(&self, direction: Direction, refusal: Refusal) {
        metrics::refused(&self.0.shard, direction, refusal);
        tracing::debug!(direction = direction.as_str(), reason = refusal.as_str(), "connection refused");
    }

    /// The app has begun TLS of its own, and asks for this host.
    pub fn tls_opened(&self, server_name: Option<&str>) {
        self.0.server_names.borrow_mut().opened(&self.0.shard, server_name);
    }

    /// A TLS handshake failed; the whole reason goes to the log alone.
    pub fn handshake_failed(&self, direction: Direction, word: &'static str, reason: &dyn fmt::Display) {
        metrics::handshake_failed(&self.0.shard, direction, word);
        tracing::debug!(direction = direction.as_str(), %reason, "TLS handshake failed");
    }

    /// A mirror got a copy of a request, or did not.
    pub fn mirrored(&self, destination: &str, outcome: Mirrored) {
        metrics::mirrored(&self.0.shard, destination, outcome);
    }

    /// Open connections were ended: their peer is not believed, or let in, any more.
    pub fn connections_cut(&self, cut: Cut, count: u64) {
        metrics::cut(&self.0.shard, cut, count);
    }

    /// A probe from outside the mesh was let in.
    pub fn probed(&self, kind: &'static str) {
        metrics::probed(&self.0.shard, kind);
    }

    /// A policy allowed or denied something.
    pub fn policy_decided(&self, policy: &QualifiedName, decision: Decision) {
        if !self.tells() {
            return;
        }
        let mut decisions = self.0.decisions.borrow_mut();
        let known =
            decisions.get(policy).and_then(|of_policy| of_policy.iter().find(|(of, _)| *of == decision));
        if let Some((_, counter)) = known {
            return counter.increment();
        }
        let counter = metrics::decisions(&self.0.shard, policy, decision);
        counter.increment();
        decisions.entry(policy.clone()).or_default().push((decision, counter));
    }
}

impl Observer {
    /// A request's token proved something, was refused, or was missing.
    pub fn token_judged(&self, policy: &QualifiedName, outcome: &'static str) {
        if !self.tells() {
            return;
        }
        let mut tokens = self.0.tokens.borrow_mut();
        let counter = tokens
            .entry((policy.clone(), outcome))
            .or_insert_with(|| metrics::tokens(&self.0.shard, policy, outcome));
        counter.increment();
    }
}

impl OpenConnection {
    /// Bytes of a connection that carries no HTTP, from the caller and to the caller; tell them as they pass.
    pub fn moved(&self, from_caller: u64, to_caller: u64) {
        self.flow.0.series.moved(from_caller, to_caller);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.open.decrement();
    }
}

impl Flow {
    /// Which way.
    pub fn direction(&self) -> Direction {
        self.0.direction
    }

    /// Who calls, as labels spell it.
    pub fn source(&self) -> &Arc<str> {
        &self.0.source
    }

    /// Who is called, as labels spell it.
    pub fn destination(&self) -> &Arc<str> {
        &self.0.destination
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.0.direction.as_str(), self.0.source, self.0.destination)
    }
}

impl Party {
    fn label(&self) -> Arc<str> {
        match self {
            Self::Named(name) => name.to_string().into(),
            Self::Probe => "probe".into(),
            Self::Unknown => "unknown".into(),
        }
    }
}

#[cfg(test)]
mod tests;
