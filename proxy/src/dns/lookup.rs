//! The sidecar's own questions: where a host outside the mesh is.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Transport;
use super::forward::{Forwarded, Forwarder};
use super::wire::{self, Answer, IN, Query, Rcode, kind};

/// Where there are none, how long that is taken to hold.
const NOTHING: u32 = 5;

impl Forwarder {
    /// The addresses of a host, and how long that holds; none: nobody says.
    pub async fn addresses(self: &Arc<Self>, host: &str) -> Option<(Vec<IpAddr>, Duration)> {
        let (v4, v6) = tokio::join!(self.records(host, kind::A), self.records(host, kind::AAAA));
        let found: Vec<_> = match (v4, v6) {
            (None, None) => return None,
            (v4, v6) => v4.into_iter().chain(v6).flatten().collect(),
        };
        let holds = found.iter().map(|(_, ttl)| *ttl).min().unwrap_or(NOTHING);
        let addresses = found.into_iter().map(|(address, _)| address).collect();
        Some((addresses, Duration::from_secs(holds.into())))
    }

    async fn records(self: &Arc<Self>, host: &str, kind: u16) -> Option<Vec<(IpAddr, u32)>> {
        let message = question(host, kind)?;
        let query = Query::parse(&message).ok()?;
        let upstream = self.upstream();
        for transport in [Transport::Udp, Transport::Tcp] {
            let asked = self.ask(&message, &query, transport, &upstream).await;
            let (Forwarded::Fresh(answer) | Forwarded::Remembered(answer)) = asked;
            let read = Answer::parse(&answer, &query).ok()?;
            if read.truncated && transport == Transport::Udp {
                continue;
            }
            return match read.rcode {
                Rcode::NoError | Rcode::NxDomain => Some(wire::addresses(&answer, query.end())),
                _ => None,
            };
        }
        None
    }
}

/// A question as programs ask it: with recursion desired (RFC 1035 section 4.1.1).
fn question(host: &str, kind: u16) -> Option<Vec<u8>> {
    let mut message = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(wire::Name::of(host.split('.'))?.as_bytes());
    message.extend(kind.to_be_bytes());
    message.extend(IN.to_be_bytes());
    Some(message)
}
