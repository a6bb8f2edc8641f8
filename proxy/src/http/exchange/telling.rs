//! What is told of a request: its spans, what they say besides, and what is told at its end.

use std::fmt;
use std::time::{Duration, Instant};

use weft_core::authorize::Decision;
use weft_core::model::{AccessPolicy, Ratio};
use weft_core::trace::{SpanId, TraceContext};

use super::Exchange;
use crate::failure::ErrorCode;
use crate::http::head::Fields;
use crate::http::trace;
use crate::http::tries::{Target, Try};
use crate::observe::{Direction, RequestEnded};

impl Exchange {
    /// Whether it is not known yet whether its trace is recorded.
    pub fn is_undecided(&self) -> bool {
        self.facts.is_undecided
    }

    /// A policy says of how many requests like it the trace is recorded, or none does. What was left open is decided, and told
    /// to the next hop.
    pub fn sampled(&mut self, sampling: Option<Ratio>, fields: &mut impl Fields, rng: &mut fastrand::Rng) {
        if !std::mem::take(&mut self.facts.is_undecided) {
            return;
        }
        let trace = &mut self.facts.trace;
        let sampled = sampling.map_or(trace.sampled, |sampling| sampling.strikes(rng));
        if std::mem::replace(&mut trace.sampled, sampled) != sampled {
            trace::tell(fields, trace);
        }
        if !self.observer.records(trace) {
            self.target = None;
        }
    }

    /// Its span is to say so besides. Costs nothing where there is none.
    pub fn note(&mut self, key: &'static str, value: &dyn fmt::Display) {
        if let (true, Some(target)) = (self.facts.trace.sampled || self.facts.is_undecided, &mut self.target)
        {
            target.notes.push((key, value.to_string().into()));
        }
    }

    /// A policy about who may call had this to do with it: its span says so.
    pub fn judged(&mut self, policy: &AccessPolicy, decision: Decision) {
        let (by, decided) = match decision {
            Decision::Allowed | Decision::Denied | Decision::Limited => {
                ("weft.authorization.policy", "weft.authorization.decision")
            }
            Decision::WouldAllow | Decision::WouldDeny => ("weft.audit.policy", "weft.audit.decision"),
        };
        self.note(by, &policy.name);
        self.note(decided, &decision.as_str());
    }

    /// The span that the request was last sent under before, and the one that it is sent under now.
    pub fn spans(&self) -> (SpanId, SpanId) {
        let current = self.target.as_ref().map(|target| target.current.get());
        current.map_or((self.facts.trace.span, self.facts.trace.span), |it| (it.before, it.span))
    }

    /// The span that its head was first given.
    pub fn first_span(&self) -> SpanId {
        self.facts.trace.span
    }

    /// The try before has come to nothing: what it was is told, and the next one gets a span of its own.
    pub(super) fn next_try(&self, sends: u32) {
        let (true, Some(target)) = (self.facts.trace.sampled, &self.target) else { return };
        if self.facts.flow.direction() == Direction::Inbound {
            return;
        }
        let ended = target.current.get();
        let (took, error) =
            (ended.begun.elapsed(), ended.answer.is_none().then_some(ErrorCode::UpstreamReset));
        self.observer.try_ended(&RequestEnded {
            status: ended.answer.map(|(status, _)| status),
            grpc_status: ended.answer.and_then(|(_, grpc_status)| grpc_status),
            error,
            duration: took,
            ..self.told(Some((ended, took)), sends)
        });
        target.current.set(ended.next());
    }

    /// The gRPC status of the app's own answer.
    fn answered_by_app(&self) -> Option<u8> {
        self.grpc_status.get().filter(|_| self.error.get().is_none())
    }

    /// What is told of it, as things are, and of one of its tries, which took so long.
    fn told(&self, tried: Option<(Try, Duration)>, sends: u32) -> RequestEnded<'_> {
        let span = tried.map_or(self.facts.trace.span, |(tried, _)| tried.span);
        RequestEnded {
            flow: &self.facts.flow,
            route: self.routed.as_ref().map(|routed| routed.name()),
            protocol: self.facts.protocol,
            verb: self.verb,
            rpc: self.rpc.as_ref().and_then(|rpc| self.observer.rpc_label(rpc, self.answered_by_app())),
            security: self.security.get(),
            status: self.status.get(),
            grpc_status: self.grpc_status.get(),
            error: self.error.get(),
            duration: Duration::ZERO,
            target: self.target.as_deref().map(Target::requested),
            bytes_in: self.bytes_in.get(),
            bytes_out: self.bytes_out.get(),
            client: Some(self.facts.client),
            upstream: self.upstream.get(),
            tried: tried.filter(|_| sends > 1).map(|(tried, took)| (tried.started, took)),
            retries: sends.saturating_sub(1),
            hedges: self.hedges.get(),
            over_budget: self.over_budget.get(),
            trace: TraceContext { span, ..self.facts.trace },
            parent: self.facts.parent,
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            ticket.judge(self.verdict());
        }
        let ended = self.ended.get().unwrap_or_else(Instant::now);
        let current = self.target.as_ref().map(|target| target.current.get());
        let tried = current.map(|current| (current, ended.saturating_duration_since(current.begun)));
        self.observer.request_ended(&RequestEnded {
            duration: ended.saturating_duration_since(self.begun),
            ..self.told(tried, self.sends.get())
        });
    }
}
