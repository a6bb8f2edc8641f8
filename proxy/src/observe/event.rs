//! What happens in the data path, as it tells the [`Observer`](super::Observer): one event per happening,
//! and metric, access log line and span are made from it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use weft_core::model::QualifiedName;
use weft_core::trace::{SpanId, TraceContext};

use super::Flow;
use crate::failure::ErrorCode;

/// Which way, seen from the app that this sidecar serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the app.
    Inbound,
    /// From the app.
    Outbound,
}

impl Direction {
    /// As metrics, logs and spans spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What was spoken, once it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Spoken {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// gRPC.
    Grpc,
    /// Bytes.
    Tcp,
    /// TLS of the app's own, passed on as it is.
    Tls,
}

impl Spoken {
    /// As metrics and logs spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "http/2",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }
}

/// A request's method, as far as it is known: callers cannot invent labels or names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// One of those that everybody knows (RFC 9110 section 9, RFC 5789, RFC 10008).
    Known(&'static str),
    /// Any other.
    Other,
}

/// The methods that everybody knows.
const VERBS: [&str; 10] =
    ["GET", "POST", "HEAD", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"];

impl Verb {
    /// Of a method.
    pub fn of(method: &http::Method) -> Self {
        let method = method.as_str();
        VERBS.iter().find(|known| **known == method).map_or(Self::Other, |known| Self::Known(known))
    }

    /// As OpenTelemetry spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Known(method) => method,
            Self::Other => "_OTHER",
        }
    }
}

/// How the hop between the pods is protected by the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Security {
    /// TLS, and both ends proved who they are.
    Mutual,
    /// TLS, and the server, which is outside the mesh, proved its name.
    Server,
    /// Not at all.
    Plaintext,
}

impl Security {
    /// As metrics and logs spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mutual => "mutual",
            Self::Server => "server",
            Self::Plaintext => "none",
        }
    }
}

/// One end of a flow, in words that do not come from the wire.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Party {
    /// A service, or a workload or service account standing for one.
    Named(QualifiedName),
    /// Who asks after the app from outside the mesh, as the sidecar was told.
    Probe,
    /// Someone whom the mesh does not know.
    Unknown,
}

/// What was asked of whom, and when.
#[derive(Debug, Clone, Copy)]
pub struct Requested<'a> {
    /// When its head had been read.
    pub started: SystemTime,
    /// The method.
    pub method: &'a http::Method,
    /// `:authority` or `Host`.
    pub authority: &'a str,
    /// The path without its query.
    pub path: &'a str,
    /// The query, its values withheld.
    pub query: Option<&'a str>,
    /// `User-Agent`.
    pub agent: Option<&'a str>,
    /// What else its span says.
    pub notes: &'a [Note],
}

/// An attribute of a span: what a policy decided.
pub type Note = (&'static str, Box<str>);

/// A request was answered, failed or given up.
#[derive(Debug)]
pub struct RequestEnded<'a> {
    /// Who called whom.
    pub flow: &'a Flow,
    /// The route that was taken, where one has a name.
    pub route: Option<&'a Arc<str>>,
    /// What was spoken.
    pub protocol: Spoken,
    /// The method.
    pub verb: Verb,
    /// The method of gRPC, where it is one that an app is known to have.
    pub rpc: Option<Arc<str>>,
    /// How the hop between the pods was protected.
    pub security: Security,
    /// The response's status; none when the caller went away before there was one.
    pub status: Option<u16>,
    /// The `grpc-status`, in trailers or headers.
    pub grpc_status: Option<u8>,
    /// Why the mesh answered instead of the app, or broke off.
    pub error: Option<ErrorCode>,
    /// From the end of its head to the last byte of the response.
    pub duration: Duration,
    /// What was asked of whom; none where nothing that tells it is recorded.
    pub target: Option<Requested<'a>>,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the response's body.
    pub bytes_out: u64,
    /// Who connected to the sidecar.
    pub client: Option<SocketAddr>,
    /// Where it was sent.
    pub upstream: Option<SocketAddr>,
    /// When the try began that its span tells of, and how long it took; none: there was one alone.
    pub tried: Option<(SystemTime, Duration)>,
    /// Sends after the first.
    pub retries: u32,
    /// Of these, those that were made while another one was under way.
    pub hedges: u32,
    /// Whether there would have been one more, had there been budget for it.
    pub over_budget: bool,
    /// The trace, and this sidecar's own span in it.
    pub trace: TraceContext,
    /// The span that ours is a child of; none: ours is the root.
    pub parent: Option<SpanId>,
}

/// A connection was closed before it could carry anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Neither TLS of the mesh nor, where that is allowed, plaintext.
    Plaintext,
    /// A policy says no.
    Denied,
    /// A rate limit has no room.
    RateLimited,
    /// Nothing the sidecar understands, or nothing in time.
    Garbage,
    /// No one of the mesh is there, and it may not be passed through.
    UnknownDestination,
    /// The control plane has not said who is there: it may be someone of the mesh.
    Unanswered,
    /// No route takes it, or the one that does leads nowhere.
    NoRoute,
    /// More connections than may be open.
    TooMany,
    /// The other side could not be reached.
    Unreachable,
    /// The sidecar is going away.
    Draining,
}

impl Refusal {
    /// As metrics and logs spell it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plaintext => "plaintext",
            Self::Denied => "denied",
            Self::RateLimited => "rate-limited",
            Self::Garbage => "garbage",
            Self::UnknownDestination => "unknown-destination",
            Self::Unanswered => "unanswered",
            Self::NoRoute => "no-route",
            Self::TooMany => "too-many",
            Self::Unreachable => "unreachable",
            Self::Draining => "draining",
        }
    }
}
