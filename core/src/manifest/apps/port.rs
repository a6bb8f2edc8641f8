//! `ports` of a service: what others call it at, what it listens on, what is spoken there.

use std::collections::HashSet;
use std::fmt;

use super::super::decode::Field;
use super::super::node::Value;
use super::super::workload::PROTOCOLS;
use crate::model::Protocol;

/// How a port is written.
const FORM: &str = "write PORT, PORT:PROTOCOL or PORT->APP-PORT:PROTOCOL, with http, http2, grpc, tcp or tls";

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The port that others call.
    pub port: u16,
    /// The port that the program listens on.
    pub target: u16,
    /// What is spoken there, where it is said.
    pub protocol: Option<Protocol>,
}

/// As the sidecar reads it: `80->8080:http`.
impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.port)?;
        if self.target != self.port {
            write!(f, "->{}", self.target)?;
        }
        let word = PROTOCOLS.iter().find(|(_, protocol)| Some(*protocol) == self.protocol);
        word.map_or(Ok(()), |(word, _)| write!(f, ":{word}"))
    }
}

/// Reads a list of ports.
pub(super) fn read_all(field: &Field<'_>) -> Vec<Port> {
    let mut seen = HashSet::new();
    let mut ports = Vec::new();
    for item in field.list().unwrap_or_default() {
        let Some(port) = read(&item) else { continue };
        if !seen.insert(port.port) {
            item.mistake(format!("port {} is there twice", port.port), "keep one of them");
        }
        ports.push(port);
    }
    ports
}

fn read(field: &Field<'_>) -> Option<Port> {
    if let Value::Map(_) = field.node().value {
        let object = field.object(&["port", "target", "protocol"])?;
        let port = object.required("port", "write the port that others call")?.port()?;
        let target = object.field("target").map_or(Some(port), |field| field.port())?;
        let protocol = object.field("protocol").and_then(|field| field.choice(&PROTOCOLS));
        return Some(Port { port, target, protocol });
    }
    let text = field.spelling().or_else(|| field.text().map(str::to_owned))?;
    let parsed = parse(&text);
    if parsed.is_none() {
        let compose = text.split(':').count() > 1 && text.split(':').all(|part| part.parse::<u16>().is_ok());
        let hint = if compose {
            format!(
                "nothing is published on this machine; the port that others call goes first: {}",
                text.replacen(':', "->", 1)
            )
        } else {
            FORM.to_owned()
        };
        field.mistake(format!("{text:?} is no port"), hint);
    }
    parsed
}

fn parse(text: &str) -> Option<Port> {
    let (ports, protocol) = text.split_once(':').map_or((text, None), |(ports, word)| (ports, Some(word)));
    let (outer, inner) = ports.split_once("->").unwrap_or((ports, ports));
    let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let protocol = match protocol {
        Some(word) => Some(PROTOCOLS.iter().find(|(known, _)| *known == word)?.1),
        None => None,
    };
    Some(Port { port: number(outer)?, target: number(inner)?, protocol })
}
