//! Two sidecars on loopback, with mutual TLS between them, and what passes through both.

// Marked so that clippy knows the helpers for tests as well.
#[cfg(test)]
mod apps;
#[cfg(test)]
mod circuits;
#[cfg(test)]
mod failures;
#[cfg(test)]
mod handshakes;
#[cfg(test)]
mod hedging;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod http1;
#[cfg(test)]
mod http1_fidelity;
#[cfg(test)]
mod http1_hostile;
#[cfg(test)]
mod http1_races;
#[cfg(test)]
mod http2;
#[cfg(test)]
mod http2_cancel;
#[cfg(test)]
mod http2_ends;
#[cfg(test)]
mod http2_floods;
#[cfg(test)]
mod http2_flow;
#[cfg(test)]
mod limits;
#[cfg(test)]
mod overload;
#[cfg(test)]
mod pair;
#[cfg(test)]
mod retries;
#[cfg(test)]
mod strangers;
#[cfg(test)]
mod tcp;
#[cfg(test)]
mod ties;
#[cfg(test)]
mod timeouts;
#[cfg(test)]
mod wire;
