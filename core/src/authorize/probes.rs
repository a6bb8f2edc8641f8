//! Probes of an app from outside the mesh, as a kubelet makes them. Who makes them has no identity; they are let in all the
//! same, where the app's sidecar was told of them: exactly what was told, and nothing that could be more.

use std::fmt;
use std::str::FromStr;

use super::{Asked, Call, Peer, Permit};
use crate::path::Path;

/// What gRPC's health protocol asks (grpc/grpc, doc/health-checking.md).
const GRPC_CHECK: &str = "/grpc.health.v1.Health/Check";

/// What lets a request be more than its head says: another protocol, or a body.
const MORE: [&str; 2] = ["upgrade", "transfer-encoding"];

/// A probe that is made from outside the mesh: `http:8080:/healthz`, `tcp:9000`, `grpc:9001` or `grpc:9001:SERVICE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutsideProbe {
    /// The app's port.
    pub port: u16,
    /// What is done there.
    pub what: Probed,
}

/// What a probe from outside the mesh does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probed {
    /// `GET` or `HEAD` of a path.
    Http {
        /// The path in its normal form.
        path: String,
        /// The query, where it has one.
        query: Option<String>,
    },
    /// `Check` of gRPC's health service. Which service it asks about is said in its body, which nobody here reads.
    Grpc,
    /// A connection that ends before anything was said.
    Tcp,
}

/// The probes that a sidecar was told of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutsideProbes(Vec<OutsideProbe>);

/// What is no probe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form http:PORT:/PATH, tcp:PORT, grpc:PORT or grpc:PORT:SERVICE")]
pub struct NoProbe(String);

impl OutsideProbes {
    /// Lets in a request that is one of them.
    pub fn permit(&self, call: &Call<'_>) -> Option<(Permit, &OutsideProbe)> {
        let request = call.request.filter(|_| *call.peer == Peer::Anonymous)?;
        let probe = self.on(call.port).find(|probe| probe.what.is(request))?;
        Some((Permit { port: call.port, _only_made_here: () }, probe))
    }

    /// Whether a connection without a word to this port is one of them.
    pub fn connect_to(&self, port: u16) -> bool {
        self.on(port).any(|probe| probe.what == Probed::Tcp)
    }

    fn on(&self, port: u16) -> impl Iterator<Item = &OutsideProbe> {
        self.0.iter().filter(move |probe| probe.port == port)
    }
}

impl Probed {
    /// As metrics spell it.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Http { .. } => "http",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
        }
    }

    fn is(&self, request: &dyn Asked) -> bool {
        let Some(asked) = request.path() else { return false };
        let is_for = |path: &str| asked.forwarded() == path.as_bytes();
        let is_it = match self {
            Self::Http { path, query } => {
                matches!(request.method(), "GET" | "HEAD")
                    && is_for(path)
                    && request.query() == query.as_deref()
                    && each(request, "content-length", |value| value == b"0")
            }
            Self::Grpc => {
                request.method() == "POST"
                    && is_for(GRPC_CHECK)
                    && request.query().is_none()
                    && has(request, "content-type", |value| value.starts_with(b"application/grpc"))
            }
            Self::Tcp => false,
        };
        is_it && MORE.iter().all(|name| each(request, name, |_| false))
    }
}

/// Whether every value of a header is such; also where it has none.
fn each(request: &dyn Asked, name: &str, is_such: impl Fn(&[u8]) -> bool) -> bool {
    let mut all = true;
    request.each_value(name, &mut |value| all &= is_such(value));
    all
}

/// Whether a header has a value, and each is such.
fn has(request: &dyn Asked, name: &str, is_such: impl Fn(&[u8]) -> bool) -> bool {
    let mut count = 0_usize;
    request.each_value(name, &mut |_| count = count.saturating_add(1));
    count > 0 && each(request, name, is_such)
}

impl FromIterator<OutsideProbe> for OutsideProbes {
    fn from_iter<I: IntoIterator<Item = OutsideProbe>>(probes: I) -> Self {
        Self(probes.into_iter().collect())
    }
}

impl FromStr for OutsideProbe {
    type Err = NoProbe;

    fn from_str(text: &str) -> Result<Self, NoProbe> {
        let wrong = || NoProbe(text.to_owned());
        let (kind, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (port, more) = match rest.split_once(':') {
            Some((port, more)) => (port, Some(more)),
            None => (rest, None),
        };
        let port = port.parse().ok().filter(|port: &u16| *port > 0).ok_or_else(wrong)?;
        let what = match (kind, more) {
            ("http", Some(target)) => {
                let path = Path::parse(target.as_bytes()).map_err(|_| wrong())?;
                let forwarded = String::from_utf8(path.forwarded().to_vec()).map_err(|_| wrong())?;
                match forwarded.split_once('?') {
                    Some((path, query)) => {
                        Probed::Http { path: path.to_owned(), query: Some(query.to_owned()) }
                    }
                    None => Probed::Http { path: forwarded, query: None },
                }
            }
            ("grpc", _) => Probed::Grpc,
            ("tcp", None) => Probed::Tcp,
            _ => return Err(wrong()),
        };
        Ok(Self { port, what })
    }
}

impl fmt::Display for OutsideProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.what.as_str(), self.port)?;
        match &self.what {
            Probed::Http { path, query: Some(query) } => write!(f, ":{path}?{query}"),
            Probed::Http { path, query: None } => write!(f, ":{path}"),
            Probed::Grpc | Probed::Tcp => Ok(()),
        }
    }
}
