//! Pods on one Linux machine: namespaces, links and interception.
//!
//! A [`Hub`] is a network namespace with a bridge; a [`Pod`] is one with a link into it. [`intercept`] redirects a pod's
//! traffic to its sidecar, [`userns`] gives an ordinary user the rights for all of that, and [`Snapshot`] shows that
//! nothing stayed behind. Everything is asked of the kernel directly, by netlink: no helper programs. Nothing is ever
//! created in the host's own namespace, so the kernel cleans up whatever way the owner ends.

pub mod datagrams;
mod error;
mod hub;
pub mod intercept;
mod link;
mod namespace;
mod netlink;
mod pod;
mod snapshot;
pub mod userns;

pub use error::{Error, Result};
pub use hub::{Exits, Hub};
pub use pod::{Exemption, KEPT_SOURCE_MARK, Pod, SIDECAR_MARK, SIDECAR_UID};
pub use snapshot::{Diff, Snapshot, adopt_orphans};
