//! The control plane from outside: real TLS and gRPC over loopback.

// Marked so that clippy knows the helpers for tests as well.
#[cfg(test)]
mod accounts;
#[cfg(test)]
mod answers;
#[cfg(test)]
mod backup;
#[cfg(test)]
mod configuration;
#[cfg(test)]
mod custody;
#[cfg(test)]
#[path = "../../src/kubernetes/double.rs"]
#[expect(dead_code, reason = "what only the crate's own tests want")]
mod double;
#[cfg(test)]
#[path = "../programs/etcd.rs"]
mod etcd;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod in_cluster;
#[cfg(test)]
mod join;
#[cfg(test)]
mod mesh;
#[cfg(test)]
mod pages;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod restart;
#[cfg(test)]
#[path = "../../../bench/sidecars/wire.rs"]
#[expect(dead_code, reason = "what only thousands want")]
mod returning;
#[cfg(test)]
#[path = "../../src/source/kubernetes/rights.rs"]
mod rights;
#[cfg(test)]
mod roles;
#[cfg(test)]
mod scale;
#[cfg(test)]
mod sidecar;
#[cfg(test)]
mod sync;
#[cfg(test)]
mod telemetry;
#[cfg(test)]
mod together;
#[cfg(test)]
mod trust;
#[cfg(test)]
mod versions;
#[cfg(test)]
mod webhook;
#[cfg(test)]
mod wire;
