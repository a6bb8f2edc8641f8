//! One request and its response, from head to last byte: what is told of it at its end.

mod telling;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::HeaderName;
use weft_core::breaker::Verdict;
use weft_core::classify::{self, Outcome};
use weft_core::limits::Limits;
use weft_core::plan::Plan;
use weft_core::rate::Usage;
use weft_core::retry::{Retry, Twice};
use weft_core::trace::{SpanId, TraceContext};

use super::head::{Fields, Head};
use super::headers;
use super::tries::{Target, Try};
use crate::affinity::{Affinity, Key, Staying};
use crate::failure::ErrorCode;
use crate::observe::{Flow, Observer, RpcMethod, Security, Spoken, Verb};
use crate::rates;
use crate::routing::Routed;
use crate::upstream::{Cluster, InFlight, Ticket};

static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What is known of a request when its head has been read.
#[derive(Debug)]
pub struct Facts {
    /// Who called whom.
    pub flow: Flow,
    /// What is spoken.
    pub protocol: Spoken,
    /// How the hop between the pods is protected.
    pub security: Security,
    /// Who connected to us.
    pub client: SocketAddr,
    /// The trace, and our span in it.
    pub trace: TraceContext,
    /// The span that ours is a child of.
    pub parent: Option<SpanId>,
    /// What decides on the endpoint where equal requests are to go to the same one.
    pub key: Option<u64>,
    /// How long it is held up on purpose.
    pub delay: Option<Duration>,
    /// Whether it asks after the app's health.
    pub is_vital: bool,
    /// Whether a policy may have its trace recorded, or not recorded, which is not known yet.
    pub is_undecided: bool,
}

/// A request under way. Shared by the two bodies; what happened is told when the last of them is gone.
#[derive(Debug)]
pub struct Exchange {
    observer: Observer,
    facts: Facts,
    /// Its method.
    verb: Verb,
    /// Its method of gRPC; none: it is not gRPC.
    rpc: Option<RpcMethod>,
    /// What its record will say; none where none will be made.
    target: Option<Box<Target>>,
    begun: Instant,
    ended: Cell<Option<Instant>>,
    status: Cell<Option<u16>>,
    grpc_status: Cell<Option<u8>>,
    /// Whether the endpoint's sidecar refused it, for its app has enough to do.
    is_shed: Cell<bool>,
    error: Cell<Option<ErrorCode>>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    upstream: Cell<Option<SocketAddr>>,
    security: Cell<Security>,
    sends: Cell<u32>,
    /// Where a circuit breaker waits for what becomes of it.
    ticket: RefCell<Option<Ticket>>,
    /// What keeps it with one endpoint.
    affinity: Option<Box<Affinity>>,
    /// Which endpoint it was sent to last.
    endpoint: Cell<u64>,
    /// The rule it falls under; none: its service has no routes.
    routed: Option<Box<Routed>>,
    /// How much of rate limits its caller has left; none: none is about it.
    usage: Option<Box<Usage>>,
    /// How long it may take and how often it is tried, where anything says so.
    plan: Option<Planned>,
    /// Whom it is for; none: our own app.
    cluster: Option<Rc<Cluster>>,
    /// Which state of what is said of it was last looked at.
    version: Cell<u64>,
    /// Whether more was wanted than the service's budget had.
    over_budget: Cell<bool>,
    hedges: Cell<u32>,
}

/// What holds for a request.
#[derive(Debug, Clone)]
pub struct Planned {
    /// What was said of requests like it.
    pub plan: Rc<Plan>,
    /// What it would mean to carry it out twice.
    pub twice: Twice,
}

impl Exchange {
    /// A request whose head was just read.
    pub fn begin(observer: &Observer, head: &impl Head, facts: Facts) -> Self {
        let target = || Box::new(Target::of(head, facts.trace.span));
        Self {
            verb: Verb::of(head.method()),
            rpc: (facts.protocol == Spoken::Grpc).then(|| observer.rpc_method(head.path())),
            target: (facts.is_undecided || observer.records(&facts.trace)).then(target),
            observer: observer.clone(),
            security: Cell::new(facts.security),
            facts,
            begun: Instant::now(),
            ended: Cell::default(),
            status: Cell::default(),
            grpc_status: Cell::default(),
            is_shed: Cell::default(),
            error: Cell::default(),
            bytes_in: Cell::default(),
            bytes_out: Cell::default(),
            upstream: Cell::default(),
            sends: Cell::default(),
            ticket: RefCell::default(),
            affinity: None,
            endpoint: Cell::default(),
            routed: None,
            usage: None,
            plan: None,
            cluster: None,
            version: Cell::default(),
            over_budget: Cell::default(),
            hedges: Cell::default(),
        }
    }

    /// What decides on the endpoint where equal requests are to go to the same one.
    pub fn key(&self) -> Option<u64> {
        self.facts.key
    }

    /// How long ago its head was read.
    pub fn age(&self) -> Duration {
        self.begun.elapsed()
    }

    /// How long it is held up on purpose before it is sent.
    pub fn delay(&self) -> Option<Duration> {
        self.facts.delay
    }

    /// Whether it asks after the app's health, and is never refused because the app has enough to do.
    pub fn is_vital(&self) -> bool {
        self.facts.is_vital
    }

    /// It asks after the app's health.
    pub fn asks_health(&mut self) {
        self.facts.is_vital = true;
    }

    /// It is held up so long on purpose before it is sent.
    pub fn held_up(&mut self, delay: Option<Duration>) {
        self.facts.delay = delay;
    }

    /// Where equal requests go to the same endpoint: what decides on it.
    pub fn keyed(&mut self, key: Option<Key>) {
        let Some(Key { hash, told }) = key else { return };
        self.facts.key = Some(hash);
        if let Some(told) = told {
            self.affinity.get_or_insert_default().tells(told);
        }
    }

    /// It falls under a rule that keeps sessions.
    pub fn stays(&mut self, staying: Staying) {
        self.affinity.get_or_insert_default().stays(staying);
    }

    /// The endpoint that it is to stay with.
    pub fn stays_with(&self) -> Option<u64> {
        self.affinity.as_ref()?.endpoint()
    }

    /// It falls under a route's rule.
    pub fn routed(&mut self, routed: Routed) {
        self.note("weft.route.rule", &routed.rule().index);
        self.routed = Some(Box::new(routed));
    }

    /// Who is to get copies of it, told once.
    pub fn take_mirrors(&mut self) -> Vec<Rc<Cluster>> {
        self.routed.as_mut().map(|routed| routed.take_mirrors()).unwrap_or_default()
    }

    /// The rule that it falls under.
    pub fn route(&self) -> Option<&Routed> {
        self.routed.as_deref()
    }

    /// How long it may take and how often it is tried.
    pub fn planned(&mut self, cluster: &Rc<Cluster>, plan: Option<Planned>) {
        self.version.set(self.said(cluster));
        self.cluster = Some(Rc::clone(cluster));
        self.plan = plan;
    }

    /// How long nothing may move on it, as it is said now.
    pub fn idle(&self) -> Option<Duration> {
        let cluster = self.cluster.as_ref()?;
        cluster.limits(self.routed.as_ref().map(|routed| routed.current()).as_deref()).idle
    }

    /// What limits it, where something else may than when this was last asked.
    pub fn renewed(&self) -> Option<Limits> {
        let cluster = self.cluster.as_ref()?;
        let said = self.said(cluster);
        if self.version.replace(said) == said {
            return None;
        }
        Some(cluster.limits(self.routed.as_ref().map(|routed| routed.current()).as_deref()))
    }

    /// Counts what is said anew of where it goes, and of the service that was called.
    fn said(&self, cluster: &Cluster) -> u64 {
        let called = self.routed.as_ref().map_or(0, |routed| routed.version());
        cluster.version().wrapping_add(called)
    }

    /// How long it may take and how often it is tried; none: nothing says so.
    pub fn plan(&self) -> Option<&Planned> {
        self.plan.as_ref()
    }

    /// How long it may take; none: nothing says so.
    pub fn limits(&self) -> Option<&Limits> {
        self.plan.as_ref().map(|planned| &planned.plan.limits)
    }

    /// What is tried again, besides what reached nobody.
    pub fn retry(&self) -> Option<&Retry> {
        self.plan.as_ref()?.plan.retry.as_ref()
    }

    /// Whether it is gRPC.
    pub fn is_grpc(&self) -> bool {
        self.facts.protocol == Spoken::Grpc
    }

    /// Bytes of its body that have come so far.
    pub fn request_bytes(&self) -> u64 {
        self.bytes_in.get()
    }

    /// It was answered in a way that another answer is hoped for.
    pub fn answered_in_vain(&self, status: u16, grpc_status: Option<u8>) {
        if let Some(target) = &self.target {
            target.current.set(Try { answer: Some((status, grpc_status)), ..target.current.get() });
        }
        let verdict = if self.is_shed.take() { Verdict::Unknown } else { judge(status, grpc_status) };
        if let Some(ticket) = self.ticket.take() {
            ticket.judge(verdict);
        }
    }

    /// Whether the endpoint's sidecar refused it, for its app has enough to do.
    pub fn is_shed(&self) -> bool {
        self.is_shed.get()
    }

    /// The endpoint's sidecar refuses it, for its app has enough to do.
    pub fn was_shed(&self) {
        self.is_shed.set(true);
    }

    /// It would have been sent once more, had there been budget for it.
    pub fn over_budget(&self) {
        self.over_budget.set(true);
    }

    /// A second endpoint is asked though the first may still answer.
    pub fn hedged(&self) {
        self.hedges.set(self.hedges.get() + 1);
        self.sends.set(self.sends.get() + 1);
    }

    /// The second endpoint has answered first, which says nothing of the other but that it was slow.
    pub fn overtaken_by(&self, flight: &mut InFlight) {
        self.endpoint.set(flight.endpoint_id());
        self.upstream.set(flight.address());
        if let Some(security) = flight.security() {
            self.security.set(security);
        }
        drop(self.ticket.replace(flight.take_ticket()));
    }

    /// A rate limit counts it.
    pub fn counted(&mut self, usage: Usage) {
        self.usage = Some(Box::new(usage));
    }

    /// Makes of a response's fields what the route says, and says how much of rate limits is left. To be called once, when
    /// they are otherwise right.
    pub fn amend_response(&self, fields: &mut impl Fields) {
        if let Some(routed) = &self.routed {
            routed.amend_response(fields);
        }
        if let Some(usage) = &self.usage {
            rates::tell(fields, usage);
        }
        if let Some(affinity) = &self.affinity {
            affinity.amend_response(self.endpoint.get(), fields);
        }
    }

    /// The mesh itself answers, and nothing is wrong.
    pub fn answered_by_mesh(&self, status: u16) {
        self.status.set(Some(status));
        self.response_ended();
    }

    /// It is sent, perhaps not for the first time.
    pub fn sent(&self, flight: &mut InFlight) {
        if let sends @ 1.. = self.sends.get() {
            self.next_try(sends);
        }
        self.endpoint.set(flight.endpoint_id());
        if let Some(to) = flight.address() {
            self.upstream.set(Some(to));
            self.sends.set(self.sends.get() + 1);
        }
        if let Some(security) = flight.security() {
            self.security.set(security);
        }
        // Who is sent to again was not answered.
        if let Some(before) = self.ticket.replace(flight.take_ticket()) {
            before.judge(Verdict::Failed);
        }
    }

    /// What it was sent on had been closed by then, which says nothing of the endpoint.
    pub fn unsent(&self) {
        drop(self.ticket.take());
    }

    /// The response's head has come; whoever carries it holds what it came on.
    pub fn responded(&self, status: u16, fields: &impl Fields) {
        self.status.set(Some(status));
        self.note_grpc_status(fields);
        // Only a sidecar says it: whatever others say under that name is gone by now.
        let may_be_shed = judge(status, self.grpc_status.get()) == Verdict::Failed;
        self.is_shed.set(may_be_shed && headers::is_overloaded(fields));
    }

    /// It failed after its response had begun.
    pub fn failed(&self, error: ErrorCode) {
        self.error.set(Some(error));
        self.ended.set(Some(Instant::now()));
    }

    /// Whether a response's head has come.
    pub fn has_response(&self) -> bool {
        self.status.get().is_some()
    }

    /// The mesh itself answers.
    pub fn refused(&self, status: u16, error: ErrorCode) {
        self.status.set(Some(status));
        self.error.set(Some(error));
        self.response_ended();
    }

    pub(crate) fn request_moved(&self, bytes: u64) {
        self.bytes_in.set(self.bytes_in.get() + bytes);
    }

    pub(crate) fn response_moved(&self, bytes: u64) {
        self.bytes_out.set(self.bytes_out.get() + bytes);
    }

    pub(crate) fn trailers(&self, trailers: &impl Fields) {
        self.note_grpc_status(trailers);
    }

    /// The whole response has passed.
    pub(crate) fn response_ended(&self) {
        self.ended.set(Some(Instant::now()));
    }

    fn note_grpc_status(&self, fields: &impl Fields) {
        if self.facts.protocol == Spoken::Grpc
            && let Some(value) = fields.first(&GRPC_STATUS)
        {
            self.grpc_status.set(classify::grpc_status(value));
        }
    }
}

impl Exchange {
    /// What it tells of the endpoint that it was sent to.
    fn verdict(&self) -> Verdict {
        match (self.error.get(), self.status.get()) {
            (Some(code), _) => code.verdict(),
            // An app that has enough to do works: to leave it alone would help nobody.
            (None, Some(_)) if self.is_shed.get() => Verdict::Unknown,
            (None, Some(status)) => judge(status, self.grpc_status.get()),
            (None, None) => Verdict::Unknown,
        }
    }
}

/// What an answer tells of the endpoint.
fn judge(status: u16, grpc_status: Option<u8>) -> Verdict {
    match classify::classify(status, grpc_status) {
        Outcome::Failure => Verdict::Failed,
        Outcome::Success | Outcome::CallerError => Verdict::Worked,
    }
}
