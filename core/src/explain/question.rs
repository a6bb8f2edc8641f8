//! What is asked, and whether it is about something.

use std::fmt;
use std::time::Duration;

use super::dotted;
use crate::compile;
use crate::jwt::Check;
use crate::manifest::nearest;
use crate::model::{Name, Protocol, QualifiedName, Service, SpiffeId};
use crate::world::World;

/// Who calls whom, and how.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// The caller's namespace.
    pub namespace: &'a Name,
    /// Its service account.
    pub account: &'a Name,
    /// The service, as callers write it: `orders`, `orders.shop`, `orders:8080`.
    pub to: &'a str,
    /// What is asked; none: what is usual on the port.
    pub request: Option<RequestAsked>,
    /// The time, as Unix time: faults and tokens expire.
    pub now: Duration,
    /// What is known of the request's token.
    pub token: TokenAsked<'a>,
}

/// What is known of a request's token.
#[derive(Clone, Copy)]
pub enum TokenAsked<'a> {
    /// It is among the header fields, or there is none. So signatures are checked.
    Shown(Check<'a>),
    /// Nothing: it is about requests that were made, of whose tokens nothing is recorded.
    Unknown,
}

impl fmt::Debug for TokenAsked<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shown(_) => "Shown",
            Self::Unknown => "Unknown",
        })
    }
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestAsked {
    /// The method.
    pub method: String,
    /// The path, with its query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExplainError {
    /// No name.
    #[error("{0:?} names no service account; write ACCOUNT or ACCOUNT.NAMESPACE")]
    NoAccount(String),
    /// No name.
    #[error("{0:?} names no service; write SERVICE, SERVICE.NAMESPACE or SERVICE:PORT")]
    NoName(String),
    /// No such service.
    #[error("there is no Service {0}; {1}")]
    NoService(QualifiedName, String),
    /// It has no such port.
    #[error("the Service {0} has no port {1}; it has {2}")]
    NoPort(QualifiedName, u16, String),
    /// It has several ports, or any.
    #[error("the Service {0} has {1}: write which, as in {2}")]
    WhichPort(QualifiedName, String, String),
}

/// What is asked, of something that exists.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) service: Service,
    pub(super) port: u16,
    /// None: a connection that carries bytes.
    pub(super) request: Option<RequestAsked>,
}

impl Question<'_> {
    /// Who calls.
    pub(super) fn identity(&self, world: &World) -> SpiffeId {
        SpiffeId::of_service_account(&world.defaults().trust_domain, self.namespace, self.account)
    }

    pub(super) fn settle(&self, world: &World) -> Result<Asked, ExplainError> {
        let no_name = || ExplainError::NoName(self.to.to_owned());
        let (text, port) = match self.to.split_once(':') {
            Some((text, port)) => {
                let port = port.parse().ok().filter(|port: &u16| *port > 0);
                (text, Some(port.ok_or_else(no_name)?))
            }
            None => (self.to, None),
        };
        // In the caller's namespace first, as its DNS has it.
        let text = text.strip_suffix(".mesh").unwrap_or(text);
        let name = dotted(text, self.namespace).map_err(|_| no_name())?;
        let service = compile::service(world, &name)
            .ok_or_else(|| ExplainError::NoService(name.clone(), way_out(world, &name)))?;
        let port = which_port(&service, port)?;
        let declared = service.ports.iter().find(|declared| declared.port == port);
        let protocol = declared.map_or(Protocol::Detect, |declared| declared.protocol);
        let request = match (&self.request, protocol) {
            (Some(request), _) => Some(request.clone()),
            (None, Protocol::Tcp | Protocol::Tls) => None,
            (None, Protocol::Detect | Protocol::Http | Protocol::Http2 | Protocol::Grpc) => {
                Some(RequestAsked { method: "GET".into(), path: "/".into(), headers: Vec::new() })
            }
        };
        Ok(Asked { service, port, request })
    }
}

/// Where the service may be instead.
fn way_out(world: &World, name: &QualifiedName) -> String {
    let all = world.service_names();
    if let Some(elsewhere) = all.iter().find(|other| other.name == name.name) {
        return format!("did you mean {}.{}?", elsewhere.name, elsewhere.namespace);
    }
    let here = all.iter().filter(|other| other.namespace == name.namespace).map(|other| other.name.as_str());
    match nearest(name.name.as_str(), here) {
        Some(near) => format!("did you mean {near}?"),
        None => "weft get services -A lists those that there are".to_owned(),
    }
}

fn which_port(service: &Service, asked: Option<u16>) -> Result<u16, ExplainError> {
    let ports: Vec<u16> = service.ports.iter().map(|port| port.port).collect();
    let words = || {
        let numbers: Vec<_> = ports.iter().map(ToString::to_string).collect();
        format!("port{} {}", if ports.len() == 1 { "" } else { "s" }, numbers.join(", "))
    };
    let name = &service.name;
    match (asked, ports.as_slice()) {
        (Some(port), _) if service.takes(port) => Ok(port),
        (Some(port), _) => Err(ExplainError::NoPort(name.clone(), port, words())),
        (None, [only]) => Ok(*only),
        (None, []) => {
            let example = format!("{}:80", name.name);
            Err(ExplainError::WhichPort(name.clone(), "no ports of its own and takes any".into(), example))
        }
        (None, [first, ..]) => {
            let example = format!("{}:{first}", name.name);
            Err(ExplainError::WhichPort(name.clone(), words(), example))
        }
    }
}
