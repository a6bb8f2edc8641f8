//! A connection that carries HTTP, and what is ruled of each of its requests, whichever version they came in.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use ::http::{HeaderMap, Response};
use weft_runtime::drain::DrainWatch;

use crate::failure::ErrorCode;
use crate::http::head::Head;
use crate::http::target::settle;
use crate::http::{Exchange, Facts, Version, headers, trace};
use crate::observe::{Flow, Security, Spoken};
use crate::routing::Routed;
use crate::stream::Stream;
use crate::ties::Tie;
use crate::upstream::Cluster;
use crate::worker::Worker;
use crate::{http1, http2, inbound, outbound};

/// What is known of a connection that carries HTTP. One type for all, so that what serves them is compiled once.
#[derive(Debug)]
pub struct Session {
    /// Whose connection it is.
    pub worker: Rc<Worker>,
    /// Which version of HTTP.
    pub version: Version,
    /// Who calls whom.
    pub flow: Flow,
    /// Who connected to us.
    pub client: SocketAddr,
    /// How the hop between the pods is protected.
    pub security: Security,
    /// What is done with its requests.
    pub purpose: Purpose,
    /// Requests that have begun on it.
    pub requests: Cell<u64>,
}

/// What a connection is for.
#[derive(Debug)]
pub enum Purpose {
    /// Its requests are for the app.
    Inbound(inbound::Requests),
    /// Its requests are the app's.
    Outbound(outbound::Requests),
    /// Its requests are for no one: each is refused.
    Nowhere(ErrorCode),
}

/// What is to be done with a request. Its head has been put right.
#[derive(Debug)]
#[must_use = "a request is forwarded or refused"]
pub struct Ruling {
    /// One of whose endpoints it is sent to, or what it is answered instead.
    pub verdict: Result<Rc<Cluster>, Answer>,
    /// Is told how it went.
    pub exchange: Exchange,
    /// Whether it is gRPC, and so refused in its words.
    pub grpc: bool,
    /// What bytes rest on that may follow on it.
    pub tie: Option<Tie>,
}

/// What the mesh answers itself.
#[derive(Debug)]
pub enum Answer {
    /// Something is wrong.
    Error(ErrorCode),
    /// Something is wrong, and there is more to say of it.
    Explained(Box<Explained>),
    /// All is well: a response without a body, such as a redirect. No `weft-error` is said of it.
    Plain(Box<Response<()>>),
}

/// Something that is wrong, and what there is to say of it.
#[derive(Debug)]
pub struct Explained {
    /// What.
    pub code: ErrorCode,
    /// What the answer says besides the code.
    pub fields: HeaderMap,
}

impl From<ErrorCode> for Answer {
    fn from(code: ErrorCode) -> Self {
        Self::Error(code)
    }
}

impl Session {
    /// Serves the connection to its end.
    pub async fn serve(self, stream: Stream) {
        let spoken = spoken(self.version);
        let _open = self.worker.observer.connection_opened(&self.flow, spoken, self.security);
        let (version, session) = (self.version, Rc::new(self));
        match version {
            Version::Http1 => http1::serve(session, stream).await,
            Version::Http2 => http2::serve(session, stream).await,
        }
    }

    /// Hears when its side closes: what is for others is over before what is for the app.
    pub fn closing(&self) -> &DrainWatch {
        let leaving = &self.worker.leaving;
        match self.purpose {
            Purpose::Inbound(_) => &leaving.inbound,
            Purpose::Outbound(_) | Purpose::Nowhere(_) => &leaving.outbound,
        }
    }

    /// Whether its client is to come back on another connection, if at all.
    pub fn is_parting(&self) -> bool {
        let is_announced =
            matches!(self.purpose, Purpose::Inbound(_)) && self.worker.leaving.announced.is_draining();
        is_announced || self.closing().is_draining()
    }

    /// A request has begun.
    pub fn count_request(&self) {
        self.requests.set(self.requests.get() + 1);
    }

    /// Whether it has had as many requests as a connection may have: the client is to open another one.
    pub fn is_spent(&self) -> bool {
        self.requests.get() >= self.worker.conduct.requests
    }

    /// Rules on a request, and changes in its head what the mesh changes.
    pub fn rule(&self, head: &mut impl Head) -> Ruling {
        let worker = &*self.worker;
        let grpc = headers::is_grpc(head.fields());
        let settled = settle(head);
        let probe = match (&self.purpose, &settled) {
            (Purpose::Inbound(requests), Ok(())) => requests.probe(worker, head),
            _ => None,
        };
        let span = self.trace(head, probe.as_ref());
        match &self.purpose {
            Purpose::Inbound(requests) => requests.amend(worker, head, self.version),
            Purpose::Outbound(requests) => requests.amend(worker, head, self.version),
            Purpose::Nowhere(_) => {}
        }
        let facts = Facts {
            flow: probe.as_ref().map_or_else(|| self.flow.clone(), |probe| probe.flow.clone()),
            protocol: if grpc { Spoken::Grpc } else { spoken(self.version) },
            security: self.security,
            client: self.client,
            trace: span.own,
            parent: span.parent,
            key: None,
            delay: None,
            is_vital: false,
            is_undecided: probe.is_none() && self.is_undecided(&span),
        };
        // Told of is what was asked, not what a route makes of it.
        let mut exchange = Exchange::begin(&worker.observer, head, facts);
        let mut tie = None;
        let verdict = settled.map_err(Answer::from).and_then(|()| match &self.purpose {
            Purpose::Inbound(_) if let Some(probe) = &probe => Ok(Rc::clone(&probe.app)),
            Purpose::Inbound(requests) => {
                let ruled = requests.rule(worker, head, &mut exchange);
                if exchange.is_undecided() {
                    let sampling = requests.sampling(worker, head);
                    exchange.sampled(sampling, head.fields_mut(), &mut worker.rng.borrow_mut());
                }
                let (cluster, rests_on) = ruled?;
                tie = rests_on;
                Ok(cluster)
            }
            Purpose::Outbound(requests) => {
                let verdict = requests.rule(worker, head, &mut exchange);
                let sampling = requests.sampling(&exchange);
                exchange.sampled(sampling, head.fields_mut(), &mut worker.rng.borrow_mut());
                verdict
            }
            Purpose::Nowhere(code) => Err(Answer::Error(*code)),
        });
        match (&self.purpose, &verdict) {
            (Purpose::Outbound(_), Ok(cluster)) => {
                let key = cluster.key(head.fields(), self.client.ip(), &mut worker.rng.borrow_mut());
                exchange.keyed(key);
                let rule = exchange.route().map(Routed::rule);
                let planned = cluster.plan(rule, head.method().as_str());
                exchange.planned(cluster, planned);
            }
            (Purpose::Inbound(requests), Ok(cluster))
                if cluster.may_shed() && (probe.is_some() || requests.asks_health(worker, head)) =>
            {
                exchange.asks_health();
            }
            _ => {}
        }
        Ruling { verdict, exchange, grpc, tie }
    }

    /// Continues the request's trace, or begins one as the mesh's settings say. Probes are not traced, whatever they say.
    fn trace(&self, head: &mut impl Head, probe: Option<&inbound::Probing>) -> trace::Span {
        let rng = &mut self.worker.rng.borrow_mut();
        if !self.worker.observer.tells() {
            // What the request says of its trace is between the apps.
            return trace::unsaid(rng);
        }
        let snapshot = self.worker.discovery.peek();
        let tracing = snapshot.mesh.as_ref().map(|mesh| &mesh.tracing);
        match probe {
            None => trace::trace(head.fields_mut(), rng, tracing, &self.worker.conduct.tracing),
            Some(_) => {
                trace::forget(head.fields_mut());
                trace::trace(head.fields_mut(), rng, None, &trace::OwnTracing::default())
            }
        }
    }

    /// Whether a policy may say of how many requests like this one the trace is recorded. What others have decided stays, and
    /// so does what our own environment says.
    fn is_undecided(&self, span: &trace::Span) -> bool {
        let is_open =
            span.decider == trace::Decider::Sidecar && self.worker.conduct.tracing.sampler.is_none();
        match &self.purpose {
            Purpose::Outbound(requests) => is_open && requests.may_sample(&self.worker),
            // A caller with a sidecar has decided.
            Purpose::Inbound(requests) => is_open && requests.may_sample(&self.worker),
            Purpose::Nowhere(_) => false,
        }
    }
}

/// How metrics and spans name what is spoken, where it is not gRPC.
fn spoken(version: Version) -> Spoken {
    match version {
        Version::Http1 => Spoken::Http1,
        Version::Http2 => Spoken::Http2,
    }
}
